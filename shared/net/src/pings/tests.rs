use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::cork::Cork;
use crate::turns::Turns;

const MINIMUM: Duration = Duration::from_secs(5);
const PING_BYTES: usize = HEAD_BYTES + 8;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_uint(payload.len() as u64, 3);
    bytes.put_u8(kind);
    bytes.put_u8(flags);
    bytes.put_u32(0);
    bytes.put_slice(payload);
    bytes
}

fn ping() -> BytesMut {
    frame(PING, 0, &[7; 8])
}

/// A guarded socket and the client's end; the preface has passed.
async fn guarded() -> (PingGuard<Cork<DuplexStream>>, DuplexStream) {
    let (ours, mut client) = tokio::io::duplex(1 << 16);
    let mut guard = PingGuard::new(Cork::new(ours), Some(MINIMUM), Held::default());
    client.write_all(PREFACE).await.expect("room");
    guard.read_exact(&mut [0; 24]).await.expect("the preface");
    (guard, client)
}

/// The client sends `bytes` and the server reads them, one at a time.
async fn pass(
    guard: &mut PingGuard<Cork<DuplexStream>>,
    client: &mut DuplexStream,
    bytes: &[u8],
) -> io::Result<()> {
    client.write_all(bytes).await.expect("room");
    for _ in bytes {
        guard.read_exact(&mut [0]).await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_fourth_ping_in_a_row_is_answered_with_goaway() {
    let (mut guard, mut client) = guarded().await;
    for _ in 0..3 {
        pass(&mut guard, &mut client, &ping()).await.expect("overlooked");
        tokio::time::advance(MINIMUM / 2).await;
    }
    let refused = pass(&mut guard, &mut client, &ping()).await.expect_err("too many");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionAborted);
    drop(guard);
    let mut said = Vec::new();
    client.read_to_end(&mut said).await.expect("an end");
    assert_eq!(said, GOAWAY);
}

/// As a connection does it: it reads and gives up in one turn of its task, and there is no other one.
#[tokio::test(start_paused = true)]
async fn who_is_sent_away_hears_it_in_the_same_turn() {
    let (ours, mut client) = tokio::io::duplex(1 << 16);
    let turns = Turns::default();
    let mut guard = PingGuard::new(Cork::by_turns(ours, &turns), Some(MINIMUM), Held::default());
    client.write_all(&[PREFACE, &ping().repeat(4)].concat()).await.expect("room");
    let mut space = [0; 1024];
    let reading = std::pin::pin!(async {
        let read =
            guard.read(&mut space[..PREFACE.len()]).await.and(guard.read(&mut [0; 4 * PING_BYTES]).await);
        read.expect_err("too many").kind()
    });
    let refused = turns.around(reading).await;
    assert_eq!(refused, io::ErrorKind::ConnectionAborted);
    let mut said = vec![0; GOAWAY.len()];
    client.read_exact(&mut said).await.expect("it is there already");
    assert_eq!(said, GOAWAY);
}

#[tokio::test(start_paused = true)]
async fn pings_that_come_together_are_counted_one_by_one() {
    let (mut guard, mut client) = guarded().await;
    client.write_all(&ping().repeat(4)).await.expect("room");
    let refused = guard.read_exact(&mut [0; 4 * PING_BYTES]).await.expect_err("too many");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionAborted);
}

#[tokio::test(start_paused = true)]
async fn pings_at_the_pace_of_keepalive_go_on_for_ever() {
    let (mut guard, mut client) = guarded().await;
    for _ in 0..100 {
        pass(&mut guard, &mut client, &ping()).await.expect("in time");
        tokio::time::advance(MINIMUM).await;
    }
}

#[tokio::test(start_paused = true)]
async fn pings_while_data_is_sent_are_no_keepalive() {
    let (mut guard, mut client) = guarded().await;
    // An acknowledged ping of ours, and data that looks like pings, are none of the client's pings.
    let data = frame(DATA, 0, &ping().repeat(100));
    for _ in 0..20 {
        pass(&mut guard, &mut client, &ping()).await.expect("overlooked");
        pass(&mut guard, &mut client, &frame(PING, ACK, &[7; 8])).await.expect("an answer");
        pass(&mut guard, &mut client, &data).await.expect("data");
        guard.write_all(&frame(HEADERS, 4, b"head")).await.expect("room");
        guard.flush().await.expect("deferred");
        let mut sent = [0; HEAD_BYTES + 4];
        guard.flush().await.expect("sent");
        client.read_exact(&mut sent).await.expect("the head");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_in_the_middle_of_a_frame() {
    let (mut guard, mut client) = guarded().await;
    let head = &frame(DATA, 0, &[1; 100])[..50];
    guard.write_all(head).await.expect("room");
    client.write_all(&ping().repeat(4)).await.expect("room");
    guard.read_exact(&mut [0; 4 * PING_BYTES]).await.expect_err("too many");
    guard.flush().await.expect("deferred");
    guard.flush().await.expect("what was written before");
    drop(guard);
    let mut said = Vec::new();
    client.read_to_end(&mut said).await.expect("an end");
    assert_eq!(said, head);
}

#[tokio::test(start_paused = true)]
async fn other_protocols_pass_unseen() {
    let (ours, mut client) = tokio::io::duplex(1 << 16);
    let mut guard = PingGuard::new(Cork::new(ours), Some(MINIMUM), Held::default());
    let bytes = [b"PRI * HTTP/1.1\r\n", &ping().repeat(10)[..]].concat();
    client.write_all(&bytes).await.expect("room");
    let mut read = vec![0; bytes.len()];
    guard.read_exact(&mut read).await.expect("all of it");
    assert_eq!(read, bytes);
}
