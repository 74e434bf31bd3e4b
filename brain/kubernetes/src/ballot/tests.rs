//! Against an API server in this process, which can be slow, silent and forgetful of what it has answered.

use std::collections::VecDeque;
use std::sync::Arc;

use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use kube::client::Body;
use kubebrain_brain::election::{Candidate, Driver, Mastership, Timing};
use kubebrain_shared::stop::Stopper;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tower::BoxError;

use super::*;

const PATIENCE: Duration = Duration::from_millis(750);
const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/elections/leases";

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// An answer of this code, and nothing is done.
    Refused(u16, &'static str),
    /// It is done, and the answer says something else.
    DoneBut(u16, &'static str),
    /// It is done, and there is no answer.
    DoneAndSilent,
    /// Neither.
    Silent,
    /// The connection breaks.
    Broken,
}

#[derive(Default)]
struct Server {
    leases: std::collections::BTreeMap<String, Value>,
    version: u64,
    fates: VecDeque<Fate>,
    /// Until it is taken back, for every request.
    down: Option<Fate>,
    asked: Vec<String>,
}

impl Server {
    fn carry_out(&mut self, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
        self.asked.push(method.to_string());
        let name = path.strip_prefix(PATH).map(|rest| rest.trim_start_matches('/').to_owned());
        let Some(name) = name else { return status(404, "NotFound", "namespaces") };
        let mut sent: Value = serde_json::from_slice(body).unwrap_or_default();
        match *method {
            Method::GET => match self.leases.get(&name) {
                Some(lease) => (200, lease.clone()),
                None => status(404, "NotFound", "leases"),
            },
            Method::POST => {
                let name = sent["metadata"]["name"].as_str().expect("it has a name").to_owned();
                if self.leases.contains_key(&name) {
                    return status(409, "AlreadyExists", "leases");
                }
                self.store(name, &mut sent, 201)
            }
            Method::PUT => {
                let Some(there) = self.leases.get(&name) else { return status(404, "NotFound", "leases") };
                let version = &sent["metadata"]["resourceVersion"];
                assert!(version.is_string(), "never without a condition");
                if there["metadata"]["resourceVersion"] != *version {
                    return status(409, "Conflict", "leases");
                }
                self.store(name, &mut sent, 200)
            }
            _ => status(405, "MethodNotAllowed", "leases"),
        }
    }

    fn store(&mut self, name: String, lease: &mut Value, code: u16) -> (u16, Value) {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.leases.insert(name, lease.clone());
        (code, lease.clone())
    }
}

fn status(code: u16, reason: &str, kind: &str) -> (u16, Value) {
    let message = format!("{reason} of {kind}");
    let details = json!({ "kind": kind, "group": "coordination.k8s.io" });
    let kind = "Status";
    (
        code,
        json!({ "kind": kind, "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason,
                   "code": code, "details": details }),
    )
}

fn client(server: &Arc<Mutex<Server>>) -> Client {
    let server = server.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = server.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.expect("a body in memory").to_bytes();
            sleep(Duration::from_millis(1)).await;
            let (fate, (code, answer)) = {
                let server = &mut *server.lock();
                let fate = server.down.or_else(|| server.fates.pop_front());
                let answer = match fate {
                    Some(Fate::Refused(code, reason)) => status(code, reason, "leases"),
                    Some(Fate::Silent | Fate::Broken) => (0, Value::Null),
                    _ => server.carry_out(&head.method, head.uri.path(), &body),
                };
                (fate, answer)
            };
            let (code, answer) = match fate {
                Some(Fate::Silent | Fate::DoneAndSilent) => std::future::pending().await,
                Some(Fate::Broken) => return Err(BoxError::from("connection reset by peer")),
                Some(Fate::DoneBut(code, reason)) => status(code, reason, "leases"),
                _ => (code, answer),
            };
            let answer = Full::new(Bytes::from(answer.to_string()));
            Ok(Response::builder().status(code).body(answer).expect("an answer"))
        }
    });
    Client::new(service, "elections")
}

