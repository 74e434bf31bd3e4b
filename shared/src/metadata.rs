//! What proxies and brains tell each other in gRPC metadata, on the peer listener only. Proxies strip a client's own.

use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::fault::Fault;
use crate::revision::Revision;

/// On a request: the highest revision that this proxy has seen in an answer, decimal. The group's answer is at or
/// above it and its next write is above it.
pub const FLOOR: HeaderName = HeaderName::from_static("kubebrain-floor");
/// On an answer's header block: the revision of its `ResponseHeader`, decimal.
pub const REVISION: HeaderName = HeaderName::from_static("kubebrain-revision");
/// On a request for a range that spans groups: the [`DocumentId`](crate::placement::DocumentId) of the placement by which
/// this group is asked for its part. A brain that goes by another one refuses; one with the same serves only keys that it owns.
pub const PART: HeaderName = HeaderName::from_static("kubebrain-part");
/// On a request for a range, decimal: where its rows take at least so many bytes the brain may answer how it is cut, as
/// `kubebrain.peer.v1.Cut`, instead of the rows. On an answer's header block, with any value: it does.
pub const CUT: HeaderName = HeaderName::from_static("kubebrain-cut");
/// A part ends where it has grown to this. Smaller parts cost more requests, each some tens of microseconds; larger ones more
/// memory where they are put together, which holds two of each brain.
pub const CUT_PART_BYTES: u64 = 512 << 10;
/// On a request for a range at a named revision, with any value: its group has shown that revision as fresh. A brain that is not
/// so far waits a moment for it, and asks nobody.
pub const FENCED: HeaderName = HeaderName::from_static("kubebrain-fenced");
/// On a watch stream of a proxy, with any value: it knows which starts its clients have named, and holds progress back
/// itself. The brain tells all that it has.
pub const PROGRESS: HeaderName = HeaderName::from_static("kubebrain-progress");
/// On a call about the placement, with any value: another brain passes it on, and it goes no further.
pub const PASSED_ON: HeaderName = HeaderName::from_static("kubebrain-passed-on");
/// On a refusal: why, as [`NOT_OWNER`] or [`NOT_MASTER`]; surely nothing was applied.
pub const REFUSAL: HeaderName = HeaderName::from_static("kubebrain-refusal");
/// On an answer to `Status`: a number that the groups of one store have in common, in hex. Sizes are added up by store.
pub const STORE: HeaderName = HeaderName::from_static("kubebrain-store");
/// The brain does not own the keys, is about to lose them, or goes by another placement than the one named by [`PART`].
pub const NOT_OWNER: HeaderValue = HeaderValue::from_static("not-owner");

/// The brain is not its group's master.
pub const NOT_MASTER: HeaderValue = HeaderValue::from_static("not-master");
/// On such a refusal: the master's peer URLs with commas between, where they are known.
pub const MASTER: HeaderName = HeaderName::from_static("kubebrain-master");

/// Takes out what proxies and brains tell each other: it never comes from a client and never goes to one.
pub fn strip(headers: &mut HeaderMap) {
    let own: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("kubebrain-")).cloned().collect();
    for name in own {
        headers.remove(name);
    }
}

/// A header value that HPACK never puts into its table: each number is seen once.
pub fn number(revision: Revision) -> HeaderValue {
    let mut value = HeaderValue::from(revision.get());
    value.set_sensitive(true);
    value
}

/// The revision under `name`; `None` if it is missing or not a number of a revision.
pub fn revision(headers: &HeaderMap, name: &HeaderName) -> Option<Revision> {
    headers.get(name)?.to_str().ok()?.parse().ok().and_then(Revision::checked_from)
}

/// Says which store answers.
pub fn put_store(metadata: &mut MetadataMap, store: u64) {
    let mut headers = std::mem::take(metadata).into_headers();
    headers.extend(HeaderValue::from_str(&format!("{store:x}")).ok().map(|store| (STORE, store)));
    *metadata = MetadataMap::from_headers(headers);
}

/// The store that has answered; `None` if it did not say.
pub fn store(headers: &HeaderMap) -> Option<u64> {
    u64::from_str_radix(headers.get(STORE)?.to_str().ok()?, 16).ok()
}

/// The refusal of a key or table that a brain does not own.
pub fn not_owner(what: impl std::fmt::Display) -> Status {
    let mut headers = HeaderMap::with_capacity(1);
    headers.insert(REFUSAL, NOT_OWNER);
    Status::with_metadata(
        tonic::Code::FailedPrecondition,
        format!("kubebrain: {what}"),
        MetadataMap::from_headers(headers),
    )
}

/// The refusal of a brain that is not its group's master. Clients of etcd take it for a change of leader.
pub fn not_master(peer_urls: &[String]) -> Status {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(REFUSAL, NOT_MASTER);
    if !peer_urls.is_empty()
        && let Ok(urls) = HeaderValue::from_str(&peer_urls.join(","))
    {
        headers.insert(MASTER, urls);
    }
    let (code, message) = Fault::LeaderChanged.wire();
    Status::with_metadata(code, message, MetadataMap::from_headers(headers))
}

/// Of an answer that is [`not_master`]: the master's peer URLs with commas between, empty where they are not known.
pub fn refusing_master(headers: &HeaderMap) -> Option<&str> {
    let refuses = headers.get(REFUSAL).is_some_and(|value| value == NOT_MASTER);
    refuses.then(|| headers.get(MASTER).and_then(|urls| urls.to_str().ok()).unwrap_or(""))
}

/// True if the status is [`not_owner`].
pub fn is_not_owner(status: &Status) -> bool {
    status.metadata().get(REFUSAL.as_str()).is_some_and(|value| value.as_bytes() == NOT_OWNER.as_bytes())
}
