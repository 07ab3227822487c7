//! All that warp does: from the accept loop to the answer.
//!
//! `server` accepts, `routes` finds the route, `pipeline` leads the call to its handler, `call` is what a
//! handler gets, `reply` what it gives; every resource has a file of handlers. `data_plane` is the shorter
//! way to `verify`, `introspect` and `forward_auth`; `pages` gives out the files of the console and the
//! reference, which are no part of the API.

pub(crate) mod address;
mod analytics;
mod api_keys;
mod audit;
mod auth;
mod batch;
mod call;
mod connection_auth;
mod data_plane;
mod forward_auth;
mod health;
mod idempotency;
mod introspect;
mod memberships;
pub(crate) mod metrics;
pub mod openapi;
mod organizations;
pub mod pages;
mod pipeline;
mod reply;
mod root;
pub mod routes;
mod scopes;
pub mod server;
mod settings;
mod streams;
mod timer;
pub(crate) mod tls;
mod users;
mod verify;
mod whoami;
pub mod workers;
