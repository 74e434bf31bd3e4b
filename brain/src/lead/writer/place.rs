//! What the group goes by: a change of the placement, step by step as the home group's master asks for it, and at the home
//! group what it decides.
//!
//! A step is a batch's last command: what is given out later is judged by it, and nothing that was given out before stands
//! above the revision that it names.

use bytes::Bytes;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::placement::{Document, Placement};
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use prost::Message as _;

use super::task::Writer;
use crate::decide::held::{Adopted, Held};
use crate::lead::command::{Decision, PlaceStep, Placed};
use crate::rows::ownership;

/// Why a step was not done.
enum No {
    /// For the home group's master, and for people.
    Refused(String),
    /// Nothing is known of it.
    Fault(Fault),
}

impl From<Fault> for No {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Writer {
    /// What the group goes by once all is durable that was given out.
    pub(super) fn held(&self) -> Held {
        self.placing.clone().unwrap_or_else(|| Held::clone(&self.state.held.load()))
    }

    /// Carries out a step.
    ///
    /// # Errors
    /// [`Fault::Timeout`] where the storage did not say who owns what.
    pub(super) async fn place(&mut self, step: PlaceStep) -> Result<Placed, Fault> {
        let done = match step {
            PlaceStep::Ask { next } => self.would_adopt(&next),
            PlaceStep::Prepare { base, next, known } => self.prepare(base, next, known).await,
            PlaceStep::Take { document, accept_loss } => self.take_document(document, accept_loss).await,
        };
        let refusal = match done {
            Ok(()) => String::new(),
            Err(No::Refused(why)) => why,
            Err(No::Fault(fault)) => return Err(fault),
        };
        let held = self.held();
        let (revision, compacted) = match held.adopted() {
            Some(adopted) => (adopted.revision, adopted.compacted),
            None => (Revision::new(self.counter), self.compacted),
        };
        Ok(Placed { refusal, id: held.document().id(), adopted: held.pair().adopted, revision, compacted })
    }

    fn would_adopt(&self, next: &Document) -> Result<(), No> {
        let held = self.held();
        self.continues(&held, next)?;
        self.keeps_its_keys(next, false)
    }

    fn continues(&self, held: &Held, next: &Document) -> Result<(), No> {
        let own = held.document().id();
        if own.lineage == 0 || next.continues(own.lineage) {
            return Ok(());
        }
        Err(No::Refused(format!(
            "group {} goes by placement number {} of another cluster ({:x}, asked by {:x}): its data, or that of the home \
             group, is from elsewhere or from before; `kubebrain ctl placement recover` makes one of the two",
            self.state.group,
            own.number,
            own.lineage,
            next.id().lineage
        )))
    }

    /// Refuses another content under a number that this group knows: a home that has lost its last records gives numbers out
    /// again, and what the group has judged is not this.
    fn says_the_same(&self, held: &Held, asked: &Document) -> Result<(), No> {
        let known = std::iter::once(held.document()).chain(held.adopted().map(|adopted| &adopted.document));
        match known.into_iter().find(|known| known.id() == asked.id() && known.text() != asked.text()) {
            None => Ok(()),
            Some(known) => Err(No::Refused(format!(
                "group {} knows placement number {} with another content: the home group is behind it, as a store is that was \
                 restored; `kubebrain ctl placement recover` goes on from the newest",
                self.state.group,
                known.number()
            ))),
        }
    }

    /// Refuses what was decided before what this group goes by has become current.
    fn comes_after(&self, held: &Held, asked: &Document) -> Result<(), No> {
        let own = held.document().id();
        #[cfg(any(test, feature = "faults"))]
        if self.state.planted.ignores_after {
            return Ok(());
        }
        if own.lineage != asked.id().lineage || asked.after() >= own.number {
            return Ok(());
        }
        Err(No::Refused(format!(
            "group {} goes by placement number {}, and number {} was decided after number {}: the home group is behind, as a store \
             is that was restored; `kubebrain ctl placement recover` goes on from the newest",
            self.state.group,
            own.number,
            asked.number(),
            asked.after()
        )))
    }

