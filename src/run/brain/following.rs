//! A brain that is not master: it follows, until it is elected.

use std::time::Duration;

use anyhow::{Result, anyhow};
use kubebrain_brain::election::{MasterRecord, Mastership};
use kubebrain_brain::rows::Layout;
use kubebrain_brain::service::Standing as Announcement;
use kubebrain_brain::store::Slave;
use kubebrain_brain::store::{Store, cluster};
use kubebrain_shared::stop::Stopper;

use super::{Brain, End, Term, candidate};
use crate::run::shutdown::Heard;
use crate::run::{opening, storage};

impl Brain<'_> {
    /// Reads, or makes, the ids of cluster and member.
    pub(super) async fn learn_ids(&mut self) -> Result<(), End> {
        let (engine, store) = (&self.storage.engine, &self.flags.store);
        let layout = Layout::new(store.store_prefix.as_bytes(), &self.flags.group);
        // Groups of one placement may have stores of their own: their clients must not meet two ids.
        let new = match self.table.groups().count() {
            0 | 1 if self.flags.join.is_empty() => storage::new_cluster(store),
            _ => storage::token(store).unwrap_or_else(cluster::unnamed),
        };
        let endpoints = &self.endpoints;
        let say = |what: String| endpoints.say(&what);
        let learned = tokio::select! { biased;
            () = self.signals.stop() => return Err(End::Stop),
            learned = opening::cluster(&self.flags.group, engine, &layout, new, &say) => learned,
        };
        let id = learned.map_err(|error| self.failed(error))?;
        let member = cluster::member(id, &self.config.name);
        (self.config.cluster_id, self.config.member_id) = (id, member);
        self.endpoints.know(id, member);
        Ok(())
    }

    /// Serves as a slave until it is elected and has taken over.
    pub(super) async fn follow(&mut self) -> Result<Term, End> {
        let (config, engine) = (self.config.clone(), self.storage.engine.clone());
        let (store, mut slave) = Store::follow(config, engine, self.table.clone());
        let streams = Stopper::default();
        if let Some(cluster) = &self.cluster {
            cluster.goes_by(&store);
        }
        self.endpoints.follow(&store, &slave.state(), &streams);
        let (process, loaded) = (self.process, self.config.loaded.clone());
        let what = format!("group {}", self.flags.group);
        let followed = tokio::select! { biased;
            followed = self.follow_until_elected(&store, &mut slave) => followed,
            never = opening::progress(process, &what, "rows", &loaded, &drop) => match never {},
        };
        let ended = match followed {
            Ok(()) => {
                let promoted = self.promote(&mut slave).await;
                drop(slave);
                promoted
            }
            Err(end) => Err(end),
        };
        let term = Term { store, streams };
        match ended {
            Ok(()) => {
                self.begin(&term);
                Ok(term)
            }
            Err(End::Stop) if !self.leads() => {
                // Calls that still come are passed on.
                self.endpoints
                    .announcer
                    .tell(Announcement { trouble: "stopping".to_owned(), ..Announcement::default() });
                term.streams.ask();
                self.last = Some(term.store);
                Err(End::Stop)
            }
            Err(end) => {
                self.leave(term, &end).await;
                Err(end)
            }
        }
    }

    pub(super) async fn follow_until_elected(&mut self, store: &Store, slave: &mut Slave) -> Result<(), End> {
        let (mut following, mut placed) = (slave.state(), store.state().placed());
        let mut master: Option<MasterRecord> = None;
        let (mut before, mut told, mut waited) = (following.borrow().clone(), None, None);
        loop {
            let Some(election) = &mut self.election else { return Ok(()) };
            match election.candidacy.mastership() {
                Mastership::Master { .. } => return Ok(()),
                Mastership::Slave(record) => {
                    let record = record.filter(|record| !record.is_released());
                    let holder = |record: &Option<MasterRecord>| record.as_ref().map(|r| r.holder.clone());
                    if holder(&record) != holder(&master) {
                        match self.endpoints.show_master(record.as_ref()) {
                            Some(upstream) => slave.attach(upstream),
                            None => {
                                slave.detach("no master is elected");
                                tracing::warn!(
                                    group = %self.flags.group,
                                    "the group has no master: writes, and reads that have to be fresh, wait until one is \
                                     elected"
                                );
                            }
                        }
                        master = record;
                    }
                }
            }
            let state = following.borrow_and_update().clone();
            // A master that leaves, or is gone, has perhaps released its lease.
            if (state.leaving && !before.leaving) || (!state.level && before.level) {
                election.candidacy.hurry();
            }
            match (before.level, state.level) {
                (true, false) => tracing::warn!(
                    group = %self.flags.group,
                    "this slave answers no reads that have to be fresh: {}", state.trouble
                ),
                (false, true) => tracing::info!(
                    group = %self.flags.group,
                    "this slave is level with its master, and answers reads"
                ),
                _ => {}
            }
            let said =
                (state.level, state.trouble.clone(), state.epoch, master.clone().map(|master| master.holder));
            if told.as_ref() != Some(&said) {
                self.endpoints.tell(store, &following, master.as_ref());
                told = Some(said);
            }
            if let (true, Some(master)) = (state.level, &master) {
                let what = format!("slave of group {}, its master is {}", self.flags.group, master.name);
                self.serves(store, &what);
            }
            before = state;
            let Some(election) = &mut self.election else { return Ok(()) };
            tokio::select! { biased;
                heard = self.signals.next() => match heard {
                    Heard::Stop => return Err(End::Stop),
                    Heard::Reload => self.read_again(),
                },
                () = self.watched.changed() => self.read_again(),
                ended = store.ended() => return Err(End::Failed(anyhow!("{ended}"))),
                _changed = election.candidacy.changed() => {}
                _changed = following.changed() => {}
                Ok(()) = placed.changed(), if self.starting.is_some() => {}
                () = tokio::time::sleep(Duration::from_secs(1)), if master.is_none() => {
                    if let Some(error) = candidate::beyond_help(&*self.storage.engine).await {
                        return Err(End::Failed(error));
                    }
                    if let Some(what) = self.storage.engine.waits_for() {
                        opening::waits(&self.flags.group, &what, &mut waited);
                        self.endpoints.say(&what);
                    }
                }
            }
        }
    }

    pub(super) fn leads(&self) -> bool {
        let mastership = self.election.as_ref().map(|election| election.candidacy.mastership());
        matches!(mastership, Some(Mastership::Master { .. }))
    }
}
