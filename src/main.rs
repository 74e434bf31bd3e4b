//! `kubebrain`: flags in, a program out. Everything that works is in the library crates.

mod banner;
mod brain;
mod cli;
mod ctl;
mod duration;
mod listen;
mod placement;
mod proxy;
mod shutdown;
mod standalone;
mod storage;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.log.install();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            match cli.command {
                Command::Standalone(flags) => standalone::run(flags).await,
                Command::Brain(flags) => brain::run(flags).await,
                Command::Proxy(flags) => proxy::run(flags).await,
                Command::Ctl(flags) => ctl::run(flags).await,
            }
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kubebrain: {error:#}");
            ExitCode::FAILURE
        }
    }
}
