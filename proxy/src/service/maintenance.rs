//! Maintenance: of the home group, of all groups together, or of one member.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::{HeaderMap, Response};
use kubebrain_proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse, MoveLeaderRequest,
    MoveLeaderResponse, StatusRequest, StatusResponse,
};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::metadata;
use kubebrain_shared::method;
use tonic::Status;
use tonic::body::Body;

use super::call::Call;
use crate::call::{Ask, Failure};
use crate::core::Core;
use crate::group::Group;
use crate::grpc::{self, Framed};

const STATUS: &str = method::STATUS;
const ALARM: &str = method::ALARM;
const DEFRAGMENT: &str = method::DEFRAGMENT;
/// An apiserver that starts asks for the status: a group that does not answer is named in it and not waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// A group's status, and the store that it has told of.
type GroupStatus = (StatusResponse, Option<u64>);

impl Call<'_> {
    /// The home group's, as a cluster of one: the member leads, and the revision is the highest seen. Sizes are those of
    /// all stores, each counted once; alarms are those of all groups.
    pub(crate) async fn status(&self) -> Result<Response<Body>, Status> {
        let answer = self.forward(STATUS, true, |_, table| Ok(vec![Arc::clone(table.home())])).await?;
        let store = answer.store();
        let mut status: StatusResponse = answer.decode(1024 * 1024).await?;
        let mut stores = HashSet::from([store]);
        let table = self.core.table();
        let others: Vec<_> = table.groups().filter(|group| !group.is_same(table.home())).collect();
        for (group, other) in others.iter().zip(join_all(others.iter().map(|g| self.core.status_of(g))).await)
        {
            let Some((other, store)) = other else {
                status.errors.push(format!("kubebrain: group {} does not answer", group.name()));
                continue;
            };
            if stores.insert(store) {
                status.db_size += other.db_size;
                status.db_size_in_use += other.db_size_in_use;
                status.db_size_quota += other.db_size_quota;
            }
            status.errors.extend(other.errors);
        }
        if status.db_size == 0 {
            status.db_size = status.db_size_in_use.max(1); // as a brain says it to clients, of an engine without a disk
        }
        status.errors.sort_unstable();
        status.errors.dedup();
        let identity = self.core.identity();
        if let Some(header) = &mut status.header {
            *header = identity.header(self.core.floor.get());
        }
        status.leader = identity.member_id;
        if status.version.is_empty() {
            status.version = self.core.config.etcd_version.clone();
        }
        Ok(grpc::answer(&status))
    }

    /// Alarms of all groups together: what stands in one stands here, and what is raised or ended is so in all of them.
    ///
    /// # Errors
    /// If one group did not answer; the others may have done it.
    pub(crate) async fn alarm(&self) -> Result<Response<Body>, Status> {
        let request: AlarmRequest = grpc::decode(self.message.message())?;
        let answers: Vec<AlarmResponse> = self.core.ask_all(ALARM, &request).await?;
        let mut alarms: Vec<_> = answers.into_iter().flat_map(|answer| answer.alarms).collect();
        alarms.sort_unstable_by_key(|alarm| (alarm.member_id, alarm.alarm));
        alarms.dedup();
        let header = Some(self.core.identity().header(self.core.floor.get()));
        Ok(grpc::answer(&AlarmResponse { header, alarms }))
    }

    /// Defragments all groups at once: those of one store have it done together.
    ///
    /// # Errors
    /// If one group's was not.
    pub(crate) async fn defragment(&self) -> Result<Response<Body>, Status> {
        let _done: Vec<DefragmentResponse> = self.core.ask_all(DEFRAGMENT, &DefragmentRequest {}).await?;
        Ok(grpc::answer(&DefragmentResponse::default()))
    }

    /// The one member leads.
    pub(crate) fn move_leader(&self) -> Result<Response<Body>, Status> {
        let request: MoveLeaderRequest = grpc::decode(self.message.message())?;
        match request.target_id == self.core.identity().member_id {
            true => Ok(grpc::answer(&MoveLeaderResponse::default())),
            false => Err(Fault::BadLeaderTransferee.into()),
        }
    }
}

impl Core {
    /// A group's alarms; none if it does not answer soon.
    pub(crate) async fn alarms_of(&self, group: &Group) -> Vec<AlarmType> {
        let message = Framed::of(&AlarmRequest::default());
        let headers = HeaderMap::new();
        let ask = Ask::new(ALARM, &headers, message);
        let work = async { self.send(group, &ask).await.ok()?.decode(1024 * 1024).await.ok() };
        let answer: Option<AlarmResponse> = tokio::time::timeout(PATIENCE, work).await.ok().flatten();
        answer.iter().flat_map(|answer| &answer.alarms).map(|member| member.alarm()).collect()
    }

    /// `None` if the group does not answer soon. Its size is that of its storage's files, 0 where it has none.
    pub(crate) async fn status_of(&self, group: &Group) -> Option<GroupStatus> {
        let message = Framed::of(&StatusRequest {});
        let headers = HeaderMap::new();
        let ask = Ask::new(STATUS, &headers, message);
        let work = async {
            let answer = self.send(group, &ask).await.ok()?;
            let store = answer.store();
            Some((answer.decode(1024 * 1024).await.ok()?, store))
        };
        tokio::time::timeout(PATIENCE, work).await.ok()?
    }

    /// Asks every group and waits for all of them, also where one has failed. One that was surely not reached is tried
    /// again for as long as a request may take.
    async fn ask_all<M>(&self, path: &'static str, message: &impl prost::Message) -> Result<Vec<M>, Status>
    where
        M: prost::Message + Default,
    {
        let table = self.table();
        let message = Framed::of(message);
        let headers = HeaderMap::new();
        let ask = Ask::new(path, &headers, message);
        let answers = join_all(table.groups().map(|group| self.ask_one(group, &ask))).await;
        answers.into_iter().collect()
    }

    async fn ask_one<M: prost::Message + Default>(&self, group: &Group, ask: &Ask<'_>) -> Result<M, Status> {
        let mut retry = self.retry();
        loop {
            match self.send(group, ask).await {
                Ok(answer) => return answer.decode(self.config.merged_bytes_max).await,
                Err(Failure::Unknown) => return Err(Fault::Timeout.into()),
                Err(Failure::NotSent | Failure::NotOwner) => retry.pause().await.inspect_err(|_| {
                    tracing::warn!(group = %group.name(), path = ask.path, "a group cannot be reached");
                })?,
            }
        }
    }
}

impl crate::answer::Answer {
    fn store(&self) -> Option<u64> {
        metadata::store(self.headers())
    }
}
