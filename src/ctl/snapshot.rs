//! `kubebrain ctl snapshot`: saving one, and looking at one.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, IsTerminal as _, Write as _};
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

use super::servers::{Certificates, Output};
use super::size;

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Snapshot {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Saves one from a running server, as `etcdctl snapshot save` does too.
    Save(Save),
    /// Checks one and says what is in it.
    Status(Status),
}

#[derive(Debug, Args)]
struct Save {
    /// Where it goes; it appears there when it is whole.
    file: PathBuf,
    /// A proxy or standalone for all groups, or a brain for its own.
    #[arg(long, env = "ETCDCTL_ENDPOINTS", value_name = "URL", default_value = "http://127.0.0.1:2379")]
    endpoint: String,
    #[command(flatten)]
    certificates: Certificates,
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
    if flags.endpoint.contains(',') {
        bail!("--endpoint {}: a snapshot is taken from one server, name only one", flags.endpoint);
    }
    let channel = flags.certificates.channel(&flags.endpoint).context("--endpoint")?;
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
        anyhow::anyhow!("{}: the snapshot was not sent: {message}", flags.endpoint)
    };
    let mut messages = asked.map_err(failed)?.into_inner();
    let (begun, mut shown, mut bytes) = (Instant::now(), Instant::now(), 0);
    let terminal = std::io::stderr().is_terminal();
    while let Some(message) = messages.message().await.map_err(failed)? {
        writer.write_all(&message.blob).with_context(|| cannot(&partial.0))?;
        bytes += message.blob.len() as u64;
        if terminal && shown.elapsed() >= PROGRESS_EVERY {
            shown = Instant::now();
            let left = size::of(message.remaining_bytes);
            eprint!("\r{} saved, about {left} left     ", size::of(bytes));
        }
    }
    if terminal {
        eprint!("\r{:50}\r", "");
    }
    let file = writer.into_inner().map_err(|error| error.into_error()).with_context(|| cannot(&partial.0))?;
    file.sync_all().with_context(|| cannot(&partial.0))?;
    // A stream that was cut without a word shows here.
    let found = look(&partial.0).with_context(|| format!("what {} sent", flags.endpoint))?;
    fs::rename(&partial.0, &flags.file).with_context(|| cannot(&flags.file))?;
    let parent = flags.file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let _foreign = File::open(parent.unwrap_or(Path::new("."))).and_then(|parent| parent.sync_all());
    println!(
        "saved {}: revision {}, {} keys, {} in {:.1} s",
        flags.file.display(),
        found.header.revision,
        found.keys,
        size::of(bytes),
        begun.elapsed().as_secs_f64(),
    );
    Ok(())
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
    found.sha256 = reader.digest().iter().flatten().map(|byte| format!("{byte:02x}")).collect();
    Ok(found)
}

fn status(flags: &Status) -> Result<()> {
    let found = look(&flags.file).with_context(|| flags.file.display().to_string())?;
    match flags.output {
        Output::Table => table(&found),
        Output::Json => println!("{}", json(&found)),
    }
    Ok(())
}

fn table(found: &Found) {
    println!("revision   {}", found.header.revision);
    println!("compacted  {}", found.header.compacted);
    println!("hash       {:x}", found.hash);
    println!("keys       {}", found.keys);
    println!("versions   {}", found.versions);
    println!("size       {} ({} bytes)", size::of(found.bytes), found.bytes);
    println!("sha256     {}", found.sha256);
    println!("placement  {:x}", found.header.placement_version);
    if !found.header.store_prefix.is_empty() {
        println!("prefix     {}", found.header.store_prefix.escape_ascii());
    }
    println!("program    {}", found.header.program);
    println!("{:<24} {:>12} {:>12} {:>8}", "group", "keys", "versions", "leases");
    for group in &found.groups {
        println!("{:<24} {:>12} {:>12} {:>8}", group.name, group.keys, group.versions, group.leases);
    }
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
        "totalSize": found.bytes,
        "sha256": found.sha256,
        "placementVersion": format!("{:x}", found.header.placement_version),
        "storePrefix": String::from_utf8_lossy(&found.header.store_prefix),
        "program": found.header.program,
        "groups": found.groups.iter().map(group).collect::<Vec<_>>(),
    })
}
