//! Codecs between messages and frames: decoded by prost, encoded by prost or not at all.

use std::marker::PhantomData;

use bytes::{BufMut, Bytes};
use kubebrain_shared::placement::TEXT_BYTES_MAX;
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::Grpc;
use tonic::{Code, Status};

use crate::request::Limits;

/// A frame's own bytes on top of the largest request, as in etcd.
const OVERHEAD_BYTES: usize = 512 << 10;

/// A step of a change of the placement carries two documents, whatever requests of clients may have.
pub(super) const PLACE_BYTES_MAX: usize = 2 * TEXT_BYTES_MAX;

/// A step of a repair carries a document, and keys: about a mebibyte of them, or one that is larger.
pub(super) const REPAIR_BYTES_MAX: usize = TEXT_BYTES_MAX + (64 << 20);

/// A server of one call, with etcd's bound on what it takes and none on what it sends.
pub(super) fn server<C: Codec>(codec: C, limits: &Limits) -> Grpc<C> {
    let takes = limits.request_bytes_max + OVERHEAD_BYTES;
    Grpc::new(codec).apply_max_message_size_config(Some(takes), Some(usize::MAX))
}

/// What etcd's server says of a message above the bound; tonic has other words and another code for it.
pub(super) fn in_etcds_words(status: Status) -> Status {
    if !is_too_large(&status) {
        return status;
    }
    let text = "grpc: received message larger than max";
    let mut numbers = status.message().split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
    Status::resource_exhausted(match (numbers.next(), numbers.next()) {
        (Some(bytes), Some(bytes_max)) => format!("{text} ({bytes} vs. {bytes_max})"),
        _ => text.to_owned(),
    })
}

/// True for tonic's refusal of a message above the bound.
pub(super) fn is_too_large(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().starts_with("Error, decoded message length")
}

/// Takes a message, gives bytes that are one already.
#[derive(Debug)]
pub(super) struct RawCodec<D>(PhantomData<D>);

/// Takes and gives messages.
#[derive(Debug)]
pub(super) struct TypedCodec<E, D>(PhantomData<(E, D)>);

#[derive(Debug)]
pub(super) struct RawEncoder;

#[derive(Debug)]
pub(super) struct TypedEncoder<E>(PhantomData<E>);

#[derive(Debug)]
pub(super) struct MessageDecoder<D>(PhantomData<D>);

impl<D> Default for RawCodec<D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E, D> Default for TypedCodec<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<D: Message + Default + Send + 'static> Codec for RawCodec<D> {
    type Encode = Bytes;
    type Decode = D;
    type Encoder = RawEncoder;
    type Decoder = MessageDecoder<D>;

    fn encoder(&mut self) -> RawEncoder {
        RawEncoder
    }

    fn decoder(&mut self) -> MessageDecoder<D> {
        MessageDecoder(PhantomData)
    }
}

impl<E: Message + Send + 'static, D: Message + Default + Send + 'static> Codec for TypedCodec<E, D> {
    type Encode = E;
    type Decode = D;
    type Encoder = TypedEncoder<E>;
    type Decoder = MessageDecoder<D>;

    fn encoder(&mut self) -> TypedEncoder<E> {
        TypedEncoder(PhantomData)
    }

    fn decoder(&mut self) -> MessageDecoder<D> {
        MessageDecoder(PhantomData)
    }
}

impl Encoder for RawEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(message.len());
        buffer.put(message);
        Ok(())
    }
}

impl<E: Message> Encoder for TypedEncoder<E> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, message: E, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(buffer).map_err(|error| Status::internal(format!("answer not encoded: {error}")))
    }
}

impl<D: Message + Default> Decoder for MessageDecoder<D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        let message = D::decode(buffer);
        message.map(Some).map_err(|error| {
            Status::invalid_argument(format!("the request is not the message that this call takes: {error}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_above_the_bound_is_refused_in_etcds_words_with_both_sizes() {
        let mut buffer = tonic::codec::Streaming::new_request(
            MessageDecoder::<kubebrain_proto::etcdserverpb::PutRequest>(PhantomData),
            http_body_util::Full::new(Bytes::from_static(b"\0\0\0\x10\x01")),
            None,
            Some(4096),
        );
        let refused = in_etcds_words(buffer.message().await.expect_err("4097 bytes"));
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(refused.message(), "grpc: received message larger than max (4097 vs. 4096)");
        let other = in_etcds_words(Status::not_found("elsewhere"));
        assert_eq!((other.code(), other.message()), (Code::NotFound, "elsewhere"));
    }
}
