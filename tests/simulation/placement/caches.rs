//! Caches: each lists a range, goes on by watching it, wherever it is, and has at every revision that it is told exactly
//! what was there. Some begin with a watch from now on instead of a list.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use kubebrain_brain::request::ReadAt;
use kubebrain_brain::watch::{MOVED_REASON, StreamConfig, WatchStream};
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::etcdserverpb::watch_request::RequestUnion;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::stop::Stopper;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::clients::read_at;
use super::site::Brain;
use super::truth::State;
use super::world::World;

/// One of them.
pub(super) struct Cache {
    pub(super) range: KeyRange,
    proxy: usize,
    /// As of which revision it is; 0: it has nothing yet.
    pub(super) at: i64,
    state: State,
}

/// How a watch went on.
enum Next {
    /// It ended, and is taken up again from where it was.
    Again,
    /// What comes next is compacted.
    List,
}

impl Cache {
    pub(super) fn new(range: KeyRange, proxy: usize) -> Self {
        Self { range, proxy, at: 0, state: State::new() }
    }

    /// One list, or one watch for a while.
    pub(super) async fn go_on(&mut self, world: &Arc<World>) {
        if world.chance(0.2) {
            world.learn(self.proxy);
        }
        let group = world.whose(self.proxy, self.range.start());
        let Some(brain) = world.site(&group).and_then(|site| site.brain(world)) else { return };
        if self.at == 0 && world.chance(0.7) {
            let listed =
                read_at(world, self.proxy, &brain, &self.range, ReadAt::Latest, world.chance(0.5)).await;
            if let Some((at, state)) = listed {
                (self.at, self.state) = (at, state);
            }
            return;
        }
        let until = Instant::now() + Duration::from_millis(20 + world.upto(1500));
        match self.watch(world, &brain, until).await {
            Next::Again => {}
            Next::List => {
                world.truth.count("relists");
                self.at = 0;
            }
        }
        if world.troubled() && world.chance(0.03) {
            self.at = 0;
        }
    }

    /// Watches from the next revision on, or from now.
    async fn watch(&mut self, world: &Arc<World>, brain: &Brain, until: Instant) -> Next {
        let need = world.truth.need(&self.range);
        let start_revision = if self.at == 0 { 0 } else { self.at + 1 };
        let create = pb::WatchCreateRequest {
            key: self.range.start().clone(),
            range_end: self.range.wire_end(),
            start_revision,
            progress_notify: true,
            ..<_>::default()
        };
        let (requests, inbound) = mpsc::channel(4);
        let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let _room = requests.send(create).await;
        let inbound = futures_util::stream::unfold(inbound, |mut inbound| async {
            inbound.recv().await.map(|request| (Ok(request), inbound))
        });
        let stopper = Stopper::default();
        let config =
            StreamConfig { progress_interval: Duration::from_millis(100), part: None, tells_all: true };
        let stream = WatchStream::new(brain.store.clone(), inbound.boxed(), config, stopper.handle());
        let messages = stream.into_messages();
        self.hear(world, brain, &requests, messages, (until, need)).await
    }

    async fn hear(
        &mut self,
        world: &World,
        brain: &Brain,
        requests: &mpsc::Sender<pb::WatchRequest>,
        messages: impl Stream<Item = Result<bytes::Bytes, tonic::Status>>,
        (until, need): (Instant, i64),
    ) -> Next {
        let mut messages = std::pin::pin!(messages);
        while Instant::now() < until && !brain.is_gone() {
            if world.chance(0.3) {
                let request = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                let _full = requests.try_send(pb::WatchRequest { request_union: Some(request) });
            }
            let message = match timeout(Duration::from_millis(200), messages.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(_) => return Next::Again,
                Err(_) => continue,
            };
            if brain.is_gone() {
                return Next::Again;
            }
            let response = pb::WatchResponse::decode(message).expect("a message");
            let header = response.header.as_ref().map_or(0, |header| header.revision);
            if response.canceled {
                return self.ends(world, brain, &response, header);
            }
            if response.created {
                if self.at == 0 {
                    // It has what was there then, as if it had listed.
                    world.truth.fresh(&format!("a watch of {}", brain.name), &self.range, need, header);
                    self.state = world.truth.at(&self.range, header);
                    self.tell(world, brain, "a watch from now on", header);
                }
            } else if response.events.is_empty() {
                world.truth.count("progress");
                self.tell(world, brain, "progress", header);
            } else {
                self.apply(world, brain, response.events);
            }
            if world.chance(0.1) {
                sleep(Duration::from_millis(world.upto(80))).await; // it reads slowly
            }
        }
        Next::Again
    }

    fn ends(&mut self, world: &World, brain: &Brain, response: &pb::WatchResponse, header: i64) -> Next {
        if response.cancel_reason == MOVED_REASON {
            world.truth.count(if header > 0 { "moved" } else { "moved, not all sent" });
            if header > 0 && self.at > 0 {
                self.tell(world, brain, "moved", header);
            }
            return Next::Again;
        }
        if response.compact_revision > 0 { Next::List } else { Next::Again }
    }

    fn apply(&mut self, world: &World, brain: &Brain, events: Vec<kubebrain_proto::mvccpb::Event>) {
        let mut at = self.at;
        for event in events {
            let deleted = event.r#type == i32::from(kubebrain_proto::mvccpb::event::EventType::Delete);
            let kv = event.kv.unwrap_or_default();
            if kv.mod_revision <= self.at {
                world.truth.wrong(format!(
                    "{} tells {:?} at {}, it has told {}",
                    brain.name, kv.key, kv.mod_revision, self.at
                ));
            }
            at = at.max(kv.mod_revision);
            match deleted {
                true => drop(self.state.remove(&kv.key)),
                false => drop(self.state.insert(kv.key.clone(), kv)),
            }
        }
        world.truth.count("heard");
        self.tell(world, brain, "events", at);
    }

    /// It is told that all was told up to a revision.
    fn tell(&mut self, world: &World, brain: &Brain, how: &str, revision: i64) {
        if revision < self.at {
            return;
        }
        self.at = revision;
        world.truth.show(
            &format!("a cache of {}, by {how},", brain.name),
            &self.range,
            revision,
            &self.state,
        );
    }
}
