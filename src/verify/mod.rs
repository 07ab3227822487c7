//! The hot path: verifies secrets in memory. It doesn't depend on HTTP or on the store: functions passed in
//! at the start load keys and settings that aren't in memory, and read and write quota leases.

pub(crate) mod access_blocks;
pub(crate) mod bucket;
pub mod cache;
pub(crate) mod call_buckets;
pub(crate) mod denials;
pub mod quota;
pub(crate) mod recorder;
pub mod secret;
pub(crate) mod settings;
pub mod verifier;
