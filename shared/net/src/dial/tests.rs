use bytes::Bytes;
use kubebrain_proto::health::health_check_response::ServingStatus;
use kubebrain_proto::health::health_client::HealthClient;
use kubebrain_proto::health::health_server::{Health, HealthServer};
use kubebrain_proto::health::{HealthCheckRequest, HealthCheckResponse};
use kubebrain_shared::stop::Stopper;
use tokio::net::TcpListener;
use tonic::codegen::tokio_stream;
use tonic::{Code, Request, Response};

use super::*;
use crate::serve::tests::{call, echo, within};
use crate::serve::{ServeConfig, memory, serve_memory, serve_tcp};

struct Always;

type Updates = Pin<Box<dyn tokio_stream::Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Health for Always {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match &request.get_ref().service[..] {
            "" => Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() })),
            other => Err(Status::not_found(other)),
        }
    }

    type WatchStream = Updates;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Updates>, Status> {
        Err(Status::unimplemented("watch"))
    }
}

fn tcp(address: impl ToString) -> Channel {
    Channel::new(Connector::Tcp(address.to_string()), DialConfig::default())
}

async fn is_healthy(channel: Channel) {
    let mut client = HealthClient::new(channel);
    let answer = client.check(HealthCheckRequest::default()).await.expect("it answers");
    assert_eq!(answer.get_ref().status(), ServingStatus::Serving);
    let error = client.check(HealthCheckRequest { service: "x".into() }).await.expect_err("unknown");
    assert_eq!((error.code(), error.message()), (Code::NotFound, "x"));
    assert!(DialError::of(&error).is_none(), "the other side said so");
}

#[tokio::test]
async fn generated_clients_speak_through_a_channel() {
    let stopper = Stopper::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(serve_tcp(listener, HealthServer::new(Always), ServeConfig::default(), stopper.handle()));
    let (connector, listener) = memory();
    tokio::spawn(serve_memory(listener, HealthServer::new(Always), ServeConfig::default(), stopper.handle()));
    within(10, is_healthy(tcp(address))).await;
    within(10, is_healthy(Channel::new(Connector::Memory(connector), DialConfig::default()))).await;
    within(10, stopper.stop()).await;
}

async fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    listener.local_addr().expect("it is bound").to_string()
}

#[tokio::test]
async fn a_refused_connection_is_surely_not_sent_and_unavailable() {
    let channel = tcp(free_address().await);
    let error = call(channel.clone(), "/a").await.expect_err("nobody listens");
    assert!(matches!(error, DialError::Unreachable(_)) && error.surely_not_sent());
    let status =
        HealthClient::new(channel).check(HealthCheckRequest::default()).await.expect_err("nobody listens");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(DialError::of(&status).is_some_and(DialError::surely_not_sent));
}

#[tokio::test]
async fn a_channel_finds_a_server_that_comes_later_and_comes_back() {
    let address = free_address().await;
    let channel = tcp(&address);
    call(channel.clone(), "/a").await.expect_err("nobody listens");
    for round in 0..3 {
        let stopper = Stopper::default();
        let listener = TcpListener::bind(&address).await.expect("the port is free again");
        tokio::spawn(serve_tcp(listener, echo(), ServeConfig::default(), stopper.handle()));
        tokio::time::sleep(Duration::from_millis(60)).await;
        for _ in 0..3 {
            let answer = within(10, call(channel.clone(), "/a")).await;
            assert_eq!(answer.unwrap_or_else(|error| panic!("round {round}: {error:?}")), "/a");
        }
        within(10, stopper.stop()).await;
    }
}

#[tokio::test]
async fn while_resting_calls_fail_at_once_and_nobody_dials() {
    let (connector, listener) = memory();
    drop(listener);
    let config = DialConfig { backoff_min: Duration::from_secs(60), ..DialConfig::default() };
    let config = DialConfig { backoff_max: Duration::from_secs(60), ..config };
    let channel = Channel::new(Connector::Memory(connector), config);
    for _ in 0..5 {
        let error = within(1, call(channel.clone(), "/a")).await.expect_err("nobody listens");
        assert!(error.surely_not_sent());
    }
    assert_eq!(channel.shared.state.lock().failures, 1, "one dial");
}

#[tokio::test]
async fn many_calls_share_one_dial() {
    let (connector, mut listener) = memory();
    let channel = Channel::new(Connector::Memory(connector), DialConfig::default());
    let calls: Vec<_> = (0..100).map(|_| tokio::spawn(call(channel.clone(), "/a"))).collect();
    let first = within(5, listener.next_connection()).await;
    let serving = Stopper::default();
    let stop = serving.handle();
    tokio::spawn(async move {
        crate::serve::serve_connection(first, echo(), &ServeConfig::default(), stop).await
    });
    for call in calls {
        assert_eq!(within(5, call).await.expect("no panic").expect("it answers"), "/a");
    }
    assert!(listener.is_empty(), "one connection");
    within(10, serving.stop()).await;
}

