//! [`Kinds`]: the kinds of keys that requests are about, each counted for itself, and limited where the placement says so.
//!
//! A request is about the natural kind of its keys: `pods`, `example.com/widgets`. Keys outside the placement's prefix, and
//! ranges over more than one kind, are the kind `other`. Kinds are named by whoever writes keys, so those that are known have
//! a bound, and all beyond it are one, `rest`.

mod bucket;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::placement::{self, Limit, OTHER, Placement};
use kubebrain_shared::range::KeyRange;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::bucket::Bucket;

/// Kinds that are known: Kubernetes has about 70, and a cluster with many custom resources some hundred.
const KINDS_MAX: usize = 512;
/// Of these a page of metrics shows the placement's, and so many others.
const SHOWN_MAX: usize = 50;
/// All kinds beyond those that are known.
const REST: &str = "rest";

/// A kind of one group or one proxy, unlike those of all others in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KindId(u64);

impl KindId {
    /// What is about no kind: answers to tools, leases.
    pub const NONE: Self = Self(0);

    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Relaxed))
    }

    #[cfg(test)]
    pub(crate) const fn of_number(number: u64) -> Self {
        Self(number)
    }
}

/// See the module.
pub struct Kinds {
    table: ArcSwap<Table>,
    /// Held while the table is replaced.
    changes: Mutex<()>,
    limit_writes: AtomicBool,
}

#[derive(Clone)]
struct Table {
    /// What all kinds begin with, without the slash.
    prefix: Bytes,
    kinds: HashMap<Box<[u8]>, Arc<Kind>>,
    other: Arc<Kind>,
    rest: Arc<Kind>,
    all_queued: Arc<AtomicU64>,
}

/// One of them.
pub struct Kind {
    name: Box<str>,
    id: KindId,
    /// A rule or a limit of the placement names it.
    is_placed: AtomicBool,
    is_limited: AtomicBool,
    limiter: Mutex<Limiter>,
    in_flight: AtomicU64,
    queued: AtomicU64,
    /// Of all kinds together.
    all_queued: Arc<AtomicU64>,
    requests: AtomicU64,
    writes: AtomicU64,
    bytes: AtomicU64,
    refused: AtomicU64,
    queue_nanos: AtomicU64,
}

#[derive(Debug, Default)]
struct Limiter {
    limit: Limit,
    writes: Option<Bucket>,
    bytes: Option<Bucket>,
}

/// What was counted of a kind since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Requests that were let in.
    pub requests: u64,
    /// Those of them that may change a key.
    pub writes: u64,
    /// Keys and values that they put.
    pub bytes: u64,
    /// Requests that a limit or a full queue turned away.
    pub refused: u64,
    /// How long writes waited for their turn, together.
    pub queued: Duration,
    /// At work now.
    pub in_flight: u64,
}

/// A request that was let in, until this is dropped.
#[derive(Debug)]
pub struct Entered(Arc<Kind>);

/// A command in a queue, until this is dropped.
#[derive(Debug)]
pub struct Queued {
    kind: Arc<Kind>,
    since: Instant,
}

impl Default for Kinds {
    /// With Kubernetes' usual prefix, and without limits.
    fn default() -> Self {
        let all_queued = Arc::<AtomicU64>::default();
        let kind = |name| Arc::new(Kind::new(name, &all_queued));
        let table = Table {
            prefix: Bytes::from_static(b"/registry"),
            kinds: HashMap::new(),
            other: kind(OTHER),
            rest: kind(REST),
            all_queued,
        };
        Self {
            table: ArcSwap::from_pointee(table),
            changes: Mutex::new(()),
            limit_writes: AtomicBool::new(false),
        }
    }
}

impl Kinds {
    /// The kind of a key.
    pub fn of_key(&self, key: &[u8]) -> Arc<Kind> {
        let table = self.table.load();
        match placement::natural(&table.prefix, key) {
            Some(natural) => self.of_name(&table, natural.name),
            None => table.other.clone(),
        }
    }