    async fn prepare(&mut self, base: Option<Document>, next: Document, known: bool) -> Result<(), No> {
        let held = self.held();
        self.says_the_same(&held, &next)?;
        if held.adopted().is_some_and(|adopted| adopted.document.id() == next.id()) {
            return Ok(()); // a repeated answer is the same
        }
        self.continues(&held, &next)?;
        let pair = held.pair();
        if next.number() <= pair.number.max(pair.adopted) {
            return Err(No::Refused(format!(
                "group {} has gone by placement number {} already: the home group is behind it, as a store is that was \
                 restored; `kubebrain ctl placement recover` goes on from the newest",
                self.state.group,
                pair.number.max(pair.adopted)
            )));
        }
        self.comes_after(&held, &next)?;
        #[cfg(any(test, feature = "faults"))]
        let known = known && !self.state.planted.ignores_losses;
        if known && pair.number == 0 && pair.adopted == 0 {
            return Err(No::Refused(self.lost()));
        }
        self.keeps_its_keys(&next, false)?;
        #[cfg(any(test, feature = "faults"))]
        let base = base.filter(|_| !self.state.planted.skips_base);
        let held = match base.filter(|base| base.number() > pair.number) {
            None => held,
            Some(base) => {
                self.continues(&held, &base)?;
                self.keeps_its_keys(&base, true)?;
                self.take_up(base).await?
            }
        };
        self.forget_owned(next.table());
        #[cfg(any(test, feature = "faults"))]
        if self.state.planted.serves_early {
            self.record(Held::by(next, Revision::new(self.counter)));
            return Ok(());
        }
        let adopted =
            Adopted { document: next, revision: Revision::new(self.counter), compacted: self.compacted };
        self.record(held.adopting(adopted));
        Ok(())
    }

    async fn take_document(&mut self, document: Document, accept_loss: bool) -> Result<(), No> {
        let held = self.held();
        let pair = held.pair();
        if held.document().id() == document.id() {
            return if accept_loss { Ok(()) } else { self.says_the_same(&held, &document) };
        }
        if accept_loss {
            self.keeps_its_keys(&document, true)?; // they would be hidden, and not lost
        }
        #[cfg(any(test, feature = "faults"))]
        let accept_loss = accept_loss
            || (self.state.planted.takes_older && pair.number > document.number())
            || (self.state.planted.ignores_losses && pair.number == 0);
        if !accept_loss {
            self.says_the_same(&held, &document)?;
            self.continues(&held, &document)?;
            if document.number() <= pair.number {
                return Ok(()); // what an older one says is past
            }
            self.comes_after(&held, &document)?;
            let agreed = held.adopted().is_some_and(|adopted| adopted.document.id() == document.id());
            if pair.number == 0 && !agreed && document.names(&self.state.group) {
                return Err(No::Refused(self.lost()));
            }
            if !agreed {
                self.keeps_its_keys(&document, true)?;
            }
        }
        let held = self.take_up(document).await?;
        self.record(held);
        Ok(())
    }

    fn lost(&self) -> String {
        format!(
            "group {} has gone by a placement before and has none now: it has lost its data. Bring them back, or let it begin \
             with nothing by `kubebrain ctl placement recover --accept-loss {}`",
            self.state.group, self.state.group
        )
    }

    /// By this document from now on: revisions are raised to what it names, and owners are looked at again. An adoption of a
    /// later one stays.
    async fn take_up(&mut self, document: Document) -> Result<Held, Fault> {
        self.read_owners().await?;
        let (revision, compacted) = (document.revision().get(), document.compacted());
        #[cfg(any(test, feature = "faults"))]
        let revision =
            if self.state.planted.ignores_floor { compacted.max(0).cast_unsigned() } else { revision };
        #[cfg(any(test, feature = "faults"))]
        let compacted = if self.state.planted.ignores_compacted { -1 } else { compacted };
        self.raise(revision);
        if compacted > self.compacted {
            self.compact(compacted)?;
        }
        self.strike_holders(&document);
        let before = self.held();
        let later = before.adopted().filter(|adopted| adopted.document.number() > document.number());
        let held = Held::by(document, Revision::new(self.counter));
        Ok(match later {
            Some(adopted) => held.adopting(adopted.clone()),
            None => held,
        })
    }

    /// At the home group: leases are not held by groups that the document does not name. One that comes back by that name
    /// would know nothing of them, and their clients would be told that they have ended.
    fn strike_holders(&mut self, document: &Document) {
        if *document.table().home() != self.state.group {
            return;
        }
        let mut leases = self.state.leases.lock();
        let mut struck = Vec::new();
        for (id, mut row, _) in leases.all() {
            let before = row.holders.len();
            row.holders.retain(|holder| document.table().groups().any(|(group, _)| group.as_str() == holder));
            if row.holders.len() < before {
                leases.set_holders(id, row.holders.clone());
                struck.push((id, row));
            }
        }
        drop(leases);
        for (id, row) in struck {
            self.filling.put(self.state.layout.lease(id), Bytes::from(row.encode_to_vec()));
        }
    }

    /// Writes what the group goes by.
    fn record(&mut self, held: Held) {
        let row = Bytes::from(held.to_row().encode_to_vec());
        #[cfg(any(test, feature = "faults"))]
        let row = match &held.adopted() {
            Some(_) if self.state.planted.adopts_in_memory => {
                Bytes::from(Held::by(held.document().clone(), held.at()).to_row().encode_to_vec())
            }
            _ => row,
        };
        self.filling.put(self.state.layout.placement(), row);
        self.filling.held = Some(held.clone());
        self.placing = Some(held);
    }

