//! HTTP/2 by hand, where it matters what is on the wire.

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::in_time;

/// One connection. Dropping it closes the socket.
pub struct Raw {
    pub sender: SendRequest<Bytes>,
    address: String,
    connection: JoinHandle<Option<h2::Error>>,
    pings: Option<h2::PingPong>,
}

/// What a call gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP's.
    pub status: u16,
    /// All DATA frames, one after the other.
    pub data: Bytes,
    /// gRPC's, from the trailers or the header block.
    pub grpc: Option<(i32, String)>,
}

impl Raw {
    pub async fn connect(address: &str) -> Self {
        // Who reads nothing is what is tested: h2 would give its own side up for small frames that are not read.
        let mut builder = h2::client::Builder::new();
        builder.data_frame_budget(64 << 20);
        Self::connect_with(address, builder, false).await
    }

    /// With `resets`, dropping it resets the connection instead of closing it.
    pub async fn connect_with(address: &str, builder: h2::client::Builder, resets: bool) -> Self {
        let socket = TcpStream::connect(address).await.expect("it listens");
        socket.set_nodelay(true).expect("a socket");
        if resets {
            socket.set_zero_linger().expect("a socket");
        }
        Self::over(socket, address, builder).await
    }

    /// Over whatever carries it.
    pub async fn over<I>(io: I, address: &str, builder: h2::client::Builder) -> Self
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, mut connection) = builder.handshake(io).await.expect("HTTP/2");
        let pings = connection.ping_pong();
        let connection = tokio::spawn(async move { connection.await.err() });
        Self { sender, address: address.to_owned(), connection, pings }
    }

    /// Pings, and waits for the answer.
    pub async fn ping(&mut self) -> Result<(), h2::Error> {
        let pings = self.pings.as_mut().expect("a client can ping");
        in_time("an answer to a ping", pings.ping(h2::Ping::opaque())).await.map(drop)
    }

    /// Waits for the connection's end, and gives what the server said it is for.
    pub async fn ended(mut self) -> Option<h2::Error> {
        in_time("the end of the connection", &mut self.connection).await.expect("it does not panic")
    }

    pub fn request(&self, path: &str, content_type: &str, more: &HeaderMap) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = format!("http://{}{path}", self.address).parse().expect("a URI");
        let headers = request.headers_mut();
        headers.extend(more.clone());
        headers.insert("content-type", content_type.parse().expect("a header"));
        headers.insert("te", "trailers".parse().expect("a header"));
        request
    }

    /// Opens a stream, sends `body` and leaves it open.
    pub async fn open(&mut self, path: &str, body: Bytes) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        self.begin(path, body, false).await
    }

    /// Opens a stream with the whole request; the answer is not read.
    pub async fn ask(&mut self, path: &str, body: Bytes) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        self.begin(path, body, true).await
    }

    async fn begin(
        &mut self,
        path: &str,
        body: Bytes,
        whole: bool,
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        let request = self.request(path, "application/grpc", &HeaderMap::new());
        let mut sender = self.sender.clone().ready().await.expect("the connection takes streams");
        let (response, mut stream) =
            sender.send_request(request, false).expect("the connection takes streams");
        stream.send_data(body, whole).expect("the stream is open");
        (response, stream)
    }

    /// Opens a stream and sends `body` as fast as it is taken, in a task that goes on until it is aborted.
    pub async fn trickle(&mut self, path: &str, body: Bytes) -> JoinHandle<()> {
        let (response, mut stream) = self.open(path, Bytes::new()).await;
        tokio::spawn(async move {
            send_part(&mut stream, body).await;
            let _answer = response.await;
        })
    }

    /// One exchange. The error is the stream's or the connection's.
    pub async fn call(&mut self, path: &str, content_type: &str, body: Bytes) -> Result<Answer, h2::Error> {
        self.call_with(path, content_type, &HeaderMap::new(), body).await
    }

    /// The same with more headers.
    pub async fn call_with(
        &mut self,
        path: &str,
        content_type: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Answer, h2::Error> {
        let request = self.request(path, content_type, headers);
        let exchange = async {
            let mut sender = self.sender.clone().ready().await?;
            let (response, mut stream) = sender.send_request(request, false)?;
            // A server may answer before it has read all of it, and need not read the rest.
            let sends = async {
                let _refused = send(&mut stream, body).await;
                std::future::pending().await
            };
            let receives = async {
                let (head, mut body) = response.await?.into_parts();
                let mut data = BytesMut::new();
                while let Some(chunk) = body.data().await {
                    let chunk = chunk?;
                    body.flow_control().release_capacity(chunk.len())?;
                    data.extend_from_slice(&chunk);
                }
                let trailers = body.trailers().await?.unwrap_or_default();
                let grpc = grpc(&trailers).or_else(|| grpc(&head.headers));
                Ok(Answer { status: head.status.as_u16(), data: data.freeze(), grpc })
            };
            tokio::select! {
                answer = receives => answer,
                never = sends => never,
            }
        };
        in_time(&format!("an answer of {path}"), exchange).await
    }

    /// Drops the socket and waits until it is gone.
    pub async fn cut(mut self) {
        self.connection.abort();
        let _ended = (&mut self.connection).await;
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

async fn send(stream: &mut SendStream<Bytes>, body: Bytes) -> Result<(), h2::Error> {
    match send_all(stream, body).await? {
        true => stream.send_data(Bytes::new(), true),
        false => Ok(()),
    }
}

/// Sends without ending the stream; an end from the other side ends it.
pub async fn send_part(stream: &mut SendStream<Bytes>, body: Bytes) {
    let _ended = send_all(stream, body).await;
}

/// False if the other side wants no more.
async fn send_all(stream: &mut SendStream<Bytes>, mut body: Bytes) -> Result<bool, h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        while stream.capacity() == 0 {
            match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(false),
            }
        }
        let part = body.split_to(stream.capacity().min(body.len()));
        stream.send_data(part, false)?;
    }
    Ok(true)
}

fn grpc(headers: &HeaderMap) -> Option<(i32, String)> {
    let status = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = headers.get("grpc-message").and_then(|value| value.to_str().ok()).unwrap_or_default();
    Some((status, message.replace("%20", " ").replace("%3A", ":")))
}

/// Messages of a stream, read as slowly as wanted: nothing is given back to the sender before [`Messages::next`].
pub struct Messages {
    body: RecvStream,
    buffer: BytesMut,
}

impl Messages {
    pub fn new(body: RecvStream) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next message.
    pub async fn next(&mut self) -> Bytes {
        loop {
            if let Some(message) =
                kubebrain_shared::wire::Message::split(&mut self.buffer).expect("a gRPC frame")
            {
                return message;
            }
            let chunk = in_time("data", self.body.data()).await;
            let chunk = chunk.expect("the stream goes on").expect("the stream goes on");
            self.body.flow_control().release_capacity(chunk.len()).expect("what came");
            self.buffer.extend_from_slice(&chunk);
        }
    }
}
