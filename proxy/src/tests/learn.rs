//! How a proxy finds the placement and follows it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt as _;
use kubebrain_shared::fault::Fault;
use kubebrain_shared::placement::{Document, DocumentId};
use kubebrain_shared::revision::Revision;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tonic::body::Body;

use crate::config::{Config, Seams};
use crate::proxy::Proxy;
use crate::testing::land::{JOBS, Land, numbered, text};
use crate::testing::{Client, LINEAGE, document, put, range};
use kubebrain_proto::etcdserverpb as pb;

const PUT: &str = "/etcdserverpb.KV/Put";
const ADVANCE: &str = "/kubebrain.peer.v1.Peer/Advance";
const PLACEMENT: &str = "/kubebrain.peer.v1.Peer/Placement";

async fn page(proxy: &Proxy, path: &str) -> (u16, String) {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let Ok(response) = proxy.service().answer(request).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

async fn write(client: &Client, key: &str) -> Result<i64, Status> {
    let answer: pb::PutResponse = client.call(PUT, &put(key, "v")).await?;
    Ok(answer.header.expect("a header").revision)
}

async fn goes_by(proxy: &Proxy, number: u64) -> Duration {
    let (began, mut documents) = (Instant::now(), proxy.documents());
    let told = timeout(Duration::from_secs(20), documents.wait_for(|id| id.number == number)).await;
    assert!(told.is_ok(), "it goes by {} and not by {number}", proxy.document().number());
    began.elapsed()
}

/// A directory that is there for one test.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kubebrain-proxy-{}-{name}", std::process::id()));
        let _before = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(start_paused = true)]