    /// The kind that all keys of a range have.
    pub fn of_range(&self, range: &KeyRange) -> Arc<Kind> {
        let table = self.table.load();
        match placement::natural_of(&table.prefix, range) {
            Some(natural) => self.of_name(&table, natural.name),
            None => table.other.clone(),
        }
    }

    fn of_name(&self, table: &Table, name: &[u8]) -> Arc<Kind> {
        match table.kinds.get(name) {
            Some(kind) => kind.clone(),
            None if table.kinds.len() >= KINDS_MAX || name_of(name).is_none() => table.rest.clone(),
            None => self.add(name),
        }
    }

    fn add(&self, name: &[u8]) -> Arc<Kind> {
        let _one = self.changes.lock();
        let mut table = Table::clone(&self.table.load());
        let kind = table.kind(name);
        self.table.store(Arc::new(table));
        kind
    }

    /// From now on by this placement's prefix and limits. What a limit that stays has let through counts on.
    pub fn go_by(&self, placement: &Placement) {
        let _one = self.changes.lock();
        let mut table = Table::clone(&self.table.load());
        table.prefix = placement.prefix().clone();
        let rules = placement.boundaries().filter_map(|rule| placement::natural(placement.prefix(), rule));
        let named: Vec<_> =
            rules.map(|rule| rule.name).chain(placement.limits().keys().map(String::as_bytes)).collect();
        let known = table.kinds.values().chain([&table.other, &table.rest]);
        known.for_each(|kind| kind.is_placed.store(false, Relaxed));
        for name in named {
            table.placed(name).is_placed.store(true, Relaxed);
        }
        for kind in table.kinds.values().chain([&table.other, &table.rest]) {
            kind.limit(placement.limits().get(&*kind.name).copied().unwrap_or_default());
        }
        let limits_writes =
            |limit: &Limit| limit.writes_per_second.is_some() || limit.bytes_per_second.is_some();
        self.limit_writes.store(placement.limits().values().any(limits_writes), Relaxed);
        self.table.store(Arc::new(table));
    }

    /// True if the writes of some kind are limited.
    pub fn limit_writes(&self) -> bool {
        self.limit_writes.load(Relaxed)
    }

    /// Commands of all kinds that wait in the queue.
    pub fn queued(&self) -> u64 {
        self.table.load().all_queued.load(Relaxed)
    }

    /// What was counted, of the placement's kinds, of `other` and of the busiest ones besides, in order of names.
    pub fn counts(&self) -> Vec<(Arc<Kind>, Counts)> {
        let table = self.table.load();
        let all = table.kinds.values().chain([&table.other, &table.rest]);
        let counts = all.map(|kind| (kind.clone(), kind.counts()));
        let is_placed = |kind: &Arc<Kind>| kind.is_placed.load(Relaxed) || Arc::ptr_eq(kind, &table.other);
        let mut shown: Vec<_> =
            counts.filter(|(kind, counts)| is_placed(kind) || counts.requests + counts.refused > 0).collect();
        shown.sort_by_key(|(kind, counts)| {
            (!is_placed(kind), std::cmp::Reverse(counts.requests + counts.refused))
        });
        let placed = shown.iter().filter(|(kind, _)| is_placed(kind)).count();
        shown.truncate(placed + SHOWN_MAX);
        shown.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        shown
    }
}

impl Table {
    fn kind(&mut self, name: &[u8]) -> Arc<Kind> {
        if let Some(kind) = self.kinds.get(name) {
            return kind.clone();
        }
        match self.kinds.len() < KINDS_MAX {
            true => self.placed(name),
            false => self.rest.clone(),
        }
    }

    /// Also where there are many already: the placement has a bound of its own.
    fn placed(&mut self, name: &[u8]) -> Arc<Kind> {
        match std::str::from_utf8(name) {
            Ok(OTHER) => self.other.clone(),
            Ok(shown) => {
                let kind = self
                    .kinds
                    .entry(name.into())
                    .or_insert_with(|| Arc::new(Kind::new(shown, &self.all_queued)));
                kind.clone()
            }
            Err(_) => self.rest.clone(),
        }
    }
}

