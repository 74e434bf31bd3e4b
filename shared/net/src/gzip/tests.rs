use std::io::Write as _;
use std::time::Duration;

use flate2::write::GzEncoder as Writer;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use kubebrain_shared::wire::frame;
use tonic::Code;

use super::*;
use crate::intake::intake;

const MIB: usize = 1 << 20;

fn gzip() -> Gzip {
    Gzip::new(2 * MIB, Held::default())
}

/// As Go's writer makes it.
fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), Compression::default());
    writer.write_all(bytes).expect("memory");
    writer.finish().expect("memory")
}

fn compressed(message: &[u8]) -> Vec<u8> {
    flagged(&gzipped(message))
}

fn flagged(packed: &[u8]) -> Vec<u8> {
    let mut frame = frame(packed).to_vec();
    frame[0] = 1;
    frame
}

fn body(bytes: &[u8], piece: usize) -> StreamBody<impl futures_util::Stream<Item = Piece> + Send + use<>> {
    let frames: Vec<Piece> =
        bytes.chunks(piece).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    StreamBody::new(stream::iter(frames))
}

type Piece = Result<Frame<Bytes>, Status>;

async fn inflated(bytes: &[u8], piece: usize, whole: bool) -> Result<Bytes, Status> {
    let body = gzip().inflate(body(bytes, piece), whole);
    body.collect().await.map(|all| all.to_bytes()).map_err(Status::from_error)
}

/// Nothing repeats in it.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..bytes).map(next).collect()
}

#[tokio::test]
async fn messages_are_inflated_however_they_are_cut() {
    let messages = [b"a".to_vec(), Vec::new(), vec![b'x'; MIB], noise(100_000), b"last".to_vec()];
    let stream: Vec<u8> = messages.iter().flat_map(|message| compressed(message)).collect();
    let plain: Vec<u8> = messages.iter().flat_map(|message| frame(message)).collect();
    for piece in [7, 1000, stream.len()] {
        assert_eq!(inflated(&stream, piece, false).await.expect("a stream"), plain, "in pieces of {piece}");
    }
    let mixed = [frame(b"plain").to_vec(), compressed(b"packed"), frame(b"plain").to_vec()].concat();
    let plain = [frame(b"plain"), frame(b"packed"), frame(b"plain")].concat();
    assert_eq!(inflated(&mixed, 3, false).await.expect("as each says"), plain);
    assert_eq!(inflated(&compressed(b"one"), 4, true).await.expect("whole"), frame(b"one"));
}

