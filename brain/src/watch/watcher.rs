//! [`Watcher`]: a cursor over the events of a range.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kubebrain_net::metrics::One;
use kubebrain_shared::range::KeyRange;
use kubebrain_shared::revision::Revision;
use kubebrain_shared::wire::{put_bytes_field, put_bytes_header, put_varint_field};

use super::history::{History, HistoryError};
use crate::decide::answer::Entry;
use crate::decide::identity::put_header;
use crate::events::event::{Event, Prior, RevisionEvents};
use crate::events::hub::{Read, Registration};
use crate::rows::version::Version;
use crate::state::group::GroupState;
use crate::state::metrics::WatchMetrics;
use crate::state::values::ValueError;

/// Events of one response end with the revision that passes this; a slow client costs about so much at a time.
const RESPONSE_BYTES: usize = 1 << 20;

/// What a watcher wants.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Which keys.
    pub keys: KeyRange,
    /// Events below it are withheld.
    pub start: u64,
    /// Progress below it is withheld: the start that the client has named. 0 of a watcher from now on, which is told
    /// at once how far it is, as in etcd.
    pub named: u64,
    /// Each event comes with the entry that was there before it.
    pub prev_kv: bool,
    /// Not puts.
    pub no_put: bool,
    /// Not deletions.
    pub no_delete: bool,
    /// Large responses may come in parts.
    pub fragment: bool,
    /// Quiet time is filled with progress.
    pub progress: bool,
}

#[derive(Debug)]
enum Place {
    /// Behind; reads on from here.
    CatchingUp { next: u64, history: History },
    /// The hub marks it when there is something to read.
    Synced,
}

/// One watcher of a client stream, and how far it has read.
#[derive(Debug)]
pub struct Watcher {
    /// What it wants.
    pub wish: Wish,
    /// What the hub marks when there is something to read.
    pub registration: Arc<Registration>,
    /// Something was sent since the last periodic progress.
    pub spoke: bool,
    place: Place,
    id: i64,
    _counted: One,
    /// While it is not synced.
    behind: Option<One>,
}

/// What one step gave.
#[derive(Debug)]
pub enum Step {
    /// Responses, possibly none.
    Responses(Vec<Bytes>),
    /// Nothing more to read for now; the last responses.
    Synced(Vec<Bytes>),
    /// What it should read next is compacted.
    Compacted(Revision),
}

impl Wish {
    /// True if an event is sent.
    pub fn wants(&self, revision: u64, event: &Event) -> bool {
        let filtered = if event.deleted { self.no_delete } else { self.no_put };
        revision >= self.start && !filtered && self.keys.contains(&event.key)
    }
}

impl Watcher {
    /// Begins at `wish.start`.
    pub(super) fn new(id: i64, wish: Wish, registration: Arc<Registration>, metrics: &WatchMetrics) -> Self {
        let place = Place::CatchingUp { next: wish.start, history: History::default() };
        let (counted, behind) = (One::of(&metrics.watchers), Some(One::of(&metrics.behind)));
        Self { wish, registration, spoke: false, place, id, _counted: counted, behind }
    }

    /// True if the hub marks it when there is something to read.
    pub const fn is_synced(&self) -> bool {
        matches!(self.place, Place::Synced)
    }

    /// Reads on. At most about a mebibyte is given.
    ///
    /// # Errors
    /// What history says, but for compaction.
    ///
    /// # Cancel safety
    /// Not safe: what was read would be lost. The stream that owns it polls it to its end.
    pub async fn step(&mut self, state: &GroupState, fragment_bytes: usize) -> Result<Step, HistoryError> {
        let (wish, registration) = (&self.wish, &self.registration);
        let wanted = |revision, event: &Event| wish.wants(revision, event);
        // Whoever begins at the compacted revision is not told what was before it: kube-apiserver takes the missing
        // entry for its sign to list again. Whoever was there already keeps what the window keeps.
        let horizon = match self.place {
            Place::CatchingUp { .. } => u64::try_from(state.compacted()).unwrap_or(0),
            Place::Synced => 0,
        };
        let (events, header, synced) = match &mut self.place {
            Place::Synced => {
                let unread = registration.unread();
                match state.hub.read(RESPONSE_BYTES, registration, wanted) {
                    Read::Events(events, _) => (events, state.hub.closed(), false),
                    Read::Closed(events, closed) => (events, closed, true),
                    Read::Evicted => {
                        self.behind = Some(One::of(&state.metrics.watch.behind));
                        self.place = Place::CatchingUp { next: unread, history: History::default() };
                        return Ok(Step::Responses(Vec::new()));
                    }
                }
            }
            Place::CatchingUp { next, history } => {
                match state.hub.catch_up(*next, RESPONSE_BYTES, registration, wanted) {
                    Read::Events(events, then) => {
                        *next = then;
                        (events, state.hub.closed(), false)
                    }
                    Read::Closed(events, closed) => {
                        self.place = Place::Synced;
                        self.behind = None;
                        (events, closed, true)
                    }
                    Read::Evicted => match history.page(state, &wish.keys, *next).await {
                        Ok(page) => {
                            *next = page.next;
                            (page.events, state.hub.closed(), false)
                        }
                        Err(HistoryError::Compacted(at)) => return Ok(Step::Compacted(at)),
                        Err(error) => return Err(error),
                    },
                }
            }
        };
        let responses = self.responses(state, events, header, horizon, fragment_bytes).await?;
        self.spoke |= !responses.is_empty();
        Ok(if synced { Step::Synced(responses) } else { Step::Responses(responses) })
    }

