//! [`Groups`]: brains of a cluster, one of each group, that find each other by one file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kubebrain_net::dial::{Channel, Connector, DialConfig};
use kubebrain_proto::admin::admin_client::AdminClient;
use kubebrain_proto::admin::placement_command::Verb;
use kubebrain_proto::admin::{PlacementApply, PlacementCommand, PlacementQuery, PlacementReport};
use kubebrain_proto::peer::peer_client::PeerClient;
use kubebrain_proto::peer::{PlacementRequest, PlacementResponse};
use kubebrain_shared::placement::Placement;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use super::PATIENCE;
use super::cluster::free_port;
use super::process::{Beginning, Place, Process, Start};

/// See the module.
pub struct Groups {
    pub brains: BTreeMap<String, Process>,
    /// What they were started with, where each of them is in it.
    pub file: PathBuf,
    ports: BTreeMap<String, u16>,
}

/// A placement file's text; its argument is what stands behind a group's name.
pub type Text<'a> = &'a dyn Fn(&dyn Fn(&str) -> String) -> String;

impl Groups {
    /// Brains of these groups; the file is `placement.yaml` of the place. Returns when all serve that it names.
    pub async fn start(
        place: &Place,
        names: &[&str],
        text: Text<'_>,
        adjust: impl Fn(Start) -> Start,
    ) -> Self {
        let mut groups = Self::absent(place, names, text);
        let file = groups.file.clone();
        let begun: Vec<(String, Beginning)> = names
            .iter()
            .map(|name| ((*name).to_owned(), adjust(groups.brain(place, name).placement(&file)).begins()))
            .collect();
        let table = std::fs::read_to_string(&file).expect("a file");
        let table = Placement::parse(&table).expect("a placement");
        for (name, brain) in begun {
            let served = match table.groups().any(|(group, _)| group.as_str() == name) {
                true => brain.serves().await,
                false => brain.listens().await,
            };
            let brain = served.unwrap_or_else(|failure| panic!("{name} has ended: {}", failure.message));
            groups.brains.insert(name, brain);
        }
        groups
    }

    /// Nothing runs yet; the file is there.
    pub fn absent(place: &Place, names: &[&str], text: Text<'_>) -> Self {
        let ports: BTreeMap<String, u16> =
            names.iter().map(|name| ((*name).to_owned(), free_port())).collect();
        let groups = Self { brains: BTreeMap::new(), file: place.join("placement.yaml"), ports };
        place.file("placement.yaml", &text(&|name| groups.at(name)));
        groups
    }

    /// How a brain of a group is started, at the group's place.
    pub fn brain(&self, place: &Place, name: &str) -> Start {
        Start::brain(place, name).peers("http", &format!("127.0.0.1:{}", self.ports[name])).tied()
    }

    /// A place for a group that is added later.
    pub fn add(&mut self, name: &str) {
        self.ports.entry(name.to_owned()).or_insert_with(free_port);
    }

    /// What stands behind a group's name in a placement file.
    pub fn at(&self, name: &str) -> String {
        format!("{{ brains: [\"http://127.0.0.1:{}\"] }}", self.ports[name])
    }

    /// Where a group's brain is reached by proxies and brains.
    pub fn peer_url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}", self.ports[name])
    }

    /// A channel to a group's peer listener.
    pub fn channel(&self, name: &str) -> Channel {
        Channel::new(Connector::Tcp(format!("127.0.0.1:{}", self.ports[name])), DialConfig::default())
    }

    /// What a group's brain goes by.
    pub async fn goes_by(&self, name: &str) -> Result<PlacementResponse, Status> {
        goes_by(self.channel(name)).await
    }
}

/// What a brain goes by.
pub async fn goes_by(channel: Channel) -> Result<PlacementResponse, Status> {
    let mut client = PeerClient::new(channel).max_decoding_message_size(usize::MAX);
    Ok(client.placement(PlacementRequest {}).await?.into_inner())
}

/// How the placement of the cluster stands, as `server` says it.
pub async fn report(server: Channel) -> Result<PlacementReport, Status> {
    let mut client = AdminClient::new(server).max_decoding_message_size(usize::MAX);
    Ok(client.placement(PlacementQuery::default()).await?.into_inner())
}

/// Applies a placement; gives its number, or why it was refused. Returns when it has become current, or was taken back.
pub async fn apply(server: &Channel, text: &str) -> Result<u64, String> {
    let apply = PlacementApply { text: text.to_owned(), ..PlacementApply::default() };
    let command = PlacementCommand { verb: Some(Verb::Apply(apply)) };
    let sent = AdminClient::new(server.clone()).change_placement(command).await;
    let report = sent.map_err(|status| status.message().to_owned())?.into_inner();
    let current = |report: &PlacementReport| report.document.as_ref().map_or(0, |document| document.number);
    let Some(number) = report.prepared.as_ref().map(|document| document.number) else {
        return Ok(current(&report));
    };
    settled(server, number).await
}

/// Waits until a number has become current, or was taken back.
pub async fn settled(server: &Channel, number: u64) -> Result<u64, String> {
    let end = Instant::now() + PATIENCE;
    let report = loop {
        if let Ok(Ok(report)) = timeout(Duration::from_secs(2), report(server.clone())).await {
            let current = report.document.as_ref().map_or(0, |document| document.number);
            if current >= number && report.prepared.as_ref().is_none_or(|next| next.number > number) {
                break report;
            }
        }
        assert!(Instant::now() < end, "placement number {number} is neither current nor taken back");
        sleep(Duration::from_millis(20)).await;
    };
    match report.document.map_or(0, |document| document.number) {
        current if current == number => Ok(number),
        _ if report.outcome_number == number && !report.outcome_refused => Ok(number),
        _ => Err(report.outcome),
    }
}
