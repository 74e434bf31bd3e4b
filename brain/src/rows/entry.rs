//! The bytes of a `KeyValue`, made once when a key is written: stored, cached, answered and published as they are.

use bytes::{Bytes, BytesMut};
use kubebrain_proto::mvccpb::KeyValue;
use kubebrain_shared::wire::{bytes_field_len, put_bytes_field, put_varint_field, varint_len};

use super::version::Version;

/// The `KeyValue` of one version of a key.
pub(crate) fn key_value(key: &[u8], version: &Version, value: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(key.len() + value.len() + 48);
    put_bytes_field(&mut bytes, 1, key);
    put_varint_field(&mut bytes, 2, version.create);
    put_varint_field(&mut bytes, 3, version.revision);
    put_varint_field(&mut bytes, 4, version.count);
    if !value.is_empty() {
        put_bytes_field(&mut bytes, 5, value);
    }
    if version.lease != 0 {
        put_varint_field(&mut bytes, 6, version.lease.cast_unsigned());
    }
    bytes.freeze()
}

/// How long [`key_value`] is without a value.
pub(crate) fn key_value_len(key: &[u8], version: &Version) -> usize {
    let number = |value: u64| 1 + varint_len(value);
    let lease = if version.lease == 0 { 0 } else { number(version.lease.cast_unsigned()) };
    bytes_field_len(1, key.len())
        + number(version.create)
        + number(version.revision)
        + number(version.count)
        + lease
}

/// What a deletion event says of its key: only key and revision, as in etcd.
pub(crate) fn deleted(key: &[u8], revision: u64) -> Bytes {
    let mut bytes = BytesMut::with_capacity(key.len() + 16);
    put_bytes_field(&mut bytes, 1, key);
    put_varint_field(&mut bytes, 3, revision);
    bytes.freeze()
}

/// The value inside a `KeyValue`, shared with it.
pub(crate) fn value_of(kv: &Bytes) -> Bytes {
    use prost::Message;
    KeyValue::decode(kv.clone()).map(|kv| kv.value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn the_bytes_are_the_message() {
        let version = Version { revision: 300, create: 7, count: 2, lease: -5, bytes: 0 };
        for value in [&b"value"[..], b""] {
            let kv = KeyValue::decode(key_value(b"key", &version, value)).expect("a message");
            let want = KeyValue {
                key: Bytes::from_static(b"key"),
                create_revision: 7,
                mod_revision: 300,
                version: 2,
                value: Bytes::copy_from_slice(value),
                lease: -5,
            };
            assert_eq!(kv, want);
            assert_eq!(key_value(b"key", &version, value), want.encode_to_vec(), "canonical");
            assert_eq!(value_of(&key_value(b"key", &version, value)), value);
        }
    }
}
