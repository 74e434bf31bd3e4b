//! What one client sees of three groups: one clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kubebrain_proto::etcdserverpb::request_op::Request;
use kubebrain_proto::etcdserverpb::{PutRequest, RangeRequest, RequestOp, TxnRequest};

use crate::BINARY;
use kit::client::{Client, end_of, keys, revision};
use kit::process::Start;
use kit::watch::{key, mod_revision};

/// Of a key in one of the three groups, or outside the prefix.
const KINDS: [&str; 4] =
    ["/registry/pods/default", "/registry/events/default", "/registry/configmaps/default", "/other"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_sees_one_dense_clock_over_three_groups() {
    let place = BINARY.place();
    let server = Start::standalone(&place).run().await;
    let client = Client::new(server.address());

    let mut written: Vec<(i64, String, bool)> = Vec::new();
    let mut next = 2; // an empty store is at 1
    for number in 0..60 {
        let key = format!("{}/{number:03}", KINDS[(number * 7 + number / 5) % KINDS.len()]);
        let shown = match number % 3 {
            0 => {
                let put =
                    PutRequest { key: key.clone().into(), value: "by txn".into(), ..Default::default() };
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
    let seen: Vec<_> =
        events.iter().map(|event| (mod_revision(event), key(event), event.r#type != 0)).collect();
    assert_eq!(seen, written);
    // Nothing comes twice: the next is the next.
    let more = client.put("/registry/events/default/last", "x").await.expect("a put");
    assert_eq!(watch.events_to(more).await.len(), 1);
}

/// One client writes a number to a key of each group in turn: whoever reads all groups sees a moment of that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_over_three_groups_is_of_one_moment() {
    let place = BINARY.place();
    let server = Start::standalone(&place).run().await;
    let stop = Arc::new(AtomicBool::new(false));
    // In an order that is not that of the keys.
    let chain = ["/registry/pods/default/n", "/registry/configmaps/default/n", "/registry/events/default/n"];
    let (writer, asked) = (Client::new(server.address()), stop.clone());
    let writing = tokio::spawn(async move {
        let mut number = 0;
        while !asked.load(Ordering::Relaxed) {
            for key in chain {
                writer.put(key, format!("{number}")).await.expect("a put");
            }
            number += 1;
        }
        number
    });
    let reader = Client::new(server.address());
    let mut moments = std::collections::BTreeSet::new();
    for _ in 0..500 {
        let all = reader.list("/").await.expect("a list");
        assert!(
            all.kvs.iter().all(|kv| kv.mod_revision <= revision(&all)),
            "nothing is newer than the header: {all:?}"
        );
        let number = |key: &str| {
            let found = all.kvs.iter().find(|kv| kv.key == key.as_bytes());
            found.map_or(-1, |kv| String::from_utf8_lossy(&kv.value).parse::<i64>().expect("a number"))
        };
        let [first, second, third] = chain.map(number);
        let ordered = third <= second && second <= first && first <= third + 1;
        assert!(ordered, "{first}, {second}, {third} at {}", revision(&all));
        // The same again, now that it is the past.
        let again = RangeRequest {
            key: "/".into(),
            range_end: end_of("/").into(),
            revision: revision(&all),
            ..Default::default()
        };
        assert_eq!(reader.range(again).await.expect("a list of the past").kvs, all.kvs);
        moments.insert(revision(&all));
    }
    stop.store(true, Ordering::Relaxed);
    let rounds = writing.await.expect("no write failed");
    assert!(rounds > 10 && moments.len() > 10, "{rounds} rounds, {} moments", moments.len());
}
