//! Passes each request to the part of the server that handles its route.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::conn::request_head::RequestHead;
use super::pipeline::{self, AdminRequestTasks, Request};
use super::route::Dispatch;
use super::router::{RouteMatch, UnmatchedRoute};
use super::routes::{self, ROUTES};
use super::{data_plane, host, pages};
use crate::app::App;
use crate::error::Result;

/// Builds the filter that serves all routes. Control-plane calls run as tasks of `tracker`, on the current
/// runtime, so that a client that disconnects neither cancels its call nor escapes the audit log.
///
/// # Errors
/// `INTERNAL` if two routes of the table conflict.
pub fn filter(app: Arc<App>, tracker: TaskTracker) -> Result<BoxedFilter<(Response,)>> {
    let tasks = AdminRequestTasks { tracker, runtime: Handle::current() };
    // One `Arc` for all three values, because every core writes each reference count on every request.
    let state = Arc::new((app, routes::router()?, tasks));
    let filter =
        warp::ext::get::<RequestHead>().and(warp::body::stream()).then(move |head: RequestHead, body| {
            let state = state.clone();
            async move {
                let (app, router, tasks) = &*state;
                let found = match host::validate(&head) {
                    Ok(()) => router.find(&head.method, head.uri.path()),
                    Err(error) => Err(UnmatchedRoute { error: Box::new(error), allow: None }),
                };
                let (route_index, matched) = match found {
                    Ok(RouteMatch { route_index, route, params }) => match route.dispatch {
                        Dispatch::DataPlane(endpoint) => {
                            let response = data_plane::answer(app, endpoint, &head, body).await;
                            app.traffic.responses.count_response(route_index, response.status().as_u16());
                            return response;
                        }
                        Dispatch::Page => {
                            let mut response = pages::answer(app, &head);
                            host::add_security_headers(response.headers_mut(), &head);
                            app.traffic.responses.count_response(route_index, response.status().as_u16());
                            return response;
                        }
                        _ => (route_index, Ok((route, params))),
                    },
                    Err(unmatched) => (ROUTES.len(), Err(unmatched)),
                };
                let request = Request::new(app, route_index, head.clone());
                // Boxed so that data-plane futures don't reserve space for the larger control-plane future.
                let answer = Box::pin(pipeline::answer(app.clone(), router, request, matched, body, tasks));
                let mut response = answer.await;
                host::add_security_headers(response.headers_mut(), &head);
                response
            }
        });
    Ok(filter.boxed())
}
