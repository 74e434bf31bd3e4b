//! Keys as TiKV stores them: "memcomparable", in groups of eight bytes, each followed by a byte that says how many of
//! them are padding. Region boundaries come in this form, and TiKV's bound of a key's length is on it.

const GROUP: usize = 8;
const FULL: u8 = 0xff;

/// TiKV's `storage.max-key-size` unless somebody changed it.
const STORED_MAX: usize = 8 << 10;

/// The longest key that TiKV takes.
pub(crate) const BYTES_MAX: usize = (STORED_MAX / (GROUP + 1) - 1) * GROUP + GROUP - 1;

/// As stored.
pub(crate) fn encode(key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity((key.len() / GROUP + 1) * (GROUP + 1));
    let mut groups = key.chunks_exact(GROUP);
    for group in &mut groups {
        stored.extend_from_slice(group);
        stored.push(FULL);
    }
    let rest = groups.remainder();
    stored.extend_from_slice(rest);
    stored.extend(std::iter::repeat_n(0, GROUP - rest.len()));
    stored.push(FULL - (GROUP - rest.len()) as u8);
    stored
}

/// From what is stored; `None` if it is not in this form. A boundary may end anywhere after its last group's mark.
pub(crate) fn decode(stored: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(stored.len());
    for group in stored.chunks(GROUP + 1) {
        let (mark, bytes) = group.split_last().filter(|(_, bytes)| bytes.len() == GROUP)?;
        let padding = usize::from(FULL - mark);
        if padding > GROUP {
            return None;
        }
        let (kept, zeros) = bytes.split_at(GROUP - padding);
        if zeros.iter().any(|byte| *byte != 0) {
            return None;
        }
        key.extend_from_slice(kept);
        if padding > 0 {
            return Some(key);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = Vec<u8>> {
        vec(prop::sample::select(b"\0\x01a\xfe\xff".as_slice()), 0..20)
    }

    proptest! {
        #[test]
        fn stored_keys_read_back_and_keep_their_order(a in keys(), b in keys()) {
            prop_assert_eq!(decode(&encode(&a)), Some(a.clone()));
            prop_assert_eq!(encode(&a).cmp(&encode(&b)), a.cmp(&b));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in vec(any::<u8>(), 0..40)) {
            if let Some(key) = decode(&bytes) {
                prop_assert!(bytes.starts_with(&encode(&key)));
            }
        }
    }

    #[test]
    fn the_longest_key_is_the_longest_that_fits() {
        assert!(encode(&vec![b'k'; BYTES_MAX]).len() <= STORED_MAX);
        assert!(encode(&vec![b'k'; BYTES_MAX + 1]).len() > STORED_MAX);
    }

    #[test]
    fn a_key_is_stored_as_tikv_does() {
        assert_eq!(encode(b""), b"\0\0\0\0\0\0\0\0\xf7");
        assert_eq!(encode(b"abc"), b"abc\0\0\0\0\0\xfa");
        assert_eq!(encode(b"12345678"), b"12345678\xff\0\0\0\0\0\0\0\0\xf7");
    }
}
