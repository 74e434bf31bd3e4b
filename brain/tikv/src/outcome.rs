//! What an error of the client says about a commit.
//!
//! The client sends a message again inside when it gets no answer, so an error may be about the second copy while the
//! first one is still on its way. Only what stays true of the transaction's timestamp for ever is certain:
//! * **Conflict**: a key was committed after the transaction began. It stays so, and every later copy of the message
//!   meets it too, also under one-phase commit.
//! * **Already there**: the key of an insert exists at the transaction's timestamp. It stays so.
//! * In two phases, whatever failed before the second one: nobody but this client can begin that.
//!
//! Everything else may be the failure of an answer, not of the commit.

use std::error::Error as _;

use tikv_client::Error;

/// What is known.
#[derive(Debug)]
pub(crate) enum Judgement {
    /// Another transaction was first. Nothing was written, nor will be.
    Lost,
    /// The server did not do it in one phase, and wrote locks. Nothing was written, nor will be if they are removed.
    NotInOnePhase,
    /// Somebody else's lock stands in the way, in two phases. Nothing was written, nor will be.
    Locked,
    /// It is more than TiKV takes in one entry. Nothing was written, nor will be.
    TooLarge,
    /// It may have happened or may still happen.
    Unknown,
}

/// Judges an error of `commit()`. `start` is the transaction's timestamp.
pub(crate) fn judge(error: &Error, start: u64, one_phase: bool) -> Judgement {
    if matches!(error, Error::OnePcFailure) {
        return Judgement::NotInOnePhase;
    }
    let mut own = false;
    let lost = any(error, &mut |error| {
        let Error::KeyError(key) = error else { return false };
        if let Some(conflict) = &key.conflict {
            // Our own commit, met by a second copy of the message; or our own rollback, which says less.
            own |= conflict.conflict_ts == start;
            return true;
        }
        key.already_exist.is_some()
    });
    if own {
        return Judgement::Unknown;
    }
    if lost {
        return Judgement::Lost;
    }
    if any(
        error,
        &mut |error| matches!(error, Error::RegionError(region) if region.raft_entry_too_large.is_some()),
    ) {
        return Judgement::TooLarge;
    }
    // Both come from the first phase only, the second where the owner of a lock is asked for and has not got that far.
    // In one phase another copy may be waiting behind the same lock.
    let locked = any(error, &mut |error| matches!(error, Error::ResolveLockError(_)));
    if !one_phase && (locked || orphan(error).is_some_and(|other| other != start)) {
        return Judgement::Locked;
    }
    Judgement::Unknown
}

/// True if the answer was larger than one of the two sides takes: the same in smaller parts may succeed.
pub(crate) fn is_oversized(error: &Error) -> bool {
    any(error, &mut |error| {
        let Error::GrpcAPI(status) = error else { return false };
        // Ours says out of range, TiKV's resource exhausted; both say it in words alone.
        let code = i32::from(status.code());
        matches!(code, 8 | 11) && status.message().contains("larger than max")
            || status.message().contains("too large")
    })
}

/// True if a connection could not be made: the client then keeps what it believes of the region for ever.
pub(crate) fn is_unreachable(error: &Error) -> bool {
    any(error, &mut |error| matches!(error, Error::Grpc(_)))
}

/// The timestamp of a transaction that has locks and whose primary key nobody has heard of.
pub(crate) fn orphan(error: &Error) -> Option<u64> {
    let mut oldest: Option<u64> = None;
    any(error, &mut |error| {
        let start = match error {
            Error::KeyError(key) => key.txn_not_found.as_ref().map(|missing| missing.start_ts),
            Error::TxnNotFound(missing) => Some(missing.start_ts),
            _ => None,
        };
        oldest = start.into_iter().chain(oldest).min();
        start.is_some()
    });
    oldest
}

/// In one line, short enough for a log.
pub(crate) fn describe(error: &Error) -> String {
    const CHARS_MAX: usize = 400;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = source.source();
    }
    if text.contains("ApiVersionNotMatched") {
        return "its storage.api-version is 2, and keyspaces are not supported here: use a cluster of version 1".to_owned();
    }
    match text.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// True if the test is of one of the errors; it sees all of them, since one may say what makes another's word worth less.
fn any(error: &Error, test: &mut impl FnMut(&Error) -> bool) -> bool {
    let mut found = false;
    each(error, &mut |error| found |= test(error));
    found
}

fn each(error: &Error, visit: &mut impl FnMut(&Error)) {
    match error {
        Error::MultipleKeyErrors(errors) | Error::ExtractedErrors(errors) => {
            errors.iter().for_each(|error| each(error, visit));
        }
        Error::UndeterminedError(error) => each(error, visit),
        Error::PessimisticLockError { inner, .. } => each(inner, visit),
        error => visit(error),
    }
}

#[cfg(test)]
mod tests {
    use tikv_client::{ProtoKeyError, ProtoRegionError};

    use super::*;

    const START: u64 = 7;

    fn key(error: ProtoKeyError) -> Error {
        Error::ExtractedErrors(vec![Error::MultipleKeyErrors(vec![Error::KeyError(Box::new(error))])])
    }

    /// The client does not name the type of this field.
    fn conflict(with: u64) -> ProtoKeyError {
        let mut error = ProtoKeyError::default();
        error.conflict.get_or_insert_default().conflict_ts = with;
        error
    }

    fn exists() -> ProtoKeyError {
        let mut error = ProtoKeyError::default();
        error.already_exist.get_or_insert_default();
        error
    }

    fn locked() -> Error {
        Error::ResolveLockError(Vec::new())
    }

    #[test]
    fn only_what_stays_true_is_certain() {
        let certain =
            |error: &Error, one_phase| !matches!(judge(error, START, one_phase), Judgement::Unknown);
        for one_phase in [true, false] {
            assert!(matches!(judge(&key(conflict(6)), START, one_phase), Judgement::Lost));
            assert!(matches!(judge(&key(exists()), START, one_phase), Judgement::Lost));
            assert!(matches!(judge(&Error::OnePcFailure, START, one_phase), Judgement::NotInOnePhase));
            assert!(!certain(&key(conflict(START)), one_phase), "met by itself");
            let met = Error::MultipleKeyErrors(vec![key(exists()), key(conflict(START))]);
            assert!(!certain(&met, one_phase), "what exists may be its own");
            let abort = ProtoKeyError { abort: "WriteConflict".into(), ..ProtoKeyError::default() };
            assert!(!certain(&key(abort), one_phase), "words say nothing");
            let busy =
                ProtoRegionError { message: "raft entry is too large".into(), ..ProtoRegionError::default() };
            assert!(!certain(&Error::RegionError(Box::new(busy)), one_phase));
            assert!(!certain(&Error::UndeterminedError(Box::new(Error::Unimplemented)), one_phase));
            let mut large = ProtoRegionError::default();
            large.raft_entry_too_large.get_or_insert_default();
            let large = Error::ExtractedErrors(vec![Error::RegionError(Box::new(large))]);
            assert!(matches!(judge(&large, START, one_phase), Judgement::TooLarge));
        }
        assert!(matches!(judge(&locked(), START, false), Judgement::Locked));
        let unheard = |start_ts| {
            let mut error = ProtoKeyError::default();
            error.txn_not_found.get_or_insert_default().start_ts = start_ts;
            key(error)
        };
        assert!(matches!(judge(&unheard(6), START, false), Judgement::Locked));
        assert!(!certain(&unheard(6), true), "as behind a lock");
        assert!(!certain(&unheard(START), false), "about itself");
        assert!(!certain(&locked(), true), "another copy may wait behind the same lock");
    }
}
