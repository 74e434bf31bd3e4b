//! [`KeyRange`]: the only reading of etcd's `key` and `range_end`.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

/// A half-open range of keys. One key `k` is `[k, k + "\0")`. An inverted range is legal and empty.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyRange {
    start: Bytes,
    /// `None`: no upper bound.
    end: Option<Bytes>,
}

impl KeyRange {
    /// Every key.
    pub const ALL: Self = Self { start: Bytes::new(), end: None };

    /// `[start, end)`; no upper bound where `end` is `None`.
    pub const fn new(start: Bytes, end: Option<Bytes>) -> Self {
        Self { start, end }
    }

    /// Reads etcd's convention: no `range_end` is one key, `"\0"` is every key from `key` on.
    pub fn from_wire(key: Bytes, range_end: Bytes) -> Self {
        match &range_end[..] {
            [] => Self::one(key),
            [0] => Self { start: key, end: None },
            _ => Self { start: key, end: Some(range_end) },
        }
    }

    /// Exactly one key.
    pub fn one(key: Bytes) -> Self {
        let mut end = BytesMut::with_capacity(key.len() + 1);
        end.put_slice(&key);
        end.put_u8(0);
        Self { start: key, end: Some(end.freeze()) }
    }

    /// All keys that begin with `prefix`; every key for an empty prefix.
    pub fn prefix(prefix: Bytes) -> Self {
        let end = prefix_end(&prefix);
        Self { start: prefix, end }
    }

    /// The first key of the range.
    pub const fn start(&self) -> &Bytes {
        &self.start
    }

    /// The bound above the last key, if there is one.
    pub const fn end(&self) -> Option<&Bytes> {
        self.end.as_ref()
    }

    /// True if no key can be in it.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// The key, if the range is exactly one.
    pub fn as_one(&self) -> Option<&Bytes> {
        let end = self.end.as_ref()?;
        let one = end.len() == self.start.len() + 1 && end.starts_with(&self.start) && end.last() == Some(&0);
        one.then_some(&self.start)
    }

    /// True if `key` is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        *key >= self.start[..] && self.end.as_ref().is_none_or(|end| *key < end[..])
    }

    /// What both have in common; empty if nothing.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let start = self.start.clone().max(other.start.clone());
        let end = match (&self.end, &other.end) {
            (Some(a), Some(b)) => Some(a.min(b).clone()),
            (a, b) => a.as_ref().or(b.as_ref()).cloned(),
        };
        Self { start, end }
    }

    /// True if at least one key could be in both.
    pub fn intersects(&self, other: &Self) -> bool {
        !self.intersection(other).is_empty()
    }

    /// True if every key of `other` is in this one.
    pub fn covers(&self, other: &Self) -> bool {
        other.is_empty()
            || (self.start <= other.start
                && match (&self.end, &other.end) {
                    (None, _) => true,
                    (Some(_), None) => false,
                    (Some(a), Some(b)) => b <= a,
                })
    }

    /// `range_end` as etcd writes it.
    pub fn wire_end(&self) -> Bytes {
        match (&self.end, self.as_one()) {
            (_, Some(_)) => Bytes::new(),
            (Some(end), None) => end.clone(),
            (None, None) => Bytes::from_static(b"\0"),
        }
    }
}

/// The first key above all keys with this prefix; `None` if there is none (empty, or only 0xff bytes).
pub fn prefix_end(prefix: &[u8]) -> Option<Bytes> {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = BytesMut::from(&prefix[..=kept]);
    end[kept] += 1;
    Some(end.freeze())
}

impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.as_one(), &self.end) {
            (Some(key), _) => write!(f, "{}", key.escape_ascii()),
            (None, Some(end)) => write!(f, "[{}, {})", self.start.escape_ascii(), end.escape_ascii()),
            (None, None) => write!(f, "[{}, ∞)", self.start.escape_ascii()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange::from_wire(Bytes::from_static(start.as_bytes()), Bytes::from_static(end.as_bytes()))
    }

    #[test]
    fn wire_conventions_are_read_and_written_back() {
        for (start, end) in [("a", ""), ("a", "b"), ("a", "\0"), ("\0", "\0"), ("b", "a"), ("a", "a\0b")] {
            assert_eq!(range(start, end).wire_end(), end.as_bytes(), "{start:?} {end:?}");
        }
        assert_eq!(range("a", "a\0").wire_end(), "", "the same single key");
    }

    #[test]
    fn an_inverted_range_is_empty() {
        assert!(range("b", "a").is_empty() && range("a", "a").is_empty() && !range("a", "\0").is_empty());
    }

    #[test]
    fn a_prefix_ends_above_its_last_key() {
        assert_eq!(prefix_end(b"/a/").as_deref(), Some(&b"/a0"[..]));
        assert_eq!(prefix_end(b"a\xff\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(prefix_end(b"\xff").as_deref(), None);
        assert!(KeyRange::prefix(Bytes::from_static(b"a\xff")).contains(b"a\xff\xff\xff"));
    }

    #[test]
    fn intersections_keep_the_tighter_bounds() {
        assert_eq!(range("a", "m").intersection(&range("c", "\0")), range("c", "m"));
        assert!(!range("a", "c").intersects(&range("c", "d")));
        assert!(range("a", "\0").covers(&range("b", "c")) && !range("b", "c").covers(&range("a", "\0")));
    }
}