/// A name that can be shown: what a resource of Kubernetes may be called, and not longer than that.
fn name_of(name: &[u8]) -> Option<&str> {
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._/".contains(byte);
    let is_shown = !name.is_empty() && name.len() <= 2 * 253 && name.iter().all(legal);
    std::str::from_utf8(name).ok().filter(|name| is_shown && *name != REST)
}

impl Kind {
    fn new(name: &str, all_queued: &Arc<AtomicU64>) -> Self {
        Self {
            name: name.into(),
            id: KindId::next(),
            is_placed: AtomicBool::new(false),
            is_limited: AtomicBool::new(false),
            limiter: Mutex::default(),
            in_flight: AtomicU64::new(0),
            queued: AtomicU64::new(0),
            all_queued: all_queued.clone(),
            requests: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            queue_nanos: AtomicU64::new(0),
        }
    }

    /// For metrics and messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For lines in queues.
    pub const fn id(&self) -> KindId {
        self.id
    }

    /// At work now.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// Lets a request in.
    ///
    /// # Errors
    /// [`Fault::TooManyRequests`] where as many are at work as may be.
    pub fn enter(self: &Arc<Self>) -> Result<Entered, Fault> {
        let before = self.in_flight.fetch_add(1, Relaxed);
        let entered = Entered(self.clone()); // taken back where it is refused
        if self.is_limited.load(Relaxed)
            && self.limiter.lock().limit.in_flight.is_some_and(|most| before >= most)
        {
            return Err(self.refuse());
        }
        self.requests.fetch_add(1, Relaxed);
        Ok(entered)
    }

    /// Lets a write through that puts so many bytes of each of these kinds: of all of them, or of none.
    ///
    /// # Errors
    /// [`Fault::TooManyRequests`].
    pub fn write(kinds: &[(Arc<Self>, u64)]) -> Result<(), Fault> {
        for (place, (kind, bytes)) in kinds.iter().enumerate() {
            if kind.is_limited.load(Relaxed) && !kind.limiter.lock().take(*bytes) {
                kinds[..place].iter().for_each(|(kind, bytes)| kind.limiter.lock().give_back(*bytes));
                return Err(kind.refuse());
            }
        }
        for (kind, bytes) in kinds {
            kind.writes.fetch_add(1, Relaxed);
            kind.bytes.fetch_add(*bytes, Relaxed);
        }
        Ok(())
    }

    /// Adds bytes that a request may put to what it is known to, for [`Self::write`].
    pub fn add_to(found: &mut Vec<(Arc<Self>, u64)>, kind: Arc<Self>, bytes: u64) {
        match found.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &kind)) {
            Some((_, sum)) => *sum += bytes,
            None => found.push((kind, bytes)),
        }
    }

    /// One of its commands goes into the queue of `places`, if there is room: a kind that has an eighth of it leaves the last
    /// eighth to others.
    ///
    /// # Errors
    /// [`Fault::TooManyRequests`].
    pub fn queue(self: &Arc<Self>, places: u64) -> Result<Queued, Fault> {
        if !has_place(self.queued.load(Relaxed), self.all_queued.load(Relaxed), places) {
            return Err(self.refuse());
        }
        self.queued.fetch_add(1, Relaxed);
        self.all_queued.fetch_add(1, Relaxed);
        Ok(Queued { kind: self.clone(), since: Instant::now() })
    }

    /// A request of it is turned away.
    pub fn refuse(&self) -> Fault {
        self.refused.fetch_add(1, Relaxed);
        Fault::TooManyRequests
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        let read = |number: &AtomicU64| number.load(Relaxed);
        Counts {
            requests: read(&self.requests),
            writes: read(&self.writes),
            bytes: read(&self.bytes),
            refused: read(&self.refused),
            queued: Duration::from_nanos(read(&self.queue_nanos)),
            in_flight: read(&self.in_flight),
        }
    }

    fn limit(&self, limit: Limit) {
        let mut limiter = self.limiter.lock();
        if limiter.limit != limit {
            *limiter = Limiter::new(limit);
        }
        self.is_limited.store(limit != Limit::default(), Relaxed);
    }
}