fn ballot(server: &Arc<Mutex<Server>>) -> LeaseBallot {
    LeaseBallot::new(client(server), "elections", "kubebrain-core", PATIENCE)
}

mod contract {
    use super::*;

    async fn ballots(_name: &str) -> Option<(Arc<LeaseBallot>, Arc<LeaseBallot>)> {
        let server = Arc::default();
        Some((Arc::new(ballot(&server)), Arc::new(ballot(&server))))
    }

    kubebrain_brain::election::contract::suite!(ballots);
}

fn record(name: &str, renewals: u64) -> MasterRecord {
    let (holder, name) = (format!("{name}_1"), name.to_owned());
    MasterRecord { holder, name, lease_ms: 2000, renewals, ..Default::default() }
}

/// Which answers are a verdict, which leave it open, and what people read of it.
#[tokio::test(start_paused = true)]
async fn answers_by_table() {
    let rows = [
        (Fate::Refused(409, "Conflict"), "No", ""),
        (Fate::Refused(409, "AlreadyExists"), "No", ""),
        (Fate::Refused(404, "NotFound"), "No", ""),
        (Fate::Refused(409, "a proxy's page"), "Unknown", "409"),
        (Fate::Refused(404, "a proxy's page"), "Unknown", "404"),
        (Fate::Refused(401, "Unauthorized"), "Unknown", "401 Unauthorized"),
        (
            Fate::Refused(403, "Forbidden"),
            "Unknown",
            "lease kubebrain-core: the API server says 403 Forbidden",
        ),
        (Fate::Refused(429, "TooManyRequests"), "Unknown", "429"),
        (Fate::Refused(500, "InternalError"), "Unknown", "500"),
        (Fate::Refused(503, "ServiceUnavailable"), "Unknown", "503"),
        (Fate::DoneBut(504, "Timeout"), "Unknown", "504"),
        (Fate::Silent, "Unknown", "no answer within 750ms"),
        (Fate::DoneAndSilent, "Unknown", "no answer within 750ms"),
        (Fate::Broken, "Unknown", "connection reset by peer"),
    ];
    for (fate, expected, said) in rows {
        for before in [true, false] {
            let server = Arc::<Mutex<Server>>::default();
            let ballot = ballot(&server);
            let mut seen = None;
            if before {
                assert!(matches!(ballot.replace(None, &record("a", 1)).await, Replaced::Yes(_)));
                seen = ballot.look().await.expect("it is there");
            }
            server.lock().fates.push_back(fate);
            let (asked, began) = (server.lock().asked.len(), Instant::now());
            let (word, why) = match ballot.replace(seen.as_ref(), &record("a", 2)).await {
                Replaced::Yes(_) => ("Yes", String::new()),
                Replaced::No => ("No", String::new()),
                Replaced::Unknown(cause) => ("Unknown", cause.to_string()),
            };
            assert_eq!(word, expected, "{fate:?} of {before}: {why}");
            assert!(why.contains(said), "{fate:?}: {why}");
            assert!(began.elapsed() <= PATIENCE + Duration::from_millis(5), "{:?}", began.elapsed());
            assert!(server.lock().asked.len() <= asked + 1, "nothing is tried twice below");
        }
        let server = Arc::<Mutex<Server>>::default();
        let ballot = ballot(&server);
        assert!(matches!(ballot.look().await, Ok(None)));
        server.lock().fates.push_back(fate);
        let looked = ballot.look().await;
        match fate {
            // The answer of a path that knows leases, and has none of this name.
            Fate::Refused(404, "NotFound") => assert!(matches!(looked, Ok(None)), "{looked:?}"),
            _ => assert!(looked.is_err_and(|error| error.to_string().contains(said)), "{fate:?}"),
        }
    }
}

struct Running {
    candidacy: kubebrain_brain::election::Candidacy,
    stopper: Stopper,
}

impl Running {
    fn start(server: &Arc<Mutex<Server>>, name: &str) -> Self {
        let urls = vec![format!("http://{name}:2380")];
        let me = Candidate::of_process(name.to_owned(), urls.clone(), urls);
        let (driver, candidacy) = Driver::new(ballot(server), me, Timing::default());
        let stopper = Stopper::default();
        tokio::spawn(driver.run(stopper.handle()));
        Self { candidacy, stopper }
    }

