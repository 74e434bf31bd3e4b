//! Plain HTTP on the same listener: what kubelets and monitoring ask.

use std::sync::Arc;

use http::{Method, Response, Uri};
use kubebrain_net::probe::{self, ETCD_VERSION, Subject};
use kubebrain_proto::etcdserverpb::{AlarmType, RangeRequest};
use kubebrain_shared::revision::Revision;
use tonic::Status;
use tonic::body::Body;

use super::inner::Inner;
use super::maintenance;
use crate::request::Range;

pub(super) async fn answer(inner: &Arc<Inner>, method: &Method, uri: &Uri) -> Response<Body> {
    probe::page(&Probed(inner.clone()), ETCD_VERSION, method, uri).await
}

/// This brain, as probes see it.
struct Probed(Arc<Inner>);

impl Subject for Probed {
    fn works(&self) -> Result<(), String> {
        match self.0.stop.is_asked() {
            true => Err("stopping".to_owned()),
            false => self.0.store.state().works(),
        }
    }

    async fn read(&self) -> Result<(), Status> {
        if let Some(why) = self.0.store.state().unplaced() {
            return Err(Status::unavailable(format!("etcdserver: not ready: {why}")));
        }
        // Of the store itself: whether this group owns that key is no matter of its health.
        let request = RangeRequest { key: "health".into(), keys_only: true, limit: 1, ..Default::default() };
        let read = self.0.store.range(&Range::try_from(request)?, Revision::ZERO).await;
        read.map(drop).map_err(|fault| match self.0.store.state().engine.waits_for() {
            Some(what) => Status::new(fault.wire().0, format!("{}: {what}", fault.wire().1)),
            None => fault.into(),
        })
    }

    /// Those of this store, without asking whether another brain has become master: the reads find that out.
    async fn alarms(&self) -> Vec<AlarmType> {
        self.0.store.alarms().into_iter().map(|alarm| maintenance::to_wire(alarm).alarm()).collect()
    }
}
