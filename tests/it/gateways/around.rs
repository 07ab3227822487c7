//! What stands on both sides of a gateway: the application behind it, and the wire between it and Tollhouse.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use reqwest::header::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What the application says; on the path `/forbidden` with a 403.
pub(super) const HELLO: &str = "the application's own words";

/// A request as the application got it.
pub(super) struct Seen {
    pub method: String,
    pub uri: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An application that notes what it is asked.
pub(super) struct Application {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Application {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let noted = noted.clone();
                let service = service_fn(move |request| answer(request, noted.clone()));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, seen }
    }

    /// What it was asked since this was called last.
    pub(super) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

async fn answer(
    request: Request<Incoming>,
    noted: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let status = if head.uri.path() == "/forbidden" { 403 } else { 200 };
    // A body that breaks off is none that anybody sent.
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let seen =
        Seen { method: head.method.to_string(), uri: head.uri.to_string(), headers: head.headers, body };
    noted.lock().unwrap().push(seen);
    Ok(Response::builder().status(status).body(Full::from(HELLO)).unwrap())
}

/// A wire that keeps what is said on it to the server.
pub(super) struct Wire {
    pub address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
    opened: Arc<AtomicUsize>,
    carrying: JoinHandle<()>,
}

impl Wire {
    pub(super) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let opened = Arc::new(AtomicUsize::new(0));
        let (kept, count) = (heard.clone(), opened.clone());
        let carrying = tokio::spawn(async move {
            // Dropped with this task, and the connections with it.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                connections.spawn(carry(client, server, kept.clone()));
            }
        });
        Self { address, heard, opened, carrying }
    }

    /// All that the server was told, as text.
    pub(super) fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned()
    }

    /// How many connections were opened.
    pub(super) fn opened(&self) -> usize {
        self.opened.load(Relaxed)
    }

    /// From now on nobody is there.
    pub(super) async fn cut(&mut self) {
        self.carrying.abort();
        assert!((&mut self.carrying).await.unwrap_err().is_cancelled());
    }
}

async fn carry(client: TcpStream, server: SocketAddr, kept: Arc<Mutex<Vec<u8>>>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let back = async { drop(tokio::io::copy(&mut from_server, &mut to_client).await) };
    let forth = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            kept.lock().unwrap().extend_from_slice(&buffer[..length]);
            if to_server.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    };
    // Whoever hangs up ends it for both.
    tokio::select! {
        () = back => {}
        () = forth => {}
    }
}
