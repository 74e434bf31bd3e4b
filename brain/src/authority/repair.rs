//! Keys that stand in groups which do not own them: which they are, and putting that right where an operator says so. By
//! the document that holds; while none does by the home group's file, which may wait for nothing else.
//!
//! A key is moved in two steps: its owner writes it, then the group that has it deletes it if it is unchanged. Whoever dies
//! between the two leaves a key that both have with the same value and the same lease: asked again, only the second step is
//! left. Groups order and fence their writes each by its own log, so there is no one step for two of them.

mod tally;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use kubebrain_proto::admin::placement_repair::{Action, Keep};
use kubebrain_proto::admin::{PlacementRepair, PlacementRepairFrom, PlacementReport};
use kubebrain_proto::peer::repair_request::Step;
use kubebrain_proto::peer::{
    AdoptLeaseRequest, PlacementDocument, RepairDrop, RepairFind, RepairKey, RepairLease, RepairLook,
    RepairRequest, RepairResponse, RepairTake,
};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Document, Placement};
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use tokio::time::{Instant, timeout};
use tonic::Status;

use self::tally::{After, Tally, after_take};
use super::row::{Part, parts};
use super::{Authority, refused};
use crate::state::lease::Leases;

/// An answer tells how far it has come after so long: looking, and changing.
const LOOKS_FOR: Duration = Duration::from_secs(1);
const WORKS_FOR: Duration = Duration::from_secs(2);
/// A group that has not answered a step for so long is left.
const STEP_WITHIN: Duration = Duration::from_secs(5);
/// Keys of one step: looking, and changing.
const LOOKED_AT_MAX: u32 = 4096;
const CHANGED_MAX: u32 = 256;

/// What is asked for, and by what.
struct Job {
    by: Document,
    parts: BTreeMap<GroupName, Part>,
    range: KeyRange,
    action: Action,
    keep: Keep,
    dry_run: bool,
}

