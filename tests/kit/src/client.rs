//! [`Client`]: an etcd client on a connection of its own.

use std::time::Duration;

use kubebrain_net::dial::{Channel, Connector, DialConfig};
use kubebrain_proto::etcdserverpb::kv_client::KvClient;
use kubebrain_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kubebrain_proto::etcdserverpb::watch_client::WatchClient;
use kubebrain_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, HashKvRequest, HashKvResponse, PutRequest, RangeRequest,
    RangeResponse, TxnRequest, TxnResponse,
};
use kubebrain_proto::health::HealthCheckRequest;
use kubebrain_proto::health::health_check_response::ServingStatus;
use kubebrain_proto::health::health_client::HealthClient;
use tonic::Status;

use super::watch::Watch;

/// See the module. Clones share the connection.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    kv: KvClient<Channel>,
}

impl Client {
    pub fn new(address: &str) -> Self {
        let channel = Channel::new(Connector::Tcp(address.to_owned()), DialConfig::default());
        let kv = KvClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
        Self { channel, kv }
    }

    /// For services that have no method here.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Puts a key; gives its revision.
    pub async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<i64, Status> {
        let value = value.into().into();
        let request = PutRequest { key: key.to_owned().into(), value, ..Default::default() };
        let answer = self.kv.clone().put(request).await?.into_inner();
        Ok(answer.header.expect("every answer has a header").revision)
    }

    /// Deletes a key; gives the header's revision.
    pub async fn delete(&self, key: &str) -> Result<i64, Status> {
        let request = DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
        let answer = self.kv.clone().delete_range(request).await?.into_inner();
        Ok(answer.header.expect("every answer has a header").revision)
    }

    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        Ok(self.kv.clone().txn(request).await?.into_inner())
    }

    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        Ok(self.kv.clone().range(request).await?.into_inner())
    }

    /// `get KEY`.
    pub async fn get(&self, key: &str) -> Result<RangeResponse, Status> {
        self.range(RangeRequest { key: key.to_owned().into(), ..Default::default() }).await
    }

    /// `get --prefix PREFIX`.
    pub async fn list(&self, prefix: &str) -> Result<RangeResponse, Status> {
        let range_end = end_of(prefix).into();
        self.range(RangeRequest { key: prefix.to_owned().into(), range_end, ..Default::default() }).await
    }

    pub async fn compact(&self, revision: i64) -> Result<(), Status> {
        let request = CompactionRequest { revision, physical: false };
        self.kv.clone().compact(request).await.map(drop)
    }

    pub fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// `endpoint hashkv --rev=REVISION`.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, Status> {
        Ok(self.maintenance().hash_kv(HashKvRequest { revision }).await?.into_inner())
    }

    /// `watch --prefix PREFIX --rev=START` on a stream of its own.
    pub async fn watch(&self, prefix: &str, start: i64) -> Watch {
        let client = WatchClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        Watch::open(client, prefix, start).await
    }
}

/// The end of a prefix's range, as `clientv3.GetPrefixRangeEnd`.
pub fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix") += 1; // no test ends one with 0xff
    end
}

/// The revision in the header of an answer to a range.
pub fn revision(answer: &RangeResponse) -> i64 {
    answer.header.as_ref().expect("every answer has a header").revision
}

/// The keys of an answer, as text.
pub fn keys(answer: &RangeResponse) -> Vec<String> {
    answer.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

/// Returns when a server says that it serves.
pub async fn ready(address: &str) {
    loop {
        let channel = Channel::new(Connector::Tcp(address.to_owned()), DialConfig::default());
        let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
        if answer.is_ok_and(|answer| answer.into_inner().status == ServingStatus::Serving as i32) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
