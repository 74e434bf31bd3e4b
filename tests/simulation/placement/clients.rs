//! What clients do, through proxies that may know an old placement: they write, read, read over several groups, compact.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_brain::request::{Limits, Range, ReadAt, Txn};
use kubebrain_brain::store::{Adoption, WriteError, read_all};
use kubebrain_proto::etcdserverpb as pb;
use kubebrain_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kubebrain_proto::etcdserverpb::request_op::Request;
use kubebrain_proto::mvccpb::KeyValue;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Document;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use prost::Message as _;
use tokio::time::timeout;

use super::site::Brain;
use super::truth::{State, UNITS, keys_of};
use super::world::{GROUPS, PATIENCE, World, name};
use crate::client::op;

pub(super) fn state_of(kvs: impl IntoIterator<Item = KeyValue>) -> State {
    kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect()
}

fn floor_of(revision: i64) -> Revision {
    Revision::new(revision.cast_unsigned())
}

impl World {
    fn floor(&self, proxy: usize) -> i64 {
        self.proxies[proxy].lock().floor
    }

    /// A proxy has shown a revision.
    fn passes(&self, proxy: usize, revision: i64) {
        let floor = &mut self.proxies[proxy].lock().floor;
        *floor = (*floor).max(revision);
    }

    fn document(&self, proxy: usize) -> Option<Document> {
        self.proxies[proxy].lock().document.clone()
    }

    /// A proxy hears of a placement: from home, or from whoever has it.
    pub(super) fn learn(&self, proxy: usize) {
        let heard = match self.chance(0.6) {
            true => self.current(),
            false => self.sites[self.pick(&GROUPS)].brain(self).map(|brain| {
                let held = brain.store.state().held.load_full();
                held.document().clone()
            }),
        };
        let Some(heard) = heard.filter(|heard| heard.number() > 0) else { return };
        let known = &mut self.proxies[proxy].lock().document;
        if known.as_ref().is_none_or(|known| known.number() < heard.number()) {
            *known = Some(heard);
        }
    }

    /// Who may own a key: mostly as the proxy knows it.
    pub(super) fn whose(&self, proxy: usize, key: &[u8]) -> GroupName {
        let by_proxy = self.document(proxy).filter(|_| self.chance(0.75));
        let by_home = || self.current().filter(|_| self.chance(0.7));
        match by_proxy.or_else(by_home) {
            Some(document) => document.table().owner(key).clone(),
            None => name(self.pick(&GROUPS)),
        }
    }

    fn said(&self, who: &Brain, proxy: usize, floor: i64, revision: i64) {
        if revision < floor {
            self.truth.wrong(format!(
                "{} answers at {revision} through proxy {proxy}, which is at {floor}",
                who.name
            ));
        }
        self.passes(proxy, revision);
    }
}

/// Clients of a proxy mostly use one unit, so that groups are not all as far.
fn some_unit(world: &World, proxy: usize) -> &'static str {
    if world.chance(world.traits().mixes) { world.pick(&UNITS) } else { UNITS[proxy % UNITS.len()] }
}

/// A range that clients ask for.
fn some_range(world: &World, proxy: usize) -> KeyRange {
    let unit = some_unit(world, proxy);
    match world.below(4) {
        0 => KeyRange::one(world.pick(&keys_of(unit))),
        _ => KeyRange::prefix(Bytes::from_static(unit.as_bytes())),
    }
}

/// A transaction as an API server sends it: on what the client knows.
pub(super) async fn write(world: &World, proxy: usize, deletes: f64) {
    let keys = keys_of(some_unit(world, proxy));
    let key = if world.chance(0.8) { keys[0].clone() } else { keys[1].clone() };
    write_key(world, proxy, &key, world.chance(deletes)).await;
}

