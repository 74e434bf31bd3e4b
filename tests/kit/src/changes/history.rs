//! [`History`]: what a watch of a kind saw, whatever ended its streams; and what must hold of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::client::{Client, end_of, keys};
use crate::until;
use kubebrain_proto::etcdserverpb::watch_client::WatchClient;
use kubebrain_proto::etcdserverpb::watch_request::RequestUnion;
use kubebrain_proto::etcdserverpb::{WatchCreateRequest, WatchRequest};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;

use super::traffic::{Kind, Told};

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) revision: i64,
    pub(super) key: String,
    /// A deletion has none.
    pub(super) value: Option<String>,
}

/// See the module. Dropped, it ends.
pub(super) struct History {
    name: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// Where the next stream begins.
    next: AtomicI64,
    seen: Mutex<Vec<Seen>>,
}

impl History {
    /// From the beginning on, through one proxy.
    pub(super) fn follow(kind: &Kind, address: &str) -> Self {
        let shared = Arc::new(Shared { next: AtomicI64::new(1), seen: Mutex::default() });
        let (prefix, address) = (kind.prefix(), address.to_owned());
        let task = tokio::spawn({
            let shared = shared.clone();
            async move {
                loop {
                    shared.stream(&prefix, &address).await;
                    sleep(Duration::from_millis(20)).await;
                }
            }
        });
        Self { name: kind.name.clone(), shared, task }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Everything below it was seen.
    pub(super) fn next(&self) -> i64 {
        assert!(!self.task.is_finished(), "a watch of {} has found something wrong", self.name);
        self.shared.next.load(Ordering::SeqCst)
    }

    fn all(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    /// One stream, until its end.
    async fn stream(&self, prefix: &str, address: &str) {
        let (requests, inbound) = mpsc::channel(1);
        let start = self.next.load(Ordering::SeqCst);
        let create = WatchCreateRequest {
            key: prefix.to_owned().into(),
            range_end: end_of(prefix).into(),
            start_revision: start,
            progress_notify: true,
            ..WatchCreateRequest::default()
        };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let _there = requests.send(create).await;
        let mut client =
            WatchClient::new(Client::new(address).channel()).max_decoding_message_size(usize::MAX);
        let Ok(stream) = client.watch(ReceiverStream::new(inbound)).await else { return };
        let mut responses = stream.into_inner();
        while let Ok(Some(response)) = responses.message().await {
            assert!(
                response.compact_revision == 0,
                "{prefix}: a watch from {start} is below {}",
                response.compact_revision
            );
            if response.canceled {
                return;
            }
            let header = response.header.as_ref().expect("every response has a header").revision;
            let mut seen = self.seen.lock();
            let mut next = self.next.load(Ordering::SeqCst);
            for event in &response.events {
                let kv = event.kv.as_ref().expect("an event has a key");
                let key = String::from_utf8_lossy(&kv.key).into_owned();
                assert!(
                    kv.mod_revision >= next,
                    "{prefix}: {key}@{} comes after {next} was closed",
                    kv.mod_revision
                );
                let value = (event.r#type == 0).then(|| String::from_utf8_lossy(&kv.value).into_owned());
                let last = Seen { revision: kv.mod_revision, key, value };
                assert!(
                    !seen
                        .iter()
                        .rev()
                        .take_while(|before| before.revision >= last.revision)
                        .any(|before| *before == last)
                );
                seen.push(last);
            }
            if let Some(last) = seen.last() {
                next = next.max(last.revision + 1);
            }
            if response.events.is_empty() && !response.created {
                next = next.max(header + 1); // progress: everything up to here was sent
            }
            self.next.store(next, Ordering::SeqCst);
        }
    }
}

/// Holds what was told against what was seen, and what is there: nothing that was acknowledged is lost, nothing that was
/// refused is there, no event is missing or twice. Gives how many events a watch saw.
pub(super) async fn judge(
    kinds: &[Arc<Kind>],
    histories: BTreeMap<(usize, usize), History>,
    addresses: &[String],
) -> usize {
    let mut count = 0;
    for (number, kind) in kinds.iter().enumerate() {
        let client = Client::new(&addresses[number % addresses.len()]);
        let inner = |key: &str| {
            kinds
                .iter()
                .any(|other| other.prefix().len() > kind.prefix().len() && key.starts_with(&other.prefix()))
        };
        let now = until("a last list", async || client.list(&kind.prefix()).await.ok()).await;
        let revision = now.header.as_ref().expect("every answer has a header").revision;
        let mut all: Vec<Vec<Seen>> = Vec::new();
        for proxy in 0..addresses.len() {
            let history = &histories[&(number, proxy)];
            until("the end of a watch", async || (history.next() > revision).then_some(())).await;
            all.push(
                history
                    .all()
                    .into_iter()
                    .filter(|seen| seen.revision <= revision && !inner(&seen.key))
                    .collect(),
            );
        }
        assert_eq!(all[0], all[1], "two watches of {} saw two things", kind.name);
        let seen = &all[0];
        count += seen.len();
        let tried = kind.tried.lock().clone();
        let mut state: BTreeMap<&str, (i64, &str)> = BTreeMap::new();
        for event in seen {
            let before = state.get(event.key.as_str()).map_or(0, |(revision, _)| *revision);
            let value = event.value.clone().unwrap_or_else(|| format!("-{before}"));
            match tried.get(&(event.key.clone(), value.clone())) {
                Some(Told::Done(at)) => assert_eq!(*at, event.revision, "{event:?} was acknowledged at {at}"),
                Some(Told::Unknown) => {}
                Some(Told::Not) => panic!("{event:?} was refused"),
                None => panic!("nobody has written {event:?} ({value})"),
            }
            match &event.value {
                Some(value) => drop(state.insert(&event.key, (event.revision, value))),
                None => drop(state.remove(event.key.as_str())),
            }
        }
        for ((key, value), told) in &tried {
            let Told::Done(at) = told else { continue };
            let there = seen.iter().any(|event| event.revision == *at && event.key == *key);
            assert!(there, "{key}={value} was acknowledged at {at}, and no watch has seen it");
        }
        let there: Vec<(String, i64)> = keys(&now)
            .into_iter()
            .zip(now.kvs.iter().map(|kv| kv.mod_revision))
            .filter(|(key, _)| !inner(key))
            .collect();
        let want: Vec<(String, i64)> = state.iter().map(|(key, (at, _))| ((*key).to_owned(), *at)).collect();
        assert_eq!(there, want, "{} at the end", kind.name);
    }
    count
}
