//! [`LeaseBallot`]: the record in a lease.

use std::error::Error as StdError;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::core::Status;
use kube::core::response::reason;
use kube::{Api, Client, Error};
use kubebrain_brain::election::{Ballot, Found, MasterRecord, Replaced};
use kubebrain_brain::engine::error::Cause;
use thiserror::Error as ThisError;
use tokio::time::timeout;

use super::lease;

/// A lease of one name.
pub struct LeaseBallot {
    leases: Api<Lease>,
    name: String,
    patience: Duration,
}

/// An API server's no, or none.
#[derive(Debug, ThisError)]
enum AskError {
    #[error("lease {lease}: the API server says {code} {reason}: {message}")]
    Refused { lease: String, code: u16, reason: String, message: String },
    #[error("lease {lease}: {what}")]
    Failed { lease: String, what: String },
    #[error("lease {lease}: no answer within {patience:?}")]
    Silent { lease: String, patience: Duration },
}

impl LeaseBallot {
    /// On the lease `name` of `namespace`; it is made when there is none. Each call has `patience`.
    pub fn new(client: Client, namespace: &str, name: impl Into<String>, patience: Duration) -> Self {
        Self { leases: Api::namespaced(client, namespace), name: name.into(), patience }
    }

    async fn ask<T>(&self, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match timeout(self.patience, asked).await {
            Ok(answer) => answer,
            Err(_late) => Err(Error::Service(Box::new(self.silent()))),
        }
    }

    fn silent(&self) -> AskError {
        AskError::Silent { lease: self.name.clone(), patience: self.patience }
    }

    fn cause(&self, error: Error) -> Cause {
        let lease = self.name.clone();
        Box::new(match error {
            Error::Api(status) => {
                let (code, reason, message) = (status.code, status.reason, status.message);
                AskError::Refused { lease, code, reason, message }
            }
            Error::Service(cause) if cause.is::<AskError>() => self.silent(),
            error => AskError::Failed { lease, what: chain(&error) },
        })
    }
}

#[async_trait]
impl Ballot for LeaseBallot {
    async fn look(&self) -> Result<Option<Found>, Cause> {
        // Without a resource version in it, a GET is answered from the cluster's storage and not from a cache.
        match self.ask(self.leases.get(&self.name)).await {
            Ok(lease) => Ok(Some(Found { record: lease::read(&lease), version: version(&lease)? })),
            Err(Error::Api(status)) if is_absent(&status) => Ok(None),
            Err(error) => Err(self.cause(error)),
        }
    }

    async fn replace(&self, before: Option<&Found>, record: &MasterRecord) -> Replaced {
        let mut lease = match before.map(|before| serde_json::from_slice::<Lease>(&before.version)) {
            Some(Ok(lease)) => lease,
            Some(Err(error)) => return Replaced::Unknown(Box::new(error)),
            None => {
                let mut lease = Lease::default();
                lease.metadata.name = Some(self.name.clone());
                lease
            }
        };
        lease::write(&mut lease, record, MicroTime(Timestamp::now()));
        let how = PostParams::default();
        let answer = if before.is_some() {
            self.ask(self.leases.replace(&self.name, &how, &lease)).await
        } else {
            self.ask(self.leases.create(&how, &lease)).await
        };
        match answer {
            Ok(lease) => match version(&lease) {
                Ok(version) => Replaced::Yes(version),
                Err(cause) => Replaced::Unknown(cause),
            },
            Err(Error::Api(status)) if is_verdict(&status) => Replaced::No,
            Err(error) => Replaced::Unknown(self.cause(error)),
        }
    }
}

/// The storage has compared, and another version is there, or one at all, or none any more. Not a page of a proxy between
/// that has the code, nor a namespace that is missing.
fn is_verdict(status: &Status) -> bool {
    matches!(status.reason.as_str(), reason::CONFLICT | reason::ALREADY_EXISTS) || is_absent(status)
}

/// The API server knows leases, and none of this name.
fn is_absent(status: &Status) -> bool {
    let of_leases = status.details.as_ref().is_some_and(|details| details.kind == "leases");
    status.reason == reason::NOT_FOUND && of_leases
}

/// The whole lease: what is not the election's is put back as it was.
fn version(lease: &Lease) -> Result<Bytes, Cause> {
    Ok(Bytes::from(serde_json::to_vec(lease)?))
}

/// What went wrong, down to the cause.
fn chain(error: &Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
