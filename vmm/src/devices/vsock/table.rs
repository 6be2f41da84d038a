//! The connections of a guest: found by id (events) and by ports (packets), and which of them have something to say.
//!
//! Runs on the worker's thread. The number of connections is bounded.

use std::collections::hash_map::Entry::Vacant;
use std::collections::{HashMap, VecDeque};
use std::net::Shutdown;

use super::connection::{Connection, Owed};
use super::link::Link;
use super::packet::Ports;
use crate::backend::vsock_unix::Stream;
use crate::virtio::{Interest, Source};

/// Most connections at a time, those that are still being made included.
pub(super) const MAX_CONNECTIONS: usize = 1024;
/// Ids below are the worker's own tokens.
const FIRST_ID: u32 = 16;
/// Ports from here on name the host side of connections that the host starts.
const FIRST_HOST_PORT: u32 = 1 << 30;
/// One past the last of them.
const END_OF_HOST_PORTS: u32 = 1 << 31;

/// One connection: its state and its host side.
pub(super) struct Entry {
    pub(super) ports: Option<Ports>,
    pub(super) state: Connection,
    pub(super) link: Link,
    queued: bool,
    /// Whether the stream is watched for room as well.
    watched_for_room: bool,
}

/// All connections.
pub(super) struct Table {
    entries: HashMap<u32, Entry>,
    by_ports: HashMap<Ports, u32>,
    ready: VecDeque<u32>,
    next_id: u32,
    next_port: u32,
    /// The set of streams, or what they are watched for, has changed.
    changed: bool,
    /// Streams of connections that are gone, until nobody watches them any more.
    retired: Vec<Stream>,
}

impl Table {
    /// An empty table whose ids begin at `first_id`.
    pub(super) fn new(first_id: u32) -> Self {
        Self {
            entries: HashMap::new(),
            by_ports: HashMap::new(),
            ready: VecDeque::new(),
            next_id: first_id.max(FIRST_ID),
            next_port: FIRST_HOST_PORT,
            changed: false,
            retired: Vec::new(),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_CONNECTIONS
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a connection; `None` when there are too many, or when its ports are taken.
    pub(super) fn insert(&mut self, state: Connection, link: Link, ports: Option<Ports>) -> Option<u32> {
        if self.is_full() || ports.is_some_and(|ports| self.by_ports.contains_key(&ports)) {
            return None;
        }
        while self.next_id < FIRST_ID || self.entries.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        if let Some(ports) = ports {
            self.by_ports.insert(ports, id);
        }
        self.changed |= link.fd().is_some();
        self.entries.insert(id, Entry { ports, state, link, queued: false, watched_for_room: false });
        Some(id)
    }

    /// Gives connection `id` a free host port towards port `guest`.
    pub(super) fn bind(&mut self, id: u32, guest: u32) -> Option<Ports> {
        let entry = self.entries.get_mut(&id)?;
        // More ports than connections: a free one comes soon.
        loop {
            let ports = Ports { host: self.next_port, guest };
            self.next_port = self.next_port.wrapping_add(1);
            if self.next_port >= END_OF_HOST_PORTS {
                self.next_port = FIRST_HOST_PORT;
            }
            if let Vacant(place) = self.by_ports.entry(ports) {
                place.insert(id);
                entry.ports = Some(ports);
                return Some(ports);
            }
        }
    }

    pub(super) fn find(&self, ports: Ports) -> Option<u32> {
        self.by_ports.get(&ports).copied()
    }

    pub(super) fn get(&mut self, id: u32) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    /// Ids of the connections for which `which` holds.
    pub(super) fn ids(&self, which: impl Fn(&Entry) -> bool) -> Vec<u32> {
        self.entries.iter().filter(|(_, entry)| which(entry)).map(|(id, _)| *id).collect()
    }

    /// Forgets a connection and ends its stream; returns its ports.
    pub(super) fn remove(&mut self, id: u32) -> Option<Ports> {
        let entry = self.entries.remove(&id)?;
        if let Some(ports) = entry.ports {
            self.by_ports.remove(&ports);
        }
        if let Some(stream) = entry.link.into_stream() {
            // The far side hears of it now; the fd is closed when it is watched no more.
            stream.shutdown(Shutdown::Both);
            self.retired.push(stream);
            self.changed = true;
        }
        entry.ports
    }

    /// A stream came to a connection that had none.
    pub(super) fn set_changed(&mut self) {
        self.changed = true;
    }

    /// After anything that may have changed what connection `id` has to say, or to wait for.
    pub(super) fn update(&mut self, id: u32) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if !entry.queued && entry.state.owed() != Owed::Nothing {
            entry.queued = true;
            self.ready.push_back(id);
        }
        let wants_room = !entry.link.is_flushed();
        if wants_room != entry.watched_for_room {
            entry.watched_for_room = wants_room;
            self.changed = true;
        }
    }

    /// Whether a connection has something to say.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next connection that has, or had, something to say.
    pub(super) fn next_ready(&mut self) -> Option<u32> {
        while let Some(id) = self.ready.pop_front() {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.queued = false;
                return Some(id);
            }
        }
        None
    }

    /// What the streams are watched for.
    pub(super) fn sources(&self) -> impl Iterator<Item = Source> {
        self.entries.iter().filter_map(|(id, entry)| {
            // Room is watched for only while it is needed: a host program that reads would wake us for nothing.
            let interest = if entry.watched_for_room { Interest::BothEdge } else { Interest::ReadableEdge };
            Some(Source { fd: entry.link.fd()?, token: *id, interest })
        })
    }

    /// Whether [`Self::sources`] has changed since this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Closes the streams that nobody watches any more: to be called in a later turn than [`Self::take_changed`].
    pub(super) fn close_retired(&mut self) {
        if !self.changed {
            self.retired.clear();
        }
    }
}
