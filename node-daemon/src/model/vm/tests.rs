//! Texts of callers into values, and back.

use super::*;

#[test]
fn cpu_sets_are_written_as_the_kernel_does() {
    for (text, shown) in [("0", "0"), ("0-3,8", "0-3,8"), ("8,0,1,2,3", "0-3,8"), ("1-1", "1")] {
        assert_eq!(text.parse::<CpuSet>().map(|set| set.to_string()), Ok(shown.to_owned()));
    }
    for text in ["", "a", "3-1", "-1", "1-", "1,,2", "0-9999", "+1", " 1"] {
        assert!(text.parse::<CpuSet>().is_err(), "{text:?}");
    }
}

#[test]
fn addresses_and_rules_are_parsed_strictly() {
    assert_eq!("52:54:00:Ab:cd:ef".parse::<Mac>().map(|mac| mac.to_string()), Ok("52:54:00:ab:cd:ef".into()));
    for text in
        ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "53:54:00:12:34:56", "00:00:00:00:00:00", "52-54-00-12-34-56"]
    {
        assert!(text.parse::<Mac>().is_err(), "{text:?}");
    }
    for (text, shown) in [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::/0", "::/0"),
    ] {
        assert_eq!(text.parse::<Prefix>().map(|prefix| prefix.to_string()), Ok(shown.to_owned()));
    }
    for text in ["", "192.0.2.1/24", "192.0.2.0/33", "host", "2001:db8::1/32"] {
        assert!(text.parse::<Prefix>().is_err(), "{text:?}");
    }
    for (text, good) in [("22", true), ("8000-8100", true), ("0", false), ("70000", false), ("9-8", false), ("", false)]
    {
        assert_eq!(text.parse::<Ports>().is_ok(), good, "{text:?}");
    }
}
