//! Whom a brain waits for whose group no placement names yet: asked now and then, and said where that is asked for.

use kubebrain_proto::admin::{PlacementQuery, PlacementReport};
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Document;
use tonic::Status;

use super::cluster::Cluster;
use super::reach::Asked;

impl Cluster {
    /// Looks whom it waits for, if it does; in the log each reason stands once.
    pub(super) async fn say_whom_it_waits_for(&self) {
        let Some(store) = self.now.lock().store.clone() else { return };
        if store.state().unplaced().is_none() {
            store.state().waits_for("");
            return;
        }
        let number = store.state().held.load().document().number();
        let group = &self.group;
        let why = match number {
            0 => format!("group {group} has no placement yet: {}", self.why_unplaced().await),
            number => format!(
                "placement number {number} does not name group {group}: it serves nothing until one does{}",
                self.how_to_be_named()
            ),
        };
        if store.state().waits_for(&why) && store.state().unplaced().is_some() {
            tracing::warn!("not ready yet: {why}");
        }
    }

    async fn why_unplaced(&self) -> String {
        let authority = self.now.lock().authority.clone();
        if let Some(authority) = authority {
            let report = authority.report(PlacementQuery::default()).await;
            return report.map_or_else(|status| said(&status), |report| self.first_waits_for(&report));
        }
        let home = match self.home() {
            Some(home) => Ok(home),
            None => self.home_by_contacts().await,
        };
        let (home, urls) = match home {
            Ok(home) => home,
            Err(why) => return why,
        };
        let urls: Vec<_> = urls.into_iter().filter(|url| !self.peer_urls.contains(url)).collect();
        if home == self.group && urls.is_empty() {
            return "its store is being opened".to_owned();
        }
        let asked = self.network.pass_on(urls, Asked::Report(PlacementQuery::default())).await;
        match asked {
            Ok(report) => match &report.document {
                None => format!("its home group {home} has none either; {}", self.first_waits_for(&report)),
                Some(document) => match self.is_named_by(document) {
                    true => format!(
                        "number {} names it, and the home group {home} has not told it that yet{}",
                        document.number,
                        self.trouble_of(&report)
                    ),
                    false => {
                        format!("number {} does not name it{}", document.number, self.how_to_be_named())
                    }
                },
            },
            Err(status) => {
                format!("no master of the home group {home} has told one: {}", said(&status))
            }
        }
    }

    fn is_named_by(&self, document: &kubebrain_proto::peer::PlacementDocument) -> bool {
        Document::from_wire(document).is_ok_and(|document| document.names(&self.group))
    }

    fn how_to_be_named(&self) -> String {
        let urls: Vec<_> = self.peer_urls.iter().map(|url| format!("{url:?}")).collect();
        format!(
            "; to add it, put `{}: {{ brains: [{}] }}` under groups of a placement file, and `kubebrain ctl placement apply FILE`",
            self.group,
            urls.join(", ")
        )
    }

    /// What keeps the first placement of the cluster from becoming one.
    fn first_waits_for(&self, report: &PlacementReport) -> String {
        if report.prepared.is_none() {
            return match report.outcome.is_empty() {
                true => "the first one begins with the home group's file".to_owned(),
                false => format!("the first one is refused: {}", report.outcome),
            };
        }
        let waited = report.groups.iter().filter(|group| group.number == 0 && group.adopted == 0);
        let why = |group: &kubebrain_proto::admin::PlacementGroup| match group.trouble.is_empty() {
            true => format!("group {} has not answered", group.name),
            false => group.trouble.clone(),
        };
        let waited: Vec<_> = waited.map(why).collect();
        format!("the first one waits for all groups of its file: {}", waited.join("; "))
    }

    fn trouble_of(&self, report: &PlacementReport) -> String {
        let own = report.groups.iter().find(|group| group.name == self.group.as_str());
        match own.map(|group| &group.trouble).filter(|trouble| !trouble.is_empty()) {
            Some(trouble) => format!(": {trouble}"),
            None => String::new(),
        }
    }

    /// As [`Cluster::home`], where this brain was given nothing but addresses.
    pub(super) async fn home_by_contacts(&self) -> Result<(GroupName, Vec<String>), String> {
        let joins = self.network.joins();
        let held = self
            .network
            .held_by_any(joins.to_vec())
            .await
            .map_err(|status| format!("no brain that --join names has told one ({})", said(&status)))?;
        let Some(current) = held.current else {
            return Err(format!("the brain of group {} that --join names has none either", held.group));
        };
        let document = Document::from_wire(&current).map_err(|error| error.to_string())?;
        let home = document.table().home();
        let named = document.table().groups().find(|(group, _)| *group == home);
        let mut urls = named.map(|(_, urls)| urls.to_vec()).unwrap_or_default();
        urls.extend_from_slice(joins);
        Ok((home.clone(), urls))
    }
}

/// A status as a part of a sentence.
fn said(status: &Status) -> String {
    status.message().trim_start_matches("kubebrain: ").to_owned()
}