    fn is_master(&self) -> bool {
        matches!(self.candidacy.mastership(), Mastership::Master { until } if Instant::now() < until)
    }

    async fn elected(&self, within: Duration) {
        let end = Instant::now() + within;
        while !self.is_master() {
            assert!(Instant::now() < end, "not elected within {within:?}: {:?}", self.candidacy.mastership());
            sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_master_is_elected_renews_through_trouble_and_hands_over() {
    let server = Arc::<Mutex<Server>>::default();
    let first = Running::start(&server, "a");
    first.elected(Duration::from_secs(1)).await;
    let second = Running::start(&server, "b");
    let troubles = [
        Fate::DoneBut(504, "Timeout"),
        Fate::Refused(503, "ServiceUnavailable"),
        Fate::DoneAndSilent,
        Fate::Broken,
        Fate::Refused(429, "TooManyRequests"),
        Fate::Silent,
    ];
    for fate in troubles {
        server.lock().fates.push_back(fate);
        for _ in 0..200 {
            sleep(Duration::from_millis(10)).await;
            assert!(first.is_master() && !second.is_master(), "one failed call costs nothing: {fate:?}");
        }
    }
    let mastership = second.candidacy.mastership();
    assert!(matches!(mastership, Mastership::Slave(Some(master)) if master.peer_urls == ["http://a:2380"]));
    second.candidacy.hurry();
    let began = Instant::now();
    first.stopper.stop().await;
    second.elected(Duration::from_millis(100)).await;
    println!("handed over in {:?}", began.elapsed());
    let spec = &server.lock().leases["kubebrain-core"]["spec"].clone();
    assert!(spec["holderIdentity"].as_str().is_some_and(|holder| holder.starts_with("b_")), "{spec}");
    assert_eq!((&spec["leaseTransitions"], &spec["leaseDurationSeconds"]), (&json!(1), &json!(2)));
}

#[tokio::test(start_paused = true)]
async fn without_an_api_server_the_master_steps_down_in_time_and_comes_back() {
    for fate in [Fate::Silent, Fate::Broken, Fate::Refused(503, "ServiceUnavailable")] {
        let server = Arc::<Mutex<Server>>::default();
        let first = Running::start(&server, "a");
        first.elected(Duration::from_secs(1)).await;
        let second = Running::start(&server, "b");
        sleep(Duration::from_secs(1)).await;
        let began = Instant::now();
        server.lock().down = Some(fate);
        first.candidacy.lost().await;
        let took = began.elapsed();
        assert!(took <= Timing::default().renew_deadline, "{fate:?}: {took:?}");
        sleep(Duration::from_secs(30)).await;
        assert!(!first.is_master() && !second.is_master());
        server.lock().down = None;
        let end = Instant::now() + Duration::from_secs(5);
        while !first.is_master() && !second.is_master() {
            assert!(Instant::now() < end, "{fate:?}: nobody");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Somebody else's controller holds the lease by mistake: it is respected while it renews, and followed when it ends.
#[tokio::test(start_paused = true)]
async fn a_holder_that_is_no_brain_is_respected_while_it_renews() {
    let server = Arc::<Mutex<Server>>::default();
    let renew = |second: u64| {
        let at = format!("2026-01-01T00:{:02}:{:02}.000000Z", second / 60, second % 60);
        let spec = json!({ "holderIdentity": "controller", "leaseDurationSeconds": 3, "renewTime": at });
        let mut lease = json!({ "metadata": { "name": "kubebrain-core" }, "spec": spec });
        server.lock().store("kubebrain-core".to_owned(), &mut lease, 200);
    };
    renew(0);
    let brain = Running::start(&server, "a");
    for second in 1..20 {
        sleep(Duration::from_secs(1)).await;
        renew(second);
        assert!(!brain.is_master());
    }
    sleep(Duration::from_millis(2900)).await;
    assert!(!brain.is_master());
    brain.elected(Duration::from_millis(500)).await;
}
