//! The hot path: is this secret good? Never touches HTTP, and the store only on a miss, through a
//! loader that it is given.

pub mod bucket;
pub mod cache;
pub mod secret;
