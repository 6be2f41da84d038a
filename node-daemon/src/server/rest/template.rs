//! Path templates of `google.api.http`: `/v1/vms/{vm}:start`. Pure; knows nothing of messages.

use percent_encoding::percent_decode_str;

/// One piece between two slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// Takes the whole segment as the value of this field, which may be nested (`vm.id`).
    Field(String),
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    segments: Vec<Segment>,
    /// What follows the last colon: `start`.
    verb: Option<String>,
}

/// Values of a template's fields, in its order.
pub type Captures = Vec<(String, String)>;

/// Why a path has no values, although it has the template's form.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("The path's value for {field} is not UTF-8 after percent-decoding")]
pub struct NotText {
    /// The template's field.
    pub field: String,
}

impl Template {
    /// Reads a template. Templates come from the protos, so a bad one is found by the test over all of them.
    pub fn parse(text: &str) -> Option<Self> {
        let (path, verb) = match text.rsplit_once(':') {
            Some((path, verb)) if !verb.contains(['/', '}']) => (path, Some(verb.to_owned())),
            _ => (text, None),
        };
        let segments = path
            .strip_prefix('/')?
            .split('/')
            .map(|piece| match piece.strip_prefix('{') {
                Some(rest) => Some(Segment::Field(rest.strip_suffix('}')?.to_owned())),
                None if piece.contains(['{', '}', '*']) => None,
                None => Some(Segment::Literal(piece.to_owned())),
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Self { segments, verb })
    }

    /// The values in a request's path (as sent, percent-encoded); `None` when the path has another form.
    pub fn capture(&self, path: &str) -> Option<Result<Captures, NotText>> {
        // An unescaped colon in the last segment always begins a verb: names and ids have none.
        let last = path.rfind('/')?;
        let (path, verb) = match path[last..].rfind(':') {
            Some(colon) => (&path[..last + colon], Some(&path[last + colon + 1..])),
            None => (path, None),
        };
        if verb != self.verb.as_deref() {
            return None;
        }
        let mut pieces = path.strip_prefix('/')?.split('/');
        let mut raw = Vec::new();
        for segment in &self.segments {
            let piece = pieces.next()?;
            match segment {
                Segment::Literal(text) if text == piece => {}
                Segment::Field(name) if !piece.is_empty() => raw.push((name, piece)),
                _ => return None,
            }
        }
        if pieces.next().is_some() {
            return None;
        }
        let decode = |(field, piece): (&String, &str)| {
            let value = percent_decode_str(piece).decode_utf8().map_err(|_| NotText { field: field.clone() })?;
            Ok((field.clone(), value.into_owned()))
        };
        Some(raw.into_iter().map(decode).collect())
    }

    /// The fields that the path gives.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|s| match s {
            Segment::Field(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(template: &str, path: &str) -> Option<Captures> {
        Template::parse(template).unwrap().capture(path).map(Result::unwrap)
    }

    fn values(pairs: &[(&str, &str)]) -> Captures {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn paths_match_by_form() {
        let table: &[(&str, &str, Option<Captures>)] = &[
            ("/v1/vms", "/v1/vms", Some(values(&[]))),
            ("/v1/vms", "/v1/vms/", None),
            ("/v1/vms", "/v1", None),
            ("/v1/vms/{vm}", "/v1/vms/demo", Some(values(&[("vm", "demo")]))),
            ("/v1/vms/{vm}", "/v1/vms/", None),
            ("/v1/vms/{vm}", "/v1/vms/demo:start", None),
            ("/v1/vms/{vm}", "/v1/vms/demo%3Astart", Some(values(&[("vm", "demo:start")]))),
            ("/v1/vms/{vm}", "/v1/vms/a%2Fb", Some(values(&[("vm", "a/b")]))),
            ("/v1/vms/{vm}:start", "/v1/vms/demo:start", Some(values(&[("vm", "demo")]))),
            ("/v1/vms/{vm}:start", "/v1/vms/:start", None),
            ("/v1/vms/{vm}:start", "/v1/vms/demo:stop", None),
            ("/v1/vms/{vm.id}", "/v1/vms/demo", Some(values(&[("vm.id", "demo")]))),
            ("/v1/vms/{vm}/statistics:watch", "/v1/vms/a/statistics:watch", Some(values(&[("vm", "a")]))),
            ("/v1/auth:login", "/v1/auth:login", Some(values(&[]))),
            ("/v1/auth:login", "/v1/auth", None),
            ("/v1/auth:login", "*", None),
            ("/v1/auth:login", "", None),
        ];
        for (template, path, expected) in table {
            assert_eq!(&captured(template, path), expected, "{template} {path}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_by_field() {
        let refused = Template::parse("/v1/vms/{vm}").unwrap().capture("/v1/vms/%ff").unwrap().unwrap_err();
        assert_eq!(refused.field, "vm");
    }

    #[test]
    fn what_is_no_template_is_none() {
        for text in ["v1/vms", "/v1/{vm", "/v1/*", "/v1/vm}"] {
            assert_eq!(Template::parse(text), None, "{text}");
        }
    }
}
