//! The home of the product: an [`Authority`] for each brain that believes to be home's master, over the same messages.

use std::sync::Arc;

use async_trait::async_trait;
use kubebrain_brain::authority::{Authority, Reach, Seed, Unreached, here};
use kubebrain_proto::admin::placement_command::Verb;
use kubebrain_proto::admin::{PlacementAbort, PlacementApply, PlacementCommand, PlacementRecover};
use kubebrain_proto::peer::{PlaceRequest, PlaceResponse, PlacementResponse, RepairRequest, RepairResponse};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::stop::Stopper;
use tokio::time::timeout;

use super::home::Home;
use super::site::Brain;
use super::world::{PATIENCE, World};

struct Network(Arc<World>);

#[async_trait]
impl Reach for Network {
    async fn place(
        &self,
        group: &GroupName,
        _brains: &[String],
        request: PlaceRequest,
    ) -> Result<PlaceResponse, Unreached> {
        let answer = self.0.carry(group, request).await;
        answer.ok_or_else(|| Unreached::Gone(format!("nobody answers for group {group}")))
    }

    async fn repair(
        &self,
        group: &GroupName,
        _brains: &[String],
        _request: RepairRequest,
    ) -> Result<RepairResponse, Unreached> {
        Err(Unreached::Gone(format!("nobody repairs group {group}")))
    }

    async fn held(&self, group: &GroupName, _brains: &[String]) -> Result<PlacementResponse, Unreached> {
        let brain = self.0.site(group).and_then(|site| site.brain(&self.0));
        let brain = brain.ok_or_else(|| Unreached::Gone(format!("nobody answers for group {group}")))?;
        Ok(here::held(&brain.store))
    }
}

/// A brain that is home's master decides from now on, until its process ends.
pub(super) fn begin(world: &Arc<World>, brain: &Arc<Brain>) {
    let seed =
        Seed { text: world.plan.lock().text(), file: "a test".to_owned(), lineage: 0x51, is_watched: false };
    let authority = Authority::new(brain.store.clone(), Arc::new(Network(Arc::clone(world))), Some(seed));
    let _once = brain.authority.set(authority.clone());
    let brain = Arc::clone(brain);
    tokio::spawn(async move {
        let stopper = Stopper::default();
        tokio::select! {
            () = authority.run(stopper.handle()) => {}
            () = brain.ends() => {}
        }
    });
}

/// What an operator wants is sent to whoever calls itself home's master.
pub(super) async fn act(world: &Arc<World>, home: &Home) {
    let master = match world.troubled() {
        true => world.home().some_master(world),
        false => world.home().master(),
    };
    let Some(master) = master else { return };
    let Some(authority) = master.authority.get() else { return };
    let aborts = std::mem::take(&mut *home.abort.lock());
    let wanted = home.wanted.lock().take();
    let verb = match wanted {
        _ if aborts => Verb::Abort(PlacementAbort {}),
        Some(plan) if world.troubled() => {
            *world.plan.lock() = plan.clone();
            Verb::Apply(PlacementApply { text: plan.text(), ..PlacementApply::default() })
        }
        _ => match world.wiped.lock().clone().filter(|_| !world.troubled()) {
            Some(group) => {
                // Once it goes by something there is nothing to accept any more.
                let level = world.site(&group).and_then(|site| site.master());
                if level.is_none_or(|brain| brain.store.state().held.load().pair().number > 0) {
                    return;
                }
                Verb::Recover(PlacementRecover { without: Vec::new(), accept_loss: group.to_string() })
            }
            None => return,
        },
    };
    world.truth.note(&format!("{} is commanded: {verb:?}", master.name));
    let changed = timeout(PATIENCE * 4, authority.change(PlacementCommand { verb: Some(verb) })).await;
    match changed {
        Ok(Ok(_)) => world.truth.count("commands"),
        other => {
            let why = other.map(|changed| changed.err().map(|status| status.message().to_owned()));
            world.truth.note(&format!("{} says: {why:?}", master.name));
        }
    }
}

/// Counts what became of changes, from home's log.
pub(super) fn count(world: &World) {
    let Some(master) = world.home().master() else { return };
    let row = master.store.state().decided();
    let mut seen = world.outcomes.lock();
    if row.outcome_number > 0 && seen.insert(row.outcome_number) {
        world.truth.count(if row.outcome_refused { "aborts" } else { "commits" });
        world.truth.note(&format!("number {}: {}", row.outcome_number, row.outcome));
    }
}
