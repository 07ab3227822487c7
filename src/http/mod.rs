//! All that warp does: from the accept loop to the answer.
//!
//! `server` accepts, `routes` finds the route, `gates` leads the call to its handler, `call` is what a
//! handler gets, `reply` what it gives; every resource has a file of handlers.

pub mod address;
mod api_keys;
mod audit;
mod auth;
mod call;
mod gates;
mod health;
mod memberships;
pub mod openapi;
mod organizations;
mod reply;
pub mod routes;
mod scopes;
pub mod server;
mod users;
mod whoami;