#[tokio::test]
async fn a_request_that_a_dead_connection_gives_back_goes_to_the_next_one() {
    let (connector, mut listener) = memory();
    let channel = Channel::new(Connector::Memory(connector), DialConfig::default());
    channel.connect().await.expect("it is connected");
    // Nobody has told the channel yet.
    drop(listener.next_connection().await);
    let serving = Stopper::default();
    tokio::spawn(serve_memory(listener, echo(), ServeConfig::default(), serving.handle()));
    assert_eq!(within(5, call(channel.clone(), "/a")).await.expect("the next one answers"), "/a");
    within(10, serving.stop()).await;
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_takes_too_long_has_failed() {
    let (connector, _listener) = memory();
    let mut waiting = Vec::new();
    while let Ok(connected) = tokio::time::timeout(Duration::from_millis(1), connector.connect()).await {
        waiting.push(connected.expect("the listener is there"));
    }
    let channel = Channel::new(Connector::Memory(connector), DialConfig::default());
    let begun = Instant::now();
    let error = call(channel, "/a").await.expect_err("nobody accepts");
    assert!(error.surely_not_sent());
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
}

#[tokio::test]
async fn a_dropped_call_does_not_stop_the_dial() {
    let (connector, mut listener) = memory();
    let channel = Channel::new(Connector::Memory(connector), DialConfig::default());
    let mut dropped = Box::pin(channel.connect());
    assert!(std::future::poll_fn(|cx| Poll::Ready(dropped.as_mut().poll(cx).is_pending())).await);
    drop(dropped);
    let _connection = within(5, listener.next_connection()).await;
    within(5, channel.connect()).await.expect("it is connected");
    assert!(listener.is_empty(), "by the dial that was begun");
}

/// What a server does with the one request that it takes.
async fn error_after(
    treat: impl FnOnce(h2::server::SendResponse<Bytes>) -> Option<h2::Reason> + Send + 'static,
) -> DialError {
    let (connector, mut listener) = memory();
    let channel = Channel::new(Connector::Memory(connector), DialConfig::default());
    let server = tokio::spawn(async move {
        let mut connection = h2::server::handshake(listener.next_connection().await).await.expect("HTTP/2");
        let (_, respond) = connection.accept().await.expect("a request").expect("a request");
        if let Some(reason) = treat(respond) {
            connection.abrupt_shutdown(reason);
        }
        while let Some(Ok(_)) = connection.accept().await {}
    });
    let error = within(5, call(channel, "/a")).await.expect_err("there is no answer");
    server.abort();
    error
}

#[tokio::test]
async fn a_stream_that_the_peer_refuses_is_surely_not_sent() {
    let error = error_after(|mut respond| {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        None
    })
    .await;
    assert!(matches!(error, DialError::Refused(_)), "{error:?}");
}

#[tokio::test]
async fn a_stream_that_the_peer_breaks_off_may_have_had_its_effect() {
    let error = error_after(|mut respond| {
        respond.send_reset(h2::Reason::INTERNAL_ERROR);
        None
    })
    .await;
    assert!(matches!(error, DialError::Broken(_)), "{error:?}");
    let error = error_after(|respond| {
        std::mem::forget(respond);
        Some(h2::Reason::ENHANCE_YOUR_CALM)
    })
    .await;
    assert!(matches!(error, DialError::Broken(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_silent_is_given_up() {
    let (connector, mut listener) = memory();
    let channel = Channel::new(Connector::Memory(connector), DialConfig::default());
    let begun = Instant::now();
    let silent = tokio::spawn(async move {
        let connection = listener.next_connection().await;
        std::future::pending::<()>().await;
        drop(connection);
    });
    let error = call(channel, "/a").await.expect_err("nobody answers");
    assert!(matches!(error, DialError::Broken(_)), "{error:?}");
    assert_eq!(begun.elapsed().as_secs(), 20, "an interval and a timeout");
    silent.abort();
}

#[test]
fn pauses_double_up_to_their_bound_and_differ_by_chance() {
    let config = DialConfig::default();
    let ms = |failures, chance| pause(&config, failures, chance).as_millis();
    assert_eq!(
        [0, 1, 2, 3, 4, 5, 99].map(|failures| ms(failures, u64::MAX)),
        [50, 100, 200, 400, 800, 1000, 1000]
    );
    assert_eq!([0, 1, 99].map(|failures| ms(failures, 0)), [25, 50, 500]);
}
