//! Calls in the shape of gRPC: messages in, messages out.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full};
use kubebrain_shared::fault::Fault;
use kubebrain_shared::wire;
use prost::Message;
use tonic::body::Body;
use tonic::{Code, Status};

use super::Direct;

/// An answer that has begun.
#[derive(Debug)]
pub struct Answer {
    /// What stands before its messages.
    pub headers: HeaderMap,
    /// Its messages.
    pub messages: Messages,
}

/// The messages of an answer, as they come. Dropping it ends the service's work on it.
#[derive(Debug)]
pub struct Messages {
    body: Body,
    buffer: BytesMut,
    /// How the call has ended.
    end: Option<Result<(), Status>>,
}

impl Direct {
    /// One message for one message. `path` is as in a request: `/service/method`.
    ///
    /// # Errors
    /// What the service answers instead; `Unavailable` where it panics or its answer is cut.
    ///
    /// # Cancel safety
    /// As [`Direct::call`].
    pub async fn ask<A: Message + Default>(
        &self,
        path: &'static str,
        request: &impl Message,
    ) -> Result<A, Status> {
        let frame = wire::frame(&request.encode_to_vec());
        let body = Body::new(Full::new(frame));
        let mut answer = self.open(path, HeaderMap::new(), body).await?;
        let message = answer.messages.only().await?;
        A::decode(message)
            .map_err(|error| Status::internal(format!("the answer to {path} is not valid protobuf: {error}")))
    }

    /// Sends `body`, which consists of frames, with these headers; returns when the answer begins.
    ///
    /// # Errors
    /// As [`Direct::ask`]; a call that is refused at once is an error here.
    ///
    /// # Cancel safety
    /// As [`Direct::call`].
    pub async fn open(&self, path: &'static str, headers: HeaderMap, body: Body) -> Result<Answer, Status> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(path);
        *request.headers_mut() = headers;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let response =
            self.call(request).await.map_err(|panicked| Status::unavailable(panicked.to_string()))?;
        let (head, body) = response.into_parts();
        let end = match Status::from_header_map(&head.headers) {
            Some(status) if status.code() != Code::Ok => return Err(status),
            ended => ended.map(|_ok| Ok(())),
        };
        Ok(Answer { headers: head.headers, messages: Messages { body, buffer: BytesMut::new(), end } })
    }
}

impl Messages {
    /// The next one; `None` at the end.
    ///
    /// # Errors
    /// How the call has ended instead; again whenever it is asked.
    ///
    /// # Cancel safety
    /// A dropped call has taken nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let whole = wire::Message::split(&mut self.buffer);
            if let Some(message) = whole.map_err(|error| Status::internal(format!("grpc: {error}")))? {
                return Ok(Some(message));
            }
            match &self.end {
                Some(Ok(())) => return Ok(None),
                Some(Err(status)) => return Err(status.clone()),
                None => {}
            }
            match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if self.buffer.is_empty() => self.buffer = BytesMut::from(data),
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    Err(frame) => {
                        self.end = Some(
                            match frame.into_trailers().ok().as_ref().and_then(Status::from_header_map) {
                                Some(status) if status.code() == Code::Ok => Ok(()),
                                Some(status) => Err(status),
                                None => Err(Fault::Timeout.into()),
                            },
                        );
                    }
                },
                Some(Err(status)) => self.end = Some(Err(status)),
                None => self.end = Some(Err(Fault::Timeout.into())), // cut before its trailers
            }
        }
    }

    /// The message of a unary call, once it has ended.
    ///
    /// # Errors
    /// How the call has ended instead.
    ///
    /// # Cancel safety
    /// A dropped call has perhaps taken the message.
    pub async fn only(&mut self) -> Result<Bytes, Status> {
        let message = self.next().await?;
        self.next().await?;
        message.ok_or_else(|| Status::internal("the answer has no message"))
    }
}
