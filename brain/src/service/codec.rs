//! Codecs between messages and frames: decoded by prost, encoded by prost or not at all.

use std::marker::PhantomData;

use bytes::{BufMut, Bytes};
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::Grpc;
use tonic::{Code, Status};

use crate::request::Limits;

/// A frame's own bytes on top of the largest request, as in etcd.
const OVERHEAD_BYTES: usize = 512 << 10;

/// A server of one call, with etcd's bound on what it takes and none on what it sends.
pub(super) fn server<C: Codec>(codec: C, limits: &Limits) -> Grpc<C> {
    let takes = limits.request_bytes_max + OVERHEAD_BYTES;
    Grpc::new(codec).apply_max_message_size_config(Some(takes), Some(usize::MAX))
}

/// What etcd's server says of a message above the bound; tonic has other words and another code for it.
pub(super) fn in_etcds_words(status: Status) -> Status {
    if is_too_large(&status) {
        Status::resource_exhausted("grpc: received message larger than max")
    } else {
        status
    }
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
