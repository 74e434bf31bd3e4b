//! How long anything here is waited for.

use std::time::Duration;

/// How long an answer is waited for: etcd's own bound, 5 s and two election timeouts.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(7);
