//! A connection on which anything can be said.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ADMIN_KEY;

pub(crate) struct Raw(TcpStream);

/// An answer, byte for byte.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    pub body: String,
}

impl RawAnswer {
    /// `error.code` of the envelope; empty when there is none.
    pub(crate) fn code(&self) -> String {
        let json: Value = serde_json::from_str(&self.body).unwrap_or_default();
        json["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// The head of a request with the admin's key; lines end in CRLF, the last one with the head's end.
pub(crate) fn head(request_line: &str, headers: &[&str]) -> Vec<u8> {
    let mut head = format!("{request_line} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ADMIN_KEY}\r\n");
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    (head + "\r\n").into_bytes()
}

/// A test that would hang fails instead.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it should have happened by now")
}

impl Raw {
    pub(crate) async fn connect(url: &str) -> Self {
        Self(soon(TcpStream::connect(url.strip_prefix("http://").unwrap())).await.unwrap())
    }

    /// A server that has heard enough may close while we still talk.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = soon(self.0.write_all(bytes)).await;
    }

    /// Says that nothing more will come, and stays to listen.
    pub(crate) async fn finish(&mut self) {
        let _ = soon(self.0.shutdown()).await;
    }

    /// The next answer; `None` when the server closes instead. Interim answers (100) are answers.
    pub(crate) async fn answer(&mut self) -> Option<RawAnswer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            // A reset is a close, too.
            head.push(soon(self.0.read_u8()).await.ok()?);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        soon(self.0.read_exact(&mut body)).await.unwrap();
        Some(RawAnswer { status, head, body: String::from_utf8(body).unwrap() })
    }

    /// All answers until the server closes.
    pub(crate) async fn answers(mut self) -> Vec<RawAnswer> {
        let mut answers = Vec::new();
        while let Some(answer) = self.answer().await {
            answers.push(answer);
        }
        answers
    }
}
