//! Messages from and to JSON, by their descriptors: protobuf's own mapping with the names of the `.proto` files. What it
//! does not know of a request it passes over, and what is not set it does not write, as etcd's gateway does.

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, Kind, MessageDescriptor, SerializeOptions};
use serde::ser::{Error as _, SerializeMap as _};
use serde::{Serialize, Serializer};
use serde_json::error::Category;
use tonic::Status;

use kubebrain_shared::wire::{Field, Fields, Value, put_bytes_field, put_varint_field};

const READING: DeserializeOptions = DeserializeOptions::new().deny_unknown_fields(false);
const WRITING: SerializeOptions = SerializeOptions::new().use_proto_field_name(true);

/// An encoded message from the first JSON value of `text`; one without fields where there is none.
///
/// # Errors
/// `InvalidArgument` for what is no JSON, or not of this message.
pub(super) fn read(input: &MessageDescriptor, text: &[u8]) -> Result<Vec<u8>, Status> {
    if text.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let mut reader = serde_json::Deserializer::from_slice(text);
    let message = DynamicMessage::deserialize_with_options(input.clone(), &mut reader, &READING);
    message.map(|message| message.encode_to_vec()).map_err(|error| {
        Status::invalid_argument(match error.classify() {
            Category::Eof => "unexpected EOF".to_owned(), // as Go says it
            _ => format!("the body is not the JSON of a {}: {error}", input.name()),
        })
    })
}

/// The JSON of an encoded message.
///
/// # Errors
/// `Internal` for what is not such a message.
pub(super) fn write(output: &MessageDescriptor, message: &Bytes) -> Result<Bytes, Status> {
    text(&Lean { descriptor: output, message })
}

/// One message of a stream, with the end of its line.
///
/// # Errors
/// As [`write`].
pub(super) fn line(output: &MessageDescriptor, message: &Bytes) -> Result<Bytes, Status> {
    #[derive(Serialize)]
    struct Line<'a> {
        result: Lean<'a>,
    }
    let mut text = BytesMut::from(text(&Line { result: Lean { descriptor: output, message } })?);
    text.extend_from_slice(b"\n");
    Ok(text.freeze())
}

/// What the JSON of so many bytes takes, and what is made of it on the way: base64 takes a third more.
pub(super) const fn estimate(message_bytes: usize) -> u64 {
    message_bytes as u64 / 2 * 3
}

fn text(value: &impl Serialize) -> Result<Bytes, Status> {
    let text = serde_json::to_vec(value);
    text.map(Bytes::from).map_err(|error| Status::internal(format!("an answer is no JSON: {error}")))
}

/// A message whose lists of messages are decoded one element at a time: those are large, and decoded they take many times
/// their bytes. Fields come in the order of their numbers.
struct Lean<'a> {
    descriptor: &'a MessageDescriptor,
    message: &'a Bytes,
}

/// What a field of messages holds.
struct Inner<'a> {
    descriptor: MessageDescriptor,
    is_list: bool,
    messages: Vec<&'a [u8]>,
}

struct Whole<'a>(&'a DynamicMessage);

impl Serialize for Lean<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let inner = |number| {
            let field = self.descriptor.get_field(number)?;
            match field.kind() {
                Kind::Message(descriptor) => Some((descriptor, field.is_list())),
                _ => None,
            }
        };
        let (mut inners, mut scalars) = (Vec::<(u32, Inner<'_>)>::new(), BytesMut::new());
        for field in Fields::new(self.message) {
            let Field { number, value } = field.map_err(S::Error::custom)?;
            match value {
                Value::Bytes(bytes) => match inners.iter_mut().find(|(inner, _)| *inner == number) {
                    Some((_, inner)) => inner.messages.push(bytes),
                    None => match inner(number) {
                        Some((descriptor, is_list)) => {
                            inners.push((number, Inner { descriptor, is_list, messages: vec![bytes] }));
                        }
                        None => put_bytes_field(&mut scalars, number, bytes),
                    },
                },
                Value::Varint(varint) => put_varint_field(&mut scalars, number, varint),
                Value::Fixed64(_) | Value::Fixed32(_) => {} // etcd's messages have none
            }
        }
        let scalars = DynamicMessage::decode(self.descriptor.clone(), scalars.freeze());
        let scalars = serde_json::to_value(Whole(&scalars.map_err(S::Error::custom)?));
        let scalars = scalars.map_err(S::Error::custom)?;
        let mut map = serializer.serialize_map(None)?;
        for field in self.descriptor.fields() {
            let name = field.name();
            if let Some((_, inner)) = inners.iter().find(|(number, _)| *number == field.number()) {
                map.serialize_entry(name, inner)?;
            } else if let Some(value) = scalars.get(name) {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

impl Serialize for Inner<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.is_list {
            true => serializer
                .collect_seq(self.messages.iter().map(|&message| Element(&self.descriptor, message))),
            // One that stands there in parts is their sum.
            false => Element(&self.descriptor, &self.messages.concat()).serialize(serializer),
        }
    }
}

struct Element<'a>(&'a MessageDescriptor, &'a [u8]);

impl Serialize for Element<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let message = DynamicMessage::decode(self.0.clone(), self.1).map_err(S::Error::custom)?;
        Whole(&message).serialize(serializer)
    }
}

