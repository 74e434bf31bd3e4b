//! A place in the queue below a name: taken by a key, left when the key is gone.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kubebrain_proto::etcdserverpb as wire;
use kubebrain_proto::mvccpb::event::EventType;
use tonic::Status;

use super::keys::{Created, Keys, Which};

/// Between a watch that has ended and the next one.
const AGAIN: Duration = Duration::from_millis(100);

/// What all keys of a name begin with.
pub(super) fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The key of a lease.
pub(super) fn key(name: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    let mut key = BytesMut::from(&prefix(name)[..]);
    key.extend_from_slice(format!("{sign}{:x}", lease.unsigned_abs()).as_bytes());
    key.freeze()
}

/// Returns when nobody is left whose key below `prefix` was created before `revision`; true if it had to wait.
///
/// # Errors
/// Why the keys cannot be read or watched.
///
/// # Cancel safety
/// A dropped call has changed nothing.
pub(super) async fn turn(keys: &Keys, prefix: &Bytes, revision: i64) -> Result<bool, Status> {
    let mut waited = false;
    loop {
        let before = keys.one_below(prefix.clone(), Which::LastUpTo(revision - 1)).await?;
        let Some(kv) = before.kv else { return Ok(waited) };
        waited = true;
        if !gone(keys, kv.key, before.header.revision).await? {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Returns when the key is deleted, true, or when its watch has ended.
async fn gone(keys: &Keys, key: Bytes, from: i64) -> Result<bool, Status> {
    let mut watch = match keys.watch(key, false, from).await {
        Ok(watch) => watch,
        Err(status) if status.code() == tonic::Code::Unavailable => return Ok(false),
        Err(status) => return Err(status),
    };
    while let Some((_, events)) = watch.next().await? {
        if events.iter().any(|event| event.r#type() == EventType::Delete) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How a place is given up.
#[derive(Clone, Copy, Debug)]
pub(super) enum GivenUp {
    /// By its key, whoever has made it: as etcd's locks do.
    Always,
    /// Only by the key that was made then: as etcd's elections do.
    IfSame,
}

/// A place of somebody who waits. Dropped before it is kept, it is given up.
#[derive(Debug)]
pub(super) struct Place {
    keys: Keys,
    created: Option<Created>,
    given_up: GivenUp,
}

impl Place {
    pub(super) fn new(keys: &Keys, created: Created, given_up: GivenUp) -> Self {
        Self { keys: keys.clone(), created: Some(created), given_up }
    }

    /// It stays.
    pub(super) fn keep(mut self) {
        self.created = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (Some(created), Ok(runtime)) = (self.created.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let (keys, given_up) = (self.keys.clone(), self.given_up);
        // A task of its own: whoever has waited is gone. One that fails leaves the key to its lease.
        runtime.spawn(async move {
            let outcome = match given_up {
                GivenUp::Always => keys.delete(created.key).await.map(drop),
                GivenUp::IfSame => resign(&keys, &created).await.map(drop),
            };
            if let Err(status) = outcome {
                tracing::debug!(%status, "the key of a client that has gone away stays until its lease ends");
            }
        });
    }
}

/// Deletes the key if it is the one that was created then.
pub(super) async fn resign(keys: &Keys, created: &Created) -> Result<wire::ResponseHeader, Status> {
    let delete = wire::DeleteRangeRequest { key: created.key.clone(), ..Default::default() };
    let request = wire::request_op::Request::RequestDeleteRange(delete);
    keys.change(created, request).await.map(|(header, _)| header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_name_and_its_lease_in_hexadecimal() {
        assert_eq!(key(b"name", 0x694d_7ef2), "name/694d7ef2");
        assert_eq!(key(b"", 10), "/a");
        assert_eq!(key(b"n/", -42), "n//-2a"); // as Go writes a negative number
        assert_eq!(key(b"n", i64::MIN), "n/-8000000000000000");
    }
}
