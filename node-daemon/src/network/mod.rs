//! Bridges, taps, addresses and filters. The only room that talks to netlink, nftables and dnsmasq.
