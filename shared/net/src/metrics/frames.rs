//! [`Frames`]: counts the messages of a gRPC stream as its bytes pass by.

use kubebrain_shared::wire::FRAME_PREFIX_BYTES;

/// Where in a stream of frames the next byte stands.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Bytes of the frame's prefix that are there.
    prefix: usize,
    /// The length so far, big-endian.
    length: usize,
    /// Bytes of the message still to come.
    left: usize,
}

/// What passed by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    /// Messages whose length has become known.
    pub(super) messages: u64,
    /// Their bytes, without prefixes.
    pub(super) bytes: u64,
    /// Of these, how many say that they are compressed.
    pub(super) packed: u64,
}

impl Frames {
    /// The next bytes of the stream. What is not gRPC is counted as if it were; whoever reads it will refuse it.
    pub(super) fn pass(&mut self, mut data: &[u8]) -> Passed {
        let mut passed = Passed::default();
        loop {
            let skipped = self.left.min(data.len());
            self.left -= skipped;
            data = &data[skipped..];
            let Some((&byte, rest)) = data.split_first() else { return passed };
            data = rest;
            // The first byte is the flag.
            if self.prefix > 0 {
                self.length = self.length << 8 | usize::from(byte);
            } else {
                passed.packed += u64::from(byte == 1);
            }
            self.prefix += 1;
            if self.prefix == FRAME_PREFIX_BYTES {
                passed.messages += 1;
                passed.bytes += self.length as u64;
                *self = Self { left: self.length, ..Self::default() };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use kubebrain_shared::wire;

    proptest! {
        #[test]
        fn messages_are_counted_however_they_are_cut(
            sizes in proptest::collection::vec(0_usize..400, 0..8), cut in 1_usize..64,
        ) {
            let stream: Vec<u8> = sizes.iter().flat_map(|size| wire::frame(&vec![7; *size])).collect();
            let mut frames = Frames::default();
            let mut total = Passed::default();
            for piece in stream.chunks(cut) {
                let passed = frames.pass(piece);
                total.messages += passed.messages;
                total.bytes += passed.bytes;
            }
            let expected = Passed { messages: sizes.len() as u64, bytes: sizes.iter().sum::<usize>() as u64, packed: 0 };
            prop_assert_eq!(total, expected);
        }
    }
}
