//! [`Link`]: one connection to a collector, made when something is sent and made anew after a failure.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kubebrain_shared::wire;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::settings::{Protocol, Way};

/// Of an answer, which says nothing that is looked at.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{0} is not reached: {1}")]
    Unreached(String, std::io::Error),
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("it answers {0}")]
    Refused(StatusCode),
    #[error("it answers {0:?}")]
    Failed(Code),
    #[error("the connection breaks: {0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

impl From<hyper::Error> for LinkError {
    fn from(error: hyper::Error) -> Self {
        Self::Broken(error.into())
    }
}

/// See the module.
pub(super) struct Link {
    way: Way,
    connection: Option<Connection>,
}

/// Ends when it is dropped.
struct Connection {
    sender: Sender,
    task: JoinHandle<()>,
}

enum Sender {
    Grpc(http2::SendRequest<Full<Bytes>>),
    Http(http1::SendRequest<Full<Bytes>>),
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    pub(super) fn new(way: Way) -> Self {
        Self { way, connection: None }
    }

    /// Returns when the collector has taken the message.
    ///
    /// # Errors
    /// [`LinkError`]; it may have taken it.
    pub(super) async fn send(&mut self, message: &impl prost::Message) -> Result<(), LinkError> {
        let within = self.way.timeout;
        let message = message.encode_to_vec();
        let outcome = timeout(within, self.attempt(message)).await.unwrap_or(Err(LinkError::Late(within)));
        if outcome.is_err() {
            self.connection = None;
        }
        outcome
    }

    async fn attempt(&mut self, message: Vec<u8>) -> Result<(), LinkError> {
        let request = self.request(message);
        let mut connection = match self.connection.take().filter(Connection::is_open) {
            Some(connection) => connection,
            None => Connection::open(&self.way).await?,
        };
        let response = match &mut connection.sender {
            Sender::Grpc(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        judge(self.way.protocol, response).await?;
        self.connection = Some(connection);
        Ok(())
    }

    fn request(&self, message: Vec<u8>) -> Request<Full<Bytes>> {
        let (content, body) = match self.way.protocol {
            Protocol::Grpc => ("application/grpc", wire::frame(&message)),
            Protocol::Http => ("application/x-protobuf", message.into()),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = self.way.headers.clone();
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content));
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("kubebrain/", env!("CARGO_PKG_VERSION"))),
        );
        let uri = &self.way.uri;
        match self.way.protocol {
            Protocol::Grpc => {
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
                *request.uri_mut() = uri.clone();
            }
            Protocol::Http => {
                let host = uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
                host.into_iter().for_each(|host| drop(headers.insert(header::HOST, host)));
                *request.uri_mut() =
                    uri.path_and_query().cloned().map_or_else(http::Uri::default, Into::into);
            }
        }
        request
    }
}

impl Connection {
    async fn open(way: &Way) -> Result<Self, LinkError> {
        let host = way.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = way.uri.port_u16().unwrap_or(80);
        let socket = TcpStream::connect((host, port)).await;
        let socket = socket.map_err(|error| LinkError::Unreached(format!("{host}:{port}"), error))?;
        let io = TokioIo::new(socket);
        Ok(match way.protocol {
            Protocol::Grpc => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                Self { sender: Sender::Grpc(sender), task: tokio::spawn(async { drop(connection.await) }) }
            }
            Protocol::Http => {
                let (sender, connection) = http1::handshake(io).await?;
                Self { sender: Sender::Http(sender), task: tokio::spawn(async { drop(connection.await) }) }
            }
        })
    }

    fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Grpc(sender) => !sender.is_closed(),
            Sender::Http(sender) => !sender.is_closed(),
        }
    }
}

/// Reads an answer to its end: before that the connection takes no other message.
async fn judge(protocol: Protocol, response: Response<Incoming>) -> Result<(), LinkError> {
    if !response.status().is_success() {
        return Err(LinkError::Refused(response.status()));
    }
    let in_headers = code(response.headers());
    let body =
        Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(LinkError::Broken)?;
    if protocol == Protocol::Http {
        return Ok(());
    }
    match in_headers.or_else(|| code(body.trailers()?)).unwrap_or(Code::Unknown) {
        Code::Ok => Ok(()),
        code => Err(LinkError::Failed(code)),
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}
