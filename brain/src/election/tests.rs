//! Decisions by table with a clock set by hand; drivers against each other on a paused clock, over an engine that fails.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

use super::*;
use crate::engine::memory::Memory;

const MS: Duration = Duration::from_millis(1);

fn candidate(name: &str) -> Candidate {
    Candidate {
        identity: format!("{name}_1"),
        name: name.to_owned(),
        peer_urls: vec![format!("http://{name}:2380")],
        client_urls: Vec::new(),
    }
}

fn record(holder: &str, transitions: u64, renewals: u64) -> MasterRecord {
    let Candidate { name, peer_urls, client_urls, .. } = candidate(holder);
    let holder = format!("{holder}_1");
    MasterRecord { holder, lease_ms: 2000, transitions, renewals, name, peer_urls, client_urls }
}

fn released(transitions: u64, renewals: u64) -> MasterRecord {
    MasterRecord { holder: String::new(), lease_ms: 0, ..record("b", transitions, renewals) }
}

/// One thing that happens to candidate `a`, so many milliseconds after the start.
enum Then {
    Sees(Option<MasterRecord>),
    Sends(MasterRecord),
    Replaced,
    Beaten,
    Unsure,
    Blind,
    Resigns,
    Hurries,
}

#[test]
fn decisions_by_table() {
    use Then::*;
    let (a, b) = (|t, r| record("a", t, r), |t, r| record("b", t, r));
    let gone = |t, r| MasterRecord { holder: String::new(), lease_ms: 0, ..record("a", t, r) };
    let wait = |ms: u32| Err(ms);
    type Row = (&'static str, Vec<(u32, Then)>, u32, Result<Step, u32>, bool);
    let rows: Vec<Row> = vec![
        ("knows nothing", vec![], 0, Ok(Step::Look), false),
        ("nobody was ever master", vec![(0, Sees(None))], 0, Ok(Step::Replace(a(0, 0))), false),
        ("released", vec![(0, Sees(Some(released(3, 9))))], 0, Ok(Step::Replace(a(4, 10))), false),
        ("another's, just seen", vec![(0, Sees(Some(b(1, 1))))], 100, wait(250), false),
        ("another's, to be looked at again", vec![(0, Sees(Some(b(1, 1))))], 250, Ok(Step::Look), false),
        (
            "another's, renewed: patience begins anew",
            vec![(0, Sees(Some(b(1, 1)))), (1900, Sees(Some(b(1, 2))))],
            2100,
            wait(2150),
            false,
        ),
        (
            "another's, about to run out: waited for to the moment",
            vec![(0, Sees(Some(b(1, 1)))), (1900, Sees(Some(b(1, 1))))],
            1950,
            wait(2000),
            false,
        ),
        (
            "another's, run out: taken",
            vec![(0, Sees(Some(b(1, 1)))), (1900, Sees(Some(b(1, 1))))],
            2000,
            Ok(Step::Replace(a(2, 2))),
            false,
        ),
        (
            "another's, run out, but seen long ago: looked at first",
            vec![(0, Sees(Some(b(1, 1))))],
            9000,
            Ok(Step::Look),
            false,
        ),
        (
            "a longer lease of the holder is honoured",
            vec![
                (0, Sees(Some(MasterRecord { lease_ms: 9000, ..b(1, 1) }))),
                (3000, Sees(Some(MasterRecord { lease_ms: 9000, ..b(1, 1) }))),
            ],
            3100,
            wait(3250),
            false,
        ),
        (
            "elected: renews after the retry period, counted from before it was sent",
            vec![(0, Sees(None)), (10, Sends(a(0, 0))), (90, Replaced)],
            100,
            wait(260),
            true,
        ),
        (
            "renews",
            vec![(0, Sees(None)), (10, Sends(a(0, 0))), (90, Replaced)],
            260,
            Ok(Step::Replace(a(0, 1))),
            true,
        ),
        (
            "could not renew: no master from the deadline on",
            vec![(0, Sees(None)), (10, Sends(a(0, 0))), (90, Replaced), (300, Sends(a(0, 1))), (400, Unsure)],
            1510,
            Ok(Step::Look),
            false,
        ),
        (
            "an open renewal had landed",
            vec![
                (0, Sees(None)),
                (10, Sends(a(0, 0))),
                (90, Replaced),
                (300, Sends(a(0, 1))),
                (400, Unsure),
                (1520, Sees(Some(a(0, 1)))),
            ],
            1530,
            Ok(Step::Replace(a(0, 2))),
            true,
        ),
        (
            "an open renewal had landed too long ago: a new term",
            vec![
                (0, Sees(None)),
                (10, Sends(a(0, 0))),
                (90, Replaced),
                (300, Sends(a(0, 1))),
                (400, Unsure),
                (1900, Sees(Some(a(0, 1)))),
            ],
            1900,
            Ok(Step::Replace(a(1, 2))),
            false,
        ),
        (
            "an answer that comes late counts from when it was sent",
            vec![(0, Sees(None)), (0, Sends(a(0, 0))), (1600, Replaced)],
            1600,
            Ok(Step::Replace(a(1, 1))),
            false,
        ),
        (
            "beaten: looks at once",
            vec![(0, Sees(None)), (1, Sends(a(0, 0))), (2, Beaten)],
            2,
            Ok(Step::Look),
            false,
        ),
        (
            "deposed while it slept",
            vec![(0, Sees(None)), (10, Sends(a(0, 0))), (90, Replaced), (600, Sees(Some(b(1, 1))))],
            600,
            wait(850),
            false,
        ),
        ("blind: not asked at once", vec![(0, Blind)], 100, wait(250), false),
        ("blind: asked again", vec![(0, Blind)], 250, Ok(Step::Look), false),
        (
            "an own record of a term that is over",
            vec![(0, Sees(Some(a(5, 7))))],
            0,
            Ok(Step::Replace(a(6, 8))),
            false,
        ),
        (
            "resigned: releases",
            vec![(0, Sees(None)), (10, Sends(a(0, 0))), (90, Replaced), (100, Resigns)],
            100,
            Ok(Step::Replace(gone(0, 1))),
            false,
        ),
        (
            "resigned while a renewal was open: looks first",
            vec![
                (0, Sees(None)),
                (10, Sends(a(0, 0))),
                (90, Replaced),
                (300, Sends(a(0, 1))),
                (400, Unsure),
                (410, Resigns),
            ],
            410,
            Ok(Step::Look),
            false,
        ),
        (
            "resigned, and a renewal landed late: that elects nobody",
            vec![
                (0, Sees(None)),
                (10, Sends(a(0, 0))),
                (90, Replaced),
                (300, Sends(a(0, 1))),
                (400, Unsure),
                (410, Resigns),
                (420, Sees(Some(a(0, 1)))),
            ],
            420,
            Ok(Step::Replace(gone(0, 2))),
            false,
        ),
        (
            "resigned and released: looks who comes, often",
            vec![
                (0, Sees(None)),
                (10, Sends(a(0, 0))),
                (90, Replaced),
                (100, Resigns),
                (101, Sends(gone(0, 1))),
                (105, Replaced),
            ],
            110,
            wait(125),
            false,
        ),
        (
            "resigned, and there is an heir: looks as ever",
            vec![
                (0, Sees(None)),
                (10, Sends(a(0, 0))),
                (90, Replaced),
                (100, Resigns),
                (130, Sees(Some(b(1, 2)))),
            ],
            140,
            wait(380),
            false,
        ),
        (
            "hurried: looks at once",
            vec![(0, Sees(Some(b(1, 1)))), (100, Hurries)],
            100,
            Ok(Step::Look),
            false,
        ),
        (
            "hurried: and soon again",
            vec![(0, Sees(Some(b(1, 1)))), (100, Hurries), (102, Sees(Some(b(1, 1))))],
            105,
            wait(122),
            false,
        ),
        (
            "hurried: a lease that runs is respected",
            vec![(0, Sees(Some(b(1, 1)))), (1900, Hurries), (1985, Sees(Some(b(1, 1))))],
            1990,
            wait(2000),
            false,
        ),
        (
            "hurried: one that has run out is taken",
            vec![(0, Sees(Some(b(1, 1)))), (1900, Hurries), (1985, Sees(Some(b(1, 1))))],
            2000,
            Ok(Step::Replace(a(2, 2))),
            false,
        ),
        (
            "hurried: a release is taken",
            vec![(0, Sees(Some(b(1, 1)))), (100, Hurries), (102, Sees(Some(released(1, 2))))],
            102,
            Ok(Step::Replace(a(2, 3))),
            false,
        ),
        (
            "hurried: another was faster",
            vec![(0, Sees(Some(b(1, 1)))), (100, Hurries), (102, Sees(Some(record("c", 2, 3))))],
            110,
            wait(352),
            false,
        ),
        (
            "hurried for nothing: looks as ever after a while",
            vec![(0, Sees(Some(b(1, 1)))), (100, Hurries), (2101, Sees(Some(b(1, 9))))],
            2110,
            wait(2351),
            false,
        ),
        ("hurried and blind: asked again soon", vec![(0, Hurries), (1, Blind)], 5, wait(21), false),
        (
            "a master is not hurried",
            vec![(0, Sees(None)), (10, Sends(a(0, 0))), (90, Replaced), (95, Hurries)],
            100,
            wait(260),
            true,
        ),
    ];
    let start = Instant::now();
    let at = |ms: u32| start + MS * ms;
    for (name, history, now, expected, master) in rows {
        let mut campaign = Campaign::new(candidate("a"), Timing::default());
        for (when, then) in history {
            match then {
                Sees(found) => campaign.saw(found, at(when)),
                Sends(record) => campaign.sending(record, at(when)),
                Replaced => campaign.replaced(at(when)),
                Beaten => campaign.beaten(),
                Unsure => campaign.unsure(at(when)),
                Blind => campaign.blind(at(when)),
                Resigns => campaign.resign(at(when)),
                Hurries => campaign.hurry(at(when)),
            }
        }
        let expected = expected.unwrap_or_else(|ms| Step::Wait(at(ms)));
        assert_eq!(campaign.step(at(now)), expected, "{name}");
        let mastership = campaign.mastership(at(now));
        assert_eq!(matches!(mastership, Mastership::Master { .. }), master, "{name}: {mastership:?}");
    }
}

#[test]
fn times_that_cannot_work_together_are_refused() {
    let timing = |lease, renew_deadline, retry| {
        Timing { lease: MS * lease, renew_deadline: MS * renew_deadline, retry: MS * retry }.check().err()
    };
    assert_eq!(Timing::default().check(), Ok(Timing::default()));
    assert_eq!(timing(1500, 1500, 250), Some(TimingError::Lease));
    assert_eq!(timing(2000, 300, 250), Some(TimingError::RenewDeadline));
    assert_eq!(timing(2000, 1500, 0), Some(TimingError::Retry));
    assert_eq!(timing(15_000, 10_000, 2000), None, "Kubernetes' own");
}

/// A ballot behind trouble: slow, silent, forgetful of what it did.
struct Troubled {
    ballot: EngineBallot,
    trouble: Arc<Mutex<Trouble>>,
}

struct Trouble {
    rng: SmallRng,
    /// The chance that a call fails or is slow.
    of: f64,
}

impl Troubled {
    async fn nap(&self, max: u64) {
        let millis = self.trouble.lock().rng.random_range(0..=max);
        sleep(MS * u32::try_from(millis).unwrap_or(0)).await;
    }

    fn strikes(&self) -> bool {
        let trouble = &mut *self.trouble.lock();
        trouble.rng.random_bool(trouble.of)
    }
}

#[async_trait]
impl Ballot for Troubled {
    async fn look(&self) -> Result<Option<Found>, crate::engine::error::Cause> {
        self.nap(20).await;
        if self.strikes() {
            self.nap(3000).await;
            return Err("not now".into());
        }
        let found = self.ballot.look().await;
        self.nap(20).await;
        found
    }

    async fn replace(&self, before: Option<&Found>, record: &MasterRecord) -> Replaced {
        self.nap(20).await;
        if self.strikes() {
            self.nap(2000).await;
            return Replaced::Unknown("no answer".into());
        }
        let replaced = self.ballot.replace(before, record).await;
        if self.strikes() {
            self.nap(2000).await;
            return Replaced::Unknown("no answer".into());
        }
        replaced
    }
}

const NAMES: [&str; 3] = ["a", "b", "c"];

struct Running {
    candidacy: Candidacy,
    stopper: Option<Stopper>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(name: &str, engine: &Arc<Memory>, trouble: &Arc<Mutex<Trouble>>, life: u64) -> Self {
        let ballot = EngineBallot::new(engine.clone(), Bytes::from_static(b"master"));
        let ballot = Troubled { ballot, trouble: trouble.clone() };
        let me = Candidate { identity: format!("{name}_{life}"), ..candidate(name) };
        let (driver, candidacy) = Driver::new(ballot, me, Timing::default());
        let stopper = Stopper::default();
        let task = tokio::spawn(driver.run(stopper.handle()));
        Self { candidacy, stopper: Some(stopper), task }
    }

    /// As `kill -9`: what was sent may still land, nobody hears of it.
    fn kill(&self) {
        self.task.abort();
    }

    fn is_master(&self) -> bool {
        !self.task.is_finished()
            && matches!(self.candidacy.mastership(), Mastership::Master { until, .. } if Instant::now() < until)
    }
}

/// Three candidates that fail, come back and are troubled: never two masters, and one again soon after calm.
#[tokio::test(start_paused = true)]
async fn there_is_never_more_than_one_master_and_soon_one_again() {
    let first = std::env::var("KUBEBRAIN_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = first.map_or(0..100_u64, |seed| seed..seed + 1);
    let (mut terms, mut troubled) = (0, 0);
    for seed in seeds {
        let rng = &mut SmallRng::seed_from_u64(seed);
        let engine = Arc::new(Memory::new());
        let trouble = Trouble { rng: SmallRng::seed_from_u64(seed + 1), of: rng.random_range(0.0..0.4) };
        let trouble = Arc::new(Mutex::new(trouble));
        let mut lives = 0;
        let mut start = |name: &str| {
            lives += 1;
            Running::start(name, &engine, &trouble, seed * 1000 + lives)
        };
        let mut running = NAMES.map(&mut start);
        let mut before = None;
        for tick in 0..3000 {
            sleep(MS * 10).await;
            let masters: Vec<_> = (0..3).filter(|place| running[*place].is_master()).collect();
            assert!(masters.len() <= 1, "seed {seed}, {} ms: {masters:?} are masters", tick * 10);
            let master = masters.first().copied();
            terms += u32::from(master.is_some() && master != before);
            troubled += u32::from(master.is_none());
            before = master.or(before);
            for running in &running {
                let held = running.candidacy.tenure().term().is_some_and(|term| term.is_held(Instant::now()));
                assert_eq!(held && !running.task.is_finished(), running.is_master(), "seed {seed}: a tenure");
            }
            if rng.random_bool(0.02) {
                running[rng.random_range(0..3)].candidacy.hurry();
            }
            if rng.random_bool(0.002) {
                let place = rng.random_range(0..3);
                match running[place].stopper.take() {
                    Some(stopper) if rng.random_bool(0.5) => stopper.stop().await,
                    _ => running[place].kill(),
                }
                running[place] = start(NAMES[place]);
            }
        }
        trouble.lock().of = 0.0;
        sleep(Duration::from_secs(8)).await;
        let masters = running.iter().filter(|running| running.is_master()).count();
        assert_eq!(masters, 1, "seed {seed}: after calm");
    }
    assert!(terms > 100 && troubled > 100, "{terms} terms, {troubled} ticks without a master: too quiet");
}

#[tokio::test(start_paused = true)]
async fn a_release_hands_over_at_once_and_a_dead_master_costs_its_lease() {
    let engine = Arc::new(Memory::new());
    let trouble = Arc::new(Mutex::new(Trouble { rng: SmallRng::seed_from_u64(1), of: 0.0 }));
    let mut first = Running::start("a", &engine, &trouble, 1);
    sleep(MS * 500).await;
    assert!(first.is_master());
    let second = Running::start("b", &engine, &trouble, 2);
    sleep(Duration::from_secs(5)).await;
    assert!(first.is_master() && !second.is_master(), "a living master stays");
    let mastership = second.candidacy.mastership();
    assert!(matches!(mastership, Mastership::Slave(Some(master)) if master.name == "a"), "and is known");
    let began = Instant::now();
    first.stopper.take().expect("runs").stop().await;
    while !second.is_master() {
        sleep(MS).await;
    }
    let took = began.elapsed();
    assert!(took < MS * 400, "handed over after {took:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_resigns_is_not_elected_again_and_sees_who_is() {
    let engine = Arc::new(Memory::new());
    let trouble = Arc::new(Mutex::new(Trouble { rng: SmallRng::seed_from_u64(1), of: 0.0 }));
    let first = Running::start("a", &engine, &trouble, 1);
    sleep(MS * 500).await;
    assert!(first.is_master());
    first.candidacy.resign();
    first.candidacy.lost().await;
    sleep(Duration::from_secs(10)).await;
    assert!(!first.is_master(), "nobody else stands, and yet");
    let second = Running::start("b", &engine, &trouble, 2);
    sleep(Duration::from_secs(1)).await;
    assert!(second.is_master());
    let mastership = first.candidacy.mastership();
    assert!(matches!(mastership, Mastership::Slave(Some(master)) if master.name == "b"));
}

#[tokio::test(start_paused = true)]
async fn mastership_is_lost_when_its_time_is_over_though_nobody_says_so() {
    let engine = Arc::new(Memory::new());
    let trouble = Arc::new(Mutex::new(Trouble { rng: SmallRng::seed_from_u64(1), of: 0.0 }));
    let first = Running::start("a", &engine, &trouble, 1);
    sleep(MS * 500).await;
    assert!(first.is_master());
    let began = Instant::now();
    first.kill();
    first.candidacy.lost().await;
    assert!(began.elapsed() <= Timing::default().renew_deadline);
    assert_eq!(first.candidacy.mastership(), Mastership::Slave(None), "whoever asks is told so too");
}

/// A ballot whose answers can be held back: of replacements, which are carried out all the same, or of everything.
struct Held {
    ballot: EngineBallot,
    hold: Arc<std::sync::atomic::AtomicBool>,
    mute: Arc<std::sync::atomic::AtomicBool>,
    looks: Arc<std::sync::atomic::AtomicU64>,
}

#[async_trait]
impl Ballot for Held {
    async fn look(&self) -> Result<Option<Found>, crate::engine::error::Cause> {
        self.looks.fetch_add(1, Relaxed);
        sleep(MS).await;
        if self.mute.load(Relaxed) {
            std::future::pending::<()>().await;
        }
        self.ballot.look().await
    }

    async fn replace(&self, before: Option<&Found>, record: &MasterRecord) -> Replaced {
        sleep(MS).await;
        if self.mute.load(Relaxed) {
            std::future::pending::<()>().await;
        }
        let replaced = self.ballot.replace(before, record).await;
        if self.hold.load(Relaxed) {
            std::future::pending::<()>().await;
        }
        replaced
    }
}

/// A candidate on one record, whose answers to replacements can be held back.
struct Holding {
    candidacy: Candidacy,
    stopper: Stopper,
    hold: Arc<std::sync::atomic::AtomicBool>,
    mute: Arc<std::sync::atomic::AtomicBool>,
    looks: Arc<std::sync::atomic::AtomicU64>,
}

impl Holding {
    fn start(name: &str, engine: &Arc<Memory>) -> Self {
        let (hold, mute, looks) = (Arc::default(), Arc::default(), Arc::default());
        let ballot = EngineBallot::new(engine.clone(), Bytes::from_static(b"master"));
        let ballot =
            Held { ballot, hold: Arc::clone(&hold), mute: Arc::clone(&mute), looks: Arc::clone(&looks) };
        let (driver, candidacy) = Driver::new(ballot, candidate(name), Timing::default());
        let stopper = Stopper::default();
        tokio::spawn(driver.run(stopper.handle()));
        Self { candidacy, stopper, hold, mute, looks }
    }

    fn is_master(&self) -> bool {
        matches!(self.candidacy.mastership(), Mastership::Master { until } if Instant::now() < until)
    }

    /// How long until it is.
    async fn elected(&mut self) -> Duration {
        let began = Instant::now();
        let elected = async { while !matches!(self.candidacy.changed().await, Mastership::Master { .. }) {} };
        tokio::time::timeout(Duration::from_secs(60), elected).await.expect("elected at last");
        began.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_hurries_takes_a_release_over_in_milliseconds() {
    for moment in 0..25 {
        let engine = Arc::new(Memory::new());
        let first = Holding::start("a", &engine);
        sleep(MS * 100).await;
        let mut second = Holding::start("b", &engine);
        sleep(MS * (500 + moment * 10)).await;
        let looked = second.looks.load(Relaxed);
        second.candidacy.hurry();
        sleep(MS * 300).await;
        assert!(first.is_master() && !second.is_master(), "hurry alone takes nothing");
        let looks = second.looks.load(Relaxed) - looked;
        assert!((10..=20).contains(&looks), "{looks} looks in 300 ms");
        first.candidacy.resign();
        let took = second.elected().await;
        assert!(took <= MS * 40, "handed over after {took:?}");
        first.candidacy.lost().await;
        sleep(MS * 30).await;
        assert!(
            matches!(first.candidacy.mastership(), Mastership::Slave(Some(master)) if master.name == "b")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn hurry_shortens_no_lease_and_ends_by_itself() {
    let engine = Arc::new(Memory::new());
    let first = Holding::start("a", &engine);
    sleep(MS * 100).await;
    let mut second = Holding::start("b", &engine);
    sleep(MS * 1000).await;
    let began = Instant::now();
    first.mute.store(true, Relaxed); // its last renewal was at most a quarter of a second ago
    second.candidacy.hurry();
    second.elected().await;
    let took = began.elapsed();
    assert!(took >= MS * 1750 && took <= MS * 2100, "the lease counts from its last change: {took:?}");
    assert!(!first.is_master());

    let before = second.looks.load(Relaxed);
    second.candidacy.hurry();
    sleep(Duration::from_secs(10)).await;
    assert!(second.is_master());
    assert_eq!(second.looks.load(Relaxed), before, "a master only renews");
    let mut third = Holding::start("c", &engine);
    third.candidacy.changed().await;
    third.candidacy.hurry();
    sleep(Duration::from_secs(3)).await;
    let before = third.looks.load(Relaxed);
    sleep(Duration::from_secs(10)).await;
    assert!(third.looks.load(Relaxed) - before <= 40, "four a second, as ever");
}

/// A renewal whose answer does not come holds the release up for a fifth of a second, not for its own timeout; and it has
/// landed, so that the release must find out first.
#[tokio::test(start_paused = true)]
async fn a_release_does_not_wait_for_a_renewal_that_hangs() {
    for stopped in [false, true] {
        let engine = Arc::new(Memory::new());
        let first = Holding::start("a", &engine);
        sleep(MS * 100).await;
        let mut second = Holding::start("b", &engine);
        sleep(MS * 1000).await;
        first.hold.store(true, Relaxed);
        sleep(MS * 260).await;
        assert!(first.is_master());
        second.candidacy.hurry();
        let began = Instant::now();
        if stopped {
            tokio::spawn(first.stopper.stop());
        } else {
            first.candidacy.resign();
        }
        second.elected().await;
        let took = began.elapsed();
        assert!(took <= MS * 250, "handed over after {took:?}");
    }
}

/// Nothing is renewed by whoever has already been told to go.
#[tokio::test(start_paused = true)]
async fn a_term_of_the_lease_ends_with_a_resignation_and_grows_with_each_holder() {
    let engine = Arc::new(Memory::new());
    let first = Holding::start("a", &engine);
    sleep(MS * 100).await;
    let term = first.candidacy.tenure().term().expect("elected");
    assert!(term.is_held(Instant::now()));
    sleep(Duration::from_secs(10)).await;
    assert!(term.is_held(Instant::now()), "renewed");
    first.candidacy.resign();
    first.candidacy.lost().await;
    assert!(!term.is_held(Instant::now()));
    sleep(MS * 10).await;
    let found = EngineBallot::new(engine, Bytes::from_static(b"master")).look().await.expect("memory");
    assert!(found.expect("stands").record.is_released());
}

mod engine {
    use super::*;

    async fn ballots(_name: &str) -> Option<(Arc<EngineBallot>, Arc<EngineBallot>)> {
        let engine = Arc::new(Memory::new());
        let ballot = || Arc::new(EngineBallot::new(engine.clone(), Bytes::from_static(b"master")));
        Some((ballot(), ballot()))
    }

    contract::suite!(ballots);
}
