//! Placeholder until quotas are leased.
use crate::domain::limits::Quota;
use crate::domain::time::Timestamp;
use crate::error::Result;

/// How a quota stands.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Units in a period.
    pub limit: u64,
    /// Units left.
    pub remaining: u64,
    /// When the next period begins.
    pub resets_at: Timestamp,
}

/// What became of it.
pub enum Spending {
    /// Not enough units.
    Exceeded,
    /// The bucket said no.
    Refused,
    /// Spent.
    Done,
}

/// Leases.
#[derive(Default)]
pub struct Quotas;

impl Quotas {
    /// Takes.
    pub async fn take(
        &self,
        _: i64,
        quota: Quota,
        _: u32,
        now: Timestamp,
        bucket: impl FnOnce() -> bool,
    ) -> Result<(Spending, Standing)> {
        let standing =
            Standing { limit: quota.limit, remaining: quota.limit, resets_at: quota.period.around(now).1 };
        Ok((if bucket() { Spending::Done } else { Spending::Refused }, standing))
    }
    /// Looks.
    pub async fn peek(&self, _: i64, quota: Quota, _: u32, now: Timestamp) -> Result<(bool, Standing)> {
        Ok((
            true,
            Standing { limit: quota.limit, remaining: quota.limit, resets_at: quota.period.around(now).1 },
        ))
    }
}
