//! What clients of gRPC really put on the wire, one call at a time, between the guard of pings and the gate.
//!
//! Each trace is one call as its library sends it, and our answer as it comes back; frames in the order in which the server
//! sees them. Written down from the libraries' sources: grpc-go `internal/transport/{http2_client,bdp_estimator}.go`,
//! grpc-java `netty/{AbstractNettyHandler,NettyClientHandler}.java`, gRPC's core
//! `ext/transport/chttp2/{bdp_estimator,chttp2_transport}.cc`, Node's `@grpc/grpc-js` over nghttp2, .NET's
//! `Http2Connection.cs` and `RttEstimator`, tonic over hyper `proto/h2/ping.rs`.

use super::*;
use crate::cork::Cork;
use crate::metrics::Metrics;
use crate::pings::PingGuard;

const WINDOW_UPDATE: u8 = 8;
const END_HEADERS: u8 = 4;
/// etcd's default of `--grpc-keepalive-min-time`.
const PINGS_EACH: Duration = Duration::from_secs(5);
const PER_SECOND: NonZeroU32 = NonZeroU32::new(1000).expect("it is not zero");

#[derive(Clone, Copy)]
enum Step {
    /// Type, flags and length of a frame that the client sends.
    Client(u8, u8, usize),
    /// Of one that we send.
    Server(u8, u8, usize),
}

use Step::{Client, Server};

/// A unary answer: head, message, trailers.
const HEAD: Step = Server(HEADERS, END_HEADERS, 20);
const MESSAGE: Step = Server(DATA, 0, 40);
const TRAILERS: Step = Server(HEADERS, END_HEADERS | END_STREAM, 10);
const ASK: Step = Client(HEADERS, END_HEADERS, 60);
/// The bandwidth is measured when data comes and no ping is under way.
const BANDWIDTH: Step = Client(PING, 0, 8);
const BANDWIDTH_ANSWER: Step = Server(PING, ACK, 8);

const TRACES: &[(&str, &[Step])] = &[
    (
        "grpc-go, unary: the message ends the stream",
        &[ASK, Client(DATA, END_STREAM, 30), HEAD, MESSAGE, TRAILERS, BANDWIDTH, BANDWIDTH_ANSWER],
    ),
    (
        "grpc-go, KeepAliveOnce: a stream for each, which its context ends",
        &[
            ASK,
            Client(DATA, 0, 12),
            HEAD,
            MESSAGE,
            BANDWIDTH,
            BANDWIDTH_ANSWER,
            Client(DATA, END_STREAM, 0),
            Client(RESET, 0, 4),
        ],
    ),
    (
        "grpc-go, KeepAliveOnce that has ended before it is cancelled",
        &[
            ASK,
            Client(DATA, 0, 12),
            HEAD,
            MESSAGE,
            TRAILERS,
            BANDWIDTH,
            BANDWIDTH_ANSWER,
            Client(RESET, 0, 4),
        ],
    ),
    (
        "grpc-go, a watch that is cancelled after its first event",
        &[ASK, Client(DATA, 0, 30), HEAD, MESSAGE, BANDWIDTH, BANDWIDTH_ANSWER, MESSAGE, Client(RESET, 0, 4)],
    ),
    ("grpc-go, a stream that is refused before its client ends it", &[ASK, TRAILERS, Client(RESET, 0, 4)]),
    (
        "grpc-go, a stream of keepalives and its window",
        &[Client(DATA, 0, 12), MESSAGE, BANDWIDTH, BANDWIDTH_ANSWER, Client(WINDOW_UPDATE, 0, 4)],
    ),
    (
        "grpc-java, unary: flow control is tuned by pings, windows are given back",
        &[
            ASK,
            Client(DATA, END_STREAM, 30),
            HEAD,
            MESSAGE,
            BANDWIDTH,
            TRAILERS,
            BANDWIDTH_ANSWER,
            Client(WINDOW_UPDATE, 0, 4),
        ],
    ),
    (
        "grpc-java, a stream that is cancelled once it is answered",
        &[ASK, Client(DATA, 0, 30), HEAD, MESSAGE, BANDWIDTH, BANDWIDTH_ANSWER, Client(RESET, 0, 4)],
    ),
    (
        "gRPC's core (C++, Python, Ruby, PHP), unary: a ping for what came, the windows before it",
        &[
            ASK,
            Client(DATA, END_STREAM, 30),
            HEAD,
            MESSAGE,
            TRAILERS,
            Client(WINDOW_UPDATE, 0, 4),
            BANDWIDTH,
            BANDWIDTH_ANSWER,
        ],
    ),
    (
        "grpc-js, unary: the end of the stream is a frame of its own, no pings",
        &[ASK, Client(DATA, 0, 30), Client(DATA, END_STREAM, 0), HEAD, MESSAGE, TRAILERS],
    ),
    (
        "grpc-js, a call that is cancelled once it is answered",
        &[ASK, Client(DATA, 0, 30), HEAD, MESSAGE, Client(RESET, 0, 4)],
    ),
    (
        "tonic, unary: the end of the stream is a frame of its own, an adaptive window",
        &[
            ASK,
            Client(DATA, 0, 30),
            Client(DATA, END_STREAM, 0),
            HEAD,
            MESSAGE,
            TRAILERS,
            BANDWIDTH,
            BANDWIDTH_ANSWER,
        ],
    ),
    (
        ".NET, unary: the way is measured when data or a head comes",
        &[ASK, Client(DATA, END_STREAM, 30), HEAD, BANDWIDTH, BANDWIDTH_ANSWER, MESSAGE, TRAILERS],
    ),
];

