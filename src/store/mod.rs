//! All SQL, as functions over an open transaction. The caller owns the transaction and passes the time.
//!
//! `engine` wraps the driver. `tx`, `db`, `lookup` and `writer` run transactions on it: those of the readers, and those
//! of the single writer. `schema` creates and upgrades the file; `database_file` has what only a file has, such as a
//! storage reserve and a WAL. Each file named after a resource holds the statements of that resource.

pub mod api_keys;
pub mod audit;
pub(crate) mod backup;
pub(crate) mod better_auth;
mod cancelable_read;
pub(crate) mod check;
pub(crate) mod check_words;
pub(crate) mod checkpoint;
pub(crate) mod clock;
mod counters;
mod data_dir_lock;
pub(crate) mod database_faults;
mod database_file;
pub(crate) mod db;
mod engine;
pub(crate) mod export;
mod fallback;
pub(crate) mod file_access;
mod file_growth;
pub(crate) mod file_identity;
pub(crate) mod idempotency;
pub(crate) mod import;
pub(crate) mod limit_meters;
mod list;
mod lookup;
pub(crate) mod memberships;
mod options;
pub(crate) mod organizations;
pub mod overview;
pub(crate) mod part_file;
mod paths;
mod probe;
#[cfg(test)]
mod prune_tests;
pub mod quotas;
pub(crate) mod reader;
pub(crate) mod reserve;
pub(crate) mod restore;
mod rows;
pub(crate) mod schema;
pub(crate) mod schema_comparison;
mod schema_version;
pub(crate) mod scopes;
mod search;
mod seq_index;
pub(crate) mod settings;
pub(crate) mod space;
#[cfg(test)]
mod test_database;
pub(crate) mod tx;
mod tx_state;
pub(crate) mod unfinished;
pub mod usage;
pub(crate) mod usage_by_key;
pub(crate) mod usage_reports;
pub mod users;
pub mod verification_log;
pub(crate) mod windows;
mod word_changes;
mod words;
mod writer;

use crate::error::{Code, Error};

/// An error that tells the operator what to do about a file.
fn conflict_error(message: String) -> Error {
    Error::new(Code::Conflict, message)
}
