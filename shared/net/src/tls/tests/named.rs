//! A call that only some certificates may make, over real handshakes.

use rcgen::DistinguishedName;
use tonic::body::Body;
use tonic::codegen::Service as _;

use super::*;
use crate::restricted::{Restricted, Restriction};

const PATH: &str = "/of/Admins";

fn restriction() -> Restriction {
    let names = ["admin".to_owned(), "ädmin".to_owned()];
    Restriction { path: PATH, names: names.into(), refusal: "only admins may" }
}

async fn listen(tls: Option<TlsServer>, tells_names: bool) -> (u16, Stopper) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let stopper = Stopper::default();
    let service = Restricted::new(echo(), restriction());
    let config = ServeConfig { tells_names, ..ServeConfig::default() };
    tokio::spawn(serve_listener(Listener::Tcp(listener), tls, service, config, stopper.handle()));
    (port, stopper)
}

/// The code of gRPC in the answer's header, where it is there; what was not refused has none.
async fn code(mut channel: Channel, path: &str) -> Option<tonic::Code> {
    let request = http::Request::post(path).body(Body::empty()).expect("a request");
    let response = within(10, channel.call(request)).await.expect("an answer");
    let status = tonic::Status::from_header_map(response.headers())?;
    assert_eq!(status.message(), "only admins may");
    Some(status.code())
}

/// A change of a certificate: these are its common names.
fn called<const N: usize>(names: [&'static str; N]) -> impl FnOnce(&mut CertificateParams) {
    move |params| {
        params.distinguished_name = DistinguishedName::new();
        // The second way to write it, so that one does not take the place of the other.
        let kinds = [DnType::CommonName, DnType::CustomDnType(vec![2, 5, 4, 3])];
        for (kind, name) in kinds.into_iter().zip(names) {
            params.distinguished_name.push(kind, name);
        }
    }
}

#[tokio::test]
async fn a_call_is_for_the_named_alone_and_all_others_are_for_everybody() {
    let ours = Authority::new("ours");
    let (certificate, key) = ours.issue("open", same);
    let asks_for_none = || {
        let config = TlsConfig { certificate: certificate.clone(), key: key.clone(), ..TlsConfig::default() };
        TlsServer::load(config).expect("good files")
    };
    let refused = Some(tonic::Code::PermissionDenied);
    let cases = [
        ("a name that is listed", ours.server(same), true, ours.client(&ours, called(["admin"])), None),
        ("of any letters", ours.server(same), true, ours.client(&ours, called(["ädmin"])), None),
        ("another name", ours.server(same), true, ours.client(&ours, called(["admin2"])), refused),
        ("in other letters", ours.server(same), true, ours.client(&ours, called(["Admin"])), refused),
        ("no name", ours.server(same), true, ours.client(&ours, called([])), refused),
        ("two names", ours.server(same), true, ours.client(&ours, called(["admin", "other"])), refused),
        (
            "a listener that tells no names",
            ours.server(same),
            false,
            ours.client(&ours, called(["admin"])),
            refused,
        ),
        (
            "one that asks for no certificate",
            asks_for_none(),
            true,
            ours.client(&ours, called(["admin"])),
            refused,
        ),
    ];
    for (what, server, tells_names, client, wanted) in cases {
        let (port, stopper) = listen(Some(server), tells_names).await;
        let channel = channel(port, &client);
        assert_eq!(code(channel.clone(), PATH).await, wanted, "{what}");
        assert_eq!(code(channel.clone(), "/of/Everybody").await, None, "{what}");
        drop(channel);
        within(10, stopper.stop()).await;
    }
    let (port, stopper) = listen(None, true).await;
    let plain = Channel::new(Connector::Tcp(format!("127.0.0.1:{port}")), DialConfig::default());
    assert_eq!(code(plain.clone(), PATH).await, refused, "without TLS");
    assert_eq!(code(plain.clone(), "/of/Everybody").await, None);
    drop(plain);
    within(10, stopper.stop()).await;
}
