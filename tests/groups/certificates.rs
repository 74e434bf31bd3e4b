//! Certificates of a whole group, changed in use: its slaves follow, its proxy asks, and nobody notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::BINARY;
use kit::bystander::Bystander;
use kit::client::Client;
use kit::cluster::{Cluster, prefix};
use kit::http1::get;
use kit::pki::{Authority, Pair, replace};
use kit::process::{Place, Process, Start};
use kit::{full_tier, until};

/// The brains, and the proxy.
const NAMES: [&str; 4] = ["brain-0", "brain-1", "brain-2", "proxy"];

/// Where a program looks for its files, which the authorities' take the place of.
fn used(place: &Place, name: &str) -> Pair {
    Pair { certificate: place.join(&format!("{name}.crt")), key: place.join(&format!("{name}.key")) }
}

fn issue(place: &Place, of: &Authority, serial: u64) -> [Pair; 4] {
    NAMES.map(|name| {
        let (next, used) = (of.issue(name, serial), used(place, name));
        replace(&used.key, &next.key);
        replace(&used.certificate, &next.certificate);
        next
    })
}

/// Reads through each brain until it is told to stop; gives how many.
fn read(addresses: [&str; 3], stop: &Arc<AtomicBool>) -> JoinSet<usize> {
    let mut readers = JoinSet::new();
    for (number, address) in addresses.into_iter().enumerate() {
        let (client, stop) = (Client::new(address), stop.clone());
        readers.spawn(async move {
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) {
                let found =
                    client.list("/busy/").await.unwrap_or_else(|status| panic!("brain {number}: {status:?}"));
                assert!(!found.kvs.is_empty());
                reads += 1;
                sleep(Duration::from_millis(5)).await;
            }
            reads
        });
    }
    readers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_a_group_change_under_load_and_no_client_notices() {
    let Some(cluster) = Cluster::any().await else { return };
    let rounds = if full_tier() { 20 } else { 4 };
    let (place, prefix) = (BINARY.place(), prefix("certificates"));
    let authorities = [Authority::new(&place, "first"), Authority::new(&place, "second")];
    let ca = place.join("trusted.crt");
    std::fs::copy(&authorities[0].file, &ca).expect("a copy");
    let first = issue(&place, &authorities[0], 1);
    let mut brains = Vec::new();
    for name in &NAMES[..3] {
        let start = Start::brain(&place, name).flag("group", "default").peers("https", "127.0.0.1:0");
        let start = start.peer_files(&used(&place, name), &ca).flag("peer-client-cert-auth", "true");
        brains.push(start.flag("election", "engine").on_tikv(cluster.pd(), &prefix).run().await);
    }
    let urls: Vec<_> = brains.iter().map(|brain| format!("\"https://{}\"", brain.peer_address())).collect();
    let table =
        format!("home: default\ndefault: default\ngroups:\n  default: {{ brains: [{}] }}\n", urls.join(", "));
    let placement = place.file("placement.yaml", &table);
    let proxy = Start::proxy(&place, "front", &placement).peer_files(&used(&place, "proxy"), &ca).run().await;

    let writers = [
        Bystander::start(proxy.address(), "/busy/proxy").await,
        Bystander::start(brains[1].address(), "/busy/brain").await,
    ];
    let stop = Arc::new(AtomicBool::new(false));
    let readers = read([0, 1, 2].map(|number: usize| brains[number].address()), &stop);
    let servers: [&Process; 4] = [&brains[0], &brains[1], &brains[2], &proxy];
    let counts = || servers.map(|server| server.log().matches("new certificates are in use").count());
    let taken = async |before: [usize; 4]| {
        until("new certificates in use everywhere", async || {
            counts().iter().zip(before).all(|(now, before)| *now > before).then_some(())
        })
        .await;
    };
    for round in 0..rounds {
        let of = &authorities[usize::from(round >= rounds / 2)];
        if round == rounds / 2 {
            let before = counts();
            let both = authorities.each_ref().map(|one| std::fs::read_to_string(&one.file).expect("a file"));
            replace(&ca, &place.file("both.crt", &both.concat()));
            taken(before).await;
        }
        let before = counts();
        let next = issue(&place, of, round + 2);
        taken(before).await;
        for (brain, pair) in brains.iter().zip(&next) {
            let wanted = CertificateDer::from_pem_file(&pair.certificate).expect("a certificate");
            until("the new certificate", async || {
                (of.shown(brain.peer_address(), &next[3]).await? == wanted.to_vec()).then_some(())
            })
            .await;
        }
    }
    let before = counts();
    replace(&ca, &authorities[1].file);
    taken(before).await;
    stop.store(true, Ordering::Relaxed);
    let reads: usize = readers.join_all().await.into_iter().sum();
    let mut writes = 0;
    for writer in writers {
        writes += writer.stop().await.writes;
    }
    println!("{rounds} changes, {writes} writes with their events, {reads} lists: none has failed");
    assert!(writes > 50 && reads > 50, "{writes} writes, {reads} lists");

    // Strangers, and whom the first authority has vouched for, get no answer.
    for client in [None, Some(&first[3])] {
        let io = authorities[1].connect(brains[0].peer_address(), client, "http/1.1").await;
        let answer = match io {
            Ok(io) => kit::http1::get_over(io, "/livez").await.map(drop),
            Err(error) => Err(error),
        };
        assert!(answer.is_err(), "it was let in");
    }
    // The master leaves and comes back: whoever follows whom now connects with nothing but the new files.
    let master = brains.iter().position(|brain| brain.log().contains("master at")).expect("a master");
    let again = brains.remove(master).restart().await;
    brains.push(again);
    let writer = Client::new(brains[2].address());
    let wrote = until("a write", async || writer.put("/busy/again", "x").await.ok()).await;
    for brain in &brains {
        until("a master, or a slave that follows it", async || {
            let (status, _) = get(brain.address(), "/readyz").await;
            (status == 200).then_some(())
        })
        .await;
        let found = Client::new(brain.address()).get("/busy/again").await.expect("a read");
        assert_eq!(found.kvs[0].mod_revision, wrote);
    }
}
