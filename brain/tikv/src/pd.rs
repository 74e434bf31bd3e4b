//! [`Pd`]: what is asked of the placement driver beside what the TiKV client asks of it.
//!
//! Members are found through the configured addresses; what only the leader answers goes to the leader that they name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use kubebrain_net::dial::{Channel, Connector, DialConfig};
use kubebrain_net::tls::TlsClient;
use kubebrain_proto::pdpb::pd_client::PdClient;
use kubebrain_proto::pdpb::{
    GetMembersRequest, GetMembersResponse, RequestHeader, ResponseHeader, ScanRegionsRequest,
};
use parking_lot::Mutex;
use thiserror::Error;
use tonic::Status;

use crate::key;

/// One message without an answer has failed.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Of a member that answers with no cluster at all.
const STARTS: &str = "it has only just started";

/// Why PD gave no answer.
#[derive(Debug, Error)]
pub(crate) enum PdError {
    /// None of the addresses answers.
    #[error("{0}")]
    Unreachable(String),
    /// One answers and has no leader, or refuses.
    #[error("{0}")]
    Refused(String),
    /// The addresses do not belong together.
    #[error("{0}")]
    Foreign(String),
}

/// The members that answered.
#[derive(Clone, Debug)]
pub(crate) struct Members {
    /// The cluster's number.
    pub cluster: u64,
    /// Of the configured addresses, those that answered for it.
    pub reachable: Vec<String>,
    /// Where the leader is.
    pub leader: String,
}

/// Between two boundaries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub start: Bytes,
    /// `None`: no upper bound.
    pub end: Option<Bytes>,
}

type Answer<T> = BoxFuture<'static, Result<(Option<ResponseHeader>, T), Status>>;

/// The client of one placement driver.
pub(crate) struct Pd {
    addresses: Vec<String>,
    tls: Option<Arc<TlsClient>>,
    channels: Mutex<HashMap<String, Channel>>,
    /// As far as known.
    leader: Mutex<Option<(u64, String)>>,
}

impl Pd {
    pub(crate) fn new(addresses: Vec<String>, tls: Option<Arc<TlsClient>>) -> Self {
        Self { addresses, tls, channels: Mutex::default(), leader: Mutex::default() }
    }

    /// Reads certificates again if their files have changed.
    pub(crate) async fn refresh(&self) {
        if let Some(tls) = self.tls.clone() {
            let _read = tokio::task::spawn_blocking(move || tls.refresh()).await;
        }
    }

    /// For messages.
    pub(crate) fn names(&self) -> String {
        self.addresses.join(",")
    }

    /// Asks all addresses at once. With `wanted`, members of other clusters count as not there if one of the wanted
    /// cluster answers.
    pub(crate) async fn members(&self, wanted: Option<u64>) -> Result<Members, PdError> {
        let asked = self.addresses.iter().map(|address| async move {
            let mut client = PdClient::new(self.channel(address)?);
            let answer = timeout(client.get_members(GetMembersRequest { header: None })).await?;
            Ok::<_, Status>((address.clone(), answer))
        });
        let (mut failures, mut answers) = (Vec::new(), Vec::new());
        for (answer, address) in join_all(asked).await.into_iter().zip(&self.addresses) {
            match answer {
                Ok((_, answer)) if cluster(&answer) == 0 => failures.push(format!("{address}: {STARTS}")),
                Ok(answer) => answers.push(answer),
                Err(status) => failures.push(format!("{address}: {}", describe(&status))),
            }
        }
        let Some((first, _)) = answers.first() else {
            return Err(PdError::Unreachable(failures.join("; ")));
        };
        let ids =
            answers.iter().map(|(address, answer)| (address.clone(), cluster(answer))).collect::<Vec<_>>();
        let cluster = match wanted {
            Some(wanted) if ids.iter().any(|(_, id)| *id == wanted) => wanted,
            Some(wanted) => {
                let (address, id) = (first, ids[0].1);
                return Err(PdError::Foreign(format!(
                    "PD at {address} now serves cluster {id}, this process holds data of cluster {wanted}: it follows \
                     no address to another cluster; correct --pd, or start the process again if that is meant"
                )));
            }
            None => match ids.iter().find(|(_, id)| *id != ids[0].1) {
                None => ids[0].1,
                Some((other, id)) => {
                    return Err(PdError::Foreign(format!(
                        "PD at {first} serves cluster {} and PD at {other} serves cluster {id}: name members of one cluster",
                        ids[0].1
                    )));
                }
            },
        };
        let mut members = Members { cluster, reachable: Vec::new(), leader: String::new() };
        for ((address, answer), (_, id)) in answers.iter().zip(&ids) {
            if *id == cluster && answer.leader.is_some() {
                members.reachable.push(address.clone());
                let urls = answer.leader.iter().flat_map(|leader| &leader.client_urls);
                members.leader = urls.map(|url| bare(url)).next().unwrap_or_default();
            }
        }
        if members.leader.is_empty() {
            let reasons = answers.iter().map(|(address, answer)| {
                let error = answer.header.as_ref().and_then(|header| header.error.as_ref());
                let why = error.map_or("it knows no leader", |error| &error.message);
                format!("{address}: {why}")
            });
            return Err(PdError::Refused(reasons.collect::<Vec<_>>().join("; ")));
        }
        *self.leader.lock() = Some((cluster, members.leader.clone()));
        Ok(members)
    }

