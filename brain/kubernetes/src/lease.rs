//! [`MasterRecord`] and [`Lease`]: what stands where.
//!
//! | field | in the lease |
//! |---|---|
//! | holder, transitions | `spec.holderIdentity`, `spec.leaseTransitions` |
//! | lease | `spec.leaseDurationSeconds`, rounded up, 1 when released; exactly in `kubebrain.io/lease-milliseconds` |
//! | renewals | `kubebrain.io/renewals`; `spec.renewTime` is for people |
//! | name, peer URLs, client URLs | `kubebrain.io/name`, `/peer-urls`, `/client-urls` |
//!
//! Others may write the lease too: a controller with client-go's leader election, a person with `kubectl edit`. They leave
//! our annotations as they are, so these count only as long as `kubebrain.io/holder` is the holder. Of another's lease
//! `renewTime` is what changes; a person who empties `holderIdentity` releases it.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kubebrain_brain::election::MasterRecord;

const HOLDER: &str = "kubebrain.io/holder";
const LEASE: &str = "kubebrain.io/lease-milliseconds";
const RENEWALS: &str = "kubebrain.io/renewals";
const NAME: &str = "kubebrain.io/name";
const PEER_URLS: &str = "kubebrain.io/peer-urls";
const CLIENT_URLS: &str = "kubebrain.io/client-urls";

/// Of a holder that does not say: Kubernetes' own default.
const LEASE_MS_DEFAULT: u64 = 15_000;

/// The lease of a group: `kubebrain-GROUP`, and for a store prefix its readable signs and a hash of it. Different stores in
/// one TiKV have different ones.
pub fn name(group: &str, store_prefix: &str) -> String {
    if store_prefix.is_empty() {
        return format!("kubebrain-{group}");
    }
    let readable = |sign: char| if sign.is_ascii_alphanumeric() { sign.to_ascii_lowercase() } else { '-' };
    let text: String = store_prefix.chars().take(64).map(readable).collect();
    let hash = xxhash_rust::xxh3::xxh3_64(store_prefix.as_bytes()) >> 32;
    // A group's name has no dot: nothing after it is part of one.
    format!("kubebrain-{group}.p{}-{hash:08x}", text.trim_matches('-'))
}

/// A name that an API server takes for a lease: a DNS subdomain.
pub fn is_name(text: &str) -> bool {
    let ends_well = |part: &str| !part.starts_with('-') && !part.ends_with('-') && !part.is_empty();
    let sign = |sign: char| sign.is_ascii_lowercase() || sign.is_ascii_digit() || "-.".contains(sign);
    text.len() <= 253 && text.chars().all(sign) && text.split('.').all(ends_well)
}

/// A name of a namespace: a DNS label.
pub fn is_namespace(text: &str) -> bool {
    is_name(text) && text.len() <= 63 && !text.contains('.')
}

/// What a lease says.
pub fn read(lease: &Lease) -> MasterRecord {
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.unwrap_or_default();
    let transitions = spec.lease_transitions.and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
    let empty = BTreeMap::new();
    let annotations = lease.metadata.annotations.as_ref().unwrap_or(&empty);
    let said = |key: &str| annotations.get(key).map(String::as_str);
    if said(HOLDER) == Some(&holder)
        && let (Some(lease_ms), Some(renewals)) = (number(said(LEASE)), number(said(RENEWALS)))
    {
        let (peer_urls, client_urls) = (urls(said(PEER_URLS)), urls(said(CLIENT_URLS)));
        let name = said(NAME).unwrap_or_default().to_owned();
        return MasterRecord { holder, lease_ms, transitions, renewals, name, peer_urls, client_urls };
    }
    let lease_ms = match spec.lease_duration_seconds.map(u64::try_from) {
        _ if holder.is_empty() => 0,
        Some(Ok(seconds)) => seconds.saturating_mul(1000),
        _ => LEASE_MS_DEFAULT,
    };
    let renewed = spec.renew_time.map_or(0, |at| at.0.as_microsecond());
    let renewals = u64::try_from(renewed).unwrap_or(0);
    MasterRecord { name: holder.clone(), holder, lease_ms, transitions, renewals, ..Default::default() }
}

/// Makes a lease say `record`; `at` is for people. What is not the election's stays as it is.
pub fn write(lease: &mut Lease, record: &MasterRecord, at: MicroTime) {
    let before = lease.spec.take().unwrap_or_default();
    let transitions = i32::try_from(record.transitions).unwrap_or(i32::MAX);
    let same = before.holder_identity.as_ref() == Some(&record.holder)
        && before.lease_transitions.unwrap_or(0) == transitions;
    let acquired = if same { before.acquire_time.clone() } else { None };
    let seconds = i32::try_from(record.lease_ms.div_ceil(1000)).unwrap_or(i32::MAX);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(record.holder.clone()),
        lease_duration_seconds: Some(seconds.max(1)),
        lease_transitions: Some(transitions),
        acquire_time: Some(acquired.unwrap_or_else(|| at.clone())),
        renew_time: Some(at),
        ..before
    });
    let annotations = lease.metadata.annotations.get_or_insert_default();
    let said = [
        (HOLDER, record.holder.clone()),
        (LEASE, record.lease_ms.to_string()),
        (RENEWALS, record.renewals.to_string()),
        (NAME, record.name.clone()),
        (PEER_URLS, record.peer_urls.join(",")),
        (CLIENT_URLS, record.client_urls.join(",")),
    ];
    annotations.extend(said.map(|(key, value)| (key.to_owned(), value)));
}

fn number(text: Option<&str>) -> Option<u64> {
    text?.parse().ok()
}

/// Flags divide URLs by commas, so none has one.
fn urls(text: Option<&str>) -> Vec<String> {
    text.unwrap_or_default().split(',').filter(|url| !url.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
