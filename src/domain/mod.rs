//! The types and rules of the product, as pure code: without HTTP, SQL, clock or randomness.
//!
//! `fields` and `rules` parse request bodies, `page` parses the query strings of lists, and `access` decides
//! which caller may do what. `action` lists everything that the audit log can record. Every resource has its own
//! file.

pub mod access;
pub mod access_change;
pub mod action;
pub mod api_key;
pub mod audit;
pub(crate) mod batch;
pub(crate) mod better_auth;
pub mod chain;
pub(crate) mod cidr;
pub(crate) mod etag;
pub(crate) mod expand;
pub(crate) mod export;
pub mod fields;
pub mod id;
pub(crate) mod idempotency;
pub(crate) mod import;
pub mod invalidation;
pub(crate) mod json;
pub(crate) mod key_policy;
pub mod limits;
pub(crate) mod membership;
pub mod meter;
pub(crate) mod minute_rows;
pub(crate) mod organization;
pub(crate) mod overview;
pub mod page;
pub(crate) mod patch;
pub mod quota;
pub(crate) mod redaction;
pub(crate) mod restore;
pub(crate) mod rules;
pub(crate) mod schemas;
pub(crate) mod scope;
pub(crate) mod search;
pub(crate) mod secret_format;
pub(crate) mod secret_prefix;
pub(crate) mod settings;
pub(crate) mod sha256;
pub(crate) mod sql_time;
pub mod stored_name;
pub mod subject;
pub mod time;
pub(crate) mod time_buckets;
pub(crate) mod unicode;
pub mod usage;
pub(crate) mod user;
pub mod verification;
pub(crate) mod verification_log;
pub(crate) mod window;
