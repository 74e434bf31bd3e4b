//! `etcdserverpb.Watch`.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use kubebrain_proto::etcdserverpb::WatchRequest;
use tonic::{Request, Status, Streaming};

use super::codec;
use super::inner::Inner;
use crate::watch::{StreamConfig, WatchStream};

type Messages = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

pub(super) async fn watch(
    inner: Arc<Inner>,
    request: Request<Streaming<WatchRequest>>,
) -> Result<tonic::Response<Messages>, Status> {
    let headers = request.metadata().as_ref();
    let (part, tells_all) = (inner.part(headers), inner.tells_all(headers));
    let config = StreamConfig { progress_interval: inner.progress_interval, part, tells_all };
    let requests = request.into_inner().map(|request| request.map_err(codec::in_etcds_words));
    let stream = WatchStream::new(inner.store.clone(), requests, config, inner.stop.clone());
    let messages: Messages = Box::pin(stream.into_messages());
    Ok(inner.answer(messages, inner.store.state().committed()))
}
