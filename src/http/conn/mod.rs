//! Connections: accepts them, limits their number and time, and hands their requests to the API.
//!
//! `server` accepts connections from `listeners` through `accept`, which limits their number, and drains them at the
//! shutdown. `connection` serves one of them on one of the `workers`: HTTP/1.1 directly, HTTP/2 with `streams`.
//! `handler` answers its requests. `state` decides when it is closed, and `driver` carries that out. `request_head` and `auth` are what the API sees
//! of a connection.

mod accept;
pub(crate) mod auth;
mod connection;
mod drain;
mod driver;
pub(crate) mod handler;
pub mod limits;
pub mod listeners;
pub(crate) mod request_head;
pub mod server;
mod state;
mod stream_counter;
mod streams;
mod timer;
pub(crate) mod tls;
pub mod workers;
