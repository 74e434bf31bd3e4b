//! Decisions by table with a clock set by hand; drivers against each other on a paused clock, over an engine that fails.

use std::sync::Arc;
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
}

#[test]
fn decisions_by_table() {
    use Then::*;
    let (a, b) = (|t, r| record("a", t, r), |t, r| record("b", t, r));
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
            }
        }
        let expected = expected.unwrap_or_else(|ms| Step::Wait(at(ms)));
        assert_eq!(campaign.step(at(now)), expected, "{name}");
        let standing = campaign.standing(at(now));
        assert_eq!(matches!(standing, Standing::Master { .. }), master, "{name}: {standing:?}");
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
            && matches!(self.candidacy.standing(), Standing::Master { until, .. } if Instant::now() < until)
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
    let standing = second.candidacy.standing();
    assert!(matches!(standing, Standing::Slave(Some(master)) if master.name == "a"), "and is known");
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
    let standing = first.candidacy.standing();
    assert!(matches!(standing, Standing::Slave(Some(master)) if master.name == "b"));
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
}
