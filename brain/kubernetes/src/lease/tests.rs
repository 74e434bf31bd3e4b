use k8s_openapi::jiff::Timestamp;

use super::*;

fn at(second: i64) -> MicroTime {
    MicroTime(Timestamp::from_second(1_700_000_000 + second).expect("a time"))
}

fn record() -> MasterRecord {
    MasterRecord {
        holder: "a_1".to_owned(),
        lease_ms: 1_500,
        transitions: 3,
        renewals: 7,
        name: "a".to_owned(),
        peer_urls: vec!["http://a:2380".to_owned(), "http://a2:2380".to_owned()],
        client_urls: Vec::new(),
    }
}

#[test]
fn people_see_what_client_go_would_write() {
    let mut lease = Lease::default();
    write(&mut lease, &record(), at(0));
    let spec = lease.spec.clone().expect("written");
    assert_eq!(spec.holder_identity.as_deref(), Some("a_1"));
    assert_eq!((spec.lease_duration_seconds, spec.lease_transitions), (Some(2), Some(3)), "rounded up");
    assert_eq!((spec.acquire_time, spec.renew_time), (Some(at(0)), Some(at(0))));
    assert_eq!(read(&lease), record());

    let renewed = MasterRecord { renewals: 8, ..record() };
    write(&mut lease, &renewed, at(5));
    let spec = lease.spec.clone().expect("written");
    assert_eq!((spec.acquire_time, spec.renew_time), (Some(at(0)), Some(at(5))), "acquired when it was");
    assert_eq!(read(&lease), renewed);

    let released = MasterRecord { holder: String::new(), lease_ms: 0, renewals: 9, ..record() };
    write(&mut lease, &released, at(6));
    let spec = lease.spec.clone().expect("written");
    assert_eq!(spec.holder_identity.as_deref(), Some(""));
    assert_eq!((spec.lease_duration_seconds, spec.lease_transitions), (Some(1), Some(3)));
    assert_eq!(read(&lease), released);

    write(&mut lease, &MasterRecord { transitions: 4, ..record() }, at(7));
    assert_eq!(lease.spec.expect("written").acquire_time, Some(at(7)), "a new term, though the same holder");
}

/// What others write, and what is made of it: holder, lease in ms, renewals.
#[test]
fn what_others_write_is_understood_by_table() {
    type Row = (&'static str, fn(&mut Lease), (&'static str, u64, u64));
    let micros = 1_700_000_009_000_000;
    let rows: [Row; 8] = [
        ("nothing", |lease| *lease = Lease::default(), ("", 0, 0)),
        ("ours", |_| {}, ("a_1", 1_500, 7)),
        (
            "a person released it",
            |lease| spec(lease).holder_identity = Some(String::new()),
            ("", 0, 1_700_000_000_000_000),
        ),
        (
            "a person dropped the holder",
            |lease| spec(lease).holder_identity = None,
            ("", 0, 1_700_000_000_000_000),
        ),
        (
            "another's, with our annotations still there",
            |lease| {
                spec(lease).holder_identity = Some("controller".to_owned());
                spec(lease).renew_time = Some(at(9));
                spec(lease).lease_duration_seconds = Some(15);
            },
            ("controller", 15_000, micros),
        ),
        (
            "another's, without a duration",
            |lease| {
                spec(lease).holder_identity = Some("controller".to_owned());
                spec(lease).lease_duration_seconds = None;
                spec(lease).renew_time = None;
            },
            ("controller", 15_000, 0),
        ),
        (
            "annotations are gone",
            |lease| lease.metadata.annotations = None,
            ("a_1", 2_000, 1_700_000_000_000_000),
        ),
        (
            "an annotation is no number",
            |lease| {
                let annotations = lease.metadata.annotations.as_mut().expect("written");
                annotations.insert(RENEWALS.to_owned(), "many".to_owned());
            },
            ("a_1", 2_000, 1_700_000_000_000_000),
        ),
    ];
    for (name, change, (holder, lease_ms, renewals)) in rows {
        let mut lease = Lease::default();
        write(&mut lease, &record(), at(0));
        change(&mut lease);
        let found = read(&lease);
        assert_eq!(
            (found.holder.as_str(), found.lease_ms, found.renewals),
            (holder, lease_ms, renewals),
            "{name}"
        );
    }
}

fn spec(lease: &mut Lease) -> &mut LeaseSpec {
    lease.spec.as_mut().expect("written")
}

#[test]
fn what_is_not_the_elections_stays() {
    let mut lease = Lease::default();
    lease.metadata.resource_version = Some("17".to_owned());
    lease.metadata.labels = Some([("team".to_owned(), "storage".to_owned())].into());
    lease.metadata.annotations = Some([("note".to_owned(), "hands off".to_owned())].into());
    let (metadata, labels) = (lease.metadata.clone(), lease.metadata.labels.clone());
    write(&mut lease, &record(), at(0));
    assert_eq!((lease.metadata.resource_version, lease.metadata.labels), (metadata.resource_version, labels));
    assert_eq!(
        lease.metadata.annotations.expect("written").get("note").map(String::as_str),
        Some("hands off")
    );
}

#[test]
fn stores_that_differ_have_leases_that_differ() {
    assert_eq!(name("core", ""), "kubebrain-core");
    let prefixes = ["", "prod", "prod/", "Prod/", "/", "p", "a/b", "a-b", "ä"];
    let groups = ["core", "core-prod", "c"];
    let names: std::collections::BTreeSet<_> =
        groups.iter().flat_map(|group| prefixes.map(|prefix| name(group, prefix))).collect();
    assert_eq!(names.len(), prefixes.len() * groups.len(), "{names:?}");
    for name in &names {
        assert!(is_name(name), "{name}");
    }
    assert!(name("core", "prod/").starts_with("kubebrain-core.pprod-"));
    assert!(is_name(&name(&"g".repeat(63), &"x".repeat(500))));
    for bad in ["", "-a", "a-", "A", "a..b", "a_b", "ä", "a/b", &"a".repeat(254)] {
        assert!(!is_name(bad), "{bad}");
    }
    assert!(is_namespace("kube-system") && !is_namespace("a.b") && !is_namespace(&"a".repeat(64)));
}
