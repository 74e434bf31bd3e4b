//! That relays do what they say.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use kit::relay::{Flow, Relay};
use kit::until;

const SOON: Duration = Duration::from_millis(300);

/// Gives back what it gets, and keeps it.
async fn echo() -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (port, got) = (listener.local_addr().expect("a port").port(), Arc::<Mutex<Vec<u8>>>::default());
    let keeps = got.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let keeps = keeps.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 64];
                while let Ok(count @ 1..) = socket.read(&mut buffer).await {
                    keeps.lock().extend_from_slice(&buffer[..count]);
                    if socket.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, got)
}

/// One byte there and back; none if nothing comes soon.
async fn exchange(socket: &mut TcpStream, byte: u8) -> std::io::Result<Option<u8>> {
    socket.write_all(&[byte]).await?;
    match timeout(SOON, socket.read_u8()).await {
        Ok(answer) => answer.map(Some),
        Err(_) => Ok(None),
    }
}

#[tokio::test]
async fn a_relay_is_as_bad_as_it_is_asked_to_be() {
    let (port, got) = echo().await;
    let relay = Relay::plain(port, 1).await;
    let connect = async || TcpStream::connect(relay.address()).await.expect("it listens");

    let mut fair = connect().await;
    assert_eq!(exchange(&mut fair, b'a').await.expect("open"), Some(b'a'));

    relay.set(Flow::Mute);
    assert_eq!(exchange(&mut fair, b'b').await.expect("it stands"), None, "the answer is lost");
    until("the byte at the server", async || got.lock().ends_with(b"ab").then_some(())).await;
    relay.heal();
    assert!(exchange(&mut fair, b'c').await.is_err(), "a connection with a hole in it is reset");

    let mut held = connect().await;
    assert_eq!(exchange(&mut held, b'd').await.expect("open"), Some(b'd'));
    relay.set(Flow::Silent);
    assert_eq!(exchange(&mut held, b'e').await.expect("it stands"), None);
    let mut new = connect().await;
    assert_eq!(exchange(&mut new, b'f').await.expect("it stands"), None);
    assert!(got.lock().ends_with(b"d"), "nothing has passed");
    relay.heal();
    assert!(exchange(&mut new, b'f').await.is_err());

    let mut late = connect().await;
    relay.delay(Duration::from_millis(100));
    let began = Instant::now();
    for byte in 0..6 {
        assert_eq!(exchange(&mut late, byte).await.expect("open"), Some(byte));
    }
    // Twelve pieces, each late by 0 to 100 ms.
    assert!(began.elapsed() > Duration::from_millis(150), "{:?}", began.elapsed());

    relay.set(Flow::Cut);
    assert!(exchange(&mut late, b'g').await.is_err());
    assert!(exchange(&mut connect().await, b'h').await.is_err());
    relay.heal();
    assert_eq!(exchange(&mut connect().await, b'i').await.expect("open"), Some(b'i'));
    relay.reset();
    assert_eq!(exchange(&mut connect().await, b'j').await.expect("open"), Some(b'j'));
}

#[tokio::test]
async fn a_discerning_relay_is_bad_to_one_process_alone() {
    let (port, _) = echo().await;
    let relay = Relay::discerning(port, 1).await;
    let mut fair = TcpStream::connect(relay.address()).await.expect("it listens");
    assert_eq!(exchange(&mut fair, b'a').await.expect("open"), Some(b'a'));
    let (_, at) = relay.address().split_once(':').expect("a port");
    let reads = format!("exec 3<>/dev/tcp/127.0.0.1/{at}; read -t 30 -u 3; exit 7");
    let child = || Command::new("bash").args(["-c", &reads]).spawn().expect("there is bash");
    let (mut one, mut other) = (child(), child());
    until("their connections", async || (relay.seen().1 == 3).then_some(())).await;

    relay.set_for(Some(one.id()), Flow::Cut);
    let status = until("an end", async || one.try_wait().expect("a child")).await;
    assert_eq!(status.code(), Some(7), "its connection was reset");
    assert_eq!(exchange(&mut fair, b'b').await.expect("open"), Some(b'b'));
    assert!(other.try_wait().expect("a child").is_none(), "nobody else's");

    // Weather for another one ends the first one's, and healing resets whom it was about.
    relay.set_for(Some(other.id()), Flow::Silent);
    assert_eq!(exchange(&mut fair, b'c').await.expect("open"), Some(b'c'));
    relay.heal();
    until("an end", async || other.try_wait().expect("a child")).await;
    assert_eq!(exchange(&mut fair, b'd').await.expect("open"), Some(b'd'));
}
