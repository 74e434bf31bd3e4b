use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use kubebrain_shared::stop::Stopper;

use super::*;
use crate::dial::{Channel, Connector, DialConfig, DialError};
use crate::serve::{ServeConfig, memory, serve_memory};

/// A service that does what the request's path says.
#[derive(Clone, Default)]
struct Told {
    /// Requests that came.
    asked: Arc<AtomicUsize>,
    /// Frames that were made.
    made: Arc<AtomicUsize>,
    /// Futures and bodies that are alive.
    alive: Arc<()>,
}

impl Service<Request<Body>> for Told {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (made, alive) = (Arc::clone(&self.made), Arc::clone(&self.alive));
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let asked = body.collect().await.expect("the request is whole").to_bytes();
            Ok(match head.uri.path() {
                "/echo" => answer(vec![Step::Data(asked), Step::End("0")], made, alive),
                "/pieces" => {
                    let pieces =
                        (0..1000_u32).map(|number| Step::Data(Bytes::from(vec![7; number as usize])));
                    answer(pieces.chain([Step::End("0")]).collect(), made, alive)
                }
                "/failed" => answer(vec![Step::Data(asked), Step::End("5")], made, alive),
                "/refused" => Status::not_found("there is none").into_http(),
                "/cut" => answer(vec![Step::Data(asked)], made, alive),
                "/broken" => answer(vec![Step::Data(asked), Step::Error], made, alive),
                "/panics" => std::panic::resume_unwind(Box::new("planted")),
                "/panics-later" => answer(vec![Step::Data(asked), Step::Panic], made, alive),
                _ => {
                    let _held = alive;
                    std::future::pending().await
                }
            })
        })
    }
}

impl Service<Request<Incoming>> for Told {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <Self as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        self.call(request.map(Body::new))
    }
}

enum Step {
    Data(Bytes),
    End(&'static str),
    Error,
    Panic,
}

fn answer(steps: Vec<Step>, made: Arc<AtomicUsize>, alive: Arc<()>) -> Response<Body> {
    let frames = stream::iter(steps).map(move |step| {
        let _held = &alive;
        made.fetch_add(1, Ordering::Relaxed);
        match step {
            Step::Data(data) => Ok(Frame::data(data)),
            Step::End(code) => {
                let code = (Status::GRPC_STATUS, HeaderValue::from_static(code));
                Ok(Frame::trailers(HeaderMap::from_iter([code])))
            }
            Step::Error => Err(Status::internal("planted")),
            Step::Panic => std::panic::resume_unwind(Box::new("planted")),
        }
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("kubebrain-revision", HeaderValue::from_static("7"));
    response
}

fn request(path: &str) -> Request<Body> {
    let body = Body::new(Full::new(Bytes::from_static(b"\0\0\0\0\x03abc")));
    let mut request = Request::post(path).body(body).expect("a path");
    request.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request
}

/// What a caller sees of one call.
#[derive(Debug, PartialEq)]
enum Seen {
    /// It broke, before its answer or inside of it: over a connection the end may overtake what came before. True if
    /// it surely was not carried out.
    Broken(bool),
    Whole(Box<Whole>),
}

#[derive(Debug, PartialEq)]
struct Whole {
    status: http::StatusCode,
    headers: HeaderMap,
    data: Bytes,
    trailers: Option<HeaderMap>,
}

async fn see<B>(answer: Result<Response<B>, DialError>) -> Seen
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let (head, mut body) = match answer {
        Ok(answer) => answer.into_parts(),
        Err(error) => return Seen::Broken(error.surely_not_sent()),
    };
    let mut headers = head.headers;
    // A server's own, which whoever serves the answer adds.
    headers.remove(http::header::DATE);
    headers.remove(http::header::CONTENT_LENGTH);
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(bytes)) => data.extend_from_slice(&bytes),
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(_) => return Seen::Broken(false),
        }
    }
    Seen::Whole(Box::new(Whole { status: head.status, headers, data: data.into(), trailers }))
}

#[tokio::test]
async fn what_is_seen_of_a_call_is_what_a_connection_shows() {
    let stopper = Stopper::default();
    let (connector, listener) = memory();
    tokio::spawn(serve_memory(listener, Told::default(), ServeConfig::default(), stopper.handle()));
    let mut channel = Channel::new(Connector::Memory(connector), DialConfig::default());
    let direct = Direct::new(Told::default());
    let mut outcomes = std::collections::HashSet::new();
    for path in
        ["/echo", "/pieces", "/failed", "/refused", "/cut", "/broken", "/panics", "/panics-later", "/echo"]
    {
        let near = see(direct.call(request(path)).await.map_err(DialError::from)).await;
        let far = see(channel.call(request(path)).await).await;
        assert_eq!(near, far, "{path}");
        outcomes.insert(format!("{near:?}"));
    }
    assert_eq!(outcomes.len(), 6, "as many outcomes as kinds of ends: {outcomes:?}");
}

#[tokio::test]
async fn a_panic_may_have_been_carried_out_and_its_body_is_not_asked_again() {
    let direct = Direct::new(Told::default());
    let panicked = direct.call(request("/panics")).await.expect_err("it panics");
    assert!(!DialError::from(panicked).surely_not_sent());
    let mut body = direct.call(request("/panics-later")).await.expect("it begins").into_body();
    assert!(body.frame().await.expect("more").is_ok());
    assert!(body.frame().await.expect("more").is_err());
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn nothing_is_made_that_nobody_takes_and_nothing_lives_on_when_it_is_dropped() {
    let told = Told::default();
    let direct = Direct::new(told.clone());
    let mut body = direct.call(request("/pieces")).await.expect("it begins").into_body();
    for taken in 1..=10 {
        body.frame().await.expect("more").expect("no error");
        assert_eq!(told.made.load(Ordering::Relaxed), taken);
    }
    assert_eq!(Arc::strong_count(&told.alive), 3, "the test's, the service's and the body's");
    drop(body);
    assert_eq!(Arc::strong_count(&told.alive), 2);
    let waits = direct.call(request("/waits"));
    let late = tokio::time::timeout(Duration::from_millis(10), waits).await;
    assert!(late.is_err());
    assert_eq!(Arc::strong_count(&told.alive), 2, "its future is gone");
}

#[tokio::test]
async fn a_call_that_is_given_up_after_its_first_turn_makes_no_work() {
    let told = Told::default();
    let direct = Direct::new(told.clone());
    let mut call = Box::pin(direct.call(request("/echo")));
    let waits = std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await;
    assert!(waits, "servers look between turns whether their client is still there");
    drop(call);
    assert_eq!(told.asked.load(Ordering::Relaxed), 0);
    direct.call(request("/echo")).await.expect("it wakes itself");
    assert_eq!(told.asked.load(Ordering::Relaxed), 1);
}
