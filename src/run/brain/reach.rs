//! The way to the masters of all groups, by the peer URLs of their brains.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::HeaderValue;
use kubebrain_brain::authority::{Reach, Unreached, here};
use kubebrain_brain::service::Decided;
use kubebrain_brain::store::Store;
use kubebrain_net::dial::{Channel, DialConfig};
use kubebrain_proto::admin::admin_client::AdminClient;
use kubebrain_proto::admin::{PlacementCommand, PlacementQuery};
use kubebrain_proto::peer::peer_client::PeerClient;
use kubebrain_proto::peer::{
    PlaceRequest, PlaceResponse, PlacementRequest, PlacementResponse, RepairRequest, RepairResponse,
};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::metadata;
use kubebrain_shared::placement::Placement;
use parking_lot::Mutex;
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status, async_trait};

use crate::run::listen::Brains;

/// A brain that has not answered for so long is passed over.
const CALL_WITHIN: Duration = Duration::from_secs(2);
/// A step of a repair has up to a mebibyte of keys.
const REPAIR_WITHIN: Duration = Duration::from_secs(4);
/// A change is answered once all groups were asked, which takes up to 3 s.
const CHANGE_WITHIN: Duration = Duration::from_secs(8);
/// So many brains are asked in turn: those that are named, and those that they name.
const BRAINS_MAX: usize = 16;

/// Connections to brains.
pub(super) struct Network {
    brains: Arc<Brains>,
    join: Vec<String>,
    channels: Mutex<HashMap<String, Channel>>,
    /// Of the file that this brain was given.
    contacts: Mutex<BTreeMap<GroupName, Vec<String>>>,
    /// Who answered last for a group.
    masters: Mutex<HashMap<GroupName, String>>,
}

impl Network {
    pub(super) fn new(brains: Arc<Brains>, join: Vec<String>) -> Arc<Self> {
        Arc::new(Self {
            brains,
            join,
            channels: Mutex::default(),
            contacts: Mutex::default(),
            masters: Mutex::default(),
        })
    }

    /// Brains are where this file says, where the placement does not say it.
    pub(super) fn contacts(&self, table: &Placement) {
        let named = table.groups().filter(|(_, urls)| !urls.is_empty());
        *self.contacts.lock() = named.map(|(group, urls)| (group.clone(), urls.to_vec())).collect();
    }

    pub(super) fn joins(&self) -> &[String] {
        &self.join
    }

    fn channel(&self, url: &str) -> Result<Channel, Status> {
        if let Some(channel) = self.channels.lock().get(url) {
            return Ok(channel.clone());
        }
        let connector =
            self.brains.connector(url).map_err(|error| Status::unavailable(format!("{error:#}")))?;
        let channel = Channel::new(connector, DialConfig::default());
        Ok(self.channels.lock().entry(url.to_owned()).or_insert(channel).clone())
    }

    /// Where brains of a group may be: who answered last, whom the placement names, whom the file does, and the others.
    fn urls(&self, group: &GroupName, named: &[String]) -> Vec<String> {
        let mut urls: Vec<String> = self.masters.lock().get(group).cloned().into_iter().collect();
        let contacts = self.contacts.lock().get(group).cloned().unwrap_or_default();
        for url in named.iter().chain(&contacts).chain(&self.join) {
            if !urls.contains(url) {
                urls.push(url.clone());
            }
        }
        urls
    }

