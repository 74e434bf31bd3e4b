//! gzip at a listener's door: messages of gRPC that came compressed are inflated before anybody else sees them, and the
//! answers to such a request are compressed, as etcd's server does it. What is behind the door knows nothing of it: a
//! proxy reads keys from a request's bytes.
//!
//! ```text
//! [1][length][gzip …, its last 4 bytes are the length of what it holds]  →  [0][that length][message]
//! ```
//!
//! Invariants:
//! * A message is inflated to the length that its own end names, and that is at most the largest request. A body that
//!   holds more, or less, is refused.
//! * What is inflated is counted as if it had come so: the prefix of a large message goes ahead, and it is inflated when more
//!   is asked for, by when its [`Intake`] has let it in. What came compressed is counted until then, by a budget of its own.
//! * An answer's message above [`CHUNK_BYTES`] goes as it is: to compress it, it would have to be held a second time, which
//!   no budget counts.

use std::io::{self, Read as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::Compression;
use flate2::bufread::{GzEncoder, MultiGzDecoder};
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use kubebrain_shared::wire::{FRAME_PREFIX_BYTES, frame_prefix};
use tonic::Status;
use tonic::body::Body;

use crate::budget::{Budget, CHUNK_BYTES, UNCOUNTED_BYTES};
use crate::held::Held;
use crate::intake::{Intake, Taken};

/// What large requests may take of memory while they are compressed. They are let in one after the other then.
const PACKED_BYTES: u64 = 32 << 20;
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GZIP: HeaderValue = HeaderValue::from_static("gzip");
const MAGIC: &[u8] = b"\x1f\x8b";
const HEAD_BYTES: usize = 10;

/// Any error of a body.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// What a listener takes of compressed messages.
#[derive(Clone, Debug)]
pub struct Gzip {
    /// The largest message, inflated.
    bytes_max: usize,
    packed: Arc<Budget>,
}

impl Gzip {
    /// Messages of at most `bytes_max`. `held` counts whom a bound holds back.
    pub fn new(bytes_max: usize, held: Held) -> Self {
        Self { bytes_max, packed: Budget::of_requests(PACKED_BYTES, held) }
    }

    /// Whether the messages of a request may be compressed. Takes the header off that says so.
    ///
    /// # Errors
    /// `Unimplemented`, as gRPC's Go library puts it, for an encoding that we have not.
    pub(crate) fn takes(headers: &mut HeaderMap) -> Result<bool, Status> {
        match headers.remove(&ENCODING) {
            None => Ok(false),
            Some(encoding) => match encoding.as_bytes() {
                b"gzip" => Ok(true),
                b"" | b"identity" => Ok(false),
                other => Err(Status::unimplemented(format!(
                    "grpc: Decompressor is not installed for grpc-encoding {:?}",
                    String::from_utf8_lossy(other)
                ))),
            },
        }
    }

    /// The body of such a request, as if it had come without. `whole`: it has one message.
    pub(crate) fn inflate<B>(&self, body: B, whole: bool) -> Inflate
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BodyError>,
    {
        let (inner, taken): (Inner, _) = match whole {
            true => {
                let (body, taken) = Intake::new(body, &self.packed);
                (Box::pin(Boxed(body)), Some(taken))
            }
            false => (Box::pin(Boxed(body)), None),
        };
        Inflate { inner, taken, bytes_max: self.bytes_max, buffer: BytesMut::new(), passing: 0, packed: None }
    }
}

type Inner = Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError> + Send>>;

/// A body whose errors are of one type.
struct Boxed<B>(B);

impl<B> HttpBody for Boxed<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.0).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

/// See the module.
pub(crate) struct Inflate {
    inner: Inner,
    /// What the compressed bytes of a whole request take.
    taken: Option<Taken>,
    bytes_max: usize,
    buffer: BytesMut,
    /// Of a message that goes on as it is.
    passing: usize,
    /// Whole, and its length is told.
    packed: Option<(Bytes, usize)>,
}

impl std::fmt::Debug for Inflate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflate").finish_non_exhaustive()
    }
}

