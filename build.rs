//! What `kubebrain version` says of how it was built: the compiler, and the commit where it is one.
//!
//! The commit is looked up in release builds alone: else every commit would make all tests be compiled anew.

use std::path::Path;
use std::process::Command;

/// Given where there is no repository, as in the build of an image.
const GIVEN: &str = "KUBEBRAIN_GIT_SHA";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={GIVEN}");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let rustc = said(&rustc, &["--version"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=KUBEBRAIN_RUSTC={}", rustc.trim_start_matches("rustc "));
    let given = std::env::var(GIVEN).ok().filter(|given| !given.is_empty());
    let sha = given.or_else(commit).unwrap_or_else(|| "not known".to_owned());
    println!("cargo:rustc-env=KUBEBRAIN_GIT_SHA={sha}");
}

/// The commit of this checkout, if this is one and git is there.
fn commit() -> Option<String> {
    if std::env::var("PROFILE").ok()? == "debug" {
        return Some("not recorded in debug builds".to_owned());
    }
    // Another repository around an unpacked archive is not ours.
    let here = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != Path::new(&here).canonicalize().ok()? {
        return None;
    }
    let directory = git(&["rev-parse", "--absolute-git-dir"])?;
    for changes in ["HEAD", "logs/HEAD"].map(|name| Path::new(&directory).join(name)) {
        if changes.exists() {
            println!("cargo:rerun-if-changed={}", changes.display());
        }
    }
    git(&["rev-parse", "--short=10", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    said("git", arguments)
}

/// What a command prints; `None` if it fails or is not there.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}
