//! Placeholder until usage is recorded.
use std::net::IpAddr;
use std::sync::Arc;

use crate::domain::api_key::Credential;
use crate::domain::time::Timestamp;
use crate::domain::verification::Outcome;
use crate::error::Result;

/// Counts.
#[derive(Default)]
pub struct Recorder;

impl Recorder {
    /// Counts one.
    pub fn count(
        &self,
        _: &Arc<Credential>,
        _: Outcome,
        _: u32,
        _: Option<IpAddr>,
        _: Timestamp,
    ) -> Result<()> {
        Ok(())
    }
    /// Counts a denial.
    pub fn deny_unknown(&self, _: Outcome, _: Option<&str>, _: Option<IpAddr>, _: Timestamp) {}
}
