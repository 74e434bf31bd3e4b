//! The system has no descriptors or no memory to give *now*. That says nothing of the disk: what opens a file waits, and
//! tries on.
//!
//! Only what has changed nothing that counts may be tried again. The tree's steps qualify as long as its manifest on
//! disk is the one that it has in memory: see [`super::manifest::number`].

use std::error::Error;
use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::time::Instant;

use super::cause::system_errors;
use crate::engine::error::{Cause, ReadError};

/// Linux's numbers; the standard library has no names for them.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;

/// Between two tries: clients that leave give descriptors back at any time.
const AGAIN: Duration = Duration::from_millis(20);
/// A read does not hold a thread for longer.
const READ_WITHIN: Duration = Duration::from_secs(2);

/// True for an error of a call that was to open something.
pub(super) fn lacks_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// True for an error that time may mend, at any depth.
pub(super) fn is_exhaustion(error: &(dyn Error + 'static)) -> bool {
    system_errors(error).any(|error| lacks_descriptors(error) || error.kind() == ErrorKind::OutOfMemory)
}

/// What a failed read means.
pub(super) fn read_error(cause: Cause) -> ReadError {
    if is_exhaustion(&*cause) { ReadError::Unavailable(cause) } else { ReadError::Failed(cause) }
}

/// Does it until it is done, or has failed for another reason, or `ends` says that nobody wants it any more. One line
/// in the log says that it waits, another one that it goes on.
pub(super) fn patiently<T, E>(
    what: &'static str,
    is_exhaustion: impl Fn(&E) -> bool,
    ends: impl Fn() -> bool,
    mut work: impl FnMut() -> Result<T, E>,
) -> Result<T, E>
where
    E: std::fmt::Display,
{
    let mut since = None;
    loop {
        match work() {
            Err(error) if is_exhaustion(&error) && !ends() => {
                if since.is_none() {
                    since = Some(Instant::now());
                    tracing::warn!(
                        "{what} waits, the system has no file descriptors or memory to give now: {error}"
                    );
                }
                std::thread::sleep(AGAIN);
            }
            done => {
                if let Some(since) = since
                    && done.is_ok()
                {
                    tracing::info!(waited = ?since.elapsed(), "{what} goes on");
                }
                return done;
            }
        }
    }
}

/// Reads where it may block, and waits a little for what is lacking.
pub(super) fn read<T>(mut work: impl FnMut() -> Result<T, ReadError>) -> Result<T, ReadError> {
    let until = Instant::now() + READ_WITHIN;
    loop {
        match work() {
            Err(ReadError::Unavailable(_)) if Instant::now() < until => std::thread::sleep(AGAIN),
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_time_mends_is_told_from_a_broken_disk() {
        let system = |number| io::Error::from_raw_os_error(number);
        let cases: [(Cause, bool); 6] = [
            (system(EMFILE).into(), true),
            (system(ENFILE).into(), true),
            (lsm_tree::Error::Io(system(EMFILE)).into(), true),
            (io::Error::from(ErrorKind::OutOfMemory).into(), true),
            (system(5).into(), false),                       // EIO
            (lsm_tree::Error::Io(system(28)).into(), false), // ENOSPC
        ];
        for (error, expected) in cases {
            assert_eq!(is_exhaustion(&*error), expected, "{error}");
            assert_eq!(matches!(read_error(error), ReadError::Unavailable(_)), expected);
        }
    }

    #[test]
    fn what_is_lacking_is_waited_for_and_all_else_is_not() {
        let tries = Cell::new(0);
        let work = |fails: u32, number: i32| {
            tries.set(0);
            patiently(
                "a test",
                lacks_descriptors,
                || false,
                || {
                    tries.set(tries.get() + 1);
                    if tries.get() <= fails {
                        Err(io::Error::from_raw_os_error(number))
                    } else {
                        Ok(tries.get())
                    }
                },
            )
        };
        assert_eq!(work(3, EMFILE).expect("it goes on"), 4);
        assert_eq!(work(3, 5).expect_err("the disk is broken").raw_os_error(), Some(5));
        assert_eq!(tries.get(), 1);
        let nobody = patiently(
            "a test",
            lacks_descriptors,
            || true,
            || -> io::Result<()> { Err(io::Error::from_raw_os_error(EMFILE)) },
        );
        assert!(nobody.is_err(), "nobody wants it any more");
    }
}
