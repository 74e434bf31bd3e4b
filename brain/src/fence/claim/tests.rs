//! Each row of the table, with masters of two processes on one engine.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kubebrain_shared::group::GroupName;
use kubebrain_shared::placement::Placement;
use kubebrain_shared::revision::Revision;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::refute;
use crate::config::Config;
use crate::engine::faulty::{Faulty, Mood};
use crate::engine::memory::Memory;
use crate::request::{Given, Put};
use crate::state::claim::Claim;
use crate::store::Store;

/// One of several processes' way to an engine.
struct Process {
    engine: Arc<Faulty>,
    store: Store,
}

impl Process {
    async fn start(memory: &Arc<Memory>, name: &str) -> Self {
        let engine = Arc::new(Faulty::new(memory.clone(), Mood::default(), 1).shared());
        let group = GroupName::parse("core").expect("a name");
        let placement = Arc::new(Placement::single(group.clone()));
        let store = Store::open(Config::new(group, name), engine.clone(), placement).await.expect("opens");
        Self { engine, store }
    }

    /// A batch that is durable before this returns, and answered a good while later.
    async fn send(&self) -> JoinHandle<()> {
        self.engine.set(Mood { late_answer: 1.0, ..Mood::default() });
        let store = self.store.clone();
        let put = Put {
            key: Bytes::from_static(b"k"),
            value: Given::New("v".into()),
            lease: Given::New(0),
            prev_kv: false,
        };
        let sent = tokio::spawn(async move { drop(store.put(put, Revision::ZERO).await) });
        sleep(Duration::from_millis(1)).await;
        assert!(!sent.is_finished());
        self.engine.set(Mood::default());
        sent
    }

    async fn claim(&self) -> Claim {
        let fenced = self.store.claim(Revision::ZERO).await.expect("not deposed, as far as it knows");
        fenced.claim.expect("others may write")
    }

    /// The record that refutes a claim.
    async fn refutation(&self, claim: Claim) -> Option<u64> {
        refute(self.store.state(), claim).await.expect("reads").map(|(number, _)| number)
    }
}

#[tokio::test(start_paused = true)]
async fn what_stands_after_the_claimed_batch_decides() {
    let memory = Arc::new(Memory::new());
    let one = Process::start(&memory, "a").await;
    let claim = one.claim().await;
    assert_eq!(claim, Claim { epoch: 1, batch: 1 });
    assert_eq!(one.refutation(claim).await, None, "nothing");
    let sent = one.send().await;
    assert_eq!(one.claim().await, claim, "it is not settled");
    assert_eq!(one.refutation(claim).await, None, "one of its own");
    sent.await.expect("no panic");
    let second = one.send().await;
    assert_eq!(one.refutation(claim).await, None, "two of its own");
    second.await.expect("no panic");

    let claim = one.claim().await;
    assert_eq!(claim.batch, 3);
    let two = Process::start(&memory, "b").await;
    assert_eq!(one.refutation(claim).await, Some(4), "another's");
    let newer = two.claim().await;
    assert_eq!((newer, two.refutation(newer).await), (Claim { epoch: 2, batch: 4 }, None));
    two.send().await.await.expect("no panic");
    assert_eq!(one.refutation(claim).await, Some(4), "two of another's");
}

/// The own one may have been on its way since before the claim, and whatever the other has answered since, too.
#[tokio::test(start_paused = true)]
async fn a_takeover_behind_an_own_batch_refutes_the_claim() {
    let memory = Arc::new(Memory::new());
    let one = Process::start(&memory, "a").await;
    let _unanswered = one.send().await;
    let _two = Process::start(&memory, "b").await;
    let claim = one.claim().await;
    assert_eq!(claim.batch, 1, "not settled yet");
    assert_eq!(one.refutation(claim).await, Some(3));
}

/// Two of its own prove it whatever came then: the second was sent after the claim.
#[tokio::test(start_paused = true)]
async fn two_own_batches_prove_the_claim_of_one_that_is_deposed_by_now() {
    let memory = Arc::new(Memory::new());
    let one = Process::start(&memory, "a").await;
    let claim = one.claim().await;
    for _ in 0..2 {
        one.send().await.await.expect("no panic");
    }
    let two = Process::start(&memory, "b").await;
    assert_eq!(two.claim().await.batch, 4);
    assert_eq!(one.refutation(claim).await, None);
    let late = one.claim().await;
    assert_eq!(one.refutation(late).await, Some(4));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_claimed_that_the_master_is_sure_of() {
    let engine = Arc::new(Faulty::new(Arc::new(Memory::new()), Mood::default(), 1));
    let group = GroupName::parse("core").expect("a name");
    let placement = Arc::new(Placement::single(group.clone()));
    let store = Store::open(Config::new(group, "a"), engine, placement).await.expect("opens");
    assert_eq!(store.claim(Revision::ZERO).await.expect("answers").claim, None, "nobody else can write");
    let lifted = Process::start(&Arc::new(Memory::new()), "a").await.store.claim(Revision::new(500)).await;
    let lifted = lifted.expect("answers");
    assert_eq!((lifted.revision, lifted.claim), (Revision::new(500), None), "lifted behind a fence");
}
