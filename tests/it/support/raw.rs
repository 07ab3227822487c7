//! A TCP connection that sends arbitrary bytes, to test malformed requests.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::ADMIN_KEY;

pub(crate) struct Raw(TcpStream);

/// A response as it was received.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    pub body: String,
}

impl RawAnswer {
    /// Returns `error.code` of the envelope; empty if there is none.
    pub(crate) fn code(&self) -> String {
        let json: Value = serde_json::from_str(&self.body).unwrap_or_default();
        json["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Builds the head of a request with the admin key, including the empty line that ends it.
pub(crate) fn head(request_line: &str, headers: &[&str]) -> Vec<u8> {
    let mut head = format!("{request_line} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ADMIN_KEY}\r\n");
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    (head + "\r\n").into_bytes()
}

/// Awaits with a timeout, so that a test fails instead of hanging.
async fn with_timeout<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("timed out")
}

impl Raw {
    pub(crate) async fn connect(url: &str) -> Self {
        Self(with_timeout(TcpStream::connect(url.strip_prefix("http://").unwrap())).await.unwrap())
    }

    /// Connects from this loopback address.
    pub(crate) async fn connect_from(url: &str, address: [u8; 4]) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((address, 0))).unwrap();
        let server = url.strip_prefix("http://").unwrap().parse().unwrap();
        Self(with_timeout(socket.connect(server)).await.unwrap())
    }

    /// Sends bytes. Ignores errors, because the server may close the connection before it has read all.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = with_timeout(self.0.write_all(bytes)).await;
    }

    /// Shuts down the sending direction; responses can still be read.
    pub(crate) async fn finish(&mut self) {
        let _ = with_timeout(self.0.shutdown()).await;
    }

    /// Returns the next response, or `None` if the server closes the connection instead. Interim responses
    /// (100) are returned, too.
    pub(crate) async fn answer(&mut self) -> Option<RawAnswer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            // A reset counts as a close.
            head.push(with_timeout(self.0.read_u8()).await.ok()?);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        with_timeout(self.0.read_exact(&mut body)).await.unwrap();
        Some(RawAnswer { status, head, body: String::from_utf8(body).unwrap() })
    }

    /// Returns all responses until the server closes the connection.
    pub(crate) async fn answers(mut self) -> Vec<RawAnswer> {
        let mut answers = Vec::new();
        while let Some(answer) = self.answer().await {
            answers.push(answer);
        }
        answers
    }
}
