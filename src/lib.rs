//! Tollhouse: organizations, users, API keys, limits and an audit log in one binary with one SQLite file.
//!
//! # Modules
//!
//! A request passes through these layers:
//!
//! ```text
//! http::conn           accepts connections, limits their number and time, and hands each to a worker
//! http::dispatch       passes each request to what handles its route: pipeline, data plane or page
//! http::routes         the whole API in one table
//! http::pipeline       the checks of every request: credential, address, rate limit, scope, body
//! http::<resource>     the handler: calls the service and wraps its result in the envelope
//! service::<resource>  the use case: parses the body, then authorizes, writes and audits in one transaction
//! domain::<resource>   pure types and rules; `domain::access` decides who may do what
//! store::<resource>    the SQL; `store::db` has the single writer with group commit, and the readers
//! store::engine        the SQLite driver, which no other module names
//! verify               secrets, credentials and settings in memory, token buckets, quotas, usage recorder
//! ```
//!
//! Each change or read of a single resource is a `service::operation`, prepared before its transaction and applied in
//! it. So a batch, and a `POST` with an `Idempotency-Key`, can apply it in a transaction of their own.
//!
//! The pages `/console/` and `/docs/` are in `src/console` and `src/docs` and are served by `http::pages`.
//! They use the public API. The documentation in `docs/` becomes pages below `/docs/` when the program is built, by
//! `build.rs`.
//!
//! A verification takes a shorter path. It reads the database only for a key that isn't in memory:
//!
//! ```text
//! http::data_plane                         passes the request to one of three endpoints
//! http::data_plane_request                 authenticates and authorizes the caller
//! http::verify, introspect, forward_auth   one file per kind of verification
//! verify::verifier                         the decision, in the documented order: record, quota, bucket
//! verify::recorder                         counts it; service::usage stores the counts once a second
//! ```
//!
//! `telemetry` has the log and the counters, which `http::metrics` serves on a listener of its own.
//!
//! A resource has the same file name in every layer: API keys are in `domain/api_key.rs`,
//! `store/api_keys.rs`, `service/api_keys.rs` and `http/api_keys.rs`.
//!
//! Requests and background jobs share the state in `app`, which `service::lifecycle` opens and closes.
//!
//! Dependencies point one way: `cli → http → service → app → store, verify → domain → error`. A test checks this
//! by reading the `use` lines.

// They panic if their output is closed or full; `cli::output` doesn't.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

/// The allocator of the program, so that tests measure the same memory.
#[cfg(test)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod error;
pub mod http;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod verify;