async fn any_brain_leads_to_the_placement_and_home_says_which() {
    let land = Land::new();
    land.commit(&numbered(JOBS, 2));
    land.brain("pods").commit(numbered("", 1)); // it has not heard yet
    let (proxy, client) = land.joining(Config::default(), &["http://pods:1"], None);
    assert_eq!(proxy.document().number(), 0, "it knows nothing");
    let mut documents = proxy.documents();
    documents.changed().await.expect("it learns");
    assert_eq!(documents.borrow_and_update().number, 2, "the first that it goes by is home's");
    proxy.start().await;
    assert_eq!(proxy.document().id(), DocumentId { lineage: LINEAGE, number: 2 });
    write(&client, "/registry/jobs/a").await.expect("a put");
    let request = Request::get("/readyz").body(Body::empty()).expect("a request");
    let Ok(ready) = proxy.service().answer(request).await;
    assert_eq!(ready.headers().get("kubebrain-placement").expect("it says by what it goes"), "2 (7)");
    assert_eq!(page(&proxy, "/readyz").await, (200, "ok\n".to_owned()));
    let numbers: Vec<_> = proxy.groups().iter().map(|group| group.placement).collect();
    assert_eq!(numbers, [2, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn what_came_of_each_address_is_said_until_somebody_answers() {
    let land = Land::new();
    land.lost("core");
    let (proxy, client) = land.joining(Config::default(), &["http://core:1", "http://nowhere:1"], None);
    let started = tokio::spawn(async move {
        proxy.start().await;
        proxy
    });
    sleep(Duration::from_secs(3)).await;
    let refused = write(&client, "/registry/pods/a").await.expect_err("nothing is known");
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(!started.is_finished());
    land.brain("core").state.lock().is_unplaced = true;
    land.found("core");
    sleep(Duration::from_secs(3)).await;
    assert!(!started.is_finished(), "there is no placement yet");
    land.brain("core").state.lock().is_unplaced = false;
    let proxy = timeout(Duration::from_secs(3), started).await.expect("soon").expect("it starts");
    assert_eq!(proxy.document().number(), 1);
}

#[tokio::test(start_paused = true)]
async fn why_there_is_no_placement_is_on_the_page() {
    let land = Land::new();
    land.lost("core");
    let (proxy, _client) = land.joining(Config::default(), &["http://core:1", "http://nowhere:1"], None);
    sleep(Duration::from_secs(3)).await;
    let (status, said) = page(&proxy, "/readyz").await;
    assert_eq!(status, 503);
    for words in ["no brain has told", "http://core:1: ", "http://nowhere:1: there is no such address"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    land.brain("core").state.lock().is_unplaced = true;
    land.found("core");
    sleep(Duration::from_secs(3)).await;
    let (_, said) = page(&proxy, "/readyz").await;
    assert!(
        said.contains("the cluster has no placement yet: the home group's brains have not been reached"),
        "{said}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_commit_is_noticed_at_once_and_what_is_only_adopted_is_not_gone_by() {
    let land = Land::new();
    let (proxy, client) = land.proxy(Config::default()).await;
    let next = numbered(JOBS, 2);
    land.brains.values().for_each(|brain| brain.adopt(&next));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(proxy.document().number(), 1, "home has not committed it");
    let writing = tokio::spawn(async move { write(&client, "/registry/jobs/a").await });
    sleep(Duration::from_millis(500)).await;
    assert!(!writing.is_finished(), "held while it changes");
    land.commit(&next);
    let took = goes_by(&proxy, 2).await;
    assert!(took < Duration::from_millis(50), "{took:?}");
    writing.await.expect("no panic").expect("a put");
    assert_eq!(land.brain("events").state.lock().history.len(), 1, "where it is now");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_teaches_where_a_stream_is_late() {
    let land = Land::new();
    let (proxy, client) = land.proxy(Config::default()).await;
    land.brains.values().for_each(|brain| brain.state.lock().is_late = true);
    land.commit(&numbered(JOBS, 2));
    sleep(Duration::from_secs(3)).await;
    assert_eq!(proxy.document().number(), 1, "nobody has told");
    let began = Instant::now();
    write(&client, "/registry/jobs/a").await.expect("a put");
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
    assert_eq!(proxy.document().number(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_fence_teaches_where_a_stream_is_late() {
    let land = Land::new();
    let (proxy, _client) = land.proxy(Config::default()).await;
    for brain in land.brains.values() {
        let mut state = brain.state.lock();
        (state.is_late, state.tells_fences) = (true, true);
    }
    land.commit(&numbered(JOBS, 2));
    assert!(goes_by(&proxy, 2).await <= Duration::from_secs(2), "with the next look at how far groups are");
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_for_too_long_hears_that_the_leader_has_changed() {
    let land = Land::new();
    let (_proxy, client) = land.proxy(Config::default()).await;
    let next = numbered(JOBS, 2);
    land.brains.values().for_each(|brain| brain.adopt(&next));
    let began = Instant::now();
    let refused = write(&client, "/registry/jobs/a").await.expect_err("it never ends");
    assert_eq!(Fault::of(&refused), Some(Fault::LeaderChanged));
    assert!(began.elapsed() <= Duration::from_secs(6), "{:?}", began.elapsed());
    let asked = land.brain("core").count(PLACEMENT);
    assert!((10..1500).contains(&asked), "{asked} questions in 5 s");
    write(&client, "/registry/pods/a").await.expect("other kinds go on");
}

/// Where a proxy is that goes by number 2, after a brain has told number 1 again.
async fn after_an_old_word(seams: Seams) -> u64 {
    let land = Land::new();
    let (proxy, client) = land.proxy(Config { seams, ..Config::default() }).await;
    land.commit(&numbered(JOBS, 2));
    goes_by(&proxy, 2).await;
    land.brain("pods").commit(numbered("", 1)); // an old disk
    land.brain("pods").plan(PUT, crate::testing::Planned::NotOwner);
    write(&client, "/registry/pods/a").await.expect("a put");
    sleep(Duration::from_secs(1)).await;
    proxy.document().number()
}

#[tokio::test(start_paused = true)]
async fn an_older_number_is_never_gone_by() {
    assert_eq!(after_an_old_word(Seams::default()).await, 2);
    let seams = Seams { believe_older: true, ..Seams::default() };
    assert_eq!(after_an_old_word(seams).await, 1, "the planted fault shows");
}

/// The number after a change was taken back, and whether all groups can be read together.
async fn after_an_abort(seams: Seams) -> (u64, bool) {
    let land = Land::new();
    let config = Config { seams, retry_for: Duration::from_secs(1), ..Config::default() };
    let (proxy, client) = land.proxy(config).await;
    let next = numbered(JOBS, 2);
    land.brains.values().for_each(|brain| brain.adopt(&next));
    sleep(Duration::from_secs(1)).await;
    land.commit(&numbered("", 3));
    sleep(Duration::from_secs(1)).await;
    (proxy.document().number(), client.range(range("/registry/")).await.is_ok())
}

#[tokio::test(start_paused = true)]
async fn old_content_under_a_new_number_is_another_placement() {
    assert_eq!(after_an_abort(Seams::default()).await, (3, true));
    let seams = Seams { compare_content: true, ..Seams::default() };
    assert_eq!(after_an_abort(seams).await, (1, false), "the planted fault shows");
}

#[tokio::test(start_paused = true)]
async fn another_lineage_is_taken_from_home_alone() {
    let land = Land::new();
    let (proxy, client) = land.proxy(Config::default()).await;
    let recovered = document(&text(JOBS), 8, 5);
    land.brain("pods").commit(recovered.clone());
    sleep(Duration::from_secs(3)).await;
    assert_eq!(proxy.document().id().lineage, LINEAGE);
    land.commit(&recovered);
    assert!(goes_by(&proxy, 5).await < Duration::from_millis(50));
    assert_eq!(proxy.document().id().lineage, 8);
    write(&client, "/registry/jobs/a").await.expect("a put");
}

#[tokio::test(start_paused = true)]
async fn groups_come_move_and_go_with_the_placement() {
    let land = Land::new();
    let (proxy, client) = land.proxy(Config::default()).await;
    let mut watch = client.watch().await;
    watch.prefix("/registry/pods/", 0).await;
    ["http://pods:3", "http://pods:4"].into_iter().for_each(|url| land.put("pods", url));
    let moved = text("").replace("http://pods:1", "http://pods:3").replace("http://pods:2", "http://pods:4");
    land.commit(&document(&moved, LINEAGE, 2));
    goes_by(&proxy, 2).await;
    land.lost("pods");
    write(&client, "/registry/pods/a").await.expect("a put");
    assert_eq!(watch.events(1).await[0].0, "/registry/pods/a");
    let address =
        |proxy: &Proxy| proxy.groups().into_iter().map(|group| group.name.to_string()).collect::<Vec<_>>();
    assert_eq!(address(&proxy), ["core", "events", "pods"]);
    let fewer = moved
        .replace("  events: { brains: [\"http://events:1\", \"http://events:2\"] }\n", "")
        .replace("group: events", "group: core");
    let fewer = document(&fewer, LINEAGE, 3);
    ["core", "pods"].into_iter().for_each(|group| land.brain(group).commit(fewer.clone()));
    goes_by(&proxy, 3).await;
    assert_eq!(address(&proxy), ["core", "pods"]);
    let asked = land.brain("events").count(ADVANCE);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(land.brain("events").count(ADVANCE), asked, "nobody asks it any more");
    write(&client, "/registry/events/a").await.expect("core has it now");
}

#[tokio::test(start_paused = true)]
async fn contacts_are_read_again_in_use() {
    let land = Land::new();
    let nowhere = text("").replace(":1\"", ":8\"").replace(":2\"", ":9\"");
    land.commit(&document(&nowhere, LINEAGE, 1)); // the addresses of the placement lead nowhere
    let (proxy, client) = land.joining(Config::default(), &[], None);
    sleep(Duration::from_secs(1)).await;
    assert!(page(&proxy, "/readyz").await.1.contains("there is no address"), "nobody to ask");
    let urls = ["http://core:1", "http://pods:1", "http://events:1"].map(str::to_owned).to_vec();
    proxy.set_contacts(crate::proxy::Contacts { urls, file: None });
    timeout(Duration::from_secs(20), proxy.start()).await.expect("by the contacts' addresses");
    write(&client, "/registry/pods/a").await.expect("a put");
}

async fn kept_start(place: &Place) -> (Land, Document) {
    let land = Land::new();
    let (proxy, client) = land.joining(Config::default(), &["http://core:1"], Some(place.0.clone()));
    proxy.start().await;
    write(&client, "/registry/pods/a").await.expect("a put");
    let document = proxy.document();
    for name in ["placement", "floor"] {
        let path = place.0.join(name);
        for _ in 0..1000 {
            if path.exists() {
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        let mode = std::fs::metadata(&path).expect("it is kept").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(std::fs::metadata(&place.0).expect("a directory").permissions().mode() & 0o777, 0o700);
    proxy.stop().await;
    (land, document)
}

#[tokio::test(start_paused = true)]
async fn with_home_away_a_proxy_starts_by_what_it_has_kept() {
    let place = Place::new("kept");
    let (land, document) = kept_start(&place).await;
    land.lost("core");
    let contacts = ["http://core:1", "http://core:3", "http://core:4"];
    let (proxy, client) = land.joining(Config::default(), &contacts, Some(place.0.clone()));
    timeout(Duration::from_secs(20), proxy.start()).await.expect("it starts without home");
    assert_eq!(proxy.document().id(), document.id());
    assert_eq!(proxy.away().iter().map(ToString::to_string).collect::<Vec<_>>(), ["core"]);
    let wrote = write(&client, "/registry/pods/b").await.expect("pods are there");
    assert!(wrote > 1_000_000, "home may have shown more than pods have: {wrote}");
    let list = client.range(range("/registry/pods/")).await.expect("a list");
    assert_eq!((list.kvs.len(), list.header.expect("one").cluster_id), (2, 77));
    let (status, said) = page(&proxy, "/readyz").await;
    assert!(status == 503 && said.contains("group-core failed"), "{said}");
    assert_eq!(page(&proxy, "/readyz/group-pods").await.0, 200);
    let refused = write(&client, "/registry/nodes/a").await.expect_err("home's");
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    ["http://core:3", "http://core:4"].into_iter().for_each(|url| land.put("core", url));
    sleep(Duration::from_secs(10)).await;
    assert!(write(&client, "/registry/nodes/a").await.expect("home is back") > wrote);
    assert!(proxy.away().is_empty());
}

#[tokio::test(start_paused = true)]
async fn with_all_there_a_kept_ceiling_raises_nobody() {
    let place = Place::new("ceiling");
    let (land, _) = kept_start(&place).await;
    let (proxy, client) = land.joining(Config::default(), &["http://core:1"], Some(place.0.clone()));
    proxy.start().await;
    assert_eq!(write(&client, "/registry/pods/b").await.expect("a put"), 3);
    assert!(proxy.floor() < Revision::new(100));
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_and_damaged_is_as_if_it_were_not_there() {
    let place = Place::new("damaged");
    let (land, _) = kept_start(&place).await;
    for name in ["placement", "floor"] {
        let path = place.0.join(name);
        let mut bytes = std::fs::read(&path).expect("a file");
        *bytes.last_mut().expect("some") ^= 1;
        std::fs::write(&path, bytes).expect("a file");
    }
    land.lost("core");
    let (proxy, client) = land.joining(Config::default(), &["http://core:1"], Some(place.0.clone()));
    assert_eq!(proxy.document().number(), 0, "nothing is known");
    assert!(timeout(Duration::from_secs(10), proxy.start()).await.is_err(), "it waits");
    land.found("core");
    proxy.start().await;
    write(&client, "/registry/nodes/a").await.expect("a put");
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_cannot_be_written_keeps_nobody_from_starting() {
    let place = Place::new("file");
    std::fs::write(&place.0, "a file").expect("a file");
    let land = Land::new();
    let (proxy, client) = land.joining(Config::default(), &["http://core:1"], Some(place.0.join("below")));
    proxy.start().await;
    write(&client, "/registry/pods/a").await.expect("a put");
    std::fs::remove_file(&place.0).expect("it is there");
}
