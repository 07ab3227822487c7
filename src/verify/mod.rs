//! The hot path: is this secret good, now? Never touches HTTP, and the store only through what it is
//! given at the start: loaders for keys and settings that aren't in memory, a way to lease from quotas.

pub(crate) mod bucket;
pub mod cache;
pub(crate) mod denials;
pub mod quota;
pub(crate) mod recorder;
pub mod secret;
pub(crate) mod settings;
pub mod verifier;
