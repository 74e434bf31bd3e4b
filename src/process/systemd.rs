//! [`Systemd`]: what a service manager hears of this process (`sd_notify(3)`): ready, stopping, how it is, that it lives.
//!
//! Nothing is sent without `NOTIFY_SOCKET`. A manager that does not read holds up one thread and nobody else.

use std::convert::Infallible;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

/// Messages that wait for the socket. There are some at the start and the end, and one a heartbeat.
const WAITING_MAX: usize = 64;
/// What a process that ends leaves the manager to take its last words.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How much longer a start may take that goes on: asked for again at half of it.
const START_EXTENDED: Duration = Duration::from_secs(60);

/// See the module.
pub(crate) struct Systemd {
    /// Each message, and who wants to know that it was sent.
    messages: Option<SyncSender<(Message, Option<SyncSender<()>>)>>,
    /// What was said last, so that nothing is said twice.
    status: Mutex<String>,
    is_ready: AtomicBool,
    was_well: AtomicBool,
}

/// A writer looks up each second, and may wait for a read of the storage meanwhile.
const STANDS_STILL_MIN: Duration = Duration::from_secs(10);

#[derive(Debug)]
enum Message {
    Ready,
    Stopping,
    Status(String),
    StartGoesOn,
    Alive,
}

impl Systemd {
    /// With the socket of the environment, if there is one.
    pub(crate) fn of_environment() -> Self {
        let waits = std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty());
        let messages = waits.then(|| {
            let (sender, receiver) = sync_channel(WAITING_MAX);
            let thread = std::thread::Builder::new().name("systemd".to_owned());
            match thread.spawn(move || send_all(receiver)) {
                Ok(_detached) => Some(sender),
                Err(error) => {
                    tracing::warn!("the service manager will hear nothing: {error}");
                    None
                }
            }
        });
        Self {
            messages: messages.flatten(),
            status: Mutex::default(),
            is_ready: AtomicBool::new(false),
            was_well: AtomicBool::new(true),
        }
    }

    /// Clients are served.
    pub(crate) fn ready(&self) {
        self.is_ready.store(true, Ordering::Relaxed);
        self.say(Message::Ready);
    }

    /// The end has begun.
    pub(crate) fn stopping(&self) {
        self.say(Message::Stopping);
    }

    /// What `systemctl status` shows.
    pub(crate) fn status(&self, text: &str) {
        let line = text.replace(['\n', '\r'], " ");
        let mut status = self.status.lock();
        if *status != line {
            status.clone_from(&line);
            self.say(Message::Status(line));
        }
    }

    /// Says that it lives: before it is ready, so that a start is not given up that takes long and goes on; and as often
    /// as the manager's watchdog wants it, while `is_well` within the time that it is given. For ever.
    pub(crate) async fn live(&self, is_well: impl Fn(Duration) -> bool) -> Infallible {
        if self.messages.is_none() {
            return std::future::pending().await;
        }
        let watchdog = sd_notify::watchdog_enabled();
        let every = watchdog.map_or(START_EXTENDED, |watchdog| watchdog.min(START_EXTENDED)) / 2;
        let mut ticks = interval(every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !self.is_ready.load(Ordering::Relaxed) {
                self.say(Message::StartGoesOn);
            }
            if let Some(watchdog) = watchdog {
                self.answer(is_well(watchdog.max(STANDS_STILL_MIN)));
            }
        }
    }

    fn answer(&self, is_well: bool) {
        if is_well {
            self.say(Message::Alive);
        } else if self.was_well.load(Ordering::Relaxed) {
            tracing::error!(
                "the task that orders writes stands still: the service manager's watchdog is not answered and will end \
                 this process"
            );
        }
        self.was_well.store(is_well, Ordering::Relaxed);
    }

    /// Returns when what was said before is sent, or soon.
    pub(crate) fn finish(&self, text: &str) {
        let Some(messages) = &self.messages else { return };
        let (sent, done) = sync_channel(1);
        if messages.try_send((Message::Status(text.replace(['\n', '\r'], " ")), Some(sent))).is_ok() {
            let _late = done.recv_timeout(LAST_WORDS);
        }
    }

    /// Dropped where nobody reads.
    fn say(&self, message: Message) {
        if let Some(messages) = &self.messages {
            let _full = messages.try_send((message, None));
        }
    }
}

/// The thread.
fn send_all(messages: Receiver<(Message, Option<SyncSender<()>>)>) {
    let mut failed = false;
    while let Ok((message, sent)) = messages.recv() {
        match send(&message) {
            Ok(()) => failed = false,
            Err(error) if !failed => {
                failed = true;
                tracing::warn!("the service manager does not hear this process (NOTIFY_SOCKET): {error}");
            }
            Err(_) => {}
        }
        if let Some(sent) = sent {
            let _gone = sent.try_send(());
        }
    }
}

fn send(message: &Message) -> io::Result<()> {
    let micros = u32::try_from(START_EXTENDED.as_micros()).unwrap_or(u32::MAX);
    let state = match message {
        Message::Ready => NotifyState::Ready,
        Message::Stopping => NotifyState::Stopping,
        Message::Status(text) => NotifyState::Status(text),
        Message::StartGoesOn => NotifyState::ExtendTimeoutUsec(micros),
        Message::Alive => NotifyState::Watchdog,
    };
    // The crate takes sockets of the file system only.
    let socket = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    match socket.as_bytes().strip_prefix(b"@") {
        None => sd_notify::notify(&[state]),
        Some(name) => {
            let address = SocketAddr::from_abstract_name(name)?;
            UnixDatagram::unbound()?.send_to_addr(format!("{state}\n").as_bytes(), &address).map(drop)
        }
    }
}
