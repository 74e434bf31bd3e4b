use http_body_util::{BodyExt as _, Full};

use super::*;

const MIB: u64 = 1 << 20;

fn body(bytes: u64) -> Response<Body> {
    let data = Bytes::from(vec![b'x'; usize::try_from(bytes).expect("small")]);
    Response::new(Body::new(Full::new(data)))
}

async fn large(budget: &Arc<Budget>, bytes: u64) -> Arc<Share> {
    budget.take(bytes).await.expect("let in").expect("counted")
}

#[tokio::test(start_paused = true)]
async fn what_is_let_in_is_at_most_the_budget_and_comes_in_order() {
    let budget = Budget::new(4 * MIB);
    let first = large(&budget, 3 * MIB).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let waiting = [3, 1].map(|size| {
        let (budget, order) = (budget.clone(), order.clone());
        tokio::spawn(async move {
            let share = large(&budget, size * MIB).await;
            order.lock().push(size);
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(share);
        })
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(*order.lock(), [0; 0], "the small one does not pass the large one, or the large one starves");
    assert!(budget.take(UNCOUNTED_BYTES).await.expect("let in").is_none(), "the smallest are not counted");
    drop(first);
    for waiting in waiting {
        waiting.await.expect("let in");
    }
    assert_eq!(*order.lock(), [3, 1]);
    assert_eq!(budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_above_the_budget_is_alone() {
    let budget = Budget::new(4 * MIB);
    let share = large(&budget, 100 * MIB).await;
    assert_eq!(budget.used(), 4 * MIB - MIB / 2);
    assert_eq!(budget.take(MIB).await.expect_err("no room"), Fault::TooManyRequests);
    drop(share);
    assert_eq!(budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_last_eighth_is_for_kinds_that_have_less() {
    let budget = Budget::new(8 * MIB);
    let [pods, secrets] = [1, 2].map(KindId::of_number);
    let take = |kind, bytes| {
        let budget = budget.clone();
        async move { budget.take_of(kind, bytes).await.map(|share| share.expect("it is counted")) }
    };
    let mut flood = Vec::new();
    while let Ok(share) = take(pods, MIB).await {
        flood.push(share);
    }
    assert_eq!(flood.len(), 7);
    let began = Instant::now();
    let half = take(secrets, MIB / 2).await.expect("half of the last eighth");
    let other = take(secrets, MIB / 2).await.expect("the other half");
    assert_eq!(began.elapsed(), Duration::ZERO);
    take(secrets, MIB / 2).await.expect_err("it has an eighth");
    drop(half);
    take(secrets, MIB / 2).await.expect("what it gave back");
    drop((flood, other));
    assert_eq!(budget.used(), 0);
    assert!(budget.kinds.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_read_is_given_up_only_when_others_wait() {
    let budget = Budget::new(4 * MIB);
    let mut unread = large(&budget, 3 * MIB).await.hold(body(3 * MIB)).into_body();
    let mut taken = 0;
    while taken < CHUNK_BYTES {
        taken += unread.frame().await.expect("more").expect("no error").into_data().expect("data").len();
    }
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(budget.used(), 3 * MIB, "nobody waits");
    let other = large(&budget, 2 * MIB).await;
    assert_eq!(budget.used(), 2 * MIB);
    let trailers =
        unread.frame().await.expect("an end").expect("no error").into_trailers().expect("trailers");
    let status = Status::from_header_map(&trailers).expect("a status");
    assert_eq!(Fault::of(&status), Some(Fault::TooManyRequests));
    assert!(unread.frame().await.is_none());
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_read_slowly_is_whole() {
    let budget = Budget::new(4 * MIB);
    let mut read = large(&budget, 3 * MIB).await.hold(body(3 * MIB)).into_body();
    let waiting = tokio::spawn({
        let budget = budget.clone();
        async move { budget.take(4 * MIB).await.map(drop) }
    });
    let mut bytes = 0;
    while let Some(frame) = read.frame().await {
        let data = frame.expect("no error").into_data().expect("data");
        assert!(data.len() <= CHUNK_BYTES);
        bytes += data.len() as u64;
        tokio::time::sleep(UNREAD_MAX / 2).await;
    }
    assert_eq!(bytes, 3 * MIB);
    drop(read);
    let waited = waiting.await.expect("no panic");
    assert_eq!(waited.expect_err("that took longer than anybody waits"), Fault::TooManyRequests);
    assert_eq!(budget.used(), 0, "it is given back when the answer is read");
}
