//! `kubebrain version`, `kubebrain completion`, `kubebrain man`: the program about itself.

use anyhow::{Context as _, Result, bail};
use clap::Command;
use kubebrain_net::probe::ETCD_VERSION;

use crate::cli::{Completion, Man};
use crate::print;

/// In lines as etcd's `--version`.
pub(crate) fn version() -> Result<()> {
    print::print(&format!(
        "kubebrain Version: {}\nGit SHA: {}\nRust Version: {}\nOS/Arch: {}/{}\netcd API: {ETCD_VERSION}\n",
        env!("CARGO_PKG_VERSION"),
        env!("KUBEBRAIN_GIT_SHA"),
        env!("KUBEBRAIN_RUSTC"),
        std::env::consts::OS,
        std::env::consts::ARCH,
    ))
}

/// `command` is without etcd's flags that mean nothing here: nobody wants to be offered those.
pub(crate) fn completion(flags: &Completion, mut command: Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut command, "kubebrain", &mut script);
    print::print(&String::from_utf8_lossy(&script))
}

/// One page on standard output, or all of them as files.
pub(crate) fn man(flags: &Man, mut command: Command) -> Result<()> {
    command.build();
    if let Some(directory) = &flags.dir {
        let written = clap_mangen::generate_to(command, directory);
        return written.with_context(|| format!("--dir {}", directory.display()));
    }
    let mut found = &command;
    for name in &flags.command {
        let Some(next) = found.find_subcommand(name) else {
            let known: Vec<_> = found.get_subcommands().map(Command::get_name).collect();
            bail!("there is no command {name}: {} has {}", found.get_name(), known.join(", "));
        };
        found = next;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(found.clone()).render(&mut page).context("the page")?;
    print::print(&String::from_utf8_lossy(&page))
}
