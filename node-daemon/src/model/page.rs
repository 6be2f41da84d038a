//! Pages of long lists. A token is opaque to callers: it holds the last key and the list that it belongs to, so a token
//! of one list is refused by another. Keys, not offsets: what is added or deleted meanwhile shifts nothing. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Failure;

/// What part of a list is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    size: usize,
    after: Option<String>,
    scope: String,
}

/// One page, and where the next begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageOf<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// The next page's token; empty on the last.
    pub next: String,
}

impl Page {
    /// Items on a page when the caller does not say.
    pub const DEFAULT: usize = 50;
    /// Items on a page at most.
    pub const MAX: usize = 500;

    /// Reads `page_size` and `page_token` of a request. `scope` names the list and its filters (`volumes?pool=…`).
    ///
    /// # Errors
    /// `InvalidArgument` for a negative size, and for a token that this list did not give.
    pub fn parse(size: i32, token: &str, scope: impl Into<String>) -> Result<Self, Failure> {
        let scope = scope.into();
        let size = match usize::try_from(size) {
            Ok(0) => Self::DEFAULT,
            Ok(size) => size.min(Self::MAX),
            Err(_) => {
                return Err(Failure::invalid("page_size", size, "is negative: give 0 for the default, or up to 500"));
            }
        };
        if token.is_empty() {
            return Ok(Self { size, after: None, scope });
        }
        let refused = || Failure::invalid("page_token", token, "is not from an answer to this list with these filters");
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| refused())?;
        let text = String::from_utf8(bytes).map_err(|_| refused())?;
        match text.split_once('\n') {
            Some((key, of)) if of == scope && !key.is_empty() => Ok(Self { size, after: Some(key.into()), scope }),
            _ => Err(refused()),
        }
    }

    /// The first `size` items of a list that only this program reads.
    pub fn first(size: usize) -> Self {
        Self { size, after: None, scope: String::new() }
    }

    /// How many items at most.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The key after which this page begins.
    pub fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// Cuts a page out of what was read: give it items from `after` on, in order, one more than `size` if there are.
    /// `key` is an item's key and has no line break in it.
    pub fn cut<T>(&self, mut items: Vec<T>, key: impl Fn(&T) -> String) -> PageOf<T> {
        let more = items.len() > self.size;
        items.truncate(self.size);
        let next = match items.last() {
            Some(last) if more => URL_SAFE_NO_PAD.encode(format!("{}\n{}", key(last), self.scope)),
            _ => String::new(),
        };
        PageOf { items, next }
    }
}

impl<T> PageOf<T> {
    /// The same page with other items.
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> PageOf<U> {
        PageOf { items: self.items.into_iter().map(f).collect(), next: self.next }
    }
}
