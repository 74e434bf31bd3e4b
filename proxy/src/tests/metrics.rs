use std::time::Duration;

use kubebrain_net::metrics::Metrics as Registry;
use tokio::time::sleep;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::testing::{Cluster, TABLE, range};

/// The value of a row of the page.
fn value(registry: &Registry, row: &str) -> f64 {
    let page = registry.page();
    let found = page.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("{row} is not on the page")).parse().expect("a number")
}

#[tokio::test(start_paused = true)]
async fn merged_ranges_and_watchers_are_counted_while_they_last() {
    let registry = Registry::new();
    let cluster = Cluster::with(Config { metrics: Metrics::new(&registry), ..Config::default() }).await;
    cluster.client.put("/registry/pods/a", "v").await;
    let one = range("/registry/pods/");
    cluster.client.range(one).await.expect("a range of one group");
    assert_eq!(value(&registry, "kubebrain_proxy_merged_range_bytes_count"), 0.0);
    cluster.client.range(range("/registry/")).await.expect("a range of all groups");
    assert_eq!(value(&registry, "kubebrain_proxy_merged_range_bytes_count"), 1.0);
    assert!(value(&registry, "kubebrain_proxy_merged_range_bytes_sum") > 20.0);

    let mut watch = cluster.client.watch().await;
    let merged = watch.prefix("/registry/", 0).await.watch_id;
    watch.prefix("/registry/pods/", 0).await;
    watch.prefix("/registry/pods/a", 0).await;
    let standing = |expected: [f64; 3]| {
        let names = ["watch_streams", "upstream_watch_streams", "watchers"];
        let rows = names.map(|name| value(&registry, &format!("kubebrain_proxy_{name}")));
        assert_eq!(rows, expected, "streams of clients, streams to groups, watchers");
    };
    standing([1.0, 4.0, 3.0]);
    watch.cancel(merged).await;
    assert!(watch.next().await.expect("an answer").canceled);
    standing([1.0, 1.0, 2.0]);
    drop(watch);
    sleep(Duration::from_secs(1)).await;
    standing([0.0, 0.0, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_counted_and_the_floor_is_shown() {
    let registry = Registry::new();
    let config = Config { metrics: Metrics::new(&registry), in_flight_max: 0, ..Config::default() };
    let cluster = Cluster::with(config).await;
    cluster.client.range(range("/registry/pods/")).await.expect_err("nothing may be at work");
    assert_eq!(value(&registry, "kubebrain_proxy_refused_total"), 1.0);
    assert_eq!(value(&registry, "kubebrain_proxy_requests_in_flight"), 0.0);
    assert_eq!(value(&registry, "kubebrain_proxy_ready"), 1.0);
    assert_eq!(value(&registry, "kubebrain_proxy_floor_revision"), cluster.proxy.floor().to_wire() as f64);
    cluster.proxy.stop().await;
    assert_eq!(value(&registry, "kubebrain_proxy_ready"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_a_placement_drops_leaves_the_page() {
    let registry = Registry::new();
    let cluster = Cluster::with(Config { metrics: Metrics::new(&registry), ..Config::default() }).await;
    let groups = || registry.page().matches("kubebrain_proxy_group_revision{").count();
    assert_eq!(groups(), 3);
    let smaller = TABLE.replace("events: {} }", "}").replace("group: events", "group: core");
    cluster.replace_placement(&smaller);
    assert_eq!(groups(), 2);
}