/// True if one more finds a place, where its kind has `own` of `all` that are taken.
pub const fn has_place(own: u64, all: u64, places: u64) -> bool {
    let eighth = places / 8;
    all < places && (own < eighth || all < places - eighth)
}

impl Limiter {
    fn new(limit: Limit) -> Self {
        let bucket = |rate: Option<u64>, most| rate.map(|rate| Bucket::new(rate, most));
        Self {
            limit,
            writes: bucket(limit.writes_per_second, limit.burst()),
            bytes: bucket(limit.bytes_per_second, limit.bytes_per_second.unwrap_or(0)),
        }
    }

    fn take(&mut self, bytes: u64) -> bool {
        let now = Instant::now();
        let may =
            |bucket: &mut Option<Bucket>, cost| bucket.as_mut().is_none_or(|bucket| bucket.has(cost, now));
        let passes = may(&mut self.writes, 1) && may(&mut self.bytes, bytes);
        if passes {
            self.pay(1.0, bytes as f64);
        }
        passes
    }

    fn give_back(&mut self, bytes: u64) {
        self.pay(-1.0, -(bytes as f64));
    }

    fn pay(&mut self, writes: f64, bytes: f64) {
        for (bucket, cost) in [(&mut self.writes, writes), (&mut self.bytes, bytes)] {
            if let Some(bucket) = bucket {
                bucket.pay(cost);
            }
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Queued {
    /// Whose line it is in.
    pub fn kind(&self) -> KindId {
        self.kind.id
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.kind.queued.fetch_sub(1, Relaxed);
        self.kind.all_queued.fetch_sub(1, Relaxed);
        let waited = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.kind.queue_nanos.fetch_add(waited, Relaxed);
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kinds").field("known", &self.table.load().kinds.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kind").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(limits: &str) -> Kinds {
        let text = format!("home: a\ndefault: a\ngroups: {{ a: {{}} }}\nlimits: [{limits}]\n");
        let kinds = Kinds::default();
        kinds.go_by(&Placement::parse(&text).expect("a placement"));
        kinds
    }

    fn write(kind: &Arc<Kind>, bytes: u64) -> bool {
        Kind::write(&[(kind.clone(), bytes)]).is_ok()
    }

    #[test]
    fn keys_and_ranges_have_kinds() {
        let kinds = Kinds::default();
        for (key, wanted) in [
            ("/registry/pods/ns/a", "pods"),
            ("/registry/pods", "pods"),
            ("/registry/example.com/widgets/ns/a", "example.com/widgets"),
            ("/registry", OTHER),
            ("compact_rev_key", OTHER),
            ("/registry//x", REST),
            ("/registry/\u{1f980}/x", REST),
            ("/registry/rest/x", REST),
        ] {
            assert_eq!(kinds.of_key(key.as_bytes()).name(), wanted, "{key}");
        }
        let range =
            |prefix: &'static str| kinds.of_range(&KeyRange::prefix(Bytes::from_static(prefix.as_bytes())));
        assert_eq!(range("/registry/pods/ns/").name(), "pods");
        assert_eq!(range("/registry/pods").name(), OTHER, "pods and podtemplates");
        assert_eq!(kinds.of_range(&KeyRange::ALL).name(), OTHER);
    }

    #[test]
    fn kinds_have_a_bound_and_the_placements_are_always_shown() {
        let kinds = by("{ kind: events, inFlight: 5 }");
        for number in 0..2 * KINDS_MAX {
            drop(kinds.of_key(format!("/registry/kind{number}/x").as_bytes()).enter().expect("no limit"));
        }
        drop(kinds.of_key(b"/registry/events/x").enter().expect("the first"));
        let shown = kinds.counts();
        assert_eq!(shown.len(), 2 + SHOWN_MAX);
        let of = |name: &str| {
            shown.iter().find(|(kind, _)| kind.name() == name).map(|(_, counts)| counts.requests)
        };
        assert_eq!(of("events"), Some(1));
        assert_eq!(of(REST), Some(KINDS_MAX as u64 + 1));
    }

    #[tokio::test(start_paused = true)]
    async fn writes_pass_at_their_rate_after_a_burst() {
        let kinds = by("{ kind: events, writesPerSecond: 10, burst: 20 }");
        let events = kinds.of_key(b"/registry/events/x");
        let passed = |_| (0..100).filter(|_| write(&events, 1)).count();
        assert_eq!(passed(()), 20);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(passed(()), 10);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(passed(()), 20);
        assert_eq!(events.counts().refused, 80 + 90 + 80);
        assert!(write(&kinds.of_key(b"/registry/pods/x"), 1 << 30), "no limit");
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_their_rate_and_a_large_one_is_paid_for_afterwards() {
        let kinds = by("{ kind: events, bytesPerSecond: 1KiB }");
        let events = kinds.of_key(b"/registry/events/x");
        assert!(write(&events, 10 << 10), "a request larger than a second's worth passes after a pause");
        assert!(!write(&events, 1));
        tokio::time::sleep(Duration::from_millis(8_900)).await;
        assert!(!write(&events, 1));
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(write(&events, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_kinds_all_pass_or_none() {
        let kinds = by("{ kind: events, writesPerSecond: 2 }, { kind: pods, writesPerSecond: 1 }");
        let (events, pods) = (kinds.of_key(b"/registry/events/x"), kinds.of_key(b"/registry/pods/x"));
        let both = [(events.clone(), 1), (pods.clone(), 1)];
        Kind::write(&both).expect("the first one");
        Kind::write(&both).expect_err("pods are at their limit");
        assert!(write(&events, 1), "the events were given back");
        assert!(!write(&events, 1));
        assert_eq!((events.counts().writes, pods.counts().refused), (2, 1));
    }

    #[test]
    fn nothing_passes_a_limit_of_0_and_requests_at_work_are_counted() {
        let kinds = by(
            "{ kind: events, inFlight: 0 }, { kind: pods, inFlight: 2 }, { kind: leases, writesPerSecond: 0 }, \
                        { kind: other, bytesPerSecond: 0 }",
        );
        let of = |key: &str| kinds.of_key(key.as_bytes());
        of("/registry/events/x").enter().expect_err("none");
        assert!(!write(&of("/registry/leases/x"), 0) && !write(&of("key"), 0));
        let pods = of("/registry/pods/x");
        let first = pods.enter().expect("the first");
        let _second = pods.enter().expect("the second");
        pods.enter().expect_err("a third");
        drop(first);
        pods.enter().expect("a place is free");
        assert_eq!((pods.in_flight(), pods.counts().requests), (1, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_stays_is_not_begun_anew() {
        let text = |extra: &str| {
            format!(
                "home: a\ndefault: a\ngroups: {{ a: {{}} }}\nlimits: [{{ kind: events, writesPerSecond: 1 }}{extra}]\n"
            )
        };
        let kinds = Kinds::default();
        let go_by = |extra| kinds.go_by(&Placement::parse(&text(extra)).expect("a placement"));
        go_by("");
        let events = kinds.of_key(b"/registry/events/x");
        assert!(write(&events, 1) && !write(&events, 1));
        go_by(", { kind: pods, writesPerSecond: 1 }");
        assert!(!write(&events, 1));
        kinds.go_by(&Placement::builtin());
        assert!(write(&events, 1) && write(&events, 1), "there is none any more");
    }

    #[test]
    fn the_last_eighth_of_a_queue_is_for_others() {
        let kinds = Kinds::default();
        let (events, leases) = (kinds.of_key(b"/registry/events/x"), kinds.of_key(b"/registry/leases/x"));
        let mut queue = Vec::new();
        while let Ok(place) = events.queue(80) {
            queue.push(place);
        }
        assert_eq!(queue.len(), 70);
        while let Ok(place) = leases.queue(80) {
            queue.push(place);
        }
        assert_eq!(queue.len(), 80);
        queue.clear();
        events.queue(80).expect("it is empty");
    }
}
