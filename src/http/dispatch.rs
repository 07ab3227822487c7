//! Passes each request to the part of the server that handles its route.

use std::sync::Arc;

use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::conn::handler::Handler;
use super::conn::request_head::RequestHead;
use super::pipeline::{self, AdminRequestTasks, Request};
use super::route::Dispatch;
use super::router::{RouteMatch, Router, UnmatchedRoute};
use super::routes::{self, ROUTES};
use super::{data_plane, host, pages};
use crate::app::App;
use crate::error::Result;

/// Serves all routes: those of the data plane directly, because warp's filters take a fifth of the time of a
/// verification, and all others with a filter.
#[derive(Clone)]
pub struct Dispatcher {
    app: Arc<App>,
    router: &'static Router,
    filter: BoxedFilter<(Response,)>,
}

impl Dispatcher {
    /// Creates a dispatcher. Control-plane calls run as tasks of `tracker`, on the current runtime, so that a client that
    /// disconnects neither cancels its call nor escapes the audit log.
    ///
    /// # Errors
    /// `INTERNAL` if two routes of the table conflict.
    pub fn new(app: Arc<App>, tracker: TaskTracker) -> Result<Self> {
        let router = routes::router()?;
        let tasks = AdminRequestTasks { tracker, runtime: Handle::current() };
        Ok(Self { app: app.clone(), router, filter: control_plane_filter(app, router, tasks) })
    }
}

impl Handler for Dispatcher {
    async fn handle(&self, head: RequestHead, body: Incoming) -> Response {
        match self.router.find_endpoint(&head.method, head.uri.path()) {
            Some((route_index, endpoint)) if host::validate(&head).is_ok() => {
                let response = data_plane::answer(&self.app, endpoint, &head, body).await;
                self.app.traffic.responses.count_response(route_index, response.status().as_u16());
                response
            }
            // Boxed so that data-plane futures don't reserve space for it.
            _ => Box::pin(self.filter.handle(head, body)).await,
        }
    }
}

/// The filter that serves the control plane and the pages, and refuses requests that no route serves.
fn control_plane_filter(
    app: Arc<App>,
    router: &'static Router,
    tasks: AdminRequestTasks,
) -> BoxedFilter<(Response,)> {
    let state = Arc::new((app, tasks));
    let filter =
        warp::ext::get::<RequestHead>().and(warp::body::stream()).then(move |head: RequestHead, body| {
            let state = state.clone();
            async move {
                let (app, tasks) = &*state;
                let found = match host::validate(&head) {
                    Ok(()) => router.find(&head.method, head.uri.path()),
                    Err(error) => Err(UnmatchedRoute { error: Box::new(error), allow: None }),
                };
                let (route_index, matched) = match found {
                    Ok(RouteMatch { route_index, route, .. }) if matches!(route.dispatch, Dispatch::Page) => {
                        let mut response = pages::answer(app, &head);
                        host::add_security_headers(response.headers_mut(), &head);
                        app.traffic.responses.count_response(route_index, response.status().as_u16());
                        return response;
                    }
                    Ok(RouteMatch { route_index, route, params }) => (route_index, Ok((route, params))),
                    Err(unmatched) => (ROUTES.len(), Err(unmatched)),
                };
                let request = Request::new(app, route_index, head.clone());
                let mut response = pipeline::answer(app.clone(), router, request, matched, body, tasks).await;
                host::add_security_headers(response.headers_mut(), &head);
                response
            }
        });
    filter.boxed()
}
