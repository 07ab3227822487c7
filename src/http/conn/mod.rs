//! Connections: accepts them, limits their number and time, and hands their requests to the API.
//!
//! `server` accepts connections from `listeners` through `accept`, which limits their number, and serves each on one
//! of the `workers`: HTTP/1.1 directly, HTTP/2 with `streams`. `timer` is the timer of hyper's limits.
//! `request_head` and `auth` are what the API sees of a connection.

mod accept;
pub(crate) mod auth;
pub mod listeners;
pub(crate) mod request_head;
pub mod server;
mod streams;
mod timer;
pub(crate) mod tls;
pub mod workers;
