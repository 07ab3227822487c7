//! Tollhouse: organizations, users, API keys, limits and an audit log in one binary with one SQLite file.
//!
//! # The map of the house
//!
//! A request walks from the door to the file and back:
//!
//! ```text
//! http::server    accepts the connection, bounds it in time and number, and gives it to a worker
//! http::routes    the whole API in one table
//! http::pipeline  what every call passes: credential, address, rate, scope, body
//! http::<thing>   the handler: from the call to the service, from its answer to the envelope
//! service::<thing>   the use case: reads the body, then in one transaction authorises, writes, audits
//! domain::<thing>    pure types and rules; `domain::access` decides who may do what
//! store::<thing>     the SQL; `store::db` is the one writer with group commit, and the readers
//! verify          secrets, credentials and settings in memory, token buckets, quotas, the recorder of usage
//! ```
//!
//! A batch, and a `POST` with an `Idempotency-Key`, go the other way round: the writer's thread runs whole
//! handlers within its transaction (`service::within`), so that what they answer is stored with what they do.
//!
//! The pages, `/console/` and `/docs/`, lie in `src/console` and `src/docs` and are given out by
//! `http::pages`; they ask the API like everybody else.
//!
//! "Is this key good?" takes a shorter way, and the file is touched only for a key that isn't in memory:
//!
//! ```text
//! http::data_plane        who asks, and may it?
//! http::verify, introspect, forward_auth   one file for each form of the question
//! verify::verifier        the decision, in the order of the contract: record, quota, bucket
//! verify::recorder        counts it; service::usage writes the counts down once a second
//! ```
//!
//! Beside them `telemetry` has the log and the counters, and `http::metrics` tells the latter on a listener of its own.
//!
//! The same file name in every layer: who looks for API keys opens `domain/api_key.rs`,
//! `store/api_keys.rs`, `service/api_keys.rs` and `http/api_keys.rs`.
//!
//! Who may use whom: `cli → http, service → store, verify → domain → error`; `app` wires them together.
//! A test reads the `use` lines and keeps that true.

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
