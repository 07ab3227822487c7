//! HTTP/2, over TLS alone: several requests at once on a connection, each within the bounds that it would have
//! on a connection of its own.
//!
//! hyper knows no end to an idle connection of HTTP/2, and none to an answer that nobody takes. Each stream runs
//! in a task of its own; here these tasks are counted, and ended when their client takes no more.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::server::{Drain, Limits, MAX_HEAD_BYTES};

/// Requests at once on a connection; a client waits with further ones. Fewer than 100 are not recommended
/// (RFC 9113 §6.5.2).
const MAX_STREAMS: u32 = 100;

/// What is handed over of an answer at once, and so what stays in memory for a client that takes nothing.
const PIECE: usize = 16 * 1024;

tokio::task_local! {
    /// The stream that a task serves.
    static STREAM: Arc<StreamProgress>;
}

/// Serves a connection to its end: until the client leaves, the server drains, or nothing was asked for as long
/// as a connection may be idle.
pub(super) async fn serve<IO, S, B>(
    stream: IO,
    service: S,
    limits: &Limits,
    draining: &Drain,
) -> hyper::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
    S: Service<http::Request<Incoming>, Response = http::Response<B>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = service_fn(move |request: http::Request<Incoming>| {
        let is_head = request.method() == Method::HEAD;
        let answer = service.call(request);
        async move {
            let progress = STREAM.with(Arc::clone);
            let mut answer = answer.await?;
            // Of HTTP/1.1 hyper sees to this by itself.
            if is_head && let Some(length) = answer.body().size_hint().exact() {
                answer.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
            }
            let pieces = |body| Pieces { body: (!is_head).then_some(body), rest: None, progress };
            Ok::<_, Infallible>(answer.map(pieces))
        }
    });
    let streams = Streams { open: Arc::default(), write_timeout: limits.write_timeout };
    let mut connection = pin!(
        http2::Builder::new(streams.clone())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
            .max_send_buf_size(4 * PIECE)
            // Who doesn't answer is gone, whatever its streams wait for.
            .keep_alive_interval(limits.write_timeout)
            .keep_alive_timeout(limits.write_timeout)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        // In this order a request that has arrived is answered before the end is noticed.
        biased;
        ended = connection.as_mut() => return ended,
        () = draining.noticed() => {
            connection.as_mut().graceful_shutdown();
            return connection.await;
        }
        () = streams.idle(limits.header_timeout) => {}
    }
    if !streams.have_begun() {
        return Ok(()); // It never asked for anything: nothing is owed to it.
    }
    connection.as_mut().graceful_shutdown();
    // The end of an answer may still be on its way, to a client that takes it or doesn't.
    timeout(limits.write_timeout, connection).await.unwrap_or(Ok(()))
}

/// Runs the streams of one connection.
#[derive(Clone)]
struct Streams {
    open: Arc<Open>,
    write_timeout: Duration,
}

/// How many there are.
struct Open {
    count: Mutex<Count>,
    /// Told when the last one ends.
    emptied: Notify,
}

#[derive(Clone, Copy)]
struct Count {
    open: usize,
    begun: bool,
    /// Since when there is none, if there is none.
    empty_since: Instant,
}

impl Default for Open {
    fn default() -> Self {
        let count = Count { open: 0, begun: false, empty_since: Instant::now() };
        Self { count: Mutex::new(count), emptied: Notify::new() }
    }
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Streams {
    fn have_begun(&self) -> bool {
        self.open.lock().begun
    }

    /// Returns when there was no stream for so long.
    async fn idle(&self, long: Duration) {
        loop {
            let count = *self.open.lock();
            if count.open > 0 {
                self.open.emptied.notified().await;
            } else if count.empty_since.elapsed() < long {
                sleep_until(count.empty_since + long).await;
            } else {
                return;
            }
        }
    }
}

/// A stream while it runs.
struct Running(Arc<Open>);

impl Running {
    fn begin(open: &Arc<Open>) -> Self {
        let mut count = open.lock();
        count.open += 1;
        count.begun = true;
        Self(Arc::clone(open))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut count = self.0.lock();
        count.open -= 1;
        if count.open == 0 {
            count.empty_since = Instant::now();
            self.0.emptied.notify_one();
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let (running, long) = (Running::begin(&self.open), self.write_timeout);
        tokio::spawn(async move {
            let _until_it_ends = running;
            let progress = Arc::new(StreamProgress::default());
            let work = STREAM.scope(Arc::clone(&progress), stream);
            tokio::select! {
                biased;
                () = work => {}
                // What is dropped here is reset for the client.
                () = progress.stops(long) => tracing::debug!("an answer that nobody took was cut"),
            }
        });
    }
}

/// How an answer gets on: 0 while it is ours to go on, else the number of the piece that waits for the client.
#[derive(Default)]
struct StreamProgress(AtomicU64);

impl StreamProgress {
    /// Returns when the same piece waited for so long. Only for the task that sends the pieces: it looks
    /// whenever that task does something.
    async fn stops(&self, long: Duration) {
        let (mut seen, mut timer) = (0, None);
        poll_fn(|context| {
            let waiting = self.0.load(Ordering::Relaxed);
            if waiting != seen {
                seen = waiting;
                timer = (waiting != 0).then(|| Box::pin(sleep(long)));
            }
            match &mut timer {
                Some(timer) => timer.as_mut().poll(context),
                None => Poll::Pending,
            }
        })
        .await;
    }
}

/// A body in pieces, each given when the one before found room; none for an answer to HEAD.
struct Pieces<B> {
    body: Option<B>,
    rest: Option<Bytes>,
    progress: Arc<StreamProgress>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Pieces<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let given = this.progress.0.swap(0, Ordering::Relaxed);
        let mut data = match this.rest.take() {
            Some(rest) => rest,
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
        if data.len() > PIECE {
            this.rest = Some(data.split_off(PIECE));
        }
        this.progress.0.store(given + 1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    /// Asked before the first piece, when all of it is still to come.
    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
