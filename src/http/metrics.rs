//! `GET /metrics`, on a separate listener: for Prometheus, without a key and without TLS.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, StatusCode};
use tokio::runtime::Handle;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::conn::limits::ConnectionLimits;
use super::conn::listeners::Listeners;
use super::conn::request_head::RequestHead;
use super::conn::server;
use super::conn::workers::Workers;
use super::host;
use super::route::Endpoint;
use super::routes::ROUTES;
use crate::app::App;
use crate::error::Result;
use crate::service;
use crate::service::metrics::NANOSECOND;
use crate::telemetry::connections::ListenerConnections;
use crate::telemetry::families::{Labels, MEDIA_TYPE, MetricFamilies, integer_to_float};

/// Maximum number of scraper connections that are served at once. Further connections are closed.
const MAX_CONNECTIONS: usize = 8;

/// The values of the metric label `endpoint`, in the order of the discriminants of [`Endpoint`].
const ENDPOINT_LABELS: [(Endpoint, &str); 5] = [
    (Endpoint::Verify, "verify"),
    (Endpoint::VerifyBatch, "verify_batch"),
    (Endpoint::ReportUsage, "report_usage"),
    (Endpoint::Introspect, "introspect"),
    (Endpoint::ForwardAuth, "forward_auth"),
];

/// Serves `/metrics` until the future is dropped. Without a listener, serves nothing.
pub(crate) async fn serve(app: &Arc<App>, listener: Option<Listeners>, workers: &Workers) {
    let Some(listener) = listener else { return std::future::pending().await };
    let limits = ConnectionLimits {
        max_connections: MAX_CONNECTIONS,
        max_unauthenticated_per_address: 0,
        drain_timeout: Duration::ZERO,
        ..(&app.config.http).into()
    };
    let routes = metrics_filter(app.clone());
    let shutdown = std::future::pending();
    server::serve(listener, None, routes, limits, &app.traffic.metrics_connections, workers, shutdown).await;
}

fn metrics_filter(app: Arc<App>) -> BoxedFilter<(Response,)> {
    // Metrics are gathered on this runtime, apart from the workers, so that they don't delay verifications.
    let runtime = Handle::current();
    let answer = move |head: RequestHead| {
        let app = app.clone();
        let runtime = runtime.clone();
        async move {
            if let Err(error) = host::validate(&head) {
                return plain_text_response(StatusCode::BAD_REQUEST, format!("{}\n", error.message));
            }
            if head.uri.path() != "/metrics" {
                return plain_text_response(
                    StatusCode::NOT_FOUND,
                    "Only /metrics is served here.\n".to_owned(),
                );
            }
            if !matches!(head.method, Method::GET | Method::HEAD) {
                let mut response = plain_text_response(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "Only GET and HEAD are allowed here.\n".to_owned(),
                );
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                return response;
            }
            match runtime.spawn(async move { gather_metrics(&app).await }).await {
                Ok(Ok(text)) => return plain_text_response(StatusCode::OK, text),
                Ok(Err(error)) => tracing::error!(%error, "could not render metrics"),
                // The panic hook has logged the panic, without its message.
                Err(_) => tracing::error!("could not gather metrics"),
            }
            plain_text_response(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Metrics are unavailable; see the server log.\n".to_owned(),
            )
        }
    };
    warp::ext::get::<RequestHead>().then(answer).boxed()
}

fn plain_text_response(status: StatusCode, text: String) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn gather_metrics(app: &App) -> Result<String> {
    let mut families = MetricFamilies::default();
    let responses = app.traffic.responses.response_counts().map(|(route, status, count)| {
        // The index after the last route counts the requests that matched no route.
        let (method, path) = ROUTES.get(route).map_or(("", ""), |route| (route.method, route.path));
        let labels: Labels = vec![
            ("route", path.to_owned()),
            ("method", method.to_owned()),
            ("status", if status == 0 { "other".to_owned() } else { status.to_string() }),
        ];
        (labels, integer_to_float(count))
    });
    families.add_counter(
        "tollhouse_http_requests_total",
        "Requests answered, by route pattern, method and status.",
        responses,
    );
    add_connection_metrics(app, &mut families);
    let times = ENDPOINT_LABELS.iter().zip(app.traffic.responses.response_times());
    families.add_histogram(
        "tollhouse_verification_duration_seconds",
        "Time from the head of a verification request to its response, by endpoint.",
        NANOSECOND,
        times.map(|((_, name), observed)| (vec![("endpoint", (*name).to_owned())], observed)),
    );
    service::metrics::add(app, &mut families).await;
    families.encode_as_text()
}

fn add_connection_metrics(app: &App, families: &mut MetricFamilies) {
    let listeners = [&app.traffic.http_connections, &app.traffic.metrics_connections];
    let label = |connections: &ListenerConnections| ("listener", connections.listener().to_owned());
    families.add_gauge(
        "tollhouse_connections",
        "Open connections, by listener.",
        listeners
            .map(|connections| (vec![label(connections)], integer_to_float(connections.open_count() as u64))),
    );
    let accepted = listeners
        .map(|connections| (vec![label(connections)], integer_to_float(connections.accepted_count())));
    families.add_counter(
        "tollhouse_connections_accepted_total",
        "Connections accepted, including those that were then refused, by listener.",
        accepted,
    );
    let refused = listeners.into_iter().flat_map(|connections| {
        connections.refused_counts().map(move |(reason, count)| {
            (vec![label(connections), ("reason", reason.to_owned())], integer_to_float(count))
        })
    });
    families.add_counter(
        "tollhouse_connections_refused_total",
        "Connections that were closed at once, by listener and the limit that was reached.",
        refused,
    );
}

#[cfg(test)]
mod tests {
    use strum::VariantArray;

    use super::*;
    use crate::error::Code;
    use crate::telemetry::tally::{COUNTED_STATUSES, MAX_ROUTES};

    #[test]
    fn every_route_status_and_endpoint_has_its_own_counter() {
        assert!(ROUTES.len() < MAX_ROUTES);
        for code in Code::VARIANTS {
            let status = code.status();
            assert!(COUNTED_STATUSES.contains(&status), "{code:?} {status} would be counted as other");
        }
        for (number, (endpoint, name)) in ENDPOINT_LABELS.iter().enumerate() {
            assert_eq!(*endpoint as usize, number, "{name}");
        }
    }
}
