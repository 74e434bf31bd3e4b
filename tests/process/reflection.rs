//! What tools learn of a server.

use kubebrain_net::dial::{Channel, Connector, DialConfig};
use prost::Message as _;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tonic_reflection::pb::v1alpha;

use crate::BINARY;
use kit::in_time;
use kit::process::Start;

async fn ask(address: &str, request: MessageRequest) -> Option<MessageResponse> {
    let channel = Channel::new(Connector::Tcp(address.to_owned()), DialConfig::default());
    let request = ServerReflectionRequest { message_request: Some(request), ..Default::default() };
    let mut client = ServerReflectionClient::new(channel);
    let answers = in_time("an answer", client.server_reflection_info(tokio_stream::once(request))).await;
    let answer: Option<ServerReflectionResponse> =
        answers.expect("it is served").into_inner().message().await.expect("an answer");
    answer?.message_response
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brain_and_proxy_list_what_they_serve_and_describe_it() {
    let place = BINARY.place();
    let servers = [Start::standalone(&place).run().await, Start::brain(&place, "default").run().await];
    for server in &servers {
        let Some(MessageResponse::ListServicesResponse(listed)) =
            ask(server.address(), MessageRequest::ListServices(String::new())).await
        else {
            panic!("a list is wanted");
        };
        let mut names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
        names.sort();
        let wanted =
            ["Cluster", "KV", "Lease", "Maintenance", "Watch"].map(|name| format!("etcdserverpb.{name}"));
        let others = [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "kubebrain.admin.v1.Admin",
            "v3electionpb.Election",
            "v3lockpb.Lock",
        ];
        let others = others.map(str::to_owned);
        assert_eq!(names, [&wanted[..], &others[..]].concat());
        let Some(MessageResponse::FileDescriptorResponse(described)) =
            ask(server.address(), MessageRequest::FileContainingSymbol("etcdserverpb.KV".to_owned())).await
        else {
            panic!("a description is wanted");
        };
        let [file] = &described.file_descriptor_proto[..] else { panic!("one file is wanted") };
        let file = prost_types::FileDescriptorProto::decode(&file[..]).expect("a descriptor");
        assert!(file.service.iter().any(|service| service.name() == "KV" && service.method.len() == 6));

        let channel = Channel::new(Connector::Tcp(server.address().to_owned()), DialConfig::default());
        let mut old = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
        let request = v1alpha::ServerReflectionRequest {
            message_request: Some(v1alpha::server_reflection_request::MessageRequest::ListServices(
                String::new(),
            )),
            ..Default::default()
        };
        let answer = old.server_reflection_info(tokio_stream::once(request)).await.expect("it is served");
        assert!(answer.into_inner().message().await.expect("an answer").is_some());
    }
    let peers = ServerReflectionClient::new(Channel::new(
        Connector::Tcp(servers[1].peer_address().to_owned()),
        DialConfig::default(),
    ))
    .server_reflection_info(tokio_stream::once(ServerReflectionRequest::default()))
    .await;
    assert_eq!(peers.expect_err("peers have no need of it").code(), tonic::Code::Unimplemented);
}
