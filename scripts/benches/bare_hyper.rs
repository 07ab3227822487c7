//! A baseline for `scripts/bench verify` that shows the cost of HTTP itself. `bare_hyper BYTES ['Name: value' …]`
//! reads the body and answers with this number of bytes and these headers: hyper alone, without warp, limits and
//! timeouts. Like the program, it uses mimalloc and has one thread per processor, each with its own runtime.

use std::error::Error;
use std::future::pending;
use std::io;
use std::net::Ipv4Addr;
use std::thread;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let bytes = arguments.next().ok_or("usage: bare_hyper BYTES ['Name: value' …]")?.parse::<usize>()?;
    let mut response = Response::new(Full::from(vec![b'x'; bytes]));
    for header in arguments {
        let (name, value) = header.split_once(": ").ok_or("a header must have the form 'Name: value'")?;
        response.headers_mut().append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    let count = thread::available_parallelism()?.get();
    let workers = (0..count).map(|_| start_worker()).collect::<io::Result<Vec<_>>>()?;
    Builder::new_current_thread().enable_all().build()?.block_on(run(&workers, &response))
}

fn start_worker() -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new().name("worker".to_owned()).spawn(move || runtime.block_on(pending::<()>()))?;
    Ok(handle)
}

/// Hands the connections to the workers in turn, so that all have the same number.
async fn run(workers: &[Handle], response: &Response<Full<Bytes>>) -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    for worker in workers.iter().cycle() {
        let stream = tokio::select! {
            _ = terminate.recv() => break,
            accepted = listener.accept() => accepted?.0.into_std()?,
        };
        worker.spawn(serve(stream, response.clone()));
    }
    Ok(())
}

async fn serve(stream: std::net::TcpStream, response: Response<Full<Bytes>>) {
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let response = response.clone();
        async move {
            request.into_body().collect().await?;
            Ok::<_, hyper::Error>(response)
        }
    });
    // An error means that the client is gone.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
