//! Options with parts: `size=10G,pool=fast,direct`. A comma inside a value is written twice, as for the VMM's own options.
//! Pure.

use std::collections::BTreeMap;

/// The parts of one option, taken one by one; what is left at the end is an error that names what is known.
#[derive(Debug, Default)]
pub struct Pairs {
    values: BTreeMap<String, String>,
    known: Vec<&'static str>,
}

impl Pairs {
    /// Takes an option apart. A part without `=` is a flag; the first may be the value of `head` alone.
    pub fn parse(text: &str, head: Option<&str>) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        for (index, part) in split(text).into_iter().enumerate() {
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key.to_owned(), value.to_owned()),
                None => match head {
                    Some(head) if index == 0 => (head.to_owned(), part),
                    _ => (part, String::new()),
                },
            };
            if key.is_empty() {
                return Err(format!("'{text}' has an empty part; write parts as key=value,key=value"));
            }
            if values.insert(key.clone(), value).is_some() {
                return Err(format!("'{key}' is given twice"));
            }
        }
        Ok(Self { values, known: Vec::new() })
    }

    /// The value of a key.
    pub fn take(&mut self, key: &'static str) -> Option<String> {
        self.known.push(key);
        self.values.remove(key)
    }

    /// The value of a key, empty when it is not there.
    pub fn text(&mut self, key: &'static str) -> String {
        self.take(key).unwrap_or_default()
    }

    /// The value of a key, read by a function; its default when the key is not there.
    pub fn read<T: Default>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, String> {
        self.take(key).map_or_else(|| Ok(T::default()), |value| parse(&value).map_err(|why| format!("{key}: {why}")))
    }

    /// A number.
    pub fn number<T: Default + std::str::FromStr>(&mut self, key: &'static str) -> Result<T, String> {
        self.read(key, |value| value.parse().map_err(|_| format!("'{value}' is not a number that fits")))
    }

    /// Whether a flag stands there (`direct`, `direct=on`).
    pub fn flag(&mut self, key: &'static str) -> Result<bool, String> {
        match self.take(key).as_deref() {
            None | Some("off" | "false" | "no") => Ok(false),
            Some("" | "on" | "true" | "yes") => Ok(true),
            Some(other) => Err(format!("{key}: '{other}' is neither on nor off")),
        }
    }

    /// Fails when something is left that nobody asked for.
    pub fn finish(self) -> Result<(), String> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(key) => Err(format!("'{key}' is not known here; known are {}", self.known.join(", "))),
        }
    }
}

/// The parts between single commas.
fn split(text: &str) -> Vec<String> {
    const COMMA: &str = "\u{0}";
    text.replace(",,", COMMA).split(',').map(|part| part.replace(COMMA, ",")).collect()
}

/// Reads `key=value`, for labels.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is no label; write it as key=value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_taken_one_by_one() {
        let mut pairs = Pairs::parse("10G,pool=fast,direct,name=a,,b", Some("size")).unwrap();
        assert_eq!(pairs.take("size").as_deref(), Some("10G"));
        assert_eq!(pairs.text("pool"), "fast");
        assert_eq!(pairs.text("name"), "a,b");
        assert_eq!(pairs.flag("direct"), Ok(true));
        assert_eq!(pairs.flag("readonly"), Ok(false));
        assert_eq!(pairs.finish(), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut pairs = Pairs::parse("sise=10G", None).unwrap();
        pairs.take("size");
        pairs.take("pool");
        assert_eq!(pairs.finish().unwrap_err(), "'sise' is not known here; known are size, pool");
        assert_eq!(Pairs::parse("a=1,a=2", None).unwrap_err(), "'a' is given twice");
        let mut pairs = Pairs::parse("queues=many,direct=maybe", None).unwrap();
        assert_eq!(pairs.number::<u32>("queues").unwrap_err(), "queues: 'many' is not a number that fits");
        assert_eq!(pairs.flag("direct").unwrap_err(), "direct: 'maybe' is neither on nor off");
        assert!(parse_label("noequals").is_err());
    }
}