impl Inflate {
    /// What can be handed on of what is there.
    fn step(&mut self) -> Result<Option<Bytes>, Status> {
        if let Some((packed, bytes)) = self.packed.take() {
            return self.unpack(&packed, bytes, BytesMut::new()).map(Some);
        }
        if self.passing == 0 {
            let Some(&[flag, a, b, c, d]) = self.buffer.first_chunk::<FRAME_PREFIX_BYTES>() else {
                return Ok(None);
            };
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if flag == 1 {
                return self.begin(length);
            }
            self.passing = FRAME_PREFIX_BYTES + length; // whoever reads it judges it
        }
        let part = self.buffer.split_to(self.passing.min(self.buffer.len())).freeze();
        self.passing -= part.len();
        Ok((!part.is_empty()).then_some(part))
    }

    /// A compressed message, once all of it is there.
    fn begin(&mut self, length: usize) -> Result<Option<Bytes>, Status> {
        if length > self.bytes_max {
            return Err(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({length} vs. {})",
                self.bytes_max
            )));
        }
        if self.buffer.len() < FRAME_PREFIX_BYTES + length {
            return Ok(None);
        }
        let packed = self.buffer.split_to(FRAME_PREFIX_BYTES + length).freeze().split_off(FRAME_PREFIX_BYTES);
        let bytes = self.length(&packed)?;
        let prefix = frame_prefix(bytes);
        if bytes as u64 > UNCOUNTED_BYTES {
            self.packed = Some((packed, bytes));
            return Ok(Some(Bytes::copy_from_slice(&prefix)));
        }
        let mut message = BytesMut::with_capacity(FRAME_PREFIX_BYTES + bytes);
        message.put_slice(&prefix);
        self.unpack(&packed, bytes, message).map(Some)
    }

    /// What a message says that it holds, if that is not too much.
    fn length(&self, packed: &[u8]) -> Result<usize, Status> {
        let head = match packed.first_chunk::<HEAD_BYTES>() {
            Some(head) if head.starts_with(MAGIC) => Ok(()),
            Some(_) => Err("gzip: invalid header"),
            None if packed.is_empty() => Err("EOF"),
            None => Err("unexpected EOF"),
        };
        head.map_err(|why| Status::internal(format!("grpc: failed to decompress the message: {why}")))?;
        let end = packed.last_chunk::<4>().expect("it has a head");
        let bytes = u32::from_le_bytes(*end) as usize;
        if bytes <= self.bytes_max {
            return Ok(bytes);
        }
        // Of one that is cut short these are no length: what is wrong shows where it is read, and kept nowhere.
        let most = self.bytes_max as u64 + 1;
        let read = io::copy(&mut MultiGzDecoder::new(packed).take(most), &mut io::sink());
        match read.map_err(|error| unreadable(&error))? {
            read if read == most => Err(Status::resource_exhausted(format!(
                "grpc: received message after decompression larger than max {}",
                self.bytes_max
            ))),
            _ => Err(unreadable(&another_length())),
        }
    }

    fn unpack(&mut self, packed: &[u8], bytes: usize, head: BytesMut) -> Result<Bytes, Status> {
        let unpacked = inflate(packed, bytes, head).map_err(|error| unreadable(&error));
        if let Some(taken) = self.taken.take() {
            taken.release();
        }
        unpacked
    }
}

/// In the words of Go's library.
fn unreadable(error: &io::Error) -> Status {
    let why = match error.kind() {
        io::ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
        _ if error.to_string().contains("checksum") => "gzip: invalid checksum".to_owned(),
        _ => error.to_string(),
    };
    Status::internal(format!("grpc: failed to read decompressed data: {why}"))
}

fn another_length() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "gzip: invalid checksum: it has another length than it says")
}

/// Appends what `packed` holds, which has to be `bytes`.
fn inflate(packed: &[u8], bytes: usize, head: BytesMut) -> io::Result<Bytes> {
    let mut message = Vec::from(head);
    let length = message.len() + bytes;
    message.reserve_exact(bytes + 1);
    // One more, so that the checksum is looked at, and what holds more is found out.
    MultiGzDecoder::new(packed).take(bytes as u64 + 1).read_to_end(&mut message)?;
    match message.len() == length {
        true => Ok(message.into()),
        false => Err(another_length()),
    }
}

