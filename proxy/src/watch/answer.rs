//! A brain's `WatchResponse`, read without decoding its events.

use bytes::{Bytes, BytesMut};
use kubebrain_shared::revision::Revision;
use kubebrain_shared::wire::{self, Field, Fields, Malformed, Value};

use crate::fanout::merge::slice;
use crate::identity::Identity;

/// The id of answers that concern all watchers of a stream, or none.
pub(super) const NO_WATCHER: i64 = -1;

/// What a group stream said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) id: i64,
    pub(super) kind: Kind,
    /// The revision of its header; zero where it has none.
    pub(super) revision: Revision,
    /// The message as it came.
    pub(super) message: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Created,
    /// Events up to and including all of `last`.
    Events {
        last: Revision,
    },
    Progress,
    /// Ended: history from the wanted revision on is gone; `at` is the first that could be watched.
    Compacted {
        at: Revision,
    },
    /// Ended, or refused when created.
    Cancelled {
        reason: String,
    },
}

impl Answer {
    /// Reads a message.
    ///
    /// # Errors
    /// [`Malformed`]: the stream is of no more use.
    pub(super) fn read(message: Bytes) -> Result<Self, Malformed> {
        let (mut id, mut revision, mut created, mut canceled) = (0, Revision::ZERO, false, false);
        let (mut compacted, mut reason, mut last_event) = (0_i64, Bytes::new(), None);
        for field in Fields::new(&message) {
            let field = field?;
            match (field.number, field.value) {
                (1, Value::Bytes(header)) => revision = number_in(header, 3)?,
                (2, Value::Varint(value)) => id = value.cast_signed(),
                (3, Value::Varint(value)) => created = value != 0,
                (4, Value::Varint(value)) => canceled = value != 0,
                (5, Value::Varint(value)) => compacted = value.cast_signed(),
                (6, Value::Bytes(text)) => reason = slice(&message, text),
                (11, Value::Bytes(event)) => last_event = Some(event),
                _ => {}
            }
        }
        let kind = match last_event {
            _ if compacted != 0 => {
                Kind::Compacted { at: Revision::checked_from(compacted).unwrap_or(Revision::MAX) }
            }
            _ if canceled => Kind::Cancelled { reason: String::from_utf8_lossy(&reason).into_owned() },
            Some(event) => Kind::Events { last: event_revision(event)? },
            None if created => Kind::Created,
            None => Kind::Progress,
        };
        Ok(Self { id, kind, revision, message })
    }

    /// The events as they stand in it, each with its revision.
    ///
    /// # Errors
    /// [`Malformed`].
    pub(super) fn events(&self) -> Result<Vec<(Revision, Bytes)>, Malformed> {
        let mut events = Vec::new();
        for field in Fields::new(&self.message) {
            let field = field?;
            if let (11, Value::Bytes(event)) = (field.number, field.value) {
                events.push((event_revision(event)?, slice(&self.message, event)));
            }
        }
        Ok(events)
    }

    /// The same answer with a client's watch id, framed: every other field as it came.
    pub(super) fn readdressed(&self, id: i64) -> Bytes {
        let mut message = BytesMut::with_capacity(self.message.len() + 12);
        put_id(&mut message, id);
        for field in Fields::new(&self.message).flatten() {
            if !matches!(field.number, 2 | 7) {
                put_field(&mut message, field);
            }
        }
        wire::frame(&message)
    }

    /// [`Answer::readdressed`] in pieces of about `bytes_max`, if it is larger.
    pub(super) fn fragments(&self, id: i64, bytes_max: usize) -> Vec<Bytes> {
        if self.message.len() < bytes_max {
            return vec![self.readdressed(id)];
        }
        let mut head = BytesMut::new();
        let mut events = Vec::new();
        for field in Fields::new(&self.message).flatten() {
            match (field.number, field.value) {
                (11, Value::Bytes(event)) => events.push(slice(&self.message, event)),
                (2 | 7, _) => {}
                _ => put_field(&mut head, field),
            }
        }
        fragments(&head, id, &events, bytes_max)
    }
}

/// Responses with these events, each of about `bytes_max` at most, all but the last one marked as a fragment.
pub(super) fn fragments(head: &[u8], id: i64, events: &[Bytes], bytes_max: usize) -> Vec<Bytes> {
    let mut frames = Vec::new();
    let mut rest = events;
    loop {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|event| {
            bytes += event.len() + 8;
            bytes < bytes_max
        });
        let (piece, after) = rest.split_at(fits.count().max(1).min(rest.len()));
        frames.push(events_frame(head, id, piece, !after.is_empty()));
        rest = after;
        if rest.is_empty() {
            return frames;
        }
    }
}

/// One response: fields that are encoded already, then the events.
pub(super) fn events_frame(head: &[u8], id: i64, events: &[Bytes], fragment: bool) -> Bytes {
    let bytes: usize = events.iter().map(|event| event.len() + 6).sum();
    let mut message = BytesMut::with_capacity(head.len() + bytes + 16);
    put_id(&mut message, id);
    message.extend_from_slice(head);
    if fragment {
        wire::put_varint_field(&mut message, 7, 1);
    }
    for event in events {
        wire::put_bytes_field(&mut message, 11, event);
    }
    wire::frame(&message)
}

