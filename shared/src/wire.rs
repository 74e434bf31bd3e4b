//! Shallow reading and writing of protobuf and of gRPC's framing, without decoding what is inside.
//!
//! A proxy looks at a few fields of a message and forwards the bytes as they came; a brain builds answers as
//! concatenations of stored bytes. Both need only the outermost layer of a message:
//!
//! ```text
//! gRPC frame   [compressed: 1 byte][length: 4 bytes, big-endian][message]
//! message      ([tag: varint = number << 3 | type][value])*
//! ```
//!
//! Invariants: reading allocates nothing, and every value returned is a slice of the message. A [`Fields`] that has
//! reported [`Malformed`] ends. Groups (wire types 3 and 4) do not exist in proto3: they are
//! passed over, as decoders do with fields that they do not know.

use bytes::{BufMut, Bytes, BytesMut};

/// The fields of one message, in the order in which they stand there.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// As in the `.proto` file, at least 1.
    pub number: u32,
    /// What it holds, by wire type.
    pub value: Value<'a>,
}

/// A value by its wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// `int32`, `int64`, `uint32`, `uint64`, `bool`, enums (and zigzag for `sint`).
    Varint(u64),
    /// `fixed64`, `sfixed64`, `double`.
    Fixed64(u64),
    /// `fixed32`, `sfixed32`, `float`.
    Fixed32(u32),
    /// `bytes`, `string`, messages and packed repeated fields.
    Bytes(&'a [u8]),
}

/// The bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A field is longer than what is left of the message.
    #[error("a field ends after its message")]
    Truncated,
    /// A varint is longer than ten bytes or than 64 bits.
    #[error("a varint does not fit 64 bits")]
    Overlong,
    /// A field number is 0 or above 2^29 - 1.
    #[error("a field number is out of range")]
    Number,
    /// A wire type that proto3 does not have.
    #[error("wire type {0} is not of proto3")]
    WireType(u8),
}

/// Why the bytes of a stream are not a gRPC frame that can be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The message is compressed; nobody offered that.
    #[error("the message is compressed")]
    Compressed,
    /// The first byte of the frame is neither 0 nor 1.
    #[error("the frame begins with {0}, which means nothing")]
    Flag(u8),
    /// The message is longer than allowed.
    #[error("the message has {bytes} bytes, {bytes_max} are allowed")]
    TooLong {
        /// By the frame's own length field.
        bytes: usize,
        /// The bound that the caller gave.
        bytes_max: usize,
    },
}

/// A message in a gRPC stream.
#[derive(Debug)]
pub struct Message;

/// The length of a gRPC frame's prefix.
pub const FRAME_PREFIX_BYTES: usize = 5;

const FIELD_NUMBER_MAX: u64 = (1 << 29) - 1;
/// As deep as prost follows groups in groups.
const GROUP_DEPTH_MAX: usize = 99;

impl<'a> Fields<'a> {
    /// Of an encoded message (without the gRPC frame).
    pub const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// A field, or a group that was passed over.
    fn read(&mut self, depth: usize) -> Result<Option<Field<'a>>, Malformed> {
        let (number, wire_type) = self.tag()?;
        let value = match wire_type {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_too_long| Malformed::Truncated)?;
                Value::Bytes(self.take(length)?)
            }
            3 => return self.pass_over(number, depth).map(|()| None),
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            other => return Err(Malformed::WireType(other)),
        };
        Ok(Some(Field { number, value }))
    }

    /// Reads to the end of a group.
    fn pass_over(&mut self, group: u32, depth: usize) -> Result<(), Malformed> {
        if depth == GROUP_DEPTH_MAX {
            return Err(Malformed::WireType(3));
        }
        loop {
            let mut ahead = self.clone();
            match ahead.tag()? {
                (number, 4) if number == group => {
                    *self = ahead;
                    return Ok(());
                }
                _ => drop(self.read(depth + 1)?),
            }
        }
    }

    fn tag(&mut self) -> Result<(u32, u8), Malformed> {
        let tag = self.varint()?;
        let number = tag >> 3;
        match (1..=FIELD_NUMBER_MAX).contains(&number) {
            true => Ok((number as u32, (tag & 7) as u8)),
            false => Err(Malformed::Number),
        }
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for index in 0..10 {
            let (&byte, rest) = self.rest.split_first().ok_or(Malformed::Truncated)?;
            self.rest = rest;
            if index == 9 && byte > 1 {
                return Err(Malformed::Overlong);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Overlong)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            match self.read(0) {
                Ok(Some(field)) => return Some(Ok(field)),
                Ok(None) => {}
                Err(malformed) => {
                    self.rest = &[];
                    return Some(Err(malformed));
                }
            }
        }
        None
    }
}

