//! One flat JSON object on one line, written field by field. Pure: it writes to any `fmt::Write`.

use core::fmt::{self, Display, Write};

/// An object under construction; [`Object::end`] closes it.
pub struct Object<W: Write> {
    out: W,
    empty: bool,
}

impl<W: Write> Object<W> {
    /// Opens an object.
    pub fn begin(mut out: W) -> Result<Self, fmt::Error> {
        out.write_char('{')?;
        Ok(Self { out, empty: true })
    }

    fn name(&mut self, name: &str) -> fmt::Result {
        if !self.empty {
            self.out.write_char(',')?;
        }
        self.empty = false;
        write!(self.out, "\"{name}\":")
    }

    /// Adds a number or a boolean: anything whose text is already JSON.
    pub fn value(&mut self, name: &str, value: impl Display) -> fmt::Result {
        self.name(name)?;
        write!(self.out, "{value}")
    }

    /// Adds a string, escaped.
    pub fn text(&mut self, name: &str, text: impl Display) -> fmt::Result {
        self.name(name)?;
        self.out.write_char('"')?;
        write!(Escaped(&mut self.out), "{text}")?;
        self.out.write_char('"')
    }

    /// Adds a time given in nanoseconds as seconds with nine digits.
    pub fn seconds(&mut self, name: &str, nanoseconds: u64) -> fmt::Result {
        self.name(name)?;
        write!(self.out, "{}.{:09}", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000)
    }

    /// Closes the object and the line.
    pub fn end(mut self) -> Result<W, fmt::Error> {
        self.out.write_str("}\n")?;
        Ok(self.out)
    }
}

struct Escaped<'a, W: Write>(&'a mut W);

impl<W: Write> Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '"' | '\\' => write!(self.0, "\\{character}")?,
                ' '.. => self.0.write_char(character)?,
                control => write!(self.0, "\\u{:04x}", u32::from(control))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    #[test]
    fn a_line_is_valid_json_whatever_the_text() {
        let mut object = Object::begin(String::new()).unwrap();
        object.text("test", "rng").unwrap();
        object.value("ok", true).unwrap();
        object.seconds("seconds", 1_002_000_003).unwrap();
        object.text("serial", "a\"b\\\n").unwrap();
        let expected = r#"{"test":"rng","ok":true,"seconds":1.002000003,"serial":"a\"b\\\u000a"}"#;
        assert_eq!(object.end().unwrap().trim_end(), expected);
    }
}
