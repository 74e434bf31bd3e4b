//! `kubebrain ctl snapshot`: saving one, and looking at one.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use kubebrain_proto::etcdserverpb::SnapshotRequest;
use kubebrain_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kubebrain_proto::mvccpb::KeyValue;
use kubebrain_shared::snapshot::{Content, Header, Reader, Record};
use prost::Message as _;
use tokio::time::Instant;

use super::progress::Progress;
use super::servers::{Certificates, Output};
use super::size;
use crate::print;

#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Saves one from a running server, as `etcdctl snapshot save` does too, and checks it.
    Save(Save),
    /// Checks one and says what is in it.
    Status(Status),
}

#[derive(Debug, Args)]
struct Save {
    /// Where it goes; it appears there when it is whole.
    file: PathBuf,
    /// A proxy or standalone for all groups, or a brain for its own. One: a snapshot comes from one server.
    #[arg(
        long,
        alias = "endpoint",
        env = "ETCDCTL_ENDPOINTS",
        value_name = "URL",
        default_value = "http://127.0.0.1:2379"
    )]
    endpoints: String,
    #[command(flatten)]
    certificates: Certificates,
    /// Replace a file that is there.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct Status {
    /// The snapshot.
    file: PathBuf,
    /// For people or for machines.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) async fn run(snapshot: Snapshot) -> Result<()> {
    match snapshot.command {
        Command::Save(flags) => save(flags).await,
        Command::Status(flags) => status(&flags),
    }
}

/// A file under another name, removed unless it becomes the real one.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}

async fn save(flags: Save) -> Result<()> {
    if flags.endpoints.contains(',') {
        bail!("--endpoints {}: a snapshot is taken from one server, name only one", flags.endpoints);
    }
    let stands = || flags.file.symlink_metadata().is_ok();
    if !flags.force && stands() {
        bail!("{} exists: choose another name, or replace it with --force", flags.file.display());
    }
    let channel = flags.certificates.channel(&flags.endpoints).context("--endpoints")?;
    let mut name = flags.file.clone().into_os_string();
    name.push(".part");
    let partial = Partial(PathBuf::from(name));
    let cannot = |path: &Path| format!("{} cannot be written", path.display());
    let file = private(&partial.0).with_context(|| cannot(&partial.0))?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    let mut client = MaintenanceClient::new(channel).max_decoding_message_size(usize::MAX);
    let asked = client.snapshot(SnapshotRequest {}).await;
    let failed = |status: tonic::Status| {
        let message = if status.message().is_empty() { "the connection was lost" } else { status.message() };
        anyhow::anyhow!("{}: the snapshot was not sent: {message}", flags.endpoints)
    };
    let mut messages = asked.map_err(failed)?.into_inner();
    let (begun, mut bytes) = (Instant::now(), 0);
    let mut progress = Progress::new();
    while let Some(message) = messages.message().await.map_err(failed)? {
        writer.write_all(&message.blob).with_context(|| cannot(&partial.0))?;
        bytes += message.blob.len() as u64;
        progress.show(|| saving(bytes, message.remaining_bytes, begun.elapsed()));
    }
    progress.show_now("checking what came");
    let file = writer.into_inner().map_err(|error| error.into_error()).with_context(|| cannot(&partial.0))?;
    file.sync_all().with_context(|| cannot(&partial.0))?;
    // A stream that was cut without a word shows here.
    let found = look(&partial.0).with_context(|| format!("what {} sent", flags.endpoints))?;
    progress.clear();
    if !flags.force && stands() {
        bail!(
            "{} appeared while the snapshot was taken: nothing is replaced without --force",
            flags.file.display()
        );
    }
    fs::rename(&partial.0, &flags.file).with_context(|| cannot(&flags.file))?;
    let parent = flags.file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let _foreign = File::open(parent.unwrap_or(Path::new("."))).and_then(|parent| parent.sync_all());
    print::line(&format!(
        "saved {}: revision {}, {} keys, {} in {:.1} s",
        flags.file.display(),
        found.header.revision,
        found.keys,
        size::of(bytes),
        begun.elapsed().as_secs_f64(),
    ))
}

/// How far a snapshot has come; the server's word for what is left is an estimate.
fn saving(bytes: u64, left: u64, taken: Duration) -> String {
    let all = bytes + left;
    let share = (bytes * 100).checked_div(all).unwrap_or(100);
    let each_second = (bytes as f64 / taken.as_secs_f64().max(0.001)) as u64;
    let (saved, all, rate) = (size::of(bytes), size::of(all), size::of(each_second));
    format!("{saved} of about {all} saved ({share} %), {rate}/s")
}