impl<'a> Value<'a> {
    /// The bytes of a length-delimited value; `None` for the other types.
    pub const fn as_bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The number of a varint; `None` for the other types.
    pub const fn as_varint(self) -> Option<u64> {
        match self {
            Self::Varint(value) => Some(value),
            _ => None,
        }
    }
}

impl Message {
    /// Takes the first message of `buffer`, which holds what has arrived of a gRPC stream; `None` until all of it is
    /// there. Nothing is copied and nothing is taken before the message is whole.
    ///
    /// # Errors
    /// [`FrameError`]; the buffer is as it was and the stream is of no more use.
    pub fn split(buffer: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        Self::split_within(buffer, usize::MAX)
    }

    /// As [`Message::split`], refusing a message above `bytes_max` as soon as its length is known: a caller that
    /// waits for more of it then never holds more than that.
    ///
    /// # Errors
    /// [`FrameError`]; the buffer is as it was and the stream is of no more use.
    pub fn split_within(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, FrameError> {
        let Some((&[flag, a, b, c, d], rest)) = buffer.split_first_chunk::<FRAME_PREFIX_BYTES>() else {
            return Ok(None);
        };
        match flag {
            0 => {}
            1 => return Err(FrameError::Compressed),
            other => return Err(FrameError::Flag(other)),
        }
        let bytes = u32::from_be_bytes([a, b, c, d]) as usize;
        if bytes > bytes_max {
            return Err(FrameError::TooLong { bytes, bytes_max });
        }
        if rest.len() < bytes {
            return Ok(None);
        }
        let mut frame = buffer.split_to(FRAME_PREFIX_BYTES + bytes).freeze();
        Ok(Some(frame.split_off(FRAME_PREFIX_BYTES)))
    }
}

/// The five bytes that stand before a message of this length.
///
/// # Panics
/// If the message has 4 GiB or more, which the format cannot say.
pub fn frame_prefix(message_bytes: usize) -> [u8; FRAME_PREFIX_BYTES] {
    let [a, b, c, d] = u32::try_from(message_bytes).expect("a gRPC message is below 4 GiB").to_be_bytes();
    [0, a, b, c, d]
}

/// The gRPC frame of one message, in one piece.
///
/// # Panics
/// If the message has 4 GiB or more.
pub fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(FRAME_PREFIX_BYTES + message.len());
    frame.put_slice(&frame_prefix(message.len()));
    frame.put_slice(message);
    frame.freeze()
}

/// How many bytes [`put_varint`] writes: 1 to 10.
pub const fn varint_len(value: u64) -> usize {
    (value | 1).ilog2() as usize / 7 + 1
}

/// Appends a varint.
pub fn put_varint(buffer: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        buffer.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

/// Appends a `bytes`, `string` or message field.
pub fn put_bytes_field(buffer: &mut BytesMut, number: u32, value: &[u8]) {
    put_bytes_header(buffer, number, value.len());
    buffer.put_slice(value);
}

/// Appends the tag and length of a `bytes`, `string` or message field; the caller appends that many bytes.
pub fn put_bytes_header(buffer: &mut BytesMut, number: u32, value_bytes: usize) {
    put_varint(buffer, u64::from(number) << 3 | 2);
    put_varint(buffer, value_bytes as u64);
}

/// How many bytes [`put_bytes_field`] writes for a value of this length.
pub const fn bytes_field_len(number: u32, value_bytes: usize) -> usize {
    varint_len((number as u64) << 3) + varint_len(value_bytes as u64) + value_bytes
}

/// Appends an integer field, also where it is 0.
pub fn put_varint_field(buffer: &mut BytesMut, number: u32, value: u64) {
    put_varint(buffer, u64::from(number) << 3);
    put_varint(buffer, value);
}

#[cfg(test)]
mod tests;
