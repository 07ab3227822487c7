//! All SQL, as functions over an open transaction. The caller owns the transaction and passes the time.
//!
//! `db` and `writer` are the engine (the pool of readers and the single writer), `schema` creates, opens and upgrades
//! the file. Each of the other files holds the statements of one resource.

pub mod api_keys;
pub mod audit;
pub(crate) mod backup;
pub(crate) mod better_auth;
mod cancelable_read;
pub(crate) mod check;
pub(crate) mod checkpoint;
pub(crate) mod clock;
mod counters;
mod data_dir_lock;
pub(crate) mod database_faults;
pub(crate) mod db;
mod engine;
pub(crate) mod export;
mod fallback;
pub(crate) mod file_access;
pub(crate) mod file_identity;
pub(crate) mod idempotency;
pub(crate) mod import;
mod list;
mod lookup;
pub(crate) mod memberships;
pub(crate) mod organizations;
pub mod overview;
pub(crate) mod part_file;
mod probe;
pub mod quotas;
pub(crate) mod reader;
pub(crate) mod reserve;
pub(crate) mod restore;
mod rows;
pub(crate) mod schema;
pub(crate) mod schema_comparison;
pub(crate) mod scopes;
mod seq_index;
pub(crate) mod settings;
pub(crate) mod space;
pub(crate) mod tx;
mod tx_state;
pub(crate) mod unfinished;
pub mod usage;
pub mod users;
pub mod verification_log;
mod writer;
