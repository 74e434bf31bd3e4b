//! [`connect`]: a client for the API server that keeps the lease.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Error};
use thiserror::Error as ThisError;

/// Which API server, and how long it is waited for.
#[derive(Clone, Debug)]
pub struct Config {
    /// A file as `kubectl` reads it, at its current context; `None`: the service account of the pod that this process
    /// runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Of one call, and of connecting. Longer than a slow API server takes; at most half of the renew deadline, so that
    /// a hanging call leaves time for another one.
    pub patience: Duration,
}

/// There is nobody to ask.
#[derive(Debug, ThisError)]
pub enum ConnectError {
    /// The file cannot be used.
    #[error("kubeconfig {file}", file = .file.display())]
    Kubeconfig {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        cause: Box<KubeconfigError>,
    },
    /// Neither a file nor a pod.
    #[error("no kubeconfig is given, and this process does not run in a pod with a service account")]
    InCluster(#[source] Box<InClusterError>),
    /// Certificates, keys or addresses that cannot be used.
    #[error("the client cannot be made")]
    Client(#[source] Box<Error>),
}

/// Nothing is asked yet: the API server need not be there.
///
/// # Errors
/// See [`ConnectError`].
///
/// # Cancel safety
/// Safe: files are read.
pub async fn connect(config: &Config) -> Result<Client, ConnectError> {
    let mut reached = match &config.kubeconfig {
        Some(file) => {
            let unusable = |cause| ConnectError::Kubeconfig { file: file.clone(), cause: Box::new(cause) };
            let read = Kubeconfig::read_from(file).map_err(unusable)?;
            kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .map_err(unusable)?
        }
        None => kube::Config::incluster().map_err(|error| ConnectError::InCluster(Box::new(error)))?,
    };
    let patience = Some(config.patience);
    (reached.connect_timeout, reached.read_timeout, reached.write_timeout) = (patience, patience, patience);
    reached.reset_reader_on_write = true;
    reached.default_retry = false;
    Client::try_from(reached).map_err(|error| ConnectError::Client(Box::new(error)))
}
