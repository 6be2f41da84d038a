//! The kernel command line as options: words of the form `name=value`, the last one of a name wins. Pure.

/// The words of one command line.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    line: &'a str,
}

impl<'a> Options<'a> {
    /// Takes a command line as the VMM gave it; words it does not know (`console=…`) are left alone.
    pub fn new(line: &'a str) -> Self {
        Self { line }
    }

    /// The value of `name`, if it was given and is not empty.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.line
            .split_ascii_whitespace()
            .filter_map(|word| word.split_once('='))
            .filter(|(key, value)| *key == name && !value.is_empty())
            .map(|(_, value)| value)
            .last()
    }

    /// The value of `name` as a number: decimal, or hexadecimal after `0x`. A value that is none counts as absent.
    pub fn number(&self, name: &str) -> Option<u64> {
        let text = self.text(name)?;
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_name_wins() {
        let options = Options::new("console=ttyS0 test=rng  quiet test=blk-verify after=");
        assert_eq!(options.text("test"), Some("blk-verify"));
        assert_eq!(options.text("after"), None);
        assert_eq!(options.text("quiet"), None);
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        let options = Options::new("ms=250 base=0xC0000000 ops=many");
        assert_eq!(options.number("ms"), Some(250));
        assert_eq!(options.number("base"), Some(0xc000_0000));
        assert_eq!(options.number("ops"), None);
    }
}
