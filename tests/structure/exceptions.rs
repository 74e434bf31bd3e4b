//! What stands although it should not. Lines go away and none is added: a check fails for one that is not needed.

/// Files and functions that are too long and do not say why.
pub(crate) const LONG: &[&str] = &[
    "brain/src/mvcc/mod.rs",
    "brain/src/mvcc/metrics.rs: new",
    "brain/src/mvcc/writer/mod.rs: take",
    "brain/src/service/mod.rs: route",
    "brain/tikv/src/commit.rs: once",
    "src/brain.rs: run",
    "src/standalone.rs: run",
];

/// Circles between files of one module: the crate and its module, the files in it, why they stand.
pub(crate) const CIRCLES: &[(&str, &[&str], &str)] = &[
    (
        "shared/net: metrics",
        &[
            "shared/net/src/metrics/call.rs",
            "shared/net/src/metrics/method.rs",
            "shared/net/src/metrics/slow.rs",
        ],
        "a call is counted by its method, and remembered with it where it is slow",
    ),
    (
        "brain: engine",
        &[
            "brain/src/engine/embedded/commit.rs",
            "brain/src/engine/embedded/open.rs",
            "brain/src/engine/embedded/private.rs",
            "brain/src/engine/embedded/room.rs",
            "brain/src/engine/embedded/staged.rs",
            "brain/src/engine/embedded/upkeep.rs",
            "brain/src/engine/embedded/wal/mod.rs",
            "brain/src/engine/embedded/wal/recover.rs",
            "brain/src/engine/embedded/wal/ring.rs",
            "brain/src/engine/embedded/wal/segment.rs",
        ],
        "opening knows all parts and owns what says that the store is full or broken",
    ),
    (
        "brain: mvcc",
        &[
            "brain/src/mvcc/answer.rs",
            "brain/src/mvcc/claim.rs",
            "brain/src/mvcc/evaluate.rs",
            "brain/src/mvcc/fence.rs",
            "brain/src/mvcc/follow/course.rs",
            "brain/src/mvcc/landing.rs",
            "brain/src/mvcc/metrics.rs",
            "brain/src/mvcc/open.rs",
            "brain/src/mvcc/ownership.rs",
            "brain/src/mvcc/pending.rs",
            "brain/src/mvcc/read.rs",
            "brain/src/mvcc/shared.rs",
            "brain/src/mvcc/values.rs",
            "brain/src/mvcc/writer/batch.rs",
            "brain/src/mvcc/writer/mod.rs",
            "brain/src/mvcc/writer/place.rs",
        ],
        "the state that all share owns parts which reach back for it",
    ),
    (
        "brain: service",
        &["brain/src/service/follow.rs", "brain/src/service/questions.rs"],
        "questions travel on the feed's stream and use its notices",
    ),
    (
        "src: log",
        &["src/log/journal.rs", "src/log/output.rs", "src/log/rotation.rs"],
        "an output holds its kinds, and each kind is asked as an output",
    ),
];
