//! [`Batch`]: conditions and writes, all or nothing.

use bytes::Bytes;

use super::bounds::Bounds;
use super::error::Refusal;

/// What is committed at once. Conditions are judged before any of the batch's own writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// All must hold, or nothing is written.
    pub conditions: Vec<Condition>,
    /// Applied in order: of two writes to one key the later one stays.
    pub writes: Vec<Write>,
}

/// What must be true of the state that a batch is applied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing is stored under the key.
    Absent(Bytes),
    /// Exactly this value is stored under the key.
    Equals(Bytes, Bytes),
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Stores a value, which is not empty: some databases cannot tell an empty value from none.
    Put(Bytes, Bytes),
    /// Removes the key; one that is not there is no error.
    Delete(Bytes),
}

impl Batch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Demands that nothing is stored under `key`.
    pub fn absent(&mut self, key: impl Into<Bytes>) -> &mut Self {
        self.conditions.push(Condition::Absent(key.into()));
        self
    }

    /// Demands that exactly `value` is stored under `key`.
    pub fn equals(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> &mut Self {
        self.conditions.push(Condition::Equals(key.into(), value.into()));
        self
    }

    /// Stores `value`, which is not empty, under `key`.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> &mut Self {
        let value = value.into();
        debug_assert!(!value.is_empty(), "no engine stores an empty value");
        self.writes.push(Write::Put(key.into(), value));
        self
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<Bytes>) -> &mut Self {
        self.writes.push(Write::Delete(key.into()));
        self
    }

    /// True if it neither demands nor changes anything.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty() && self.writes.is_empty()
    }

    /// Keys and values of conditions and writes, in bytes.
    pub fn size(&self) -> usize {
        let conditions = self.conditions.iter().map(|condition| match condition {
            Condition::Absent(key) => key.len(),
            Condition::Equals(key, value) => key.len() + value.len(),
        });
        let writes = self.writes.iter().map(|write| match write {
            Write::Put(key, value) => key.len() + value.len(),
            Write::Delete(key) => key.len(),
        });
        conditions.chain(writes).sum()
    }

    /// Refuses what an engine of these bounds cannot hold.
    ///
    /// # Errors
    /// [`Refusal::Key`] for an empty or too long key, [`Refusal::Value`] for a value that is too long.
    pub fn check(&self, bounds: &Bounds) -> Result<(), Refusal> {
        let max = bounds.key_bytes_max;
        let keys = self.conditions.iter().map(Condition::key).chain(self.writes.iter().map(Write::key));
        if let Some(bytes) = keys.map(Bytes::len).find(|bytes| !(1..=max).contains(bytes)) {
            return Err(Refusal::Key { bytes, max });
        }
        let max = bounds.value_bytes_max;
        let mut values = self.writes.iter().filter_map(|write| match write {
            Write::Put(_, value) => Some(value.len()),
            Write::Delete(_) => None,
        });
        match values.find(|bytes| *bytes > max) {
            None => Ok(()),
            Some(bytes) => Err(Refusal::Value { bytes, max }),
        }
    }
}

impl Condition {
    /// The key that it is about.
    pub const fn key(&self) -> &Bytes {
        match self {
            Self::Absent(key) | Self::Equals(key, _) => key,
        }
    }

    /// True if it holds where `stored` is under its key.
    pub fn holds(&self, stored: Option<&[u8]>) -> bool {
        match self {
            Self::Absent(_) => stored.is_none(),
            Self::Equals(_, value) => stored.is_some_and(|stored| *stored == value[..]),
        }
    }
}

impl Write {
    /// The key that it changes.
    pub const fn key(&self) -> &Bytes {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}
