//! Rate limits of Admin API calls. Each key has a token bucket, and all keys of an organization share another
//! one, so that an organization can't raise its limit by creating keys.

use std::time::Duration;

use super::bucket::{BucketLimit, RateLimitDecision};
use super::buckets::Buckets;

/// The buckets of one class of calls: those of keys and those of organizations, by their ids.
pub(crate) struct CallBuckets {
    keys: Buckets<String>,
    organizations: Buckets<String>,
}

/// The buckets that a call counts against, and their limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallLimits<'a> {
    pub(crate) key: (&'a String, BucketLimit),
    /// `None` for a platform key, and if organizations have no limit.
    pub(crate) organization: Option<(&'a String, BucketLimit)>,
}

/// The decisions of the buckets that a call counts against. The call is admitted if both allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallDecision {
    pub(crate) key: RateLimitDecision,
    /// `None` if only the key's limit applies.
    pub(crate) organization: Option<RateLimitDecision>,
}

impl CallBuckets {
    /// Creates maps for at most `max_buckets` keys, and as many organizations.
    pub(crate) fn new(max_buckets: usize) -> Self {
        Self { keys: Buckets::new(max_buckets), organizations: Buckets::new(max_buckets) }
    }

    /// Takes a token from both buckets if each has one; otherwise takes none.
    pub(crate) fn take(&self, limits: &CallLimits<'_>, now: Duration) -> CallDecision {
        let (key_id, key_limit) = limits.key;
        let Some((organization_id, organization_limit)) = limits.organization else {
            return CallDecision { key: self.keys.take(key_id, key_limit, 1, now), organization: None };
        };
        // The organization's bucket is locked while the key's is, so that both decisions are one. The order is
        // always the same, so that calls can't deadlock.
        self.keys.with_bucket(key_id, key_limit, now, |bucket| {
            let key = bucket.peek(key_limit, 1, now);
            if !key.allowed {
                let organization = self.organizations.peek(organization_id, organization_limit, 1, now);
                return CallDecision { key, organization: Some(organization) };
            }
            let organization = self.organizations.take(organization_id, organization_limit, 1, now);
            let key = if organization.allowed { bucket.take(key_limit, 1, now) } else { key };
            CallDecision { key, organization: Some(organization) }
        })
    }

    /// Returns the state of the buckets. Takes no tokens and creates no buckets.
    pub(crate) fn peek(&self, limits: &CallLimits<'_>, now: Duration) -> CallDecision {
        let (key_id, key_limit) = limits.key;
        CallDecision {
            key: self.keys.peek(key_id, key_limit, 0, now),
            organization: limits.organization.map(|(id, limit)| self.organizations.peek(id, limit, 0, now)),
        }
    }

    /// Drops the full buckets. Called periodically by the owner.
    pub(crate) fn sweep(&self, now: Duration) {
        self.keys.sweep(now);
        self.organizations.sweep(now);
    }
}

#[cfg(test)]
#[path = "call_buckets_tests.rs"]
mod tests;
