//! `kubebrain`: flags in, a program out. Everything that works is in the library crates.

mod cli;
mod collector;
mod ctl;
mod flags;
mod log;
mod placement;
mod print;
mod process;
mod run;

use std::process::ExitCode;

/// A request allocates some dozens of times, often on one thread what is freed on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use anyhow::Result;
use clap::FromArgMatches;

use cli::{Cli, Command, etcd, manual};
use collector::Exports;
use log::Log;
use process::Process;

fn main() -> ExitCode {
    process::umask::close();
    let mut command = etcd::command();
    command.build();
    let arguments = etcd::arguments(&command, std::env::args_os(), std::env::vars_os());
    let matches = command.clone().get_matches_from(arguments);
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if cli.print_config {
        return answered(print::print(&etcd::settings(&command, &matches)));
    }
    match &cli.command {
        Command::Version => return answered(manual::version()),
        Command::Completion(flags) => return answered(manual::completion(flags, etcd::own())),
        Command::Man(flags) => return answered(manual::man(flags, etcd::own())),
        Command::Standalone(_) | Command::Brain(_) | Command::Proxy(_) | Command::Ctl(_) => {}
    }
    let log = match cli.log.install() {
        Ok(log) => log,
        Err(error) => {
            log::tell(format!("kubebrain: {error:#}\n").as_bytes());
            return ExitCode::FAILURE;
        }
    };
    let outcome = etcd::review(&command, &matches).and_then(|()| execute(cli.command, &log));
    if let Err(error) = &outcome {
        log.tell(&format!("kubebrain: {error:#}"));
    }
    log.finish();
    code(&outcome)
}

/// The end of what needs no log.
fn answered(outcome: Result<()>) -> ExitCode {
    if let Err(error) = &outcome {
        log::tell(format!("kubebrain: {error:#}\n").as_bytes());
    }
    code(&outcome)
}

fn code(outcome: &Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.downcast_ref::<ctl::Verdict>().map_or(ExitCode::FAILURE, |verdict| verdict.code().into())
        }
    }
}

fn execute(command: Command, log: &Log) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Command::Ctl(flags) = command {
        return runtime.block_on(ctl::run(flags));
    }
    let exports = match &command {
        Command::Standalone(flags) => Some((&flags.clients.tracing, "standalone")),
        Command::Brain(flags) => Some((&flags.clients.tracing, "brain")),
        Command::Proxy(flags) => Some((&flags.clients.tracing, "proxy")),
        Command::Ctl(_) | Command::Version | Command::Completion(_) | Command::Man(_) => None,
    };
    let exports = runtime.block_on(async {
        exports.map_or_else(|| Ok(Exports::none()), |(flags, program)| Exports::begin(flags, program))
    })?;
    let mut process = Process::new(log.clone(), exports)?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Standalone(flags) => run::standalone::run(flags, &process).await,
            Command::Brain(flags) => run::brain::run(*flags, &process).await,
            Command::Proxy(flags) => run::proxy::run(flags, &process).await,
            Command::Ctl(_) | Command::Version | Command::Completion(_) | Command::Man(_) => Ok(()), // done above
        }
    });
    runtime.block_on(process.exports.finish());
    drop(runtime); // what blocks is waited for: nothing is logged after the last line
    process.stopped(&outcome);
    outcome
}