    /// Regions in key order, the first one with `start` in it; at most `limit`. What cannot be read is left out.
    pub(crate) async fn regions(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: i32,
    ) -> Result<Vec<Region>, PdError> {
        let bound = |key: &[u8]| if key.is_empty() { Bytes::new() } else { key::encode(key).into() };
        let (start_key, end_key) = (bound(start), end.map(bound).unwrap_or_default());
        let answer = self
            .led(|mut client, header| {
                let header = Some(header);
                let (start_key, end_key) = (start_key.clone(), end_key.clone());
                Box::pin(async move {
                    let request = ScanRegionsRequest { header, start_key, limit, end_key };
                    let answer = timeout(client.scan_regions(request)).await?;
                    Ok((answer.header.clone(), answer))
                })
            })
            .await?;
        let regions = answer.region_metas.into_iter().filter_map(|region| {
            let read = |key: &[u8]| if key.is_empty() { Some(Vec::new()) } else { key::decode(key) };
            let (start, end) = read(&region.start_key).zip(read(&region.end_key))?;
            Some(Region { start: start.into(), end: (!end.is_empty()).then(|| end.into()) })
        });
        Ok(regions.collect())
    }

    /// Asks the leader, and whoever leads then if that one does not any more.
    async fn led<T>(
        &self,
        ask: impl Fn(PdClient<Channel>, RequestHeader) -> Answer<T>,
    ) -> Result<T, PdError> {
        let mut last = None;
        for _ in 0..2 {
            let known = self.leader.lock().clone();
            let (cluster_id, leader) = match known {
                Some(known) => known,
                None => {
                    let members = self.members(None).await?;
                    (members.cluster, members.leader)
                }
            };
            let failed = match self.channel(&leader) {
                Err(status) => describe(&status),
                Ok(channel) => match ask(PdClient::new(channel), RequestHeader { cluster_id }).await {
                    Err(status) => describe(&status),
                    Ok((header, answer)) => match header.and_then(|header| header.error) {
                        None => return Ok(answer),
                        Some(error) => error.message,
                    },
                },
            };
            *self.leader.lock() = None;
            last = Some(PdError::Refused(format!("{leader}: {failed}")));
        }
        Err(last.expect("tried"))
    }

    fn channel(&self, address: &str) -> Result<Channel, Status> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        if !is_address(address) {
            return Err(Status::internal("not an address"));
        }
        let connector = match &self.tls {
            None => Connector::Tcp(address.to_owned()),
            Some(tls) => Connector::Tls(address.to_owned(), tls.clone()),
        };
        let channel = Channel::new(connector, DialConfig::default());
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// True for what can be dialled.
pub(crate) fn is_address(address: &str) -> bool {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    port.is_some_and(|(_, port)| port.parse::<u16>().is_ok())
        && address.parse::<http::uri::Authority>().is_ok()
}

/// Without its scheme.
pub(crate) fn bare(url: &str) -> String {
    let url = url.trim();
    let url = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).unwrap_or(url);
    url.trim_end_matches('/').to_owned()
}

/// 0 while PD starts, and has not read yet whose it is.
fn cluster(answer: &GetMembersResponse) -> u64 {
    answer.header.as_ref().map_or(0, |header| header.cluster_id)
}

async fn timeout<T>(answer: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", TIMEOUT.as_secs()))),
    }
}

fn describe(status: &Status) -> String {
    use kubebrain_brain::engine::error::chain;
    match std::error::Error::source(status) {
        Some(cause) => chain(cause),
        None => status.message().to_owned(),
    }
}
