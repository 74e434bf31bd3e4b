//! [`GroupName`]: one master and its slaves, by name.

use std::fmt;
use std::sync::Arc;

/// The name of a group: `[a-z0-9]` and `-`, 1 to 63 bytes (checked where a placement or a flag is read).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(Arc<str>);

impl GroupName {
    /// `None` if the text is not a legal name.
    pub fn parse(text: &str) -> Option<Self> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=63).contains(&text.len()) && text.bytes().all(legal);
        fits.then(|| Self(text.into()))
    }

    /// The owner of what is nobody's: no group has this name.
    pub(crate) fn nobody() -> Self {
        Self("".into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