    /// Asks brains in turn until one answers for its group; one that is not master says who is.
    async fn find<T: Send + 'static>(
        &self,
        mut urls: Vec<String>,
        within: Duration,
        ask: impl Fn(Channel) -> Asking<T>,
    ) -> Result<(String, T), Status> {
        let (mut next, mut last) = (0, Status::unavailable("no brain of it is known"));
        while let Some(url) = urls.get(next).filter(|_| next < BRAINS_MAX).cloned() {
            next += 1;
            let asked = match self.channel(&url) {
                Ok(channel) => ask(channel),
                Err(status) => std::future::ready(Err(status)).boxed(),
            };
            let late =
                |_| Err(Status::unavailable(format!("it has not answered for {} s", within.as_secs())));
            match timeout(within, asked).await.unwrap_or_else(late) {
                Ok(answer) => return Ok((url, answer)),
                Err(status) => {
                    let headers = status.metadata().clone().into_headers();
                    let Some(masters) = metadata::refusing_master(&headers) else {
                        if !is_elsewhere(&status) {
                            return Err(status);
                        }
                        last = said_by(&url, &status);
                        continue;
                    };
                    last = Status::unavailable(format!("{url}: it is not the master"));
                    for master in masters.split(',').map(str::trim).filter(|url| !url.is_empty()) {
                        if !urls.iter().skip(next).any(|url| url == master) {
                            urls.insert(next, master.to_owned());
                        }
                    }
                }
            }
        }
        Err(last)
    }

    /// A step, at the group's master.
    async fn place(
        &self,
        group: &GroupName,
        named: &[String],
        request: PlaceRequest,
    ) -> Result<PlaceResponse, Unreached> {
        let ask = move |mut client: PeerClient<Channel>| {
            let request = request.clone();
            async move { Ok(client.place(request).await?.into_inner()) }.boxed()
        };
        self.at_master(group, named, CALL_WITHIN, ask).await
    }

    /// A step of a repair, at the group's master.
    async fn repair(
        &self,
        group: &GroupName,
        named: &[String],
        request: RepairRequest,
    ) -> Result<RepairResponse, Unreached> {
        let ask = move |mut client: PeerClient<Channel>| {
            let request = request.clone();
            async move { Ok(client.repair(request).await?.into_inner()) }.boxed()
        };
        self.at_master(group, named, REPAIR_WITHIN, ask).await
    }

    async fn at_master<T: Send + 'static>(
        &self,
        group: &GroupName,
        named: &[String],
        within: Duration,
        call: impl Fn(PeerClient<Channel>) -> Asking<T> + Clone + Send + 'static,
    ) -> Result<T, Unreached> {
        let ask = |channel: Channel| {
            let (group, call, mut client) = (group.clone(), call.clone(), client(channel));
            async move {
                is_of(&group, &mut client).await?;
                call(client).await
            }
            .boxed()
        };
        match self.find(self.urls(group, named), within, ask).await {
            Ok((url, answer)) => {
                self.masters.lock().insert(group.clone(), url);
                Ok(answer)
            }
            Err(status) => {
                self.masters.lock().remove(group);
                Err(unreached(group, &status))
            }
        }
    }

    async fn held(&self, group: &GroupName, named: &[String]) -> Result<PlacementResponse, Unreached> {
        let ask = |channel: Channel| {
            let (group, mut client) = (group.clone(), client(channel));
            async move { is_of(&group, &mut client).await }.boxed()
        };
        let found = self.find(self.urls(group, named), CALL_WITHIN, ask).await;
        found.map(|(_, held)| held).map_err(|status| unreached(group, &status))
    }

    /// What the first of these brains goes by that goes by something; or what one of them says that goes by nothing.
    pub(super) async fn held_by_any(&self, urls: Vec<String>) -> Result<PlacementResponse, Status> {
        let (mut unplaced, mut failed) = (None, Vec::new());
        for url in urls {
            let ask = |channel: Channel| {
                let mut client = client(channel);
                async move { Ok(client.placement(PlacementRequest {}).await?.into_inner()) }.boxed()
            };
            match self.find(vec![url], CALL_WITHIN, ask).await {
                Ok((_, held)) if held.current.is_some() => return Ok(held),
                Ok((_, held)) => unplaced = Some(held),
                Err(status) => failed.push(status.message().to_owned()),
            }
        }
        unplaced.ok_or_else(|| Status::unavailable(failed.join("; ")))
    }

    /// What is asked of the placement, at home's master.
    pub(super) async fn pass_on(&self, urls: Vec<String>, asked: Asked) -> Decided {
        let within = match &asked {
            Asked::Report(query) if query.repair.is_some() => CHANGE_WITHIN,
            Asked::Report(_) => CALL_WITHIN,
            Asked::Change(_) => CHANGE_WITHIN,
        };
        let ask = |channel: Channel| {
            let (mut client, asked) =
                (AdminClient::new(channel).max_decoding_message_size(usize::MAX), asked.clone());
            async move {
                Ok(match asked {
                    Asked::Report(query) => client.placement(passed_on(query)).await?,
                    Asked::Change(command) => client.change_placement(passed_on(command)).await?,
                }
                .into_inner())
            }
            .boxed()
        };
        self.find(urls, within, ask).await.map(|(_, report)| report)
    }
}

/// What is asked of the placement.
#[derive(Clone)]
pub(super) enum Asked {
    Report(PlacementQuery),
    Change(PlacementCommand),
}

type Asking<T> = BoxFuture<'static, Result<T, Status>>;

fn client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel).max_decoding_message_size(usize::MAX)
}

fn passed_on<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let mut headers = std::mem::take(request.metadata_mut()).into_headers();
    headers.insert(metadata::PASSED_ON, HeaderValue::from_static("1"));
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    request
}

/// A brain of another group would answer for that one: addresses may be wrong, and `--join` names no groups.
async fn is_of(group: &GroupName, client: &mut PeerClient<Channel>) -> Result<PlacementResponse, Status> {
    let held = client.placement(PlacementRequest {}).await?.into_inner();
    match held.group == group.as_str() {
        true => Ok(held),
        false => Err(Status::unavailable(format!("it is a brain of group {}", held.group))),
    }
}

/// True where another brain may answer better.
fn is_elsewhere(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unimplemented | Code::Unknown | Code::DeadlineExceeded)
}

/// With the address, and the code that it had.
fn said_by(url: &str, status: &Status) -> Status {
    match status.code() {
        Code::Unimplemented => Status::unimplemented(url),
        _ => Status::unavailable(format!("{url}: {}", status.message())),
    }
}

fn unreached(group: &GroupName, status: &Status) -> Unreached {
    match status.code() {
        Code::Unimplemented => Unreached::Old(status.message().to_owned()),
        _ => Unreached::Gone(format!("no master of group {group} answers: {}", status.message())),
    }
}

/// For the one that decides: its own group is in this process.
pub(super) struct Reached {
    pub group: GroupName,
    pub store: Store,
    pub network: Arc<Network>,
}

#[async_trait]
impl Reach for Reached {
    async fn place(
        &self,
        group: &GroupName,
        brains: &[String],
        request: PlaceRequest,
    ) -> Result<PlaceResponse, Unreached> {
        match *group == self.group {
            false => self.network.place(group, brains, request).await,
            true => here::place(&self.store, request)
                .await
                .map_err(|status| Unreached::Gone(format!("group {group}: {}", status.message()))),
        }
    }

    async fn repair(
        &self,
        group: &GroupName,
        brains: &[String],
        request: RepairRequest,
    ) -> Result<RepairResponse, Unreached> {
        match *group == self.group {
            false => self.network.repair(group, brains, request).await,
            true => here::repair(&self.store, request)
                .await
                .map_err(|status| Unreached::Gone(format!("group {group}: {}", status.message()))),
        }
    }

    async fn held(&self, group: &GroupName, brains: &[String]) -> Result<PlacementResponse, Unreached> {
        match *group == self.group {
            false => self.network.held(group, brains).await,
            true => Ok(here::held(&self.store)),
        }
    }
}
