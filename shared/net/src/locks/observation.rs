//! [`Observation`]: who leads an election, and what the leader says.
//!
//! Not every value that a leader has proclaimed is told, but always the last one. A watch that ends is taken up again where
//! the last answer stood: no value is told twice.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_proto::etcdserverpb::ResponseHeader;
use kubebrain_proto::mvccpb::event::EventType;
use kubebrain_proto::mvccpb::{Event, KeyValue};
use kubebrain_proto::v3electionpb::LeaderResponse;
use tonic::Status;

use super::keys::{Keys, Watch, Which};
use super::queue;

/// Between a watch that has ended and the next look.
const AGAIN: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(super) struct Observation {
    keys: Keys,
    prefix: Bytes,
    /// What was told last: a leader's key, and the revision of its value.
    told: Option<(Bytes, i64)>,
    /// Of the leader; `None` while there is none.
    watch: Option<Watch>,
    /// Seen, but not told yet.
    seen: VecDeque<(ResponseHeader, Event)>,
}

impl Observation {
    pub(super) fn new(keys: Keys, name: &[u8]) -> Self {
        Self { keys, prefix: queue::prefix(name), told: None, watch: None, seen: VecDeque::new() }
    }

    /// The next value of whoever leads then.
    ///
    /// # Errors
    /// Why the keys cannot be read or watched.
    pub(super) async fn next(&mut self) -> Result<LeaderResponse, Status> {
        loop {
            if let Some((header, event)) = self.seen.pop_front() {
                match (event.r#type(), event.kv) {
                    (EventType::Put, Some(kv)) => return Ok(self.tell(header, kv)),
                    _ => self.forget(), // it leads no more
                }
                continue;
            }
            let Some(watch) = &mut self.watch else {
                if let Some(answer) = self.look().await? {
                    return Ok(answer);
                }
                continue;
            };
            match watch.next().await? {
                Some((header, events)) => self.seen.extend(events.into_iter().map(|event| (header, event))),
                None => {
                    self.forget();
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    fn forget(&mut self) {
        self.watch = None;
        self.seen.clear();
    }

    fn tell(&mut self, header: ResponseHeader, kv: KeyValue) -> LeaderResponse {
        self.told = Some((kv.key.clone(), kv.mod_revision));
        LeaderResponse { header: Some(header), kv: Some(kv) }
    }

    /// Finds the leader, or waits until there is one; what it says, unless that was told.
    async fn look(&mut self) -> Result<Option<LeaderResponse>, Status> {
        let found = self.keys.one_below(self.prefix.clone(), Which::First).await?;
        let (header, kv) = match found.kv {
            Some(kv) => (found.header, kv),
            None => match first_put(&self.keys, &self.prefix, found.header.revision).await? {
                Some(first) => first,
                None => return Ok(None),
            },
        };
        self.watch = Some(self.keys.watch(kv.key.clone(), false, header.revision + 1).await?);
        let again =
            self.told.as_ref().is_some_and(|(key, revision)| *key == kv.key && *revision == kv.mod_revision);
        Ok((!again).then(|| self.tell(header, kv)))
    }
}

/// The first key that is put, and a header of its revision; `None` where the watch has ended.
async fn first_put(
    keys: &Keys,
    prefix: &Bytes,
    from: i64,
) -> Result<Option<(ResponseHeader, KeyValue)>, Status> {
    let mut watch = keys.watch(prefix.clone(), true, from).await?;
    while let Some((header, events)) = watch.next().await? {
        let put = events.into_iter().find(|event| event.r#type() == EventType::Put);
        if let Some(kv) = put.and_then(|event| event.kv) {
            return Ok(Some((ResponseHeader { revision: kv.mod_revision, ..header }, kv)));
        }
    }
    tokio::time::sleep(AGAIN).await;
    Ok(None)
}
