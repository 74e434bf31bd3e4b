//! What one client sees of three groups: one clock.

use kubebrain_proto::etcdserverpb::request_op::Request;
use kubebrain_proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest};

use crate::support::client::{Client, keys, revision};
use crate::support::process::{Place, Start};
use crate::support::watch::{key, mod_revision};

/// Of a key in one of the three groups, or outside the prefix.
const KINDS: [&str; 4] = ["/registry/pods/default", "/registry/events/default", "/registry/configmaps/default", "/other"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_sees_one_dense_clock_over_three_groups() {
    let place = Place::new();
    let server = Start::standalone(&place).run().await;
    let client = Client::new(server.address());

    let mut written: Vec<(i64, String, bool)> = Vec::new();
    let mut next = 2; // an empty store is at 1
    for number in 0..60 {
        let key = format!("{}/{number:03}", KINDS[(number * 7 + number / 5) % KINDS.len()]);
        let shown = match number % 3 {
            0 => {
                let put = PutRequest { key: key.clone().into(), value: "by txn".into(), ..Default::default() };
                let success = vec![RequestOp { request: Some(Request::RequestPut(put)) }];
                let answer = client.txn(TxnRequest { success, ..Default::default() }).await.expect("a txn");
                answer.header.expect("a header").revision
            }
            _ => client.put(&key, "by put").await.expect("a put"),
        };
        assert_eq!(shown, next, "of {key}");
        written.push((shown, key.clone(), false));
        next += 1;
        if number % 10 == 9 {
            assert_eq!(client.delete(&key).await.expect("a delete"), next);
            written.push((next, key, true));
            next += 1;
        }
        // A read anywhere shows what was written last, and moves nothing.
        let elsewhere = KINDS[(number + 1) % KINDS.len()];
        assert_eq!(revision(&client.get(elsewhere).await.expect("a get")), next - 1);
    }
    let last = next - 1;

    let mut expected: Vec<String> = Vec::new();
    for (_, key, deleted) in &written {
        match deleted {
            true => expected.retain(|other| other != key),
            false => expected.push(key.clone()),
        }
    }
    expected.sort();
    let all = client.list("/").await.expect("a list over all groups");
    assert_eq!(keys(&all), expected);
    assert_eq!((revision(&all), all.count, all.more), (last, expected.len() as i64, false));

    let mut watch = client.watch("/", 1).await;
    let events = watch.events_to(last).await;
    let seen: Vec<_> = events.iter().map(|event| (mod_revision(event), key(event), event.r#type != 0)).collect();
    assert_eq!(seen, written);
    // Nothing comes twice: the next is the next.
    let more = client.put("/registry/events/default/last", "x").await.expect("a put");
    assert_eq!(watch.events_to(more).await.len(), 1);
}
