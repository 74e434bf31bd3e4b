//! `kubebrain`: flags in, a program out. Everything that works is in the library crates.

mod banner;
mod boolean;
mod brain;
mod cli;
mod ctl;
mod duration;
mod etcd;
mod headings;
mod listen;
mod manual;
mod numbers;
mod opening;
mod placement;
mod print;
mod proxy;
mod shutdown;
mod standalone;
mod storage;

use std::io::Write as _;
use std::process::ExitCode;

/// A request allocates some dozens of times, often on one thread what is freed on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use clap::FromArgMatches;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let mut command = etcd::command();
    command.build();
    let arguments = etcd::arguments(&command, std::env::args_os(), std::env::vars_os());
    let matches = command.clone().get_matches_from(arguments);
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if cli.print_config {
        return ended(print::print(&etcd::settings(&command, &matches)));
    }
    match &cli.command {
        Command::Version => return ended(manual::version()),
        Command::Completion(flags) => return ended(manual::completion(flags, etcd::own())),
        Command::Man(flags) => return ended(manual::man(flags, etcd::own())),
        Command::Standalone(_) | Command::Brain(_) | Command::Proxy(_) | Command::Ctl(_) => {}
    }
    cli.log.install();
    if let Err(error) = etcd::review(&command, &matches) {
        eprintln!("kubebrain: {error:#}");
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            match cli.command {
                Command::Standalone(flags) => standalone::run(flags).await,
                Command::Brain(flags) => brain::run(*flags).await,
                Command::Proxy(flags) => proxy::run(flags).await,
                Command::Ctl(flags) => ctl::run(flags).await,
                Command::Version | Command::Completion(_) | Command::Man(_) => Ok(()), // done above
            }
        })
    });
    ended(outcome)
}

fn ended(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _nobody_listens = writeln!(std::io::stderr(), "kubebrain: {error:#}");
            error.downcast_ref::<ctl::Verdict>().map_or(ExitCode::FAILURE, |verdict| verdict.code().into())
        }
    }
}
