//! Clients that watch: as etcd's client does, a lost stream is opened again and each watcher goes on where it was.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::etcdserverpb::watch_client::WatchClient;
use kubebrain_proto::etcdserverpb::watch_request::RequestUnion;
use rand::Rng;
use rand::seq::IndexedRandom;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_stream::wrappers::ReceiverStream;

use crate::client::{Client, KINDS, prefix_end};
use crate::record::{Heard, Watch};
use crate::world::World;

/// How long the last progress may take once nothing is in trouble: the API server gives up after 3 s.
const PROGRESS_MAX: Duration = Duration::from_secs(3);

/// One watcher over all its streams.
struct Watcher {
    template: pb::WatchCreateRequest,
    /// Where the next stream begins; 0 is now.
    next: i64,
    current: Option<Watch>,
}

impl Watcher {
    fn hear(&mut self, world: &World, heard: Heard) {
        match &heard {
            Heard::Events(response) => {
                let last = response
                    .events
                    .iter()
                    .filter_map(|event| event.kv.as_ref())
                    .map(|kv| kv.mod_revision)
                    .max();
                self.next = self.next.max(last.unwrap_or(0) + 1);
            }
            Heard::Progress { revision, .. } => self.next = self.next.max(revision + 1),
            Heard::Cancelled { .. } => self.next = 0,
        }
        if let Some(current) = &mut self.current {
            current.heard.push((world.journal.now(), heard));
        }
    }

    fn end(&mut self, world: &World) {
        if let Some(current) = self.current.take() {
            world.journal.watch(current);
        }
    }
}

/// Watches until everything is settled and every watcher has heard of it.
pub(crate) async fn watch_store(
    world: Arc<World>,
    id: usize,
    proxy: usize,
    mut settled: watch::Receiver<bool>,
) {
    let mut client = Client::new(Arc::clone(&world), id, proxy);
    let count = client.rng.random_range(1..=3);
    let mut watchers: Vec<Watcher> = (0..count).map(|_| watcher(&mut client)).collect();
    let mut stream = 0;
    while !stream_once(&world, &mut client, (id, proxy, stream), &mut watchers, &mut settled).await {
        watchers.iter_mut().for_each(|watcher| watcher.end(&world));
        sleep(Duration::from_millis(20)).await;
        stream += 1;
    }
    watchers.iter_mut().for_each(|watcher| watcher.end(&world));
}

fn watcher(client: &mut Client) -> Watcher {
    let kind = *KINDS.choose(&mut client.rng).expect("not empty");
    let (key, range_end): (Bytes, Bytes) = match client.rng.random_range(0..6) {
        0 => ("\0".into(), "\0".into()),
        1 => ("/".into(), prefix_end("/")),
        2 => (format!("{kind}a/x").into(), Bytes::new()),
        _ => (kind.into(), prefix_end(kind)),
    };
    let filters = if client.rng.random_bool(0.1) { vec![client.rng.random_range(0..2)] } else { Vec::new() };
    let template = pb::WatchCreateRequest {
        key,
        range_end,
        progress_notify: client.rng.random_bool(0.7),
        prev_kv: client.rng.random_bool(0.8),
        fragment: client.rng.random_bool(0.2),
        filters,
        ..<_>::default()
    };
    let next = if client.rng.random_bool(0.4) { 1 } else { 0 };
    Watcher { template, next, current: None }
}