/// True if it was answered.
pub(super) async fn write_key(world: &World, proxy: usize, key: &Bytes, deletes: bool) -> bool {
    let known = world.truth.newest(key);
    if deletes && known == 0 {
        return false;
    }
    let group = world.whose(proxy, key);
    let Some(brain) = world.site(&group).and_then(|site| site.some_master(world)) else { return false };
    let lease = if !deletes && world.chance(0.1) { lease_at(world, &brain).await } else { 0 };
    let value = world.value();
    let change = match deletes {
        true => Request::RequestDeleteRange(pb::DeleteRangeRequest { key: key.clone(), ..<_>::default() }),
        false => Request::RequestPut(pb::PutRequest {
            key: key.clone(),
            value: value.clone().into(),
            lease,
            ..<_>::default()
        }),
    };
    let compare = pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(known)),
        ..<_>::default()
    };
    let get = Request::RequestRange(pb::RangeRequest { key: key.clone(), ..<_>::default() });
    let txn = pb::TxnRequest { compare: vec![compare], success: vec![op(change)], failure: vec![op(get)] };
    let txn = Txn::from_wire(txn, &Limits::default()).expect("legal");
    let range = KeyRange::one(key.clone());
    let (floor, need) = (world.floor(proxy), world.truth.need(&range));
    let answer = timeout(PATIENCE, brain.store.txn(txn, floor_of(floor))).await;
    let Ok(Ok(reply)) = answer else {
        refused(world, answer.map(drop_reply));
        return false;
    };
    let revision = reply.revision.to_wire();
    let response = pb::TxnResponse::decode(reply.message).expect("a message");
    world.truth.fresh(&brain.name, &range, need, revision);
    if response.succeeded {
        world.truth.count("acknowledged");
        world.truth.acknowledged(&brain.name, key, (!deletes).then_some(value.as_bytes()), revision);
        let found = world.truth.at(&range, revision);
        world.truth.show(&brain.name, &range, revision, &found);
    } else {
        let found = response.responses.into_iter().filter_map(|response| response.response);
        let found = found.flat_map(|response| match response {
            pb::response_op::Response::ResponseRange(range) => range.kvs,
            _ => Vec::new(),
        });
        world.truth.show(&brain.name, &range, revision, &state_of(found));
    }
    world.said(&brain, proxy, floor, revision);
    true
}

fn drop_reply(answer: Result<kubebrain_brain::store::Reply, WriteError>) -> Result<(), WriteError> {
    answer.map(drop)
}

fn refused(world: &World, answer: Result<Result<(), WriteError>, tokio::time::error::Elapsed>) {
    match answer {
        Ok(Err(WriteError::Unserved(kubebrain_brain::store::Unserved::Changing(_)))) => {
            world.truth.count("changing");
        }
        Ok(Err(WriteError::Unserved(_))) => world.truth.count("not owner"),
        Ok(Err(WriteError::Fault(Fault::Compacted))) => world.truth.count("compacted"),
        _ => world.truth.count("failed"),
    }
}

/// A lease that the group has.
async fn lease_at(world: &World, brain: &Brain) -> i64 {
    let id = 1 + world.below(3).cast_signed();
    let adoption = Adoption { remaining: Duration::from_secs(2), offered: false };
    match timeout(PATIENCE, brain.store.adopt(id, 2, adoption)).await {
        Ok(Ok(granted)) => granted.id,
        _ => 0,
    }
}

/// A read of one group, fresh or not, of now or of before.
pub(super) async fn read(world: &World, proxy: usize) {
    let range = some_range(world, proxy);
    let group = world.whose(proxy, range.start());
    let Some(brain) = world.site(&group).and_then(|site| site.brain(world)) else { return };
    let at = match world.below(8) {
        0 => ReadAt::Revision(floor_of((world.floor(proxy) - world.below(12).cast_signed()).max(1))),
        _ => ReadAt::Latest,
    };
    drop(read_at(world, proxy, &brain, &range, at, world.chance(0.3)).await);
}

/// What was read, and at which revision.
pub(super) async fn read_at(
    world: &World,
    proxy: usize,
    brain: &Brain,
    keys: &KeyRange,
    at: ReadAt,
    serializable: bool,
) -> Option<(i64, State)> {
    let range = Range { keys: keys.clone(), serializable, ..read_all(at) };
    let (floor, need) = (world.floor(proxy), world.truth.need(keys));
    let answer = timeout(PATIENCE, brain.store.range_owned(&range, floor_of(floor), None)).await;
    let Ok(Ok(reply)) = answer else {
        refused(world, answer.map(drop_reply));
        return None;
    };
    let header = reply.revision.to_wire();
    let response = pb::RangeResponse::decode(reply.message).expect("a message");
    let slave = brain.store.state().is_slave();
    world.truth.count(if slave { "reads of slaves" } else { "reads of masters" });
    let revision = match at {
        ReadAt::Latest => header,
        ReadAt::Revision(revision) => revision.to_wire(),
    };
    let found = state_of(response.kvs);
    if !serializable {
        world.truth.fresh(&brain.name, keys, need, header);
        world.said(brain, proxy, floor, header);
    }
    world.truth.show(&brain.name, keys, revision, &found);
    world.passes(proxy, header);
    Some((revision, found))
}

