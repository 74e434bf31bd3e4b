//! Maintenance: Status and Alarm.

use std::sync::Arc;

use http::Response;
use kubebrain_proto::etcdserverpb::alarm_request::AlarmAction;
use kubebrain_proto::etcdserverpb::{AlarmRequest, AlarmResponse, StatusResponse};
use tonic::Status;
use tonic::body::Body;

use super::Call;
use crate::grpc;

impl Call<'_> {
    /// The home group's, as a cluster of one: the member leads, and the revision is the highest seen.
    pub(crate) async fn status(&self) -> Result<Response<Body>, Status> {
        let answer = self
            .forward("/etcdserverpb.Maintenance/Status", true, |_, table| Ok(vec![Arc::clone(table.home())]))
            .await?;
        let mut status: StatusResponse = answer.decode(1024 * 1024).await?;
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

    /// A proxy has no alarms of its own.
    pub(crate) fn alarm(&self) -> Result<Response<Body>, Status> {
        let request: AlarmRequest = grpc::decode(self.message.message())?;
        match request.action() {
            AlarmAction::Get => {
                let header = Some(self.core.identity().header(self.core.floor.get()));
                Ok(grpc::answer(&AlarmResponse { header, alarms: Vec::new() }))
            }
            AlarmAction::Activate | AlarmAction::Deactivate => {
                Err(Status::unimplemented("kubebrain: alarms are raised and disarmed at the brains"))
            }
        }
    }
}