/// One stream; true if it got to the end.
async fn stream_once(
    world: &World,
    client: &mut Client,
    (id, proxy, stream): (usize, usize, u64),
    watchers: &mut [Watcher],
    settled: &mut watch::Receiver<bool>,
) -> bool {
    let (requests, body) = mpsc::channel(64);
    let opened = WatchClient::new(world.channel(proxy)).watch(ReceiverStream::new(body)).await;
    let Ok(opened) = opened else { return false };
    let mut responses = opened.into_inner();
    let send = |union| requests.try_send(pb::WatchRequest { request_union: Some(union) }).is_ok();
    let mut tick = interval(Duration::from_millis(100));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut creating = None;
    let mut target: Option<(i64, Instant)> = None;
    let mut asks = false;
    loop {
        if creating.is_none()
            && let Some(index) = watchers.iter().position(|watcher| watcher.current.is_none())
        {
            let create = pb::WatchCreateRequest {
                start_revision: watchers[index].next,
                watch_id: index as i64 + 1,
                ..watchers[index].template.clone()
            };
            let asked = world.journal.now();
            if !send(RequestUnion::CreateRequest(create.clone())) {
                return false;
            }
            let watch = Watch {
                client: id,
                proxy,
                stream,
                create,
                asked,
                created: None,
                heard: Vec::new(),
                target: None,
            };
            watchers[index].current = Some(watch);
            creating = Some(index);
        }
        tokio::select! {
            response = responses.message() => {
                let Ok(Some(response)) = response else { return false };
                let revision = response.header.as_ref().map_or(0, |header| header.revision);
                let who = usize::try_from(response.watch_id - 1).ok();
                if response.created {
                    let now = world.journal.now();
                    if who != creating.take() || response.canceled {
                        world.journal.wrong(format!("w{id}: a create was answered with {response:?}"));
                        return false;
                    }
                    if let Some(watcher) = who.and_then(|index| watchers.get_mut(index)) {
                        watcher.next = watcher.next.max(if watcher.next == 0 { revision + 1 } else { 0 });
                        if let Some(current) = &mut watcher.current {
                            current.created = Some((now, revision));
                        }
                    }
                } else if response.canceled {
                    let Some(watcher) = who.and_then(|index| watchers.get_mut(index)) else { continue };
                    let (compact_revision, reason) = (response.compact_revision, response.cancel_reason.clone());
                    watcher.hear(world, Heard::Cancelled { compact_revision, reason });
                    watcher.end(world);
                } else if response.watch_id == -1 {
                    for watcher in watchers.iter_mut().filter(|watcher| {
                        watcher.current.as_ref().is_some_and(|current| current.created.is_some())
                    }) {
                        watcher.hear(world, Heard::Progress { revision, manual: true });
                    }
                    asks = false;
                } else if let Some(watcher) = who.and_then(|index| watchers.get_mut(index)) {
                    let heard = match response.events.is_empty() {
                        true => Heard::Progress { revision, manual: false },
                        false => Heard::Events(response),
                    };
                    watcher.hear(world, heard);
                } else {
                    world.journal.wrong(format!("w{id}: an answer to nobody: {response:?}"));
                }
                match client.rng.random_range(0..60) {
                    _ if *settled.borrow() => {}
                    0 => sleep(Duration::from_millis(client.rng.random_range(0..2000))).await,
                    1..6 => sleep(Duration::from_millis(client.rng.random_range(0..100))).await,
                    _ => {}
                }
            }
            _ = tick.tick() => {
                let created = watchers.iter().all(|watcher| watcher.current.as_ref().is_some_and(|one| one.created.is_some()));
                if *settled.borrow() && created && target.is_none() {
                    target = Some((client.probe().await, Instant::now()));
                } else if target.is_none() {
                    // as the API server does for a consistent list: asks until it is answered
                    asks |= client.rng.random_bool(0.15);
                    if client.rng.random_bool(0.004) {
                        return false;
                    }
                    if client.rng.random_bool(0.02) {
                        client.probe().await;
                        asks = true;
                    }
                }
                if (asks || target.is_some()) && !send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})) {
                    return false;
                }
            }
        }
        if let Some((revision, since)) = target {
            let done = watchers
                .iter()
                .all(|watcher| watcher.current.as_ref().is_some_and(|current| told(current) >= revision));
            let late = since.elapsed() > PROGRESS_MAX;
            if late && !done {
                world
                    .journal
                    .wrong(format!("w{id}/p{proxy}: no progress to {revision} within {PROGRESS_MAX:?}"));
            }
            if done || late {
                for watcher in watchers.iter_mut() {
                    if let Some(current) = &mut watcher.current {
                        current.target = done.then_some(revision);
                    }
                }
                return true;
            }
        }
    }
}

/// The last progress.
fn told(watch: &Watch) -> i64 {
    let progress = watch.heard.iter().rev().find_map(|(_, heard)| match heard {
        Heard::Progress { revision, .. } => Some(*revision),
        _ => None,
    });
    progress.unwrap_or(0)
}