#[tokio::test]
async fn what_is_no_gzip_or_too_large_is_refused_in_the_words_of_grpc() {
    let bomb = compressed(&vec![0; 3 * MIB]);
    let mut lies = gzipped(&vec![0; 3 * MIB]);
    let at = lies.len() - 4;
    lies[at..].copy_from_slice(&100_u32.to_le_bytes());
    let mut damaged = gzipped(&noise(1000));
    damaged[500] ^= 1;
    let twice = [gzipped(b"one"), gzipped(b"two")].concat();
    let cut = &compressed(b"a message that ends too soon")[..20];
    for (what, bytes, code, text) in [
        (
            "a bomb",
            bomb,
            Code::ResourceExhausted,
            "received message after decompression larger than max 2097152",
        ),
        ("a bomb that says it is small", flagged(&lies), Code::Internal, "failed to read decompressed data"),
        ("damaged", flagged(&damaged), Code::Internal, "failed to read decompressed data"),
        ("two in one", flagged(&twice), Code::Internal, "failed to read decompressed data"),
        ("no gzip", flagged(b"this is no gzip at all, believe me"), Code::Internal, "gzip: invalid header"),
        ("nothing", flagged(b""), Code::Internal, "failed to decompress the message: EOF"),
        ("large", flagged(&noise(3 * MIB)), Code::ResourceExhausted, "larger than max (3145728 vs. 2097152)"),
        ("cut inside", flagged(&gzipped(&noise(1000))[..500]), Code::Internal, "data: unexpected EOF"),
        ("cut", cut.to_vec(), Code::Internal, "ended inside a message"),
    ] {
        for whole in [false, true] {
            let refused = inflated(&bytes, 4096, whole).await.expect_err(what);
            assert_eq!(refused.code(), code, "{what}: {refused:?}");
            assert!(refused.message().contains(text), "{what}: {refused:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_inflated_before_it_is_let_in() {
    let budget = Budget::new(MIB as u64);
    let first = budget.take(MIB as u64).await.expect("room");
    let asked = body(&compressed(&vec![b'x'; MIB]), 1000);
    let (asked, _taken) = intake(http::Request::new(gzip().inflate(asked, true)), &budget);
    let asked = tokio::spawn(async move { asked.into_body().collect().await.map(|all| all.to_bytes()) });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!asked.is_finished(), "it is a large one by what it holds");
    drop(first);
    let message = asked.await.expect("no panic").expect("let in");
    assert_eq!(message.len(), FRAME_PREFIX_BYTES + MIB);
}

#[tokio::test(start_paused = true)]
async fn what_came_compressed_is_counted_until_it_is_inflated() {
    let gzip = gzip();
    let packed = compressed(&noise(MIB));
    let mut first = gzip.inflate(body(&packed, MIB), true);
    let prefix = first.frame().await.expect("a frame").expect("the length").into_data().expect("data");
    assert_eq!(prefix[..], frame_prefix(MIB));
    assert!(gzip.packed.used() >= MIB as u64);
    let message = first.frame().await.expect("a frame").expect("the message").into_data().expect("data");
    assert_eq!(message, noise(MIB));
    assert_eq!(gzip.packed.used(), 0);
}

#[test]
fn an_encoding_that_nobody_has_is_refused() {
    for (encoding, takes) in
        [(None, false), (Some("identity"), false), (Some(""), false), (Some("gzip"), true)]
    {
        let mut headers = HeaderMap::new();
        if let Some(encoding) = encoding {
            headers.insert(ENCODING, HeaderValue::from_static(encoding));
        }
        assert_eq!(Gzip::takes(&mut headers).expect("taken"), takes, "{encoding:?}");
        assert!(headers.is_empty(), "what is behind the door sees nothing of it");
    }
    let mut headers = HeaderMap::new();
    headers.insert(ENCODING, HeaderValue::from_static("snappy"));
    let refused = Gzip::takes(&mut headers).expect_err("refused");
    assert_eq!(refused.code(), Code::Unimplemented);
    assert_eq!(refused.message(), "grpc: Decompressor is not installed for grpc-encoding \"snappy\"");
}

#[tokio::test]
async fn answers_are_compressed_message_by_message() {
    let large = noise(CHUNK_BYTES + 1);
    let messages = [b"a".to_vec(), vec![b'x'; CHUNK_BYTES], large.clone(), Vec::new(), b"last".to_vec()];
    let plain: Vec<u8> = messages.iter().flat_map(|message| frame(message)).collect();
    for piece in [1000, 1 << 16, plain.len()] {
        let mut frames: Vec<Piece> =
            plain.chunks(piece).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        frames.push(Ok(Frame::trailers(trailers)));
        let answer = deflated(Response::new(Body::new(StreamBody::new(stream::iter(frames)))));
        assert_eq!(answer.headers()["grpc-encoding"], "gzip");
        let all = answer.into_body().collect().await.expect("an answer");
        assert_eq!(all.trailers().expect("trailers")["grpc-status"], "0");
        let sent = all.to_bytes();
        assert_eq!(sent.iter().position(|byte| *byte == 1), Some(0), "the first one is compressed");
        assert!(sent.windows(large.len()).any(|part| part == large), "a large one goes as it is");
        assert!(sent.len() < large.len() + 1000, "{} bytes", sent.len());
        assert_eq!(inflated(&sent, 4096, false).await.expect("an answer"), plain, "in pieces of {piece}");
    }
    let refusal = deflated(Status::not_found("nothing").into_http());
    assert!(!refusal.headers().contains_key("grpc-encoding"));
}

#[test]
fn a_page_is_compressed_for_who_takes_it() {
    for (header, takes) in [
        (None, false),
        (Some("gzip"), true),
        (Some("zstd, gzip"), true),
        (Some("deflate, GZIP;q=0.5"), true),
        (Some("gzip;q=0"), false),
        (Some("identity"), false),
        (Some("*"), false),
    ] {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(header));
        }
        assert_eq!(accepts(&headers), takes, "{header:?}");
        let answer = page(&headers, Response::new(()), "text".repeat(1000));
        assert_eq!(answer.headers().contains_key(header::CONTENT_ENCODING), takes, "{header:?}");
    }
}
