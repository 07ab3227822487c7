//! The hot path: verifies secrets in memory. It uses no HTTP, and reaches the store only through functions
//! passed in at the start: loaders of keys and settings that aren't in memory, and the reads and writes of
//! quota leases.

pub(crate) mod bucket;
pub mod cache;
pub(crate) mod denials;
pub mod quota;
pub(crate) mod recorder;
pub mod secret;
pub(crate) mod settings;
pub mod verifier;
