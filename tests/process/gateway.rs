//! etcd's JSON over HTTP.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;

use crate::BINARY;
use crate::proxies::{cluster, table};
use kit::http1::{exchange_over, get, post};
use kit::pki::Authority;
use kit::process::{Process, Start};
use kit::{in_time, until};

/// The status and the JSON of a request.
async fn ask(address: &str, path: &str, body: Value) -> (u16, Value) {
    let (status, text) = post(address, path, &body.to_string()).await;
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}")))
}

/// The JSON of a request that must be answered.
async fn done(address: &str, path: &str, body: Value) -> Value {
    let (status, answer) = ask(address, path, body).await;
    assert_eq!(status, 200, "{path}: {answer}");
    assert!(answer["header"]["cluster_id"].is_string(), "64 bits are text: {answer}");
    answer
}

fn number(value: &Value) -> i64 {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("{value} is no number as text"))
}

/// A streaming call: its answers as they come, for as long as it is held.
struct Stream {
    lines: Lines<BufReader<TcpStream>>,
}

impl Stream {
    async fn open(address: &str, path: &str, body: Value) -> Self {
        let mut socket = TcpStream::connect(address).await.expect("it listens");
        let body = body.to_string();
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: kubebrain\r\ncontent-length: {length}\r\n\r\n");
        socket.write_all((head + &body).as_bytes()).await.expect("sent");
        Self { lines: BufReader::new(socket).lines() }
    }

    /// What is in the next line that is an answer; heads and chunks' lengths are passed over.
    async fn next(&mut self) -> Value {
        loop {
            let line = in_time("a line", self.lines.next_line()).await.expect("a line").expect("it goes on");
            if let Ok(Value::Object(answer)) = serde_json::from_str(&line) {
                return answer["result"].clone();
            }
        }
    }
}

async fn keys_and_leases(address: &str, key: &str) {
    let (k, v) = (base64(key), base64("one"));
    let put = done(address, "/v3/kv/put", json!({"key": k, "value": v})).await;
    let revision = number(&put["header"]["revision"]);
    let range = done(address, "/v3/kv/range", json!({"key": k})).await;
    assert_eq!(range["count"], "1");
    assert_eq!(range["kvs"][0]["value"], v);
    assert_eq!(number(&range["kvs"][0]["mod_revision"]), revision);
    assert_eq!(range["kvs"][0].get("lease"), None, "what is not set is not written");
    let lease = done(address, "/v3/lease/grant", json!({"TTL": 100})).await;
    let lease = lease["ID"].clone();
    let txn = json!({
        "compare": [{"key": k, "target": "VERSION", "result": "EQUAL", "version": "1"}],
        "success": [{"requestPut": {"key": k, "value": "dHdv", "lease": lease, "prevKv": true}}],
        "failure": [{"request_range": {"key": k}}],
    });
    let first = done(address, "/v3/kv/txn", txn.clone()).await;
    assert_eq!(first["succeeded"], true);
    assert_eq!(first["responses"][0]["response_put"]["prev_kv"]["value"], v);
    let second = done(address, "/v3/kv/txn", txn).await;
    assert_eq!(second.get("succeeded"), None);
    assert_eq!(second["responses"][0]["response_range"]["kvs"][0]["value"], "dHdv");
    let left = done(address, "/v3/kv/lease/timetolive", json!({"ID": lease, "keys": true})).await;
    assert_eq!((&left["grantedTTL"], &left["keys"][0]), (&json!("100"), &json!(k)));
    let mut alive = Stream::open(address, "/v3/lease/keepalive", json!({"ID": lease})).await;
    assert_eq!(alive.next().await["TTL"], "100");
    done(address, "/v3/lease/revoke", json!({"ID": lease})).await;
    let gone = done(address, "/v3/kv/range", json!({"key": k})).await;
    assert_eq!(gone.get("kvs"), None);
    assert_eq!(
        ask(address, "/v3/lease/revoke", json!({"ID": lease})).await,
        (404, json!({"code": 5, "message": "etcdserver: requested lease not found"}))
    );
}

