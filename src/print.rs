//! Standard output: what an operator asked for. It may be a pipe that nobody reads any more, or a disk that is full.

use std::fmt;
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};

/// What a shell shows of a program that writes into a closed pipe.
const CLOSED_PIPE: i32 = 128 + 13;

// In place of the standard library's everywhere in this program, since those panic where nobody reads.

macro_rules! print {
    ($($text:tt)*) => { $crate::print::print(format_args!($($text)*)) };
}

macro_rules! println {
    () => { $crate::print::print(format_args!("\n")) };
    ($($text:tt)*) => { $crate::print::print(format_args!("{}\n", format_args!($($text)*))) };
}

macro_rules! eprint {
    ($($text:tt)*) => { $crate::print::note(format_args!($($text)*)) };
}

/// Prints, or ends the process: whoever asked gets nothing more.
pub(crate) fn print(text: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_fmt(text).and_then(|()| out.flush()) {
        if error.kind() == ErrorKind::BrokenPipe {
            std::process::exit(CLOSED_PIPE);
        }
        note(format_args!("kubebrain: standard output cannot be written: {error}\n"));
        std::process::exit(1);
    }
}

/// Beside what was asked for: how far it is, what went wrong.
pub(crate) fn note(text: fmt::Arguments<'_>) {
    let mut out = io::stderr().lock();
    let _nobody_reads = out.write_fmt(text).and_then(|()| out.flush());
}

/// Lines for a person at a terminal; nothing where there is none. A terminal that stands still holds nobody up.
pub(crate) fn greet(text: String) {
    if !io::stdout().is_terminal() {
        return;
    }
    let write = move || {
        let mut out = io::stdout().lock();
        let _gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    };
    let _unspawned = std::thread::Builder::new().name("banner".to_owned()).spawn(write);
}
