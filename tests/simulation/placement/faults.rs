//! Faults that random runs find soon, and the seed printed that does. The others have scenes: see [`super::rules`].

use kubebrain_brain::config::Planted;

use super::run;
use super::world::Broken;
use crate::number;

/// Seeds that are tried. The first few find each of these; a seed does not fix all of the order of tasks.
const SEEDS: u64 = 30;

fn finds(name: &str, broken: Broken) {
    let first = number("KUBEBRAIN_SEED").unwrap_or(1);
    let count = number("KUBEBRAIN_SEEDS").unwrap_or(SEEDS);
    for seed in first..first + count {
        if let Some(wrong) = run(seed, broken).wrong.first() {
            println!("{name}: found with seed {seed}: {}", wrong.chars().take(300).collect::<String>());
            return;
        }
    }
    panic!("{name}: not found with {count} seeds from {first}");
}

macro_rules! planted {
    ($($test:ident: $fault:ident;)*) => {$(
        #[test]
        fn $test() {
            let brain = Planted { $fault: true, ..Planted::default() };
            finds(stringify!($fault), Broken { brain, ..Broken::default() });
        }
    )*};
}

macro_rules! broken {
    ($($test:ident: $fault:ident;)*) => {$(
        #[test]
        fn $test() {
            finds(stringify!($fault), Broken { $fault: true, ..Broken::default() });
        }
    )*};
}

planted! {
    groups_that_serve_what_they_gain_too_early_are_found: serves_early;
    groups_that_let_keys_go_are_found: lets_keys_go;
    slaves_that_hear_beside_the_order_of_batches_are_found: hears_late;
    watches_that_go_on_where_they_are_not_served_are_found: keeps_watches;
}

broken! {
    a_home_that_commits_with_one_missing_is_found: one_missing;
    a_home_that_forgets_a_removed_group_is_found: forgets_removed;
    a_group_that_never_hears_of_an_abort_is_found: deaf;
    groups_that_adopt_after_they_answered_are_found: adopts_late;
}
