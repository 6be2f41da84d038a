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
