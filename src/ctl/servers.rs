//! How servers are reached, with etcdctl's flags and variables.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use kubebrain_net::dial::{Channel, Connector, DialConfig};
use kubebrain_net::tls::TlsClient;

use crate::flags::duration;

/// Certificates for https:// endpoints.
#[derive(Debug, Args)]
pub(super) struct Certificates {
    /// The authority of the servers' certificates, PEM; for https:// endpoints.
    #[arg(long, env = "ETCDCTL_CACERT", value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// The certificate that servers are shown, PEM.
    #[arg(long, env = "ETCDCTL_CERT", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, env = "ETCDCTL_KEY", value_name = "FILE")]
    key: Option<PathBuf>,
}

impl Certificates {
    /// The way to a server. etcdctl's variable may leave the scheme out.
    pub(super) fn channel(&self, endpoint: &str) -> Result<Channel> {
        let endpoint = endpoint.trim_end_matches('/');
        let connector = match endpoint.split_once("://") {
            None => Connector::Tcp(endpoint.to_owned()),
            Some(("http", authority)) => Connector::Tcp(authority.to_owned()),
            Some(("https", authority)) => Connector::Tls(authority.to_owned(), Arc::new(self.tls()?)),
            Some(("unix", path)) => Connector::Unix(path.into()),
            Some(_) => bail!("{endpoint}: endpoints are http://, https:// and unix:// URLs"),
        };
        if let Connector::Tcp(authority) | Connector::Tls(authority, _) = &connector {
            authority
                .parse::<http::uri::Authority>()
                .with_context(|| format!("{endpoint}: not HOST:PORT"))?;
        }
        Ok(Channel::new(connector, DialConfig::default()))
    }

    fn tls(&self) -> Result<TlsClient> {
        let Some(ca) = &self.cacert else {
            bail!("name the authority of the servers' certificates by --cacert");
        };
        let loaded = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => TlsClient::load(ca, cert, key),
            (None, None) => TlsClient::trusting(ca),
            _ => bail!("--cert and --key go together"),
        };
        loaded.context("--cacert, --cert, --key")
    }
}

/// Several servers that are asked the same.
#[derive(Debug, Args)]
pub(super) struct Servers {
    #[command(flatten)]
    pub reach: Reach,
    /// For people or for machines.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// Whom to ask, and how.
#[derive(Debug, Args)]
pub(super) struct Reach {
    /// Whom to ask, by their client URLs: proxies know all groups, a brain its own.
    #[arg(
        long,
        alias = "endpoint",
        env = "ETCDCTL_ENDPOINTS",
        value_name = "URL,...",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2379"
    )]
    pub endpoints: Vec<String>,
    #[command(flatten)]
    pub certificates: Certificates,
    /// A server that has not answered by then counts as one that does not.
    #[arg(long, env = "ETCDCTL_COMMAND_TIMEOUT", value_name = "DURATION", default_value = "5s",
          value_parser = duration::parse)]
    pub command_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Table,
    Json,
}

/// What a call failed with, as a sentence.
pub(super) fn sentence(status: &tonic::Status) -> String {
    match (kubebrain_net::dial::DialError::of(status), status.message()) {
        (Some(error), _) => format!("not reached: {error}"),
        (None, "") => "the connection was lost".to_owned(),
        (None, message) => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_written_as_for_etcdctl() {
        let none = Certificates { cacert: None, cert: None, key: None };
        for good in ["127.0.0.1:2379", "http://[::1]:2379", "http://a:1/", "unix:///run/kubebrain.sock"] {
            assert!(none.channel(good).is_ok(), "{good}");
        }
        for (bad, word) in [("https://a:1", "--cacert"), ("ftp://a:1", "http://"), ("a b", "HOST:PORT")] {
            let error = format!("{:#}", none.channel(bad).expect_err(bad));
            assert!(error.contains(word), "{error}");
        }
    }
}
