//! The HTTP layer, built on warp: from the accept loop to the response.
//!
//! `conn` serves connections, `routes` is the table of all routes, `dispatch` passes each request to the part of the
//! server that handles its route, and `pipeline` runs the checks before a handler. `call` is a handler's input and
//! `reply` its output; each resource has a file of handlers. `data_plane` is the shorter path to `verify`, `introspect`
//! and `forward_auth`. `pages` serves the files of the console, the API reference and the documentation, which are not part of the API.

pub(crate) mod address;
mod analytics;
mod api_keys;
mod audit;
mod auth;
mod batch;
mod call;
pub mod conn;
mod content_negotiation;
mod costs;
mod data_plane;
mod data_plane_request;
pub mod dispatch;
mod forward_auth;
mod health;
pub(crate) mod health_client;
mod host;
mod idempotency;
mod introspect;
mod limit_headers;
mod memberships;
pub(crate) mod metrics;
pub mod openapi;
mod organizations;
mod own_key;
pub mod pages;
mod pipeline;
mod rate_limits;
mod replay;
mod reply;
mod report_usage;
mod request_id;
mod request_log;
mod root;
mod route;
mod router;
pub mod routes;
mod scopes;
mod search;
mod settings;
mod users;
mod verification;
mod verify;
mod verify_batch;
mod verify_params;
mod whoami;
