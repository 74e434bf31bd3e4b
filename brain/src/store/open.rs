//! How a store comes to be: as a master that takes its group over, or as a slave that follows.

use std::sync::Arc;

use kubebrain_shared::placement::Placement;
use kubebrain_shared::stop::Stopper;
use tokio::sync::{Semaphore, mpsc, watch};

use super::{SCANS_MAX, Store, figures};
use crate::config::Config;
use crate::decide::held::Held;
use crate::decide::identity::Identity;
use crate::decide::index::Index;
use crate::engine::Engine;
use crate::follow::slave::Slave;
use crate::lead::command::{COMMANDS_MAX, Command};
use crate::lead::takeover::Loaded;
use crate::lead::writer::task::Writer;
use crate::lead::{sweep, takeover};
use crate::load::error::OpenError;
use crate::load::master::MasterState;
use crate::rows::codec::{DecidedRow, Layout};
use crate::rows::number::BatchNumber;
use crate::state::fence::Fence;
use crate::state::follow::FollowState;
use crate::state::group::{Contents, GroupState, Parts};
use crate::state::tasks::keep;
use crate::state::values::Values;

/// What a store begins with: loaded, or empty.
struct Beginning {
    layout: Layout,
    values: Values,
    epoch: u64,
    contents: Contents,
    fence: Fence,
    follow: FollowState,
    held: Held,
    decided: DecidedRow,
}

impl Store {
    /// Takes the group over and loads it. It goes by what the store says; where that says nothing by `placement`, or where
    /// it awaits one ([`Config::awaits_placement`]) by what is recorded as its own.
    ///
    /// # Errors
    /// See [`OpenError`]. Afterwards an older master of the group is refused, also where this fails.
    pub async fn open(
        config: Config,
        engine: Arc<dyn Engine>,
        placement: Arc<Placement>,
    ) -> Result<Self, OpenError> {
        let layout = Layout::new(&config.store_prefix, &config.group);
        let values = Values::new(engine.clone(), layout.clone(), config.value_cache.clone());
        let term = config.term(); // of before the takeover
        let (epoch, Loaded { held, keys, master }) =
            takeover::open(&config, &engine, &layout, &placement, &values).await?;
        let MasterState { leases, alarms, start, decided, .. } = master;
        let fence = Fence::new(config.asks(&*engine), start.number.before()).within(term);
        let contents = Contents {
            index: keys.index,
            bytes: keys.bytes,
            committed: start.counter,
            compacted: start.compacted,
        };
        let follow = FollowState::master();
        let beginning = Beginning { layout, values, epoch, contents, fence, follow, held, decided };
        let (store, inbox, sweeps) = Self::begin(&config, engine, beginning);
        let state = &store.state;
        *state.leases.lock() = leases;
        state.set_alarms(&alarms);
        drop(keep(state, "the task that orders writes", Writer::new(state.clone(), inbox, start).run()));
        store.sweep(sweeps);
        let look = figures::look(state, store.swept.clone());
        config.metrics.opened(&state.group, true, look);
        Ok(store)
    }

    /// A store that follows its group's master, once it is attached to one: see [`Slave`].
    pub fn follow(config: Config, engine: Arc<dyn Engine>, placement: Arc<Placement>) -> (Self, Slave) {
        let layout = Layout::new(&config.store_prefix, &config.group);
        let values = Values::new(engine.clone(), layout.clone(), config.value_cache.clone());
        let contents = Contents { index: Index::default(), bytes: 0, committed: 0, compacted: -1 };
        let (fence, follow) = (Fence::new(false, BatchNumber(0)), FollowState::slave());
        let (held, decided) = (Held::unheard(Placement::clone(&placement)), DecidedRow::default());
        let beginning = Beginning { layout, values, epoch: 0, contents, fence, follow, held, decided };
        let (store, inbox, sweeps) = Self::begin(&config, engine, beginning);
        store.sweep(sweeps);
        let (state, commands, swept) = (store.state.clone(), store.commands.downgrade(), store.swept.clone());
        let look = figures::look(&state, swept.clone());
        config.metrics.opened(&state.group, false, look);
        let (metrics, led) = (config.metrics.clone(), state.clone());
        let promoted = Box::new(move || {
            // Nobody is left who could ask it anything.
            if commands.upgrade().is_some() {
                let look = figures::look(&led, swept.clone());
                metrics.opened(&led.group, true, look);
            }
        });
        let slave = Slave::new(state, config, placement, inbox, promoted);
        (store, slave)
    }

    fn begin(
        config: &Config,
        engine: Arc<dyn Engine>,
        beginning: Beginning,
    ) -> (Self, mpsc::Receiver<Command>, watch::Sender<u64>) {
        let Beginning { layout, values, epoch, contents, fence, follow, held, decided } = beginning;
        #[cfg(any(test, feature = "faults"))]
        let fence = fence.planted(config.planted);
        let state = Arc::new(GroupState::new(Parts {
            group: config.group.clone(),
            identity: Identity { cluster: config.cluster_id, member: config.member_id, epoch },
            layout,
            engine,
            values,
            share: config.quota.share(contents.bytes),
            window_bytes: config.window_bytes,
            held,
            decided,
            contents,
            metrics: config.metrics.of(&config.group),
            fence,
            follow,
            #[cfg(any(test, feature = "faults"))]
            planted: config.planted,
        }));
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let (sweeps, swept) = watch::channel(0);
        let store = Self {
            state,
            commands,
            swept,
            limits: config.limits,
            sweeper: Arc::default(),
            scans: Arc::new(Semaphore::new(SCANS_MAX)),
            answers: config.answers.clone(),
            requests: config.requests.clone(),
        };
        (store, inbox, sweeps)
    }

    fn sweep(&self, sweeps: watch::Sender<u64>) {
        let sweeper = Stopper::default();
        let run = sweep::run(self.state.clone(), self.commands.downgrade(), sweeps, sweeper.handle());
        drop(keep(&self.state, "the task that frees compacted history", run));
        *self.sweeper.lock() = Some(sweeper);
    }
}