impl Authority {
    /// As far as it comes in a moment.
    pub(super) async fn repair(&self, asked: PlacementRepair) -> Result<PlacementReport, Status> {
        let job = self.job(&asked)?;
        let is_from = |group: &&GroupName| asked.from.is_empty() || group.as_str() == asked.from;
        let (key, began_in) = match &asked.after {
            Some(PlacementRepairFrom { group, key }) => (key.clone(), group.as_str()),
            None => (Bytes::new(), ""),
        };
        let end = Instant::now() + if job.action == Action::List { LOOKS_FOR } else { WORKS_FOR };
        let mut tally = Tally::new(&job.by, asked.keys);
        let groups = job.parts.keys().filter(is_from).filter(|group| group.as_str() >= began_in);
        let mut is_first = true;
        'groups: for group in groups {
            let began = if group.as_str() == began_in { key.clone() } else { Bytes::new() };
            let mut from = Some(began.max(job.range.start().clone()));
            while let Some(key) = from {
                if !is_first && (Instant::now() >= end || tally.is_full()) {
                    tally.goes_on(group, key);
                    break 'groups;
                }
                is_first = false;
                from = match self.page(&job, group, key, &mut tally).await {
                    Ok(next) => next,
                    Err(why) => {
                        tally.trouble(why);
                        None
                    }
                };
            }
        }
        Ok(PlacementReport { repaired: Some(tally.told()), ..PlacementReport::default() })
    }

    fn job(&self, asked: &PlacementRepair) -> Result<Job, Status> {
        let decided = self.decided()?;
        let action = asked.action();
        let by = match (&decided.current, &decided.prepared) {
            (Some(_), Some(prepared)) if action != Action::List => {
                return Err(refused(format_args!(
                    "placement number {} is prepared: wait for it, or abort it by `kubebrain ctl placement abort`",
                    prepared.number()
                )));
            }
            (Some(current), _) => current.clone(),
            (None, prepared) => {
                let seed = self.0.seed.borrow().as_ref().map(|seed| seed.text.clone());
                let text = seed.or_else(|| prepared.as_ref().map(|prepared| prepared.text().to_owned()));
                let none =
                    || refused("there is no placement, and this brain has no file to make the first one of");
                let file = PlacementDocument { text: text.ok_or_else(none)?, ..PlacementDocument::default() };
                Document::from_wire(&file).map_err(refused)?
            }
        };
        let parts = parts(Some(&by), decided.prepared.as_ref());
        if !asked.from.is_empty() && !parts.keys().any(|group| group.as_str() == asked.from) {
            return Err(Status::invalid_argument(format!("kubebrain: there is no group {:?}", asked.from)));
        }
        let range = range(asked, by.table())?;
        Ok(Job { range, by, parts, action, keep: asked.keep(), dry_run: asked.dry_run })
    }

    /// The next keys of a group; from where the ones after them are to be looked for.
    ///
    /// # Errors
    /// A sentence: a group does not answer, or refuses.
    async fn page(
        &self,
        job: &Job,
        group: &GroupName,
        from: Bytes,
        tally: &mut Tally,
    ) -> Result<Option<Bytes>, String> {
        let is_move = job.action == Action::Move;
        let find = RepairFind {
            from,
            end: job.range.end().cloned().unwrap_or_default(),
            keys_max: if job.action == Action::List { LOOKED_AT_MAX } else { CHANGED_MAX },
            values: is_move,
        };
        let found = self.step(job, group, Step::Find(find)).await?;
        let (deleted, live): (Vec<_>, Vec<_>) = found.keys.into_iter().partition(|key| key.deleted);
        deleted.iter().for_each(|key| tally.history(group, key, found.revision));
        let mut by_owner: BTreeMap<GroupName, Vec<RepairKey>> = BTreeMap::new();
        for key in live {
            tally.stands(group, &key, found.revision);
            by_owner.entry(job.by.table().owner(&key.key).clone()).or_default().push(key);
        }
        for (owner, keys) in by_owner {
            match job.action {
                Action::List => self.look(job, group, &owner, keys, tally).await?,
                Action::Move => self.move_keys(job, group, &owner, keys, tally).await?,
                Action::Drop => self.drop_keys(job, group, keys, After::Dropped, tally).await?,
            }
        }
        Ok((!found.next.is_empty()).then_some(found.next))
    }

    async fn look(
        &self,
        job: &Job,
        group: &GroupName,
        owner: &GroupName,
        keys: Vec<RepairKey>,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let names = keys.iter().map(|key| key.key.clone()).collect();
        let look = RepairLook { keys: names, units: tally.uncounted(&keys) };
        let has = match self.step(job, owner, Step::Look(look)).await {
            Ok(has) => has,
            Err(why) => {
                tally.trouble(why);
                RepairResponse::default()
            }
        };
        has.units.iter().for_each(|unit| tally.owned(unit));
        let has: BTreeMap<&Bytes, i64> = has.keys.iter().map(|key| (&key.key, key.revision)).collect();
        for key in &keys {
            tally.listed(group, key, has.get(&key.key).copied());
        }
        Ok(())
    }

    async fn move_keys(
        &self,
        job: &Job,
        group: &GroupName,
        owner: &GroupName,
        keys: Vec<RepairKey>,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let leases: BTreeSet<i64> = keys.iter().map(|key| key.lease).filter(|lease| *lease != 0).collect();
        let mut unknown = BTreeMap::new();
        for lease in leases {
            if let Err(why) = self.bring(job, owner, lease).await? {
                unknown.insert(lease, why);
            }
        }
        let (lost, keys): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|key| unknown.contains_key(&key.lease));
        for key in &lost {
            tally.left(group, key, unknown.get(&key.lease).map_or("", |why| why));
        }
        let take =
            RepairTake { keys: keys.clone(), overwrite: job.keep == Keep::Stray, dry_run: job.dry_run };
        let taken = self.step(job, owner, Step::Take(take)).await?;
        let mut out: BTreeMap<After, Vec<RepairKey>> = BTreeMap::new();
        for (key, done) in keys.into_iter().zip(taken.done) {
            match after_take(&done, job.keep, owner) {
                Ok(after) => out.entry(after).or_default().push(key),
                Err(why) => tally.left(group, &key, &why),
            }
        }
        for (after, keys) in out {
            self.drop_keys(job, group, keys, after, tally).await?;
        }
        Ok(())
    }

    async fn drop_keys(
        &self,
        job: &Job,
        group: &GroupName,
        keys: Vec<RepairKey>,
        after: After,
        tally: &mut Tally,
    ) -> Result<(), String> {
        if job.dry_run {
            keys.iter().for_each(|key| tally.done(group, key, after, true));
            return Ok(());
        }
        let lean = |key: &RepairKey| RepairKey { value: Bytes::new(), ..key.clone() };
        let drop = RepairDrop { keys: keys.iter().map(lean).collect() };
        let dropped = self.step(job, group, Step::Drop(drop)).await?;
        for (key, done) in keys.iter().zip(&dropped.done) {
            match tally::after_drop(done) {
                Ok(()) => tally.done(group, key, after, false),
                Err(why) => tally.left(group, key, &why),
            }
        }
        Ok(())
    }

    /// The owner holds a lease of the home group from now on; why it does not.
    ///
    /// # Errors
    /// It is not known.
    async fn bring(&self, job: &Job, owner: &GroupName, id: i64) -> Result<Result<(), String>, String> {
        let (store, said) = (&self.0.store, |fault: Fault| Status::from(fault).message().to_owned());
        let gone = || Ok(Err(format!("the home group does not know its lease {id:x}, or not any more")));
        let look = |leases: &Leases| leases.get(id).map(|lease| (lease.row.ttl, lease.left()));
        let (_, lease) = store.of_leases(Revision::ZERO, look).await.map_err(said)?;
        let Some(lease) = lease else { return gone() };
        if job.dry_run || *owner == store.state().group {
            return Ok(Ok(()));
        }
        let adopt = |(ttl, left): (i64, Duration), offered| {
            let remaining_ms = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
            Step::Lease(RepairLease { adopt: Some(AdoptLeaseRequest { id, ttl, remaining_ms, offered }) })
        };
        // The holder first, then home's record, then keys may hang on it: as for a client's write.
        self.step(job, owner, adopt(lease, true)).await?;
        match store.share(id, owner.clone()).await {
            Ok(lease) => self.step(job, owner, adopt(lease, false)).await.map(|_| Ok(())),
            Err(Fault::LeaseNotFound) => gone(),
            Err(fault) => Err(said(fault)),
        }
    }

    async fn step(&self, job: &Job, group: &GroupName, step: Step) -> Result<RepairResponse, String> {
        let brains = job.parts.get(group).map(|part| part.brains.clone()).unwrap_or_default();
        let request = RepairRequest { document: Some(job.by.to_wire()), step: Some(step) };
        match timeout(STEP_WITHIN, self.0.reach.repair(group, &brains, request)).await {
            Err(_late) => Err(format!("group {group} has not answered for {} s", STEP_WITHIN.as_secs())),
            Ok(Err(why)) => Err(why.to_string()),
            Ok(Ok(answer)) if !answer.refusal.is_empty() => Err(answer.refusal),
            Ok(Ok(answer)) => Ok(answer),
        }
    }
}

/// Which keys are meant.
fn range(asked: &PlacementRepair, table: &Placement) -> Result<KeyRange, Status> {
    let invalid = |what: &str| Err(Status::invalid_argument(format!("kubebrain: {what}")));
    let said = [!asked.kind.is_empty(), !asked.prefix.is_empty(), !asked.key.is_empty()];
    match said.into_iter().filter(|said| *said).count() {
        0 if asked.action() == Action::List => Ok(KeyRange::ALL),
        0 => invalid("nothing is moved or dropped unless it is named: by its kind, its prefix or its key"),
        1 if !asked.kind.is_empty() => {
            let prefix = [&table.prefix()[..], b"/", asked.kind.as_bytes(), b"/"].concat();
            Ok(KeyRange::prefix(prefix.into()))
        }
        1 if !asked.prefix.is_empty() => Ok(KeyRange::prefix(asked.prefix.clone())),
        1 => Ok(KeyRange::one(asked.key.clone())),
        _ => invalid("name the keys by their kind, their prefix, or as one key"),
    }
}
