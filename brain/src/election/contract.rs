//! What every [`Ballot`] keeps, as tests. [`suite`] makes one test of each check, on two ways to one record, as
//! two processes have them. The record may be there already.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::ballot::{Ballot, Found, Replaced};
use super::record::MasterRecord;

/// Makes a test of each check; `$ballots` gives two ways to one record of that test's own, by its name, or `None` where
/// there is none today.
#[macro_export]
#[doc(hidden)]
macro_rules! ballot_contract {
    ($ballots:expr) => {
        $crate::ballot_contract! { $ballots;
            a_record_is_read_as_it_was_put,
            whoever_saw_something_older_replaces_nothing,
            a_holder_goes_on_from_its_own_answers,
            of_many_at_once_one_replaces,
        }
    };
    ($ballots:expr; $($check:ident,)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $check() {
            let Some((one, other)) = $ballots(stringify!($check)).await else { return };
            $crate::election::contract::$check(one, other).await;
        }
    )* };
}
pub use crate::ballot_contract as suite;

fn record(name: &str, transitions: u64, renewals: u64) -> MasterRecord {
    MasterRecord {
        holder: format!("{name}_1"),
        lease_ms: 2000,
        transitions,
        renewals,
        name: name.to_owned(),
        peer_urls: vec![format!("http://{name}:2380"), format!("unix:///run/{name}.sock")],
        client_urls: vec![format!("https://{name}:2379")],
    }
}

fn released(name: &str, transitions: u64, renewals: u64) -> MasterRecord {
    MasterRecord { holder: String::new(), lease_ms: 0, ..record(name, transitions, renewals) }
}

async fn look(ballot: &dyn Ballot) -> Option<Found> {
    ballot.look().await.expect("it can be read")
}

/// Puts it there, whatever stands there.
async fn put(ballot: &dyn Ballot, record: MasterRecord) -> Found {
    let before = look(ballot).await;
    match ballot.replace(before.as_ref(), &record).await {
        Replaced::Yes(version) => Found { record, version },
        other => panic!("nobody else is here: {other:?}"),
    }
}

/// What was put there is found there, by everybody and to the last field.
pub async fn a_record_is_read_as_it_was_put<B: Ballot>(one: Arc<B>, other: Arc<B>) {
    let bare = MasterRecord { peer_urls: Vec::new(), client_urls: Vec::new(), ..record("a", 3, 7) };
    let odd = MasterRecord {
        lease_ms: 1_234,
        name: "A name, with \"signs\" and ünicode".to_owned(),
        holder: "A name_00ff".to_owned(),
        ..record("a", 1_000_000, u64::MAX)
    };
    for record in [record("a", 0, 0), bare, odd, released("a", 8, 9), record("b", 9, 10)] {
        put(&*one, record.clone()).await;
        for ballot in [&one, &other] {
            assert_eq!(look(&**ballot).await.map(|found| found.record), Some(record.clone()));
        }
    }
}

/// Only what was seen last is replaced.
pub async fn whoever_saw_something_older_replaces_nothing<B: Ballot>(one: Arc<B>, other: Arc<B>) {
    put(&*one, record("a", 1, 1)).await;
    let seen = look(&*other).await.expect("it is there");
    let newer = put(&*one, record("a", 1, 2)).await;
    let late = other.replace(Some(&seen), &record("b", 2, 2)).await;
    assert!(matches!(late, Replaced::No), "{late:?}");
    let late = other.replace(None, &record("b", 0, 0)).await;
    assert!(matches!(late, Replaced::No), "as if nothing had been there: {late:?}");
    assert_eq!(look(&*other).await.map(|found| found.record), Some(newer.record));
}

/// A holder renews without looking, by what each renewal gave it.
pub async fn a_holder_goes_on_from_its_own_answers<B: Ballot>(one: Arc<B>, other: Arc<B>) {
    let mut found = put(&*one, record("a", 1, 1)).await;
    for renewals in 2..6 {
        let record = record("a", 1, renewals);
        match one.replace(Some(&found), &record).await {
            Replaced::Yes(version) => found = Found { record, version },
            other => panic!("nobody else is here: {other:?}"),
        }
    }
    let release = released("a", 1, 6);
    assert!(matches!(one.replace(Some(&found), &release).await, Replaced::Yes(_)));
    let seen = look(&*other).await.expect("it is there");
    assert!(seen.record.is_released());
    assert!(matches!(other.replace(Some(&seen), &record("b", 2, 7)).await, Replaced::Yes(_)));
}

/// Of many that replace the same, one does.
pub async fn of_many_at_once_one_replaces<B: Ballot>(one: Arc<B>, other: Arc<B>) {
    for round in 0..4 {
        put(&*one, released("a", round, 0)).await;
        let seen = look(&*one).await.expect("it is there");
        let mut tries = JoinSet::new();
        for number in 0..8_u64 {
            let (ballot, seen) = (if number % 2 == 0 { &one } else { &other }.clone(), seen.clone());
            tries.spawn(async move {
                let record = record("b", round + 1, number);
                (matches!(ballot.replace(Some(&seen), &record).await, Replaced::Yes(_)), record)
            });
        }
        let tries = tries.join_all().await;
        let won: Vec<_> = tries.into_iter().filter_map(|(won, record)| won.then_some(record)).collect();
        let [won] = &won[..] else { panic!("{} have won", won.len()) };
        assert_eq!(look(&*other).await.map(|found| found.record).as_ref(), Some(won));
    }
}
