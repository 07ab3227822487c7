//! All SQL. Functions over an open transaction; the caller owns transaction and time.
//!
//! `db` is the engine (readers, the one writer), `schema` the file's form; the other files have the
//! statements of one resource each.

pub mod api_keys;
pub mod audit;
pub(crate) mod backup;
pub(crate) mod better_auth;
pub(crate) mod check;
mod counters;
pub(crate) mod db;
pub(crate) mod export;
pub(crate) mod idempotency;
pub(crate) mod import;
mod list;
mod lookup;
pub(crate) mod memberships;
pub(crate) mod organizations;
pub mod overview;
pub mod quotas;
pub(crate) mod reader;
pub(crate) mod restore;
mod rows;
pub(crate) mod schema;
pub(crate) mod scopes;
mod seq_index;
pub(crate) mod settings;
pub(crate) mod space;
pub(crate) mod tx;
pub mod usage;
pub mod users;
pub mod verification_log;