/// A new file for this user alone: secrets are in it. One that is there, left over or another user's, goes: its mode, or
/// where it leads to, is not ours.
fn private(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => File::options().write(true).create_new(true).mode(0o600).open(path),
    }
}

/// What is in a snapshot.
#[derive(Debug, Default)]
struct Found {
    header: Header,
    bytes: u64,
    keys: u64,
    versions: u64,
    leases: u64,
    /// HashKV at its revision.
    hash: u32,
    sha256: String,
    groups: Vec<FoundGroup>,
}

#[derive(Debug, Default)]
struct FoundGroup {
    name: String,
    keys: u64,
    versions: u64,
    leases: u64,
}

/// Reads all of it, so whatever is wrong is an error.
fn look(path: &Path) -> Result<Found> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut reader = Reader::new(BufReader::with_capacity(1 << 20, file), true)?;
    let mut found = Found::default();
    let (mut key, mut content) = (bytes::Bytes::new(), Content::default());
    while let Some(record) = reader.next_record()? {
        let group = found.groups.last_mut();
        match (record, group) {
            (Record::Header(header), _) => found.header = header,
            (Record::Group(group), _) => {
                key.clear();
                found.groups.push(FoundGroup { name: group.name, ..FoundGroup::default() });
            }
            (Record::Put(kv), Some(group)) => {
                let row = KeyValue::decode(kv.clone())?;
                group.versions += 1;
                if row.key != key {
                    group.keys += 1;
                    content.add(false, &kv);
                }
                key = row.key;
            }
            (Record::Tombstone(kv), _) => key = KeyValue::decode(kv)?.key,
            (Record::GroupEnd(end), Some(group)) => group.leases = end.leases,
            _ => {}
        }
    }
    found.bytes = reader.offset();
    found.hash = content.hash();
    found.keys = found.groups.iter().map(|group| group.keys).sum();
    found.versions = found.groups.iter().map(|group| group.versions).sum();
    found.leases = found.groups.iter().map(|group| group.leases).sum();
    found.sha256 = reader.digest().iter().flatten().map(|byte| format!("{byte:02x}")).collect();
    Ok(found)
}

fn status(flags: &Status) -> Result<()> {
    let found = look(&flags.file).with_context(|| flags.file.display().to_string())?;
    match flags.output {
        Output::Table => print::print(&table(&found)),
        Output::Json => print::line(&json(&found).to_string()),
    }
}

fn table(found: &Found) -> String {
    let header = &found.header;
    let prefix = header.store_prefix.escape_ascii().to_string();
    let lines = [
        ("revision", header.revision.to_string()),
        ("compacted", header.compacted.to_string()),
        ("hash", format!("{:x}", found.hash)),
        ("keys", found.keys.to_string()),
        ("versions", found.versions.to_string()),
        ("leases", found.leases.to_string()),
        ("size", format!("{} ({} bytes)", size::of(found.bytes), found.bytes)),
        ("sha256", found.sha256.clone()),
        ("placement", format!("{:x}", header.placement_version)),
        ("prefix", prefix),
        ("program", header.program.clone()),
    ];
    let mut text = String::new();
    for (label, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        text += &format!("{label:<10} {value}\n");
    }
    text += &format!("{:<24} {:>12} {:>12} {:>8}\n", "group", "keys", "versions", "leases");
    for group in &found.groups {
        text +=
            &format!("{:<24} {:>12} {:>12} {:>8}\n", group.name, group.keys, group.versions, group.leases);
    }
    text
}

fn json(found: &Found) -> serde_json::Value {
    let group = |group: &FoundGroup| {
        serde_json::json!({
            "name": group.name, "keys": group.keys, "versions": group.versions, "leases": group.leases,
        })
    };
    serde_json::json!({
        "revision": found.header.revision,
        "compacted": found.header.compacted,
        "hash": found.hash,
        "totalKey": found.keys,
        "totalVersion": found.versions,
        "totalLease": found.leases,
        "totalSize": found.bytes,
        "sha256": found.sha256,
        "placementVersion": format!("{:x}", found.header.placement_version),
        "storePrefix": String::from_utf8_lossy(&found.header.store_prefix),
        "program": found.header.program,
        "groups": found.groups.iter().map(group).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_how_far_it_is() {
        let text = saving(3 << 20, 9 << 20, Duration::from_secs(2));
        assert_eq!(text, "3.0 MiB of about 12.0 MiB saved (25 %), 1.5 MiB/s");
        assert_eq!(saving(0, 0, Duration::ZERO), "0 B of about 0 B saved (100 %), 0 B/s");
    }
}
