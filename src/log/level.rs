//! `--log-level`: etcd's words, and one more.

use std::fmt;

use tracing_subscriber::EnvFilter;

/// What is logged. `dpanic`, `panic` and `fatal` are etcd's; nothing here is worse than an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// Ours begin with it; what other libraries say below `info` is frames and polls.
const OURS: &str = "kubebrain";

/// An error for each call of an election that fails; ours say what it means, and once.
const TALKATIVE: &str = "kube_client=off";

impl Level {
    /// # Errors
    /// The words that there are.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "trace" => Self::Trace,
            "debug" => Self::Debug,
            "" | "info" => Self::Info, // a variable that is set to nothing says nothing, as in etcd
            "warn" => Self::Warn,
            "error" | "dpanic" | "panic" | "fatal" => Self::Error,
            _ => {
                return Err("one of trace, debug, info, warn, error, dpanic, panic, fatal is wanted; \
                            a filter such as info,kubebrain_proxy=debug goes to --log-filter"
                    .to_owned());
            }
        })
    }

    pub(super) fn filter(self) -> EnvFilter {
        EnvFilter::new(match self {
            Self::Trace => format!("trace,{TALKATIVE}"),
            Self::Debug => format!("info,{OURS}=debug,{TALKATIVE}"),
            level => format!("{level},{TALKATIVE}"),
        })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        })
    }
}

/// Directives of a filter, as they are; see `tracing_subscriber::EnvFilter`.
///
/// # Errors
/// What cannot be read of it.
pub(super) fn directives(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}