async fn watches(address: &str, key: &str) {
    let k = base64(key);
    let mut watch =
        Stream::open(address, "/v3/watch", json!({"create_request": {"key": k, "prevKv": true}})).await;
    assert_eq!(watch.next().await["created"], true);
    for value in ["YQ==", "Yg=="] {
        done(address, "/v3/kv/put", json!({"key": k, "value": value})).await;
        let seen = watch.next().await;
        assert_eq!(seen["events"][0]["kv"]["value"], value, "{seen}");
    }
    done(address, "/v3/kv/deleterange", json!({"key": k})).await;
    assert_eq!(watch.next().await["events"][0]["type"], "DELETE");
}

async fn others(address: &str) {
    let status = done(address, "/v3/maintenance/status", json!({})).await;
    assert!(status["version"].as_str().is_some_and(|version| version.starts_with("3.")), "{status}");
    assert!(number(&status["dbSize"]) > 0);
    let members = done(address, "/v3/cluster/member/list", json!({})).await;
    assert!(members["members"][0]["clientURLs"][0].is_string(), "{members}");
    let mut snapshot = Stream::open(address, "/v3/maintenance/snapshot", json!({})).await;
    assert!(snapshot.next().await["blob"].is_string());
    let (status, refused) = ask(address, "/v3/auth/user/list", json!({})).await;
    assert_eq!((status, &refused["code"]), (501, &json!(12)), "{refused}");
    assert_eq!(
        ask(address, "/v3/kv/nope", json!({})).await,
        (404, json!({"code": 5, "message": "Not Found"}))
    );
    let (status, text) = get(address, "/v3/kv/range").await;
    assert_eq!((status, text.as_str()), (501, r#"{"code":12,"message":"Method Not Allowed"}"#));
    let (status, text) = post(address, "/v3/kv/range", "{").await;
    assert_eq!((status, text.as_str()), (400, r#"{"code":3,"message":"unexpected EOF"}"#));
    let large = format!("{{\"value\":\"{}\"}}", "A".repeat(5 << 20));
    assert_eq!(post(address, "/v3/kv/put", &large).await.0, 429);
}

async fn locks(address: &str) {
    let name = base64("gateway");
    let lock = done(address, "/v3/lock/lock", json!({"name": name})).await;
    let won = done(address, "/v3/election/campaign", json!({"name": name, "value": "YQ=="}));
    let waits = tokio::time::timeout(Duration::from_millis(300), won).await;
    assert!(waits.is_err(), "a lock is a place in the same queue");
    let prefix = json!({"key": base64("gateway/"), "range_end": base64("gateway0")});
    // Whoever waits has gone away: so has its key.
    until("one key", async || {
        let range = done(address, "/v3/kv/range", prefix.clone()).await;
        (range["count"] == "1").then_some(())
    })
    .await;
    done(address, "/v3/lock/unlock", json!({"key": lock["key"]})).await;
    let won = done(address, "/v3/election/campaign", json!({"name": name, "value": "YQ=="})).await;
    let mut seen = Stream::open(address, "/v3/election/observe", json!({"name": name})).await;
    assert_eq!(seen.next().await["kv"]["value"], "YQ==");
    done(address, "/v3/election/proclaim", json!({"leader": won["leader"], "value": "Yg=="})).await;
    assert_eq!(seen.next().await["kv"]["value"], "Yg==");
    done(address, "/v3/election/resign", json!({"leader": won["leader"]})).await;
}

/// Of the standard alphabet, with padding; for ASCII whose length gives it.
fn base64(text: &str) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letter = |bits: u32| char::from(LETTERS[(bits & 63) as usize]);
    let group = |bytes: &[u8]| {
        let at = |index: usize| u32::from(*bytes.get(index).unwrap_or(&0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        let all = [letter(bits >> 18), letter(bits >> 12), letter(bits >> 6), letter(bits)];
        all.into_iter()
            .enumerate()
            .map(|(place, letter)| if place <= bytes.len() { letter } else { '=' })
            .collect()
    };
    text.as_bytes().chunks(3).map(|bytes| -> String { group(bytes) }).collect()
}

async fn metrics(server: &Process, method: &str) -> u64 {
    let (_, page) = get(server.address(), "/metrics").await;
    let line = format!("grpc_method=\"{method}\"");
    let of = page.lines().filter(|row| row.starts_with("grpc_server_started_total") && row.contains(&line));
    of.filter_map(|row| row.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_brain_speaks_json() {
    let place = BINARY.place();
    let brain = Start::brain(&place, "default").run().await;
    let address = brain.address();
    keys_and_leases(address, "/registry/pods/a").await;
    watches(address, "/registry/pods/w").await;
    others(address).await;
    locks(address).await;
    assert!(metrics(&brain, "Txn").await >= 2, "calls are counted like those of gRPC");
    assert!(metrics(&brain, "Lock").await >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_groups_speak_json_in_one_process_and_behind_a_proxy() {
    let place = BINARY.place();
    let standalone = Start::standalone(&place).run().await;
    let (_brains, proxies) = cluster(&place).await;
    for address in [standalone.address(), proxies[0].address()] {
        keys_and_leases(address, "/registry/pods/a").await;
        watches(address, "/registry/events/w").await;
        others(address).await;
        locks(address).await;
    }
}

/// A watch over HTTP/1 has no other sign of its end than the connection's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_with_its_connection() {
    let place = BINARY.place();
    let brain = Start::brain(&place, "default").run().await;
    let watchers = async || {
        let (_, page) = get(brain.address(), "/metrics").await;
        let row = page.lines().find_map(|row| row.strip_prefix("etcd_debugging_mvcc_watcher_total "));
        row.and_then(|count| count.parse::<u64>().ok()).expect("a number")
    };
    let mut held = Vec::new();
    for _ in 0..20 {
        let create = json!({"create_request": {"key": "YQ==", "range_end": "Yg=="}});
        let mut watch = Stream::open(brain.address(), "/v3/watch", create).await;
        assert_eq!(watch.next().await["created"], true);
        held.push(watch);
    }
    assert_eq!(watchers().await, 20);
    drop(held);
    until("no watcher", async || (watchers().await == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_has_listeners_of_its_own_or_none_as_flags_say() {
    let place = BINARY.place();
    let none = Start::standalone(&place).flag("enable-grpc-gateway", "false").run().await;
    assert_eq!(post(none.address(), "/v3/kv/range", "{}").await, (404, "404 page not found\n".to_owned()));
    drop(none);
    let place = BINARY.place();
    let http = Start::standalone(&place).flag("listen-client-http-urls", "http://127.0.0.1:0").run().await;
    let put = done(http.probe_address(), "/v3/kv/put", json!({"key": "YQ=="})).await;
    assert_eq!(put["header"]["revision"], "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_comes_over_tls() {
    let place = BINARY.place();
    let authority = Authority::new(&place, "ours");
    let pair = authority.issue("server", 1);
    let server = Start::standalone(&place).https(&pair.certificate, &pair.key).run().await;
    let io = authority.connect(server.address(), None, "http/1.1").await.expect("a connection");
    let (status, text) =
        exchange_over(io, "POST", "/v3/kv/put", r#"{"key":"YQ=="}"#).await.expect("an answer");
    assert_eq!(status, 200, "{text}");
    assert!(text.contains(r#""revision":"2""#), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_ready_says_so_in_json() {
    let place = BINARY.place();
    // Nobody listens where its brains should be.
    let nobody = |group: &str| format!("{{ brains: [\"http://127.0.0.1:{}\"] }}", group.as_bytes()[0]);
    let placement = place.file("placement.yaml", &table(nobody));
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address").to_string();
    drop(free);
    let _proxy = Start::proxy(&place, "alone", &placement).clients("http", &address).begins();
    let answer = until("an answer", async || {
        let io = TcpStream::connect(&address).await.ok()?;
        exchange_over(io, "POST", "/v3/kv/range", r#"{"key":"YQ=="}"#).await.ok()
    })
    .await;
    let unhealthy = r#"{"code":14,"message":"etcdserver: unhealthy cluster"}"#.to_owned();
    assert_eq!(answer, (503, unhealthy));
}