/// A header, encoded as the field that it is.
pub(super) fn head(identity: Identity, revision: Revision) -> Bytes {
    let mut head = BytesMut::with_capacity(48);
    identity.put_header(&mut head, revision);
    head.freeze()
}

fn put_id(message: &mut BytesMut, id: i64) {
    if id != 0 {
        wire::put_varint_field(message, 2, id.cast_unsigned());
    }
}

fn put_field(message: &mut BytesMut, field: Field<'_>) {
    match field.value {
        Value::Varint(value) => wire::put_varint_field(message, field.number, value),
        Value::Bytes(bytes) => wire::put_bytes_field(message, field.number, bytes),
        Value::Fixed64(value) => {
            wire::put_varint(message, u64::from(field.number) << 3 | 1);
            message.extend_from_slice(&value.to_le_bytes());
        }
        Value::Fixed32(value) => {
            wire::put_varint(message, u64::from(field.number) << 3 | 5);
            message.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// `mod_revision` of the event's key.
fn event_revision(event: &[u8]) -> Result<Revision, Malformed> {
    let mut revision = Revision::ZERO;
    for field in Fields::new(event) {
        let field = field?;
        if let (2, Value::Bytes(kv)) = (field.number, field.value) {
            revision = number_in(kv, 3)?;
        }
    }
    Ok(revision)
}

fn number_in(message: &[u8], number: u32) -> Result<Revision, Malformed> {
    let mut revision = Revision::ZERO;
    for field in Fields::new(message) {
        let field = field?;
        if let (true, Value::Varint(value)) = (field.number == number, field.value) {
            revision = Revision::checked_from(value.cast_signed()).unwrap_or_default();
        }
    }
    Ok(revision)
}

#[cfg(test)]
mod tests {
    use kubebrain_proto::etcdserverpb::{ResponseHeader, WatchResponse};
    use kubebrain_proto::mvccpb::{Event, KeyValue};
    use prost::Message as _;

    use super::*;

    fn event(revision: i64, value_bytes: usize) -> Event {
        let kv = KeyValue {
            key: "k".into(),
            mod_revision: revision,
            value: vec![0; value_bytes].into(),
            ..KeyValue::default()
        };
        Event { r#type: 0, kv: Some(kv.clone()), prev_kv: Some(KeyValue { mod_revision: 1, ..kv }) }
    }

    fn message(events: Vec<Event>) -> WatchResponse {
        let header = Some(ResponseHeader { revision: 99, member_id: 3, ..ResponseHeader::default() });
        WatchResponse { header, watch_id: 7, events, ..WatchResponse::default() }
    }

    #[test]
    fn kinds_are_told_apart() {
        let read =
            |response: WatchResponse| Answer::read(response.encode_to_vec().into()).expect("readable").kind;
        assert_eq!(read(message(vec![event(4, 0), event(5, 0)])), Kind::Events { last: Revision::new(5) });
        assert_eq!(read(message(vec![])), Kind::Progress);
        assert_eq!(read(WatchResponse { created: true, ..message(vec![]) }), Kind::Created);
        let compacted = WatchResponse { canceled: true, compact_revision: 8, ..WatchResponse::default() };
        assert_eq!(read(compacted), Kind::Compacted { at: Revision::new(8) });
        let refused =
            WatchResponse { created: true, canceled: true, cancel_reason: "no".into(), ..message(vec![]) };
        assert_eq!(read(refused), Kind::Cancelled { reason: "no".into() });
    }

    #[test]
    fn only_the_watch_id_is_rewritten_and_unknown_fields_stay() {
        let mut raw = BytesMut::from(&message(vec![event(4, 10)]).encode_to_vec()[..]);
        wire::put_bytes_field(&mut raw, 200, b"from the future");
        wire::put_varint_field(&mut raw, 201, 5);
        let answer = Answer::read(raw.freeze()).expect("readable");
        for id in [0, 1, i64::MAX] {
            let frame = answer.readdressed(id).slice(wire::FRAME_PREFIX_BYTES..);
            let expected = WatchResponse { watch_id: id, ..message(vec![event(4, 10)]) };
            assert_eq!(WatchResponse::decode(frame.clone()).expect("decodes"), expected);
            let unknown = Fields::new(&frame).flatten().filter(|field| field.number >= 200).count();
            assert_eq!(unknown, 2, "unknown fields are copied");
        }
    }

    #[test]
    fn fragments_are_small_and_make_the_whole() {
        let whole = message((1..20).map(|revision| event(revision, 1000)).collect());
        let answer = Answer::read(whole.encode_to_vec().into()).expect("readable");
        let frames = answer.fragments(5, 5000);
        let parts: Vec<_> = frames
            .iter()
            .map(|frame| WatchResponse::decode(frame.slice(wire::FRAME_PREFIX_BYTES..)).expect("decodes"))
            .collect();
        let (last, before) = parts.split_last().expect("some");
        assert!(parts.len() > 4 && frames.iter().all(|frame| frame.len() < 6000));
        assert!(before.iter().all(|part| part.fragment) && !last.fragment);
        assert!(parts.iter().all(|part| part.watch_id == 5 && part.header == whole.header));
        let events: Vec<_> = parts.into_iter().flat_map(|part| part.events).collect();
        assert_eq!(events, whole.events);
    }
}