/// What calls cost their client, and how often anything held it back.
async fn play(trace: &[Step], calls: u32) -> (Duration, io::Result<()>, String) {
    let (mut client, ours) = tokio::io::duplex(1 << 20);
    let metrics = Metrics::new();
    let held = metrics.held();
    let turns = Turns::default();
    let (gate, _spoken) = Gate::new(ours, Some(PER_SECOND), held.clone(), &turns);
    let mut server = PingGuard::new(Cork::new(gate), Some(PINGS_EACH), held);
    let began = Instant::now();
    let exchange = pin!(async {
        pass(&mut client, &mut server, &begin()).await?;
        for _ in 0..calls {
            for step in trace {
                let mut bytes = BytesMut::new();
                match *step {
                    Client(kind, flags, length) => {
                        put_frame(&mut bytes, kind, flags, &vec![0; length]);
                        pass(&mut client, &mut server, &bytes).await?;
                    }
                    Server(kind, flags, length) => {
                        put_frame(&mut bytes, kind, flags, &vec![0; length]);
                        server.write_all(&bytes).await?;
                        server.flush().await?;
                        server.flush().await?; // the first one of a cork is deferred
                        client.read_exact(&mut bytes).await?;
                    }
                }
            }
        }
        Ok(())
    });
    let outcome = turns.around(exchange).await;
    (began.elapsed(), outcome, metrics.page())
}

async fn pass<T>(client: &mut tokio::io::DuplexStream, server: &mut T, bytes: &[u8]) -> io::Result<()>
where
    T: AsyncRead + Unpin,
{
    client.write_all(bytes).await?;
    server.read_exact(&mut vec![0; bytes.len()]).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn clients_of_every_library_are_held_back_by_nothing() {
    for (name, trace) in TRACES {
        // Far above every burst, in no time at all.
        let (took, outcome, page) = play(trace, 5_000).await;
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(took, Duration::ZERO, "{name}");
        let held: Vec<_> = page.lines().filter(|line| line.starts_with("kubebrain_held_back")).collect();
        assert!(!held.is_empty() && held.iter().all(|line| line.ends_with(" 0")), "{name}: {held:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_answer_provokes_has_its_pace_beside_answers_too() {
    // Of a call's frames one is provoked, the others come on top.
    let answered = [ASK, Client(DATA, END_STREAM, 30), HEAD, MESSAGE, TRAILERS];
    for (frame, free, bound) in [
        (Client(RESET, 0, 4), 2, "control_frames"),
        (Client(SETTINGS, 0, 0), 0, "control_frames"),
        (Client(DATA, 0, 0), 0, "control_frames"),
        (Client(DATA, 0, 12), 3, "small_messages"),
    ] {
        let flood = |count: usize| [&answered[..], &vec![frame; count][..]].concat();
        let (took, outcome, page) = play(&flood(free + 10), 10_000).await;
        outcome.expect("nobody is thrown out");
        assert!(took >= Duration::from_secs(4), "{bound}: {took:?}");
        assert!(!page.contains(&format!("{{bound=\"{bound}\"}} 0\n")), "{page}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_ping_for_one_answer_is_none_of_ours() {
    let answered = [ASK, Client(DATA, END_STREAM, 30), HEAD, MESSAGE, TRAILERS, BANDWIDTH, BANDWIDTH];
    let (took, outcome, page) = play(&answered, 11_000).await;
    outcome.expect("two are overlooked while data is sent");
    assert!((9..=10).contains(&took.as_secs()), "one in two has the pace: {took:?}");
    assert!(!page.contains("{bound=\"control_frames\"} 0\n"), "{page}");
}

#[tokio::test(start_paused = true)]
async fn lists_that_are_asked_for_and_reset_keep_their_pace() {
    // Their client reads nothing: heads still come, data waits for the connection's window.
    let (took, outcome, page) = play(&[ASK, HEAD, Client(RESET, 0, 4)], 10_000).await;
    outcome.expect("nobody is thrown out");
    assert!(took >= Duration::from_secs(8), "{took:?}");
    assert!(!page.contains("{bound=\"control_frames\"} 0\n"), "{page}");
}
