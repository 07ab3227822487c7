//! Pure types and rules. No HTTP, no SQL, no clock, no randomness.
//!
//! `fields` and `rules` read what clients send, `page` what lists are asked for; `access` decides who
//! may do what; every resource has a file of its own.

pub mod access;
pub mod api_key;
pub mod audit;
pub mod batch;
pub mod better_auth;
pub mod chain;
pub mod export;
pub mod fields;
pub mod id;
pub mod import;
pub mod key_policy;
pub mod limits;
pub mod membership;
pub mod organization;
pub mod overview;
pub mod page;
pub mod patch;
pub mod quota;
pub mod ranges;
pub mod restore;
pub mod rules;
pub mod scope;
pub mod settings;
pub mod shapes;
pub mod stale;
pub mod time;
pub mod usage;
pub mod user;
pub mod verification;
pub mod verification_log;