/// A read over all groups that have a part of the range: all are raised to the highest of them, then each is read there.
pub(super) async fn read_parts(world: &Arc<World>, proxy: usize) {
    let Some(document) = world.document(proxy) else { return };
    let keys = match world.below(3) {
        0 => KeyRange::prefix(Bytes::from_static(b"/registry/u/")),
        1 => KeyRange::prefix(Bytes::from_static(b"/registry/v/")),
        _ => KeyRange::prefix(Bytes::from_static(b"/registry/")),
    };
    let (floor, need) = (world.floor(proxy), world.truth.need(&keys));
    let mut brains = Vec::new();
    let mut highest = floor;
    for group in document.table().owners(&keys) {
        let Some(brain) = world.site(&group).and_then(|site| site.brain(world)) else { return };
        let Ok(Ok(at)) = timeout(PATIENCE, brain.store.advance(floor_of(floor))).await else { return };
        highest = highest.max(at.to_wire());
        brains.push(brain);
    }
    let mut found = Vec::new();
    for brain in &brains {
        let raised = timeout(PATIENCE, brain.store.advance(floor_of(highest))).await;
        if !matches!(raised, Ok(Ok(at)) if at.to_wire() >= highest) {
            return;
        }
        let range = Range { keys: keys.clone(), ..read_all(ReadAt::Revision(floor_of(highest))) };
        let part =
            timeout(PATIENCE, brain.store.range_owned(&range, floor_of(highest), Some(document.id()))).await;
        let Ok(Ok(reply)) = part else {
            refused(world, part.map(drop_reply));
            return;
        };
        found.extend(pb::RangeResponse::decode(reply.message).expect("a message").kvs);
    }
    world.truth.count("merged");
    let who = format!("a merge of number {}", document.number());
    world.truth.fresh(&who, &keys, need, highest);
    world.truth.show(&who, &keys, highest, &state_of(found));
    world.passes(proxy, highest);
}

/// One group alone, as a proxy leaves it that dies on its way through them.
async fn compact_one(world: &World, group: &GroupName) {
    let Some(brain) = world.site(group).and_then(|site| site.some_master(world)) else { return };
    let at = brain.store.state().committed();
    let compacting = brain.store.compact(at.to_wire(), false, Revision::ZERO);
    if let Ok(Ok(_)) = timeout(PATIENCE, compacting).await {
        world.truth.count("compactions");
        world.truth.note(&format!("{} compacted {at}, alone", brain.name));
    }
}

/// All groups at one revision.
pub(super) async fn compact(world: &World, proxy: usize, near: bool) {
    let back = if near { 0 } else { world.below(8).cast_signed() };
    let at = (world.floor(proxy) - back).max(1);
    for site in world.sites.values() {
        let Some(brain) = site.some_master(world) else { continue };
        let compacting = async {
            brain.store.advance(floor_of(at)).await?;
            brain.store.compact(at, false, floor_of(at)).await
        };
        if let Ok(Ok(_)) = timeout(PATIENCE, compacting).await {
            world.truth.count("compactions");
            world.truth.note(&format!("{} compacted {at}", brain.name));
        }
    }
}

/// One client of a proxy.
pub(super) async fn act(world: &Arc<World>, proxy: usize) {
    if world.chance(0.15) {
        world.learn(proxy);
    }
    match world.below(20) {
        0..8 => write(world, proxy, world.traits().deletes).await,
        8..15 => read(world, proxy).await,
        15..18 if world.chance(world.traits().mixes) => read_parts(world, proxy).await,
        18 if world.chance(world.traits().mixes) => compact(world, proxy, false).await,
        _ => {}
    }
}

/// An operator empties what is to be moved, and has it compacted.
pub(super) async fn drain(world: &World, unit: &'static str) {
    let proxy = world.below(world.proxies.len() as u64) as usize;
    world.learn(proxy);
    for key in keys_of(unit) {
        for _ in 0..4 {
            if world.truth.newest(&key) == 0 || write_key(world, proxy, &key, true).await {
                break;
            }
        }
    }
    match world.chance(world.traits().mixes) {
        true => compact(world, proxy, true).await,
        false => compact_one(world, &world.whose(proxy, &keys_of(unit)[0])).await,
    }
}
