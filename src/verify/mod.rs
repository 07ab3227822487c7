//! The hot path: verifies secrets in memory. It doesn't depend on HTTP or on the store: functions passed in
//! at the start load keys and settings that aren't in memory, and read and write quota leases.

pub(crate) mod access_blocks;
pub(crate) mod bucket;
pub(crate) mod buckets;
pub mod cache;
pub(crate) mod call_buckets;
pub mod decision;
pub(crate) mod denials;
mod effective_limits;
pub mod key_record;
pub mod leases;
pub(crate) mod limit_state;
pub(crate) mod recorder;
pub(crate) mod report;
pub(crate) mod report_queue;
pub mod secret;
pub(crate) mod settings;
pub(crate) mod subject_state;
#[cfg(test)]
mod test_credential;
pub(crate) mod unwritten_usage;
pub mod verifier;
pub mod version_clock;
mod worker_cache;
