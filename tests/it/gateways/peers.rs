//! The peers of a gateway: the application behind it, and a recording proxy between it and Tollhouse.

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

/// The body of the application's answers. The status is 403 for the path `/forbidden`, 200 for all others.
pub(super) const APPLICATION_BODY: &str = "hello from the application";

/// A request as the application received it.
pub(super) struct ReceivedRequest {
    pub method: String,
    pub uri: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An application that records its requests.
pub(super) struct Application {
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<ReceivedRequest>>>,
}

impl Application {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let recorded = received.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let recorded = recorded.clone();
                let service = service_fn(move |request| answer(request, recorded.clone()));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, received }
    }

    /// Removes and returns the requests received since the last call.
    pub(super) fn take_requests(&self) -> Vec<ReceivedRequest> {
        std::mem::take(&mut self.received.lock().unwrap())
    }
}

async fn answer(
    request: Request<Incoming>,
    recorded: Arc<Mutex<Vec<ReceivedRequest>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let status = if head.uri.path() == "/forbidden" { 403 } else { 200 };
    // An incomplete body is recorded as empty, so that it equals no body a test sends.
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let request = ReceivedRequest {
        method: head.method.to_string(),
        uri: head.uri.to_string(),
        headers: head.headers,
        body,
    };
    recorded.lock().unwrap().push(request);
    Ok(Response::builder().status(status).body(Full::from(APPLICATION_BODY)).unwrap())
}

/// A TCP proxy that records everything its clients send.
pub(super) struct RecordingProxy {
    pub address: SocketAddr,
    recorded: Arc<Mutex<Vec<u8>>>,
    connection_count: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl RecordingProxy {
    pub(super) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let connection_count = Arc::new(AtomicUsize::new(0));
        let recorded_bytes = recorded.clone();
        let count = connection_count.clone();
        let task = tokio::spawn(async move {
            // Aborting this task drops the set and closes all connections.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                connections.spawn(forward(client, server, recorded_bytes.clone()));
            }
        });
        Self { address, recorded, connection_count, task }
    }

    /// Everything sent to the server, as text.
    pub(super) fn recorded(&self) -> String {
        String::from_utf8_lossy(&self.recorded.lock().unwrap()).into_owned()
    }

    /// The number of connections opened so far.
    pub(super) fn connection_count(&self) -> usize {
        self.connection_count.load(Relaxed)
    }

    /// Closes all connections and stops listening.
    pub(super) async fn stop(&mut self) {
        self.task.abort();
        assert!((&mut self.task).await.unwrap_err().is_cancelled());
    }
}

async fn forward(client: TcpStream, server: SocketAddr, recorded_bytes: Arc<Mutex<Vec<u8>>>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut client_reader, mut client_writer) = client.into_split();
    let (mut server_reader, mut server_writer) = server.into_split();
    let to_client = async { drop(tokio::io::copy(&mut server_reader, &mut client_writer).await) };
    let to_server = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length @ 1..) = client_reader.read(&mut buffer).await {
            recorded_bytes.lock().unwrap().extend_from_slice(&buffer[..length]);
            if server_writer.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    };
    // When either side closes, both connections are closed.
    tokio::select! {
        () = to_client => {}
        () = to_server => {}
    }
}
