//! Flags of the log, as etcd has them, and `--log-filter`.

use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use tracing_subscriber::EnvFilter;

use super::level::{self, Level};
use super::output::{Format, Output};
use super::rotation::Rotation;
use crate::flags::boolean;

const DEFAULT: &str = "default";

/// Which lines are logged, and where.
#[derive(Debug, Args)]
pub(crate) struct Log {
    /// trace, debug, info, warn or error; dpanic, panic and fatal are error. What libraries say below info (h2's frames,
    /// for one) is there at trace only.
    #[arg(long, global = true, env = "ETCD_LOG_LEVEL", value_name = "LEVEL", default_value = "info",
          value_parser = Level::parse)]
    log_level: Level,
    /// Directives such as info,kubebrain_proxy=debug, in place of --log-level.
    #[arg(long, global = true, env = "KUBEBRAIN_LOG_FILTER", value_name = "DIRECTIVES",
          value_parser = level::directives)]
    log_filter: Option<String>,
    /// For people or for machines.
    #[arg(long, global = true, env = "ETCD_LOG_FORMAT", value_enum, default_value_t = Format::Console)]
    log_format: Format,
    /// Where lines go: default (which is stderr, and stands alone), stderr, stdout, systemd/journal (alone too), or paths
    /// of files, which are made for their owner alone.
    #[arg(long, global = true, env = "ETCD_LOG_OUTPUTS", value_name = "OUTPUT,...", value_delimiter = ',',
          default_value = DEFAULT)]
    log_outputs: Vec<String>,
    /// Begin another file when the one file of --log-outputs is large.
    #[arg(long, global = true, env = "ETCD_ENABLE_LOG_ROTATION", value_name = "BOOL", num_args = 0..=1,
          require_equals = true, default_value = "false", default_missing_value = "true", hide_default_value = true,
          action = clap::ArgAction::Set, value_parser = boolean::parse)]
    enable_log_rotation: bool,
    /// When, and what is kept of the old ones: megabytes, days, files (0 is no limit), names in local time, gzip.
    #[arg(long, global = true, env = "ETCD_LOG_ROTATION_CONFIG_JSON", value_name = "JSON",
          default_value = Rotation::DEFAULT)]
    log_rotation_config_json: String,
}

impl Log {
    /// Opens the outputs; from here on everything that is logged goes there, panics too.
    ///
    /// # Errors
    /// Outputs that cannot be opened, or do not go together.
    pub(crate) fn install(&self) -> Result<super::Log> {
        let outputs = self.outputs()?;
        let colours = matches!(&outputs[..], [one] if one.is_stderr()) && std::io::stderr().is_terminal();
        let log = super::Log { outputs: outputs.into() };
        let filter = match self.log_filter.as_deref().filter(|filter| !filter.is_empty()) {
            Some(directives) => EnvFilter::new(directives),
            None => self.log_level.filter(),
        };
        let lines = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(log.clone())
            .with_ansi(colours)
            .log_internal_errors(false); // it would be printed, where nobody reads
        match self.log_format {
            Format::Console => lines.with_target(false).init(),
            Format::Json => lines.json().init(),
        }
        super::log_panics();
        Ok(log)
    }

    /// As etcd's `setupLogging` and `setupLogRotation` judge them.
    fn outputs(&self) -> Result<Vec<Output>> {
        let mut names: Vec<&str> = Vec::new();
        for name in self.log_outputs.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if names.is_empty() {
            names.push(DEFAULT);
        }
        for alone in [DEFAULT, "systemd/journal"] {
            if names.len() > 1 && names.contains(&alone) {
                bail!("--log-outputs={}: {alone} stands alone", names.join(","));
            }
        }
        let files = names.iter().filter(|name| is_file(name)).count();
        let rotation =
            match self.enable_log_rotation {
                false => None,
                true if files != 1 => bail!("--enable-log-rotation: --log-outputs has to name one file"),
                true => Some(Rotation::parse(&self.log_rotation_config_json).with_context(|| {
                    format!("--log-rotation-config-json={}", self.log_rotation_config_json)
                })?),
            };
        let open = |name: &&str| self.open(name, rotation).with_context(|| format!("--log-outputs={name}"));
        names.iter().map(open).collect()
    }

    fn open(&self, name: &str, rotation: Option<Rotation>) -> Result<Output> {
        let format = self.log_format;
        let opened = match (name, rotation) {
            (DEFAULT | "stderr", _) => Output::stderr(format),
            ("stdout", _) => Output::stdout(format),
            ("systemd/journal", _) => Output::journal(format),
            (path, None) => Output::file(format, of_url(path)),
            (path, Some(rotation)) => Output::rotated(format, of_url(path), rotation),
        };
        opened.context("it cannot be written")
    }
}

fn is_file(name: &str) -> bool {
    !matches!(name, DEFAULT | "stderr" | "stdout" | "systemd/journal")
}

/// etcd takes URLs of files too.
fn of_url(path: &str) -> &Path {
    Path::new(path.strip_prefix("file://").unwrap_or(path))
}
