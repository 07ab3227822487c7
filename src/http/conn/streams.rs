//! Serves HTTP/2, which is only available over TLS: concurrent requests on one connection, each with the same
//! limits as on a separate connection.
//!
//! hyper has no idle timeout for HTTP/2 and no write timeout for a stalled stream. Each stream runs in
//! its own task; a [`StreamCounter`] counts these tasks, and they are aborted if their client stops reading.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::CONTENT_LENGTH;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::driver::Driver;
use super::limits::MAX_HEAD_BYTES;
use super::state::ChunkTimeout;
use super::stream_counter::StreamCounter;
use super::timer::DeadlineTimer;

/// Maximum number of concurrent requests on an HTTP/2 connection; clients delay further requests. RFC 9113
/// §6.5.2 recommends at least 100.
const MAX_STREAMS: u32 = 100;

/// Maximum number of bytes of a response that are handed to hyper at once, and so stay in memory for a client
/// that doesn't read.
const CHUNK_BYTES: usize = 16 * 1024;

/// Maximum number of bytes of a request body that stay in memory before the handler reads them. A body of 1 MiB takes
/// 16 round trips; all bodies of a connection together take at most four times this memory.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;

tokio::task_local! {
    /// The progress of the HTTP/2 stream that the current task serves.
    static CURRENT_PROGRESS: Arc<StreamProgress>;
}

/// Serves an HTTP/2 connection to its end.
pub(super) async fn serve_http2<IO, S, B>(stream: IO, service: S, mut driver: Driver<'_>) -> hyper::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
    S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = service_fn(move |request: http::Request<Incoming>| {
        let is_head = request.method() == Method::HEAD;
        let response = service.call(request);
        async move {
            let progress = CURRENT_PROGRESS.with(Arc::clone);
            let mut response = response.await?;
            // hyper adds `Content-Length` to responses to HEAD only with HTTP/1.1.
            if is_head && let Some(length) = response.body().size_hint().exact() {
                response.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
            }
            let chunked = |body| ChunkedBody { body: (!is_head).then_some(body), remaining: None, progress };
            Ok::<_, Infallible>(response.map(chunked))
        }
    });
    let write_timeout = driver.limits.write_timeout;
    let counter = Arc::new(StreamCounter::default());
    let connection = http2::Builder::new(StreamExecutor { counter: Arc::clone(&counter), write_timeout })
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .max_send_buf_size(4 * CHUNK_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(4 * STREAM_WINDOW_BYTES)
        // Closes the connection if the client doesn't answer pings, regardless of its streams.
        .keep_alive_interval(write_timeout)
        .keep_alive_timeout(write_timeout)
        .serve_connection(TokioIo::new(stream), service);
    let result =
        driver.run(pin!(connection), |connection| connection.graceful_shutdown(), Some(&counter)).await;
    result.unwrap_or(Ok(()))
}

/// Spawns the tasks of one connection's HTTP/2 streams.
#[derive(Clone)]
struct StreamExecutor {
    counter: Arc<StreamCounter>,
    write_timeout: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let guard = self.counter.open();
        let write_timeout = self.write_timeout;
        tokio::spawn(async move {
            let _guard = guard;
            let progress = Arc::new(StreamProgress::default());
            let task = CURRENT_PROGRESS.scope(Arc::clone(&progress), stream);
            tokio::select! {
                biased;
                () = task => {}
                // Dropping the task resets the stream.
                () = progress.wait_until_stalled(write_timeout) => {
                    tracing::debug!("stream reset: the client stopped reading");
                }
            }
        });
    }
}

/// The progress of a response: 0 while the server prepares the next chunk, otherwise the number of the
/// chunk that waits for the client.
#[derive(Default)]
struct StreamProgress(AtomicU64);

impl StreamProgress {
    /// Resolves when the same chunk has waited for `write_timeout`. Must run in the task that sends the
    /// chunks, because it only checks the progress when that task is polled.
    async fn wait_until_stalled(&self, write_timeout: Duration) {
        let mut timeout = ChunkTimeout::default();
        let mut timer = DeadlineTimer::default();
        poll_fn(|context| {
            let waiting = self.0.load(Ordering::Relaxed);
            match timeout.deadline(write_timeout, waiting, Instant::now) {
                Some(deadline) => timer.poll(context, deadline),
                None => Poll::Pending,
            }
        })
        .await;
    }
}

/// A response body in chunks; each chunk is handed to hyper when hyper has room for it.
struct ChunkedBody<B> {
    /// The response body; `None` for a response to HEAD.
    body: Option<B>,
    remaining: Option<Bytes>,
    progress: Arc<StreamProgress>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for ChunkedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let sent_chunks = this.progress.0.swap(0, Ordering::Relaxed);
        let mut data = match this.remaining.take() {
            Some(remaining) => remaining,
            None => {
                let Some(body) = &mut this.body else { return Poll::Ready(None) };
                match Pin::new(body).poll_frame(context) {
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => data,
                        Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    },
                    other => return other,
                }
            }
        };
        if data.len() > CHUNK_BYTES {
            this.remaining = Some(data.split_off(CHUNK_BYTES));
        }
        this.progress.0.store(sent_chunks + 1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining.is_none() && self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    /// hyper calls this before the first chunk, when the whole body is still to come.
    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
