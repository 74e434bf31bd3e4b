//! What proxies and brains tell each other in gRPC metadata, on the peer listener only. Proxies strip a client's own.

use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::revision::Revision;

/// On a request: the highest revision that this proxy has seen in an answer, decimal. The group's answer is at or
/// above it and its next write is above it.
pub const FLOOR: HeaderName = HeaderName::from_static("kubebrain-floor");
/// On an answer's header block: the revision of its `ResponseHeader`, decimal.
pub const REVISION: HeaderName = HeaderName::from_static("kubebrain-revision");
/// On a request for a range that spans groups: the version of the placement by which this group is asked for its
/// part, in hex. A brain with another table refuses; one with the same serves only keys that it owns.
pub const PART: HeaderName = HeaderName::from_static("kubebrain-part");
/// On a refusal: why. The only value is [`NOT_OWNER`]; surely nothing was applied.
pub const REFUSAL: HeaderName = HeaderName::from_static("kubebrain-refusal");
/// On an answer to `Status`: a number that the groups of one store have in common, in hex. Sizes are added up by store.
pub const STORE: HeaderName = HeaderName::from_static("kubebrain-store");
/// The brain does not own the keys, or has another placement than the one named by [`PART`].
pub const NOT_OWNER: HeaderValue = HeaderValue::from_static("not-owner");

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

/// True if the status is [`not_owner`].
pub fn is_not_owner(status: &Status) -> bool {
    status.metadata().get(REFUSAL.as_str()).is_some_and(|value| value.as_bytes() == NOT_OWNER.as_bytes())
}