impl HttpBody for Inflate {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            if let Some(part) = this.step()? {
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            let frame = match ready!(this.inner.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                None if !this.buffer.is_empty() => {
                    this.buffer.clear();
                    let cut = Status::internal("grpc: the stream ended inside a message");
                    return Poll::Ready(Some(Err(cut.into())));
                }
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => this.buffer.extend_from_slice(&data),
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.buffer.is_empty() && self.packed.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// The answer to a request that was compressed. One that has no message stays as it is.
pub(crate) fn deflated(mut response: Response<Body>) -> Response<Body> {
    if response.headers().contains_key(Status::GRPC_STATUS) {
        return response;
    }
    response.headers_mut().insert(ENCODING, GZIP);
    response.map(|inner| Body::new(Deflate { inner, buffer: BytesMut::new(), passing: 0, end: None }))
}

/// Messages on their way out.
struct Deflate {
    inner: Body,
    buffer: BytesMut,
    /// Of a message that goes on as it is.
    passing: usize,
    /// Comes behind what is in the buffer.
    end: Option<Frame<Bytes>>,
}

impl Deflate {
    fn step(&mut self) -> Option<Bytes> {
        if self.passing == 0 {
            let &[flag, a, b, c, d] = self.buffer.first_chunk::<FRAME_PREFIX_BYTES>()?;
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if flag == 0 && (1..=CHUNK_BYTES).contains(&length) {
                let whole = FRAME_PREFIX_BYTES + length;
                return (self.buffer.len() >= whole).then(|| packed(&self.buffer.split_to(whole)));
            }
            self.passing = FRAME_PREFIX_BYTES + length;
        }
        let part = self.buffer.split_to(self.passing.min(self.buffer.len())).freeze();
        self.passing -= part.len();
        (!part.is_empty()).then_some(part)
    }
}

/// A frame's message compressed, in a frame.
fn packed(frame: &[u8]) -> Bytes {
    let mut out = vec![0; FRAME_PREFIX_BYTES];
    compress(&frame[FRAME_PREFIX_BYTES..], &mut out);
    let prefix = frame_prefix(out.len() - FRAME_PREFIX_BYTES);
    out[..FRAME_PREFIX_BYTES].copy_from_slice(&prefix);
    out[0] = 1;
    out.into()
}

/// Appends `bytes` as gzip; fast rather than small, since it is done where requests are served.
fn compress(bytes: &[u8], out: &mut Vec<u8>) {
    GzEncoder::new(bytes, Compression::fast()).read_to_end(out).expect("memory is read and written");
}

impl HttpBody for Deflate {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            if let Some(part) = this.step() {
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            if let Some(end) = this.end.take() {
                return Poll::Ready(Some(Ok(end)));
            }
            let Some(frame) = ready!(Pin::new(&mut this.inner).poll_frame(cx)?) else {
                return Poll::Ready(None);
            };
            match frame.into_data() {
                Ok(data) if this.buffer.is_empty() && this.passing >= data.len() => {
                    this.passing -= data.len();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(data) => this.buffer.extend_from_slice(&data),
                Err(end) => {
                    this.passing = this.buffer.len(); // of a message that is cut
                    this.end = Some(end);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.buffer.is_empty() && self.end.is_none() && self.inner.is_end_stream()
    }
}

/// An answer to plain HTTP, compressed if its client says that it takes that.
pub fn page(headers: &HeaderMap, mut response: Response<()>, text: String) -> Response<Body> {
    let bytes = match accepts(headers) {
        true => {
            response.headers_mut().insert(header::CONTENT_ENCODING, GZIP);
            let mut out = Vec::new();
            compress(text.as_bytes(), &mut out);
            out.into()
        }
        false => Bytes::from(text),
    };
    response.map(|()| Body::new(http_body_util::Full::new(bytes)))
}

/// True where `Accept-Encoding` names gzip. As in Prometheus' Go library, `*` does not.
fn accepts(headers: &HeaderMap) -> bool {
    let named = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    named.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").map(|weight| weight.trim().parse::<f32>());
        name.trim().eq_ignore_ascii_case("gzip") && weight.is_none_or(|weight| weight.is_ok_and(|w| w > 0.0))
    })
}

#[cfg(test)]
mod tests;
