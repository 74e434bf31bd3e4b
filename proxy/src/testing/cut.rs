//! How the stand-in cuts a range: as a brain does, from the rows themselves.

use http::HeaderMap;
use kubebrain_proto::mvccpb::KeyValue;
use kubebrain_proto::{etcdserverpb as pb, peer};
use kubebrain_shared::metadata;
use kubebrain_shared::wire::bytes_field_len;
use prost::Message as _;

use super::brain::text;

/// The `Cut` of this answer, where that was offered and it is large enough.
pub(super) fn cut(
    headers: &HeaderMap,
    request: &pb::RangeRequest,
    answer: &pb::RangeResponse,
) -> Option<peer::Cut> {
    let from: u64 = text(headers, &metadata::CUT)?.parse().ok()?;
    let row_bytes = |kv: &KeyValue| bytes_field_len(2, kv.encoded_len()) as u64;
    let header = answer.header.clone().unwrap_or_default();
    if request.count_only || answer.kvs.iter().map(row_bytes).sum::<u64>() < from {
        return None;
    }
    let mut parts: Vec<peer::CutPart> = Vec::new();
    for kv in &answer.kvs {
        match parts.last_mut().filter(|part| part.bytes < from / 2) {
            Some(part) => {
                part.bytes += row_bytes(kv);
                part.rows += 1;
            }
            None => {
                if let Some(before) = parts.last_mut() {
                    before.range_end = kv.key.clone();
                }
                parts.push(peer::CutPart {
                    key: kv.key.clone(),
                    bytes: row_bytes(kv),
                    rows: 1,
                    ..<_>::default()
                });
            }
        }
    }
    if let (Some(part), Some(last)) = (parts.last_mut(), answer.kvs.last()) {
        // What the limit left out begins behind the last row.
        let behind = [&last.key[..], b"\0"].concat().into();
        part.range_end = if answer.more { behind } else { request.range_end.clone() };
    }
    let revision = if request.revision > 0 { request.revision } else { header.revision };
    let bare = pb::RangeResponse { kvs: Vec::new(), ..answer.clone() };
    Some(peer::Cut { answer: bare.encode_to_vec().into(), revision, parts })
}