    /// Who owns what in the store, where other groups may have written meanwhile.
    pub(super) async fn read_owners(&mut self) -> Result<(), Fault> {
        let snapshot = self.state.engine.snapshot().await.map_err(|_| Fault::Timeout)?;
        let read = ownership::load(&*snapshot, &self.state.layout).await.map_err(|_| Fault::Timeout)?;
        // What is on its way from this group is not in the snapshot yet, and what it forgets may be in it still.
        let own: Vec<_> = std::mem::take(&mut self.owners)
            .into_iter()
            .filter(|(_, owner)| *owner == self.state.group)
            .collect();
        self.owners = read.into_iter().filter(|(_, owner)| *owner != self.state.group).collect();
        self.owners.extend(own);
        Ok(())
    }

    /// Nothing is recorded as this group's that `next` gives to another one: it has no keys there.
    fn forget_owned(&mut self, next: &Placement) {
        let group = &self.state.group;
        let lost = |unit: &Bytes| next.owner(unit) != group || next.unit(unit).start() != unit;
        let lost: Vec<_> = self
            .owners
            .iter()
            .filter(|(unit, owner)| *owner == group && lost(unit) && !self.has_keys(unit))
            .map(|(unit, _)| unit.clone())
            .collect();
        for unit in lost {
            self.filling.delete(self.state.layout.owner(&unit));
            self.owners.remove(&unit);
        }
    }

    fn has_keys(&self, unit: &Bytes) -> bool {
        let range = KeyRange::prefix(unit.clone());
        self.state.index.read().first_of(&range).is_some()
            || self.pending.keys().iter().any(|key| range.contains(key))
    }

    /// Refuses a placement that gives keys away which this group has, or has had since the last compaction. Where it is
    /// decided, or the first one, the keys stand in a group that does not own them: nobody will delete them as a client.
    fn keeps_its_keys(&self, next: &Document, is_decided: bool) -> Result<(), No> {
        let (placement, number, group) = (next.table(), next.number(), &self.state.group);
        let held = self.held();
        let strays = is_decided || held.document().number() == 0;
        let stranded = |key: &[u8]| {
            let kind = placement.unit(key).start().escape_ascii().to_string();
            let owner = placement.owner(key);
            let what = match self.is_live(key) {
                true => "has keys",
                false => "has history of keys",
            };
            let way = match self.is_live(key) {
                true if strays => {
                    "`kubebrain ctl placement repair` says which, and moves or drops them; or let the placement give them to \
                     the group that has them"
                }
                _ => {
                    "a kind moves only while it is empty and its history is compacted: delete the keys, compact (`etcdctl \
                     compact`), and try again"
                }
            };
            No::Refused(format!(
                "group {group} {what} under {kind}, which placement number {number} gives to group {owner}; {way}"
            ))
        };
        let pending = self.pending.keys().into_iter().find(|key| placement.owner(key) != group);
        let found = pending.or_else(|| {
            let index = self.state.index.read();
            match placement.partition(&KeyRange::ALL) {
                // A group may have very many keys.
                Some(parts) => parts
                    .iter()
                    .filter(|(_, owner)| owner != group)
                    .find_map(|(range, _)| index.first_of(range)),
                None if !held.table().loses(placement, group, &KeyRange::ALL) => None,
                None => index.all().find(|key| placement.owner(key) != group).cloned(),
            }
        });
        #[cfg(any(test, feature = "faults"))]
        let found = match self.state.planted {
            planted if planted.lets_keys_go => None,
            planted if planted.lets_history_go => {
                let live = |key: &Bytes| placement.owner(key) != group && self.is_live(key);
                self.state.index.read().all().find(|key| live(key)).cloned()
            }
            _ => found,
        };
        match found {
            Some(key) => Err(stranded(&key)),
            None => Ok(()),
        }
    }

    fn is_live(&self, key: &[u8]) -> bool {
        let range = KeyRange::one(Bytes::copy_from_slice(key));
        self.state.index.read().live(&range, self.state.committed().get()).next().is_some()
    }

    /// At the home group: writes down what it has decided.
    pub(super) fn decide(&mut self, decision: Decision) {
        let layout = self.state.layout.clone();
        self.filling.put(layout.decided(), Bytes::from(decision.row.encode_to_vec()));
        if let Some(entry) = decision.entry {
            let number = entry.document.as_ref().map_or(0, |document| document.number);
            self.filling.put(layout.history(number), Bytes::from(entry.encode_to_vec()));
        }
        for number in decision.forget {
            self.filling.delete(layout.history(number));
        }
        let (state, row) = (self.state.clone(), decision.row);
        self.filling.then(Box::new(move || state.decide(row)));
    }
}
