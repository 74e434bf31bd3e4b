//! Questions over a connection in memory, to a real endpoint and to a master that does what it is told.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, future};
use hyper::body::Incoming;
use kubebrain_net::dial::{Connector, DialConfig};
use kubebrain_net::serve::{Serve, ServeConfig, memory, serve_memory};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::{Pair, Placement};
use kubebrain_shared::stop::Stopper;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;
use tower::service_fn;

use super::*;
use crate::config::Config;
use crate::engine::memory::Memory;
use crate::service::codec::{self, TypedCodec};
use crate::service::{Audience, Endpoint, EndpointConfig, Members};
use crate::store::Store;

fn questions(service: impl Serve + Sync) -> (Arc<Questions>, Stopper) {
    let ((connector, listener), stopper) = (memory(), Stopper::default());
    tokio::spawn(serve_memory(listener, service, ServeConfig::default(), stopper.handle()));
    let channel = Channel::new(Connector::Memory(connector), DialConfig::default());
    (Arc::new(Questions::new(channel)), stopper)
}

async fn master() -> (Store, Endpoint, Stopper) {
    let group = GroupName::parse("core").expect("a name");
    let placement = Arc::new(Placement::single(group.clone()));
    let store =
        Store::open(Config::new(group, "a"), Arc::new(Memory::new()), placement).await.expect("opens");
    let config = EndpointConfig {
        audience: Audience::Peers,
        progress_interval: Duration::from_secs(600),
        name: "a".to_owned(),
        client_urls: Vec::new(),
        peer_urls: Vec::new(),
        members: Members::default(),
    };
    let stopper = Stopper::default();
    let endpoint = Endpoint::new(store.clone(), config, stopper.handle());
    (store, endpoint, stopper)
}

/// What a slave asks, and the way to answer it.
type Heard = (AskRequest, mpsc::Sender<Result<AskResponse, Status>>);

/// A master whose answers are the test's.
fn scripted() -> (impl Serve + Sync, UnboundedReceiver<Heard>) {
    #[expect(clippy::disallowed_methods, reason = "a handful of questions")]
    let (heard, hears) = mpsc::unbounded_channel();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let heard = heard.clone();
        let call = service_fn(move |request: Request<Streaming<AskRequest>>| {
            let (answers, mut inbox) = mpsc::channel(REQUESTS_MAX);
            let (mut requests, heard) = (request.into_inner(), heard.clone());
            tokio::spawn(async move {
                while let Some(Ok(request)) = requests.next().await {
                    let _over = heard.send((request, answers.clone()));
                }
            });
            let answers: Answers = Box::pin(stream::poll_fn(move |cx| inbox.poll_recv(cx)));
            future::ready(Ok::<_, Status>(tonic::Response::new(answers)))
        });
        async move {
            let codec = TypedCodec::<AskResponse, AskRequest>::default();
            let mut server = codec::server(codec, &crate::request::Limits::default());
            Ok::<_, Infallible>(server.streaming(call, request).await)
        }
    });
    (service, hears)
}

fn saying(number: u64, revision: i64) -> AskResponse {
    let answer = AdvanceResponse { revision, compacted: -1, lineage: 2, number: 7, adopted: 8 };
    AskResponse { number, answer: Some(answer), claim: Some(WireClaim { epoch: 3, batch: 9 }) }
}

/// More small messages than a connection could hold unread.
#[tokio::test]
async fn one_stream_carries_all_questions() {
    let (store, endpoint, _stop) = master().await;
    let (questions, _serving) = questions(endpoint);
    for _ in 0..20_000 {
        let fenced = questions.ask(Revision::ZERO).await.expect("an answer");
        assert_eq!((fenced.revision, fenced.compacted, fenced.claim), (Revision::new(1), -1, None));
    }
    let lifted = questions.ask(Revision::new(500)).await.expect("an answer");
    assert_eq!((lifted.revision, store.state().committed()), (Revision::new(500), Revision::new(500)));
}

#[tokio::test]
async fn each_question_gets_its_own_answer_in_whatever_order() {
    let (service, mut hears) = scripted();
    let (questions, _serving) = questions(service);
    let mut asked = Vec::new();
    for floor in 1..=3 {
        let questions = questions.clone();
        asked.push(tokio::spawn(async move { questions.ask(Revision::new(floor)).await }));
    }
    let mut heard = Vec::new();
    for _ in 0..3 {
        heard.push(hears.recv().await.expect("a question"));
    }
    for (request, answers) in heard.iter().rev() {
        answers.send(Ok(saying(999, 1))).await.expect("sent: an answer to nothing");
        answers.send(Ok(saying(request.number, request.floor * 10))).await.expect("sent");
    }
    for (floor, asked) in (1..).zip(asked) {
        let fenced = asked.await.expect("no panic").expect("an answer");
        assert_eq!(fenced.revision, Revision::new(floor * 10));
        let placement = Pair { number: 7, adopted: 8 };
        assert_eq!((fenced.lineage, fenced.placement), (2, placement));
        assert_eq!(fenced.claim, Some(Claim { epoch: 3, batch: 9 }));
    }
}

#[tokio::test]
async fn a_stream_that_is_lost_fails_what_it_was_asked_and_the_next_question_opens_another() {
    let (service, mut hears) = scripted();
    let (questions, _serving) = questions(service);
    let ask = || {
        let questions = questions.clone();
        tokio::spawn(async move { questions.ask(Revision::ZERO).await })
    };
    let asked = ask();
    let (_, answers) = hears.recv().await.expect("a question");
    answers.send(Err(Fault::LeaderChanged.into())).await.expect("sent");
    let lost = asked.await.expect("no panic").expect_err("it was lost");
    assert_eq!(
        lost,
        UpstreamError::Lost("the master does not answer: etcdserver: leader changed".to_owned())
    );

    // On another stream. Whoever gives up leaves it as it is.
    let given_up = timeout(Duration::from_millis(50), questions.ask(Revision::ZERO));
    assert!(given_up.await.is_err(), "unanswered");
    hears.recv().await.expect("a question");
    let asked = ask();
    let (request, answers) = hears.recv().await.expect("a question");
    answers.send(Ok(saying(request.number, 5))).await.expect("sent");
    assert_eq!(asked.await.expect("no panic").expect("an answer").revision, Revision::new(5));
}

/// A master that leaves ends the stream by itself, so that its connections can close.
#[tokio::test(start_paused = true)]
async fn a_master_that_leaves_ends_the_stream() {
    let (_store, endpoint, stop) = master().await;
    let (questions, _serving) = questions(endpoint);
    questions.ask(Revision::ZERO).await.expect("an answer");
    let line = questions.line.lock().clone().expect("a stream");
    assert!(line.lives());
    stop.ask();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!line.lives());
}