    async fn responses(
        &self,
        state: &GroupState,
        revisions: Vec<RevisionEvents>,
        header: u64,
        horizon: u64,
        fragment_bytes: usize,
    ) -> Result<Vec<Bytes>, HistoryError> {
        let wanted: Vec<(u64, &Event)> = revisions
            .iter()
            .flat_map(|revision| revision.events.iter().map(|event| (revision.revision, event)))
            .filter(|(revision, event)| self.wish.wants(*revision, event))
            .collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        state.metrics.all.events.inc_by(wanted.len() as u64);
        let priors = if self.wish.prev_kv { priors(state, &wanted, horizon).await? } else { Vec::new() };
        let mut priors = priors.into_iter();
        let mut encoded = Vec::with_capacity(wanted.len());
        for (_, event) in wanted {
            encoded.push(encode(event, priors.next().flatten().as_ref()));
        }
        let parts = match self.wish.fragment {
            true => split(encoded, fragment_bytes),
            false => vec![encoded],
        };
        let last = parts.len() - 1;
        let part = |(position, events): (usize, Vec<Bytes>)| {
            let mut response =
                BytesMut::with_capacity(events.iter().map(|event| event.len() + 6).sum::<usize>() + 64);
            put_header(&mut response, Some(&state.identity()), header);
            put_varint_field(&mut response, 2, self.id.cast_unsigned());
            if position < last {
                put_varint_field(&mut response, 7, 1);
            }
            for event in events {
                put_bytes_field(&mut response, 11, &event);
            }
            response.freeze()
        };
        Ok(parts.into_iter().enumerate().map(part).collect())
    }
}

fn encode(event: &Event, prior: Option<&Bytes>) -> Bytes {
    let mut bytes = BytesMut::with_capacity(event.kv.len() + prior.map_or(0, Bytes::len) + 16);
    if event.deleted {
        put_varint_field(&mut bytes, 1, 1);
    }
    put_bytes_field(&mut bytes, 2, &event.kv);
    if let Some(prior) = prior {
        put_bytes_header(&mut bytes, 3, prior.len());
        bytes.extend_from_slice(prior);
    }
    bytes.freeze()
}

/// Cuts events into parts of about `bytes_max`.
fn split(events: Vec<Bytes>, bytes_max: usize) -> Vec<Vec<Bytes>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for event in events {
        if bytes > 0 && bytes + event.len() > bytes_max {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += event.len() + 6;
        if let Some(part) = parts.last_mut() {
            part.push(event);
        }
    }
    parts
}

/// The entries before, in order. One that was compacted meanwhile is missing, as in etcd; one that cannot be read ends
/// the stream, which is resumed.
async fn priors(
    state: &GroupState,
    events: &[(u64, &Event)],
    horizon: u64,
) -> Result<Vec<Option<Bytes>>, HistoryError> {
    let mut wanted = Vec::new();
    for (_, event) in events.iter().filter(|(revision, _)| *revision > horizon) {
        if let Prior::At(revision) = event.prior {
            let version = Version { revision, count: 1, ..Version::default() };
            wanted.push(Entry { key: event.key.clone(), version, kv: None });
        }
    }
    if state.values.fill_once(&mut wanted).await.is_err() {
        for entry in &mut wanted {
            let one = std::slice::from_mut(entry);
            if let Err(error) = state.values.fill_once(one).await {
                if !matches!(error, ValueError::Missing { .. }) {
                    return Err(error.into());
                }
                tracing::debug!(group = %state.group, "an event goes out without the entry before it: {error}");
            }
        }
    }
    let mut read = wanted.into_iter().map(|entry| entry.kv);
    let prior = |(revision, event): &(u64, &Event)| match &event.prior {
        _ if *revision <= horizon => None,
        Prior::None => None,
        Prior::Known(kv) => Some(kv.clone()),
        Prior::At(_) => read.next().flatten(),
    };
    Ok(events.iter().map(prior).collect())
}
