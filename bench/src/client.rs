//! [`Connection`]: gRPC over one HTTP/2 connection with nothing between the frames and the caller.

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use kubebrain_net::cork::Cork;
use kubebrain_shared::wire::{self, Message};
use tokio::net::TcpStream;
use tonic::{Code, Status};

/// What a server may send before we read it: lists are tens of MiB and must not wait for us.
const WINDOW_BYTES: u32 = 64 << 20;

/// A connection; clones share it.
#[derive(Clone)]
pub(crate) struct Connection {
    sender: h2::client::SendRequest<Bytes>,
    base: String,
}

/// One kind of call, ready to be sent often.
#[derive(Clone)]
pub(crate) struct Call {
    uri: Uri,
    headers: HeaderMap,
}

/// What comes back, message by message.
pub(crate) struct Answer {
    response: Option<h2::client::ResponseFuture>,
    body: Option<h2::RecvStream>,
    buffer: BytesMut,
    /// Keeps our half of the stream open where the call streams.
    _request: h2::SendStream<Bytes>,
}

impl Connection {
    pub(crate) async fn open(endpoint: &str) -> Result<Self> {
        let socket = TcpStream::connect(endpoint).await.with_context(|| format!("connect to {endpoint}"))?;
        socket.set_nodelay(true)?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .handshake(Cork::new(socket))
            .await?;
        // Its end shows in the calls.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, base: format!("http://{endpoint}") })
    }

    /// `path` is `/package.Service/Method`.
    pub(crate) fn call(&self, path: &str) -> Result<Call> {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(HeaderName::from_static("te"), HeaderValue::from_static("trailers"));
        Ok(Call { uri: format!("{}{path}", self.base).parse()?, headers })
    }

    /// Sends the first message of a call, and its end unless more is to follow.
    pub(crate) async fn begin(&self, call: &Call, message: &[u8], more: bool) -> Result<Answer> {
        let mut sender = self.sender.clone().ready().await?;
        let mut request = http::Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = call.uri.clone();
        *request.headers_mut() = call.headers.clone();
        let (response, mut stream) = sender.send_request(request, false)?;
        stream.send_data(wire::frame(message), !more)?;
        Ok(Answer { response: Some(response), body: None, buffer: BytesMut::new(), _request: stream })
    }

    /// One message there, one back.
    pub(crate) async fn unary(&self, call: &Call, message: &[u8]) -> Result<Bytes> {
        let mut answer = self.begin(call, message, false).await?;
        let message = answer.next().await?.context("an answer without a message")?;
        ensure!(answer.next().await?.is_none(), "an answer of two messages");
        Ok(message)
    }
}

impl Answer {
    /// The next message; `None` at the end of a call that went well. Cancel safe but for the first.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(response) = self.response.take() {
            let (parts, body) = response.await?.into_parts();
            check(&parts.headers)?;
            self.body = Some(body);
        }
        let Some(body) = &mut self.body else { bail!("the call has failed before") };
        loop {
            if let Some(message) = Message::split_within(&mut self.buffer, usize::MAX)? {
                return Ok(Some(message));
            }
            let Some(data) = body.data().await else { break };
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            self.buffer.extend_from_slice(&data);
        }
        ensure!(self.buffer.is_empty(), "an answer that breaks off");
        if let Some(trailers) = body.trailers().await? {
            check(&trailers)?;
        }
        Ok(None)
    }
}

fn check(headers: &HeaderMap) -> Result<()> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() != Code::Ok => {
            bail!("the server answered {}: {}", i32::from(status.code()), status.message().escape_default())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_meant() {
        for (sent, meant) in [
            ("etcdserver:%20too%20many%20requests", "etcdserver: too many requests"),
            ("plain", "plain"),
            ("%", "%"),
            ("100%25 of %zz", "100% of %zz"),
            ("", ""),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", HeaderValue::from_static("8"));
            headers.insert("grpc-message", HeaderValue::from_static(sent));
            let said = check(&headers).expect_err("it is refused").to_string();
            assert_eq!(said, format!("the server answered 8: {meant}"));
        }
    }
}
