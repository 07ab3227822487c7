//! What answers the requests of a connection.

use std::convert::Infallible;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use warp::filters::BoxedFilter;
use warp::reply::Response as WarpResponse;

use super::request_head::RequestHead;

/// Answers requests. Each connection has its own clone.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers a request.
    fn handle(&self, head: RequestHead, body: Incoming) -> impl Future<Output = WarpResponse> + Send;
}

impl Handler for BoxedFilter<(WarpResponse,)> {
    async fn handle(&self, head: RequestHead, body: Incoming) -> WarpResponse {
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.version_mut() = head.version;
        request.extensions_mut().insert(head);
        let service = TowerToHyperService::new(warp::service(self.clone()));
        let result: Result<Response<_>, Infallible> = service.call(request).await;
        result.unwrap_or_else(|never| match never {})
    }
}
