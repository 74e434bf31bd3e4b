//! [`Held`]: how often a bound held a client back, by [`Bound`].
//!
//! Everything here has a bound, and an honest client of a library that nobody tried may meet one: it is slow then, or is
//! refused, and its user cannot tell why. Each bound that a client can meet at the door counts here, so that one look at
//! `kubebrain_held_back_total` says which.

use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec};

/// What holds a client back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A connection is read more slowly: resets, settings, pings and empty data that nothing of ours provoked.
    ControlFrames,
    /// A connection is read more slowly: small messages of streams that are not answered.
    SmallMessages,
    /// A connection was ended with "too_many_pings".
    Pings,
    /// A connection was ended with ENHANCE_YOUR_CALM by HTTP/2 itself: heads without end, small frames that are not read,
    /// resets before anybody looked.
    Calm,
    /// A connection said nothing in time and was closed.
    FirstBytes,
    /// A TLS handshake was not finished in time.
    Handshake,
    /// A large request waited to be read.
    RequestsWaited,
    /// A large request waited in vain: "too many requests".
    RequestsRefused,
    /// A request's message was not there in time.
    RequestsSlow,
    /// A large answer waited to be made.
    AnswersWaited,
    /// A large answer waited in vain: "too many requests".
    AnswersRefused,
    /// A large answer was given up, since its client took nothing of it while others waited.
    AnswersUnread,
}

impl Bound {
    const ALL: [Self; 12] = [
        Self::ControlFrames,
        Self::SmallMessages,
        Self::Pings,
        Self::Calm,
        Self::FirstBytes,
        Self::Handshake,
        Self::RequestsWaited,
        Self::RequestsRefused,
        Self::RequestsSlow,
        Self::AnswersWaited,
        Self::AnswersRefused,
        Self::AnswersUnread,
    ];

    /// As its label is.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ControlFrames => "control_frames",
            Self::SmallMessages => "small_messages",
            Self::Pings => "pings",
            Self::Calm => "calm",
            Self::FirstBytes => "first_bytes",
            Self::Handshake => "handshake",
            Self::RequestsWaited => "requests_waited",
            Self::RequestsRefused => "requests_refused",
            Self::RequestsSlow => "requests_slow",
            Self::AnswersWaited => "answers_waited",
            Self::AnswersRefused => "answers_refused",
            Self::AnswersUnread => "answers_unread",
        }
    }
}

/// See the module. Clones share their numbers; the default counts nothing.
#[derive(Clone, Debug, Default)]
pub struct Held(Option<Arc<[IntCounter; Bound::ALL.len()]>>);

impl Held {
    /// Over counters whose one label is the bound.
    pub(crate) fn new(counters: &IntCounterVec) -> Self {
        Self(Some(Arc::new(Bound::ALL.map(|bound| counters.with_label_values(&[bound.label()])))))
    }

    /// One more was held back.
    pub fn count(&self, bound: Bound) {
        self.add(bound, 1);
    }

    /// So many more were.
    pub fn add(&self, bound: Bound, count: u64) {
        // The order of `ALL` is that of the variants: a test looks.
        if let Some(counters) = &self.0 {
            counters[bound as usize].inc_by(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn each_bound_has_a_row_of_its_own() {
        let metrics = Metrics::new();
        let held = metrics.held();
        for (place, bound) in Bound::ALL.into_iter().enumerate() {
            assert_eq!(bound as usize, place, "{bound:?}");
            held.add(bound, 1 + place as u64);
        }
        let page = metrics.page();
        for (place, bound) in Bound::ALL.into_iter().enumerate() {
            let row = format!("kubebrain_held_back_total{{bound=\"{}\"}} {}\n", bound.label(), 1 + place);
            assert!(page.contains(&row), "{row} in {page}");
        }
        Held::default().count(Bound::Calm); // counts nowhere
    }
}
