//! HTTP/1 by hand.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::in_time;

/// GET over whatever carries it: the status and the body, or what the connection ended with.
pub async fn get_over<I>(io: I, path: &str) -> std::io::Result<(u16, String)>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    exchange_over(io, "GET", path, "").await
}

/// POST of a plain port.
pub async fn post(address: &str, path: &str, body: &str) -> (u16, String) {
    let socket = TcpStream::connect(address).await.expect("it listens");
    exchange_over(socket, "POST", path, body).await.expect("an answer")
}

/// A request over whatever carries it: the status and the body, or what the connection ended with.
pub async fn exchange_over<I>(
    mut io: I,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<(u16, String)>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: kubebrain\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let exchange = async {
        io.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        io.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = in_time(path, exchange).await?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    match (status, body) {
        (Some(status), Some(body)) => Ok((status, body)),
        _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// GET of a plain port.
pub async fn get(address: &str, path: &str) -> (u16, String) {
    let socket = TcpStream::connect(address).await.expect("it listens");
    get_over(socket, path).await.expect("an answer")
}
