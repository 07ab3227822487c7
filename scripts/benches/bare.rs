//! A baseline for `scripts/bench verify` that shows the cost of warp itself. `bare BYTES ['Name: value' …]`
//! reads the body and answers with this number of bytes and these headers. The accept loop, the runtime and
//! the allocator are those of the program.

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tollhouse::http::conn::limits::ConnectionLimits;
use tollhouse::http::conn::server;
use tollhouse::http::conn::workers::Workers;
use warp::Filter;
use warp::reply::Response;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The values of the shipped config.toml, without a limit for each address: no key authenticates here.
const LIMITS: ConnectionLimits = ConnectionLimits {
    max_connections: 10_000,
    max_unauthenticated_per_address: 0,
    trusted_proxies: Vec::new(),
    header_timeout: Duration::from_secs(10),
    write_timeout: Duration::from_secs(30),
    drain_timeout: Duration::from_secs(10),
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let body = vec![b'x'; arguments.next().ok_or("usage: bare BYTES ['Name: value' …]")?.parse()?];
    let mut headers = HeaderMap::new();
    for header in arguments {
        let (name, value) = header.split_once(": ").ok_or("a header must have the form 'Name: value'")?;
        headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(body.into(), headers))
}

async fn run(body: Bytes, headers: HeaderMap) -> Result<(), Box<dyn Error>> {
    let answer = move || {
        let mut response = Response::new(body.clone().into());
        *response.headers_mut() = headers.clone();
        response
    };
    let forward_answer = answer.clone();
    let verify = warp::path!("v1" / "keys" / "verify").and(warp::post()).and(warp::body::bytes());
    let forward_auth = warp::path!("v1" / "forward-auth").and(warp::get());
    let routes = verify.map(move |_: Bytes| answer()).or(forward_auth.map(forward_answer)).unify().boxed();

    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    let shutdown = async { _ = terminate.recv().await };
    server::serve(listener, None, routes, LIMITS, &Arc::default(), &Workers::start()?, shutdown).await;
    Ok(())
}
