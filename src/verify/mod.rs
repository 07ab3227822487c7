//! The hot path: is this secret good, now? Never touches HTTP, and the store only through what it is
//! given at the start: loaders for keys and settings that aren't in memory, a way to lease from quotas.

pub mod bucket;
pub mod cache;
pub mod denials;
pub mod quota;
pub mod recorder;
pub mod secret;
pub mod settings;
pub mod verifier;
