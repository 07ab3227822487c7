//! The data plane's request path, without the control plane's pipeline: no task per request, no audit
//! event, no log line for successful requests at usual levels. Responses are counted per route and status,
//! verifications by the verifier.

use warp::reply::Response;

use super::conn::request_head::RequestHead;
use super::data_plane_request::{DataPlaneRequest, RequestBody};
use super::request_id::add_request_id;
use super::route::Endpoint;
use super::{forward_auth, introspect, report_usage, request_log, verify, verify_batch};
use crate::app::App;

/// Handles a request to the data plane.
pub(crate) async fn answer(app: &App, endpoint: Endpoint, head: &RequestHead, body: RequestBody) -> Response {
    let request = DataPlaneRequest::new(app, endpoint, head);
    let mut response = match endpoint {
        Endpoint::Verify => request.respond(verify::answer(&request, body).await),
        // Boxed so that the futures of single verifications don't reserve space for larger ones.
        Endpoint::VerifyBatch => request.respond(Box::pin(verify_batch::answer(&request, body)).await),
        Endpoint::ReportUsage => request.respond(Box::pin(report_usage::answer(&request, body)).await),
        Endpoint::Introspect => Box::pin(introspect::answer(&request, body)).await,
        // The body is not read, because it is meant for the upstream.
        Endpoint::ForwardAuth => forward_auth::answer(&request).await,
    };
    add_request_id(&mut response, &request.request_id);
    let latency = app.clock.monotonic().saturating_sub(request.arrival.monotonic);
    app.traffic.responses.observe_response_time(endpoint as usize, latency);
    // The fields are formatted only if this event is logged.
    tracing::trace!(
        request_id = request.request_id,
        route = endpoint.path(),
        status = response.status().as_u16(),
        latency_us = request_log::whole_micros(latency),
        ip = request_log::address(request.client_ip),
        user_agent = request_log::user_agent(&head.headers, &request.redactor()),
        "request"
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_output<A, B, C, D, F>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Rare branches are boxed.
    const MAX_FUTURE_BYTES: usize = 1400;

    /// It is moved several times for each request.
    #[test]
    fn the_future_of_a_request_is_small() {
        let bytes = size_of_output::<&'static App, Endpoint, &'static RequestHead, RequestBody, _>(answer);
        assert!(bytes <= MAX_FUTURE_BYTES, "{bytes} bytes");
    }
}