impl Serialize for Whole<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize_with_options(serializer, &WRITING)
    }
}

#[cfg(test)]
mod tests {
    use kubebrain_proto::etcdserverpb as pb;
    use kubebrain_proto::mvccpb::KeyValue;

    use super::super::routes::find;
    use super::*;

    fn read_as<M: prost::Message + Default>(path: &str, text: &str) -> Result<M, Status> {
        let input = find(path).expect("a route").input;
        read(&input, text.as_bytes()).map(|message| M::decode(&message[..]).expect("a message"))
    }

    fn written(path: &str, message: &impl prost::Message) -> String {
        let output = find(path).expect("a route").output;
        let text = write(&output, &message.encode_to_vec().into()).expect("JSON");
        String::from_utf8(text.to_vec()).expect("text")
    }

    #[test]
    fn requests_are_read_as_protobufs_json() {
        let wanted = pb::RangeRequest {
            key: "foo".into(),
            limit: 7,
            sort_order: pb::range_request::SortOrder::Descend as i32,
            keys_only: true,
            ..Default::default()
        };
        for text in [
            r#"{"key":"Zm9v","limit":"7","sort_order":"DESCEND","keys_only":true}"#,
            r#"{"key":"Zm9v","limit":7,"sortOrder":2,"keysOnly":true}"#,
            r#" {"key":"Zm9v","limit":7e0,"sortOrder":"DESCEND","keys_only":true,"nope":[{}],"range_end":null} {"#,
        ] {
            assert_eq!(read_as::<pb::RangeRequest>("/v3/kv/range", text).expect(text), wanted, "{text}");
        }
        assert_eq!(read_as::<pb::RangeRequest>("/v3/kv/range", " \n").expect("nothing"), Default::default());
        let either =
            read_as::<pb::RangeRequest>("/v3/kv/range", r#"{"key":"-_-_"}"#).expect("base64 of URLs");
        assert_eq!(&either.key[..], [0xfb, 0xff, 0xbf]);
    }

    #[test]
    fn what_is_no_request_is_the_clients_fault() {
        for text in [
            "[]",
            "null",
            "7",
            "x",
            r#"{"key":5}"#,
            r#"{"key":"!!"}"#,
            r#"{"limit":1.5}"#,
            r#"{"limit":"x"}"#,
        ] {
            let refused = read_as::<pb::RangeRequest>("/v3/kv/range", text).expect_err(text);
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{text}");
            assert!(refused.message().starts_with("the body is not the JSON of a RangeRequest"), "{refused}");
        }
        let cut = read_as::<pb::RangeRequest>("/v3/kv/range", r#"{"key":"Zm9v""#).expect_err("cut");
        assert_eq!(cut.message(), "unexpected EOF");
    }

    #[test]
    fn answers_are_written_with_the_names_of_the_proto_files() {
        let header = Some(pb::ResponseHeader {
            cluster_id: u64::MAX,
            revision: 5,
            raft_term: 2,
            ..Default::default()
        });
        let kv = |key: &str, lease| KeyValue {
            key: key.to_owned().into(),
            mod_revision: 4,
            lease,
            ..Default::default()
        };
        let range = pb::RangeResponse { header, kvs: vec![kv("a", 0), kv("b", 9)], more: true, count: 3 };
        assert_eq!(
            written("/v3/kv/range", &range),
            r#"{"header":{"cluster_id":"18446744073709551615","revision":"5","raft_term":"2"},"kvs":[{"key":"YQ==","mod_revision":"4"},{"key":"Yg==","mod_revision":"4","lease":"9"}],"more":true,"count":"3"}"#
        );
        let alarms = pb::AlarmResponse {
            alarms: vec![
                pb::AlarmMember { member_id: 1, alarm: 1 },
                pb::AlarmMember { member_id: 0, alarm: 77 },
            ],
            ..Default::default()
        };
        assert_eq!(
            written("/v3/maintenance/alarm", &alarms),
            r#"{"alarms":[{"memberID":"1","alarm":"NOSPACE"},{"alarm":77}]}"#
        );
        let hash = pb::HashKvResponse { hash: 3, compact_revision: -1, ..Default::default() };
        assert_eq!(written("/v3/maintenance/hashkv", &hash), r#"{"hash":3,"compact_revision":"-1"}"#);
        assert_eq!(written("/v3/maintenance/defragment", &pb::DefragmentResponse::default()), "{}");
    }
}
