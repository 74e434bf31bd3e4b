//! The first placement of a cluster: the file of its home group, once every group in it agrees.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::change::{self, Next};
use super::row::Decided;
use super::{Authority, apply, wall_clock};

/// What a group has refused it may agree to a little later.
const SEED_AGAIN: Duration = Duration::from_secs(3);

/// What the first placement is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// A placement file.
    pub text: String,
    /// What it is called, for people.
    pub file: String,
    /// Drawn by chance; becomes the cluster's.
    pub lineage: u64,
    /// A file that changes is applied: see [`Authority::apply_file`].
    pub is_watched: bool,
}

/// What is remembered between two seeds.
#[derive(Debug, Default)]
pub(super) struct Sown {
    /// Not before.
    again: Option<Instant>,
    /// Said of the file already.
    said: Option<String>,
}

impl Sown {
    /// True where that was not said last.
    fn is_news(&mut self, what: &str) -> bool {
        let is_news = self.said.as_deref() != Some(what);
        self.said = Some(what.to_owned());
        is_news
    }
}

impl Authority {
    /// The file has changed. It counts as long as there is no placement.
    pub fn reseed(&self, seed: Seed) {
        self.0.seed.send_if_modified(|known| {
            let is_other = known.as_ref().is_none_or(|known| known.text != seed.text);
            if is_other {
                let lineage = known.as_ref().map_or(seed.lineage, |known| known.lineage);
                *known = Some(Seed { lineage, ..seed });
            }
            is_other
        });
    }

    /// Where nothing is current: prepares the seed, if there is one. Returns when there is something to do.
    pub(super) async fn sow(&self, decided: &Decided, sown: &mut Sown) {
        let mut seeds = self.0.seed.subscribe();
        let seed = seeds.borrow_and_update().clone();
        let begun = async {
            let Some(seed) = seed else { return std::future::pending().await };
            if let Some(at) = sown.again {
                sleep_until(at).await;
            }
            sown.again = Some(Instant::now() + SEED_AGAIN);
            if let Err(status) = self.prepare_seed(&seed).await
                && sown.is_news(status.message())
            {
                tracing::error!("{} is no placement for this cluster: {}", seed.file, status.message());
            }
        };
        tokio::select! {
            () = begun => {}
            () = self.decided_other_than(decided) => {}
            _changed = seeds.changed() => sown.again = None,
        }
    }

    async fn prepare_seed(&self, seed: &Seed) -> Result<(), Status> {
        let table = apply::read(&seed.text)?;
        let state = self.0.store.state();
        if *table.home() != state.group {
            return Err(Status::invalid_argument(format!(
                "its home is group {}, and this is group {}",
                table.home(),
                state.group
            )));
        }
        let next = Next {
            lineage: seed.lineage.max(1),
            cluster: state.identity().cluster,
            text: seed.text.clone(),
            without: BTreeSet::new(),
            file: seed.is_watched.then(|| super::hash_of(&seed.text)),
        };
        let begun = move |decided: &Decided| {
            let is_first = decided.current.is_none() && decided.prepared.is_none();
            Ok(is_first.then(|| change::prepare(decided, &next)))
        };
        self.decide(begun).await.map(drop)
    }

    /// A seed that groups were asked about and that is not the home group's file any more is dropped. Returns when the file
    /// is another one; cancel safe.
    pub(super) async fn seed_other_than(&self, text: &str) {
        let mut seeds = self.0.seed.subscribe();
        let is_other = |seed: &Option<Seed>| seed.as_ref().is_some_and(|seed| seed.text != text);
        if seeds.wait_for(is_other).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The seed was refused: it is said once for each reason, and tried again.
    pub(super) async fn drop_seed(&self, decided: &Decided, sown: &mut Sown, why: &str) {
        sown.again = Some(Instant::now() + SEED_AGAIN);
        if sown.is_news(why) {
            tracing::error!("the cluster's first placement is refused, and tried again: {why}");
        }
        let Some(id) = decided.prepared.as_ref().map(|prepared| prepared.id()) else { return };
        let why = why.to_owned();
        let dropped = self.decide(move |decided| Ok(change::abort(decided, id, &why, wall_clock()))).await;
        if let Err(status) = dropped {
            tracing::warn!("the refused placement stays for now: {}", status.message());
        }
    }
}
