//! All SQL. Functions over an open transaction; the caller owns transaction and time.
//!
//! `db` is the engine (readers, the one writer), `schema` the file's form; the other files have the
//! statements of one resource each.

pub mod api_keys;
pub mod audit;
pub mod backup;
pub mod better_auth;
pub mod check;
mod counters;
pub mod db;
pub mod export;
pub mod idempotency;
pub mod import;
mod list;
mod lookup;
pub mod memberships;
pub mod organizations;
pub mod overview;
pub mod quotas;
pub mod reader;
pub mod restore;
mod rows;
pub mod schema;
pub mod scopes;
pub mod settings;
pub mod space;
mod timeline;
pub mod tx;
pub mod usage;
pub mod users;
pub mod verification_log;
