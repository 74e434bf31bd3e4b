//! [`Rotated`]: a log file that is put aside when it is large, with the settings, the names and the rules of lumberjack,
//! which etcd uses: `etcd.log` becomes `etcd-2026-01-31T12-00-00.000.log`, and perhaps `.gz`.

use std::cmp::Reverse;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::Value;
use tracing::Level;

use super::sink::{self, Sink};

/// In the name of a file that was put aside; its milliseconds follow.
const NAMED: &str = "%Y-%m-%dT%H-%M-%S";
/// The end of a compressed one.
const GZ: &str = ".gz";
const MEGABYTE: u64 = 1 << 20;

/// When a file is put aside, and what is kept of those that were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rotation {
    /// Bytes above which a file is put aside.
    pub bytes_max: u64,
    /// Days after which one goes; 0: never.
    pub days_max: u32,
    /// How many stay; 0: all.
    pub files_max: usize,
    /// They are named by the local time, and not by UTC.
    pub is_local: bool,
    pub compresses: bool,
}

impl Rotation {
    /// etcd's own.
    pub(super) const DEFAULT: &str =
        r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;

    /// Reads it as Go does: names in any case, what is unknown means nothing, what is missing is zero.
    ///
    /// # Errors
    /// What is no JSON object, or has another type.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let Value::Object(given) = serde_json::from_str(text)? else { bail!("a JSON object is wanted") };
        let mut rotation =
            Self { bytes_max: 0, days_max: 0, files_max: 0, is_local: false, compresses: false };
        for (name, value) in &given {
            let number = || match value.as_u64().and_then(|number| u32::try_from(number).ok()) {
                Some(number) => Ok(number),
                None => bail!("{name}: a number is wanted"),
            };
            let truth = || match value.as_bool() {
                Some(truth) => Ok(truth),
                None => bail!("{name}: true or false is wanted"),
            };
            match name.to_ascii_lowercase().as_str() {
                "maxsize" => rotation.bytes_max = u64::from(number()?) * MEGABYTE,
                "maxage" => rotation.days_max = number()?,
                "maxbackups" => rotation.files_max = number()? as usize,
                "localtime" => rotation.is_local = truth()?,
                "compress" => rotation.compresses = truth()?,
                _ => {}
            }
        }
        if rotation.bytes_max == 0 {
            rotation.bytes_max = 100 * MEGABYTE; // as lumberjack takes it
        }
        Ok(rotation)
    }
}

/// See the module.
pub(super) struct Rotated {
    path: PathBuf,
    rotation: Rotation,
    file: File,
    bytes: u64,
    /// One at a time looks after what was put aside.
    tidying: Arc<Mutex<()>>,
}

impl Rotated {
    pub(super) fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        let file = sink::open(path)?;
        let bytes = file.metadata()?.len();
        let rotated = Self { path: path.into(), rotation, file, bytes, tidying: Arc::default() };
        rotated.tidy();
        Ok(rotated)
    }

    /// Puts the file aside and begins another. Where that fails the old one goes on: a long log is better than none.
    fn rotate(&mut self) -> io::Result<()> {
        let aside = self.aside(Timestamp::now());
        fs::rename(&self.path, &aside)?;
        self.file = sink::open(&self.path)?;
        self.bytes = 0;
        self.tidy();
        Ok(())
    }

    /// A name that nobody has.
    fn aside(&self, mut at: Timestamp) -> PathBuf {
        let zone = if self.rotation.is_local { TimeZone::system() } else { TimeZone::UTC };
        let (stem, end) = halves(&self.path);
        loop {
            let time = at.to_zoned(zone.clone());
            let mut name = OsString::from(&stem);
            name.push(format!("{}.{:03}", time.strftime(NAMED), time.millisecond()));
            name.push(&end);
            let path = self.path.with_file_name(&name);
            name.push(GZ);
            if !path.exists() && !self.path.with_file_name(&name).exists() {
                return path;
            }
            at += SignedDuration::from_millis(1);
        }
    }

    /// Removes and compresses what was put aside, on a thread of its own: lines do not wait for it.
    fn tidy(&self) {
        let (path, rotation, tidying) = (self.path.clone(), self.rotation, self.tidying.clone());
        let work = move || {
            let _alone = tidying.lock();
            if let Err(error) = tidy(&path, rotation, Timestamp::now()) {
                tracing::warn!(file = %path.display(), "old log files stay as they are: {error}");
            }
        };
        let _unspawned = std::thread::Builder::new().name("log-rotate".to_owned()).spawn(work);
    }
}

impl Sink for Rotated {
    fn write(&mut self, _level: Level, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.rotation.bytes_max {
            let _goes_on = self.rotate();
        }
        let written = sink::write(&mut self.file, line);
        self.bytes += match &written {
            Ok(()) => line.len() as u64,
            Err((_, written)) => *written as u64,
        };
        written.map_err(|(error, _)| error)
    }
}

/// What stands before and after the time in the name of a file that was put aside.
fn halves(path: &Path) -> (OsString, OsString) {
    let mut stem = path.file_stem().unwrap_or_default().to_owned();
    stem.push("-");
    let mut end = OsString::new();
    if let Some(extension) = path.extension() {
        end.push(".");
        end.push(extension);
    }
    (stem, end)
}

/// A file that was put aside, and when.
struct Aside {
    path: PathBuf,
    at: DateTime,
    compressed: bool,
}

fn aside(path: &Path) -> io::Result<Vec<Aside>> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let (stem, end) = halves(path);
    let (Some(stem), Some(end)) = (stem.to_str(), end.to_str()) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(stem)) else { continue };
        let (rest, compressed) = rest.strip_suffix(GZ).map_or((rest, false), |rest| (rest, true));
        let Some((time, _millisecond)) = rest.strip_suffix(end).and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        let Ok(at) = DateTime::strptime(NAMED, time) else { continue };
        found.push(Aside { path: entry.path(), at, compressed });
    }
    found.sort_by_key(|aside| Reverse((aside.at, aside.path.clone())));
    Ok(found)
}

fn tidy(path: &Path, rotation: Rotation, now: Timestamp) -> io::Result<()> {
    let zone = if rotation.is_local { TimeZone::system() } else { TimeZone::UTC };
    let oldest = now.checked_sub(SignedDuration::from_hours(24 * i64::from(rotation.days_max)));
    let oldest = oldest.unwrap_or(Timestamp::MIN).to_zoned(zone).datetime();
    for (place, aside) in aside(path)?.into_iter().enumerate() {
        let too_many = rotation.files_max > 0 && place >= rotation.files_max;
        let too_old = rotation.days_max > 0 && aside.at < oldest;
        if too_many || too_old {
            fs::remove_file(&aside.path)?;
        } else if rotation.compresses && !aside.compressed {
            compress(&aside.path)?;
        }
    }
    Ok(())
}

fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(GZ);
    let packed = PathBuf::from(name);
    let pack = || -> io::Result<()> {
        let mut encoder = GzEncoder::new(sink::open(&packed)?, Compression::default());
        io::copy(&mut File::open(path)?, &mut encoder)?;
        encoder.finish()?.flush()
    };
    match pack() {
        Ok(()) => fs::remove_file(path),
        Err(error) => match fs::remove_file(&packed) {
            Err(left) if left.kind() != ErrorKind::NotFound => Err(left),
            _ => Err(error),
        },
    }
}
