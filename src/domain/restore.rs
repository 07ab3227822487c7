//! What a restored state takes over from the one that it replaces: every right that was taken away since.
//!
//! A backup remembers what somebody could do when it was made. Each function here gets a thing as restored
//! and the same thing as it was in the replaced file, and gives it without what was withdrawn between the
//! two. Nothing becomes more than it was in the backup, but for an allowlist and a role that were replaced.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::Serialize;

use super::api_key::{ApiKey, Status};
use super::limits::{Quota, RateLimit};
use super::membership::Role;
use super::organization;
use super::scope;

/// What was carried over, by how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ReappliedRevocations {
    /// Organizations that were deleted or suspended since.
    pub(crate) organizations: u64,
    /// Users that were deleted or suspended since.
    pub(crate) users: u64,
    /// Memberships that ended since, or whose role became a lesser one.
    pub(crate) memberships: u64,
    /// Keys that were revoked, disabled, narrowed, shortened or rotated since.
    pub(crate) api_keys: u64,
    /// Quotas of which units were used since.
    pub(crate) quotas: u64,
}

/// A key without what it lost since. Its secrets are those of the replaced file.
pub(crate) fn api_key(restored: &ApiKey, replaced: &ApiKey) -> ApiKey {
    let mut key = ApiKey {
        start: replaced.start.clone(),
        rotated_at: replaced.rotated_at,
        previous_secret_expires_at: replaced.previous_secret_expires_at,
        ..restored.clone()
    };
    match (restored.status, replaced.status) {
        (Status::Revoked, _) => {}
        (_, Status::Revoked) => {
            key.status = Status::Revoked;
            key.revoked_at = replaced.revoked_at;
            key.revoked_reason = replaced.revoked_reason.clone();
        }
        (_, Status::Disabled) => key.status = Status::Disabled,
        _ => {}
    }
    if replaced.expires_at.is_some_and(|end| restored.expires_at.is_none_or(|later| later > end)) {
        key.expires_at = replaced.expires_at;
    }
    key.scopes = common_scopes(&restored.scopes, &replaced.scopes);
    if let Some(list) = &replaced.allowed_ips
        && !restored.allowed_ips.as_ref().is_some_and(|older| is_covered_by(older, list))
    {
        key.allowed_ips = Some(list.clone());
    }
    if replaced.rate_limit.is_some_and(|rate| restored.rate_limit.is_none_or(|older| slower(rate, older))) {
        key.rate_limit = replaced.rate_limit;
    }
    if replaced.quota.is_some_and(|quota| restored.quota.is_none_or(|older| less(quota, older))) {
        key.quota = replaced.quota;
    }
    key
}

/// What both lists grant.
fn common_scopes(restored: &[String], replaced: &[String]) -> Vec<String> {
    let kept = restored.iter().filter(|grant| scope::any_covers(replaced, grant));
    let narrowed = replaced.iter().filter(|grant| scope::any_covers(restored, grant));
    let mut seen = BTreeSet::new();
    kept.chain(narrowed).filter(|grant| seen.insert(grant.as_str())).cloned().collect()
}

fn is_covered_by(cidrs: &[IpNet], list: &[IpNet]) -> bool {
    cidrs.iter().all(|range| list.iter().any(|wider| wider.contains(range)))
}

/// Is it slower over time, or in a burst?
fn slower(rate: RateLimit, than: RateLimit) -> bool {
    let (a, b) = (u64::from(rate.limit), u64::from(than.limit));
    a < b || a * u64::from(than.window_seconds) < b * u64::from(rate.window_seconds)
}

/// Is it less, or not to be compared?
fn less(quota: Quota, than: Quota) -> bool {
    quota.period != than.period || quota.limit < than.limit
}

/// The status of an organization or a user.
pub(crate) fn status(restored: organization::Status, replaced: organization::Status) -> organization::Status {
    if replaced == organization::Status::Suspended { replaced } else { restored }
}

/// The lesser of two roles.
pub(crate) fn role(restored: Role, replaced: Role) -> Role {
    let rank = |role| match role {
        Role::Owner => 3,
        Role::Admin => 2,
        Role::Member => 1,
        Role::Viewer => 0,
    };
    if rank(replaced) < rank(restored) { replaced } else { restored }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limits::Period;
    use crate::domain::time::Timestamp;

    fn key() -> ApiKey {
        ApiKey {
            id: "key_1".into(),
            organization_id: None,
            user_id: None,
            name: "n".into(),
            start: "toll_aaaa".into(),
            scopes: vec!["workflows:*".into(), "invoices:read".into()],
            status: Status::Active,
            expires_at: None,
            allowed_ips: None,
            rate_limit: None,
            quota: None,
            metadata: Default::default(),
            created_by: None,
            created_at: Timestamp::from_millis(1),
            updated_at: Timestamp::from_millis(1),
            last_used_at: None,
            rotated_at: None,
            previous_secret_expires_at: None,
            revoked_at: None,
            revoked_reason: None,
            revision: 1,
        }
    }

    fn nets(list: &[&str]) -> Option<Vec<IpNet>> {
        Some(list.iter().map(|net| net.parse().unwrap()).collect())
    }

    #[test]
    fn what_became_more_stays_as_it_was_restored() {
        let mut older = key();
        older.status = Status::Disabled;
        older.expires_at = Some(Timestamp::from_millis(5));
        older.allowed_ips = nets(&["10.0.0.0/8"]);
        older.rate_limit = Some(RateLimit { limit: 1, window_seconds: 1 });
        older.quota = Some(Quota { limit: 1, period: Period::Day });
        let mut newer = key();
        newer.scopes = vec!["*".into()];
        newer.name = "renamed".into();
        newer.allowed_ips = nets(&["0.0.0.0/0"]);
        newer.rate_limit = Some(RateLimit { limit: 2, window_seconds: 1 });
        newer.quota = Some(Quota { limit: 2, period: Period::Day });
        assert_eq!(api_key(&older, &newer), older);
        older.status = Status::Revoked;
        assert_eq!(api_key(&older, &newer), older);
    }

    #[test]
    fn each_right_that_was_taken_stays_taken() {
        let older = key();
        type Case = (fn(&mut ApiKey), fn(&ApiKey) -> bool);
        let cases: [Case; 8] = [
            (|key| key.status = Status::Revoked, |key| key.status == Status::Revoked),
            (|key| key.status = Status::Disabled, |key| key.status == Status::Disabled),
            (|key| key.expires_at = Some(Timestamp::from_millis(9)), |key| key.expires_at.is_some()),
            (|key| key.scopes = vec!["workflows:read".into()], |key| key.scopes == ["workflows:read"]),
            (|key| key.scopes = vec![], |key| key.scopes.is_empty()),
            (|key| key.allowed_ips = nets(&["10.0.0.0/8"]), |key| key.allowed_ips == nets(&["10.0.0.0/8"])),
            (
                |key| key.rate_limit = Some(RateLimit { limit: 9, window_seconds: 60 }),
                |key| key.rate_limit.is_some(),
            ),
            (|key| key.start = "toll_bbbb".into(), |key| key.start == "toll_bbbb"),
        ];
        for (index, (take, is_taken)) in cases.into_iter().enumerate() {
            let mut newer = key();
            take(&mut newer);
            assert!(is_taken(&api_key(&older, &newer)), "case {index}");
        }
        let mut newer = key();
        newer.scopes = vec!["*".into()];
        assert_eq!(api_key(&older, &newer).scopes, older.scopes);
    }

    #[test]
    fn an_allowlist_that_moved_is_the_later_one() {
        let (mut older, mut newer) = (key(), key());
        older.allowed_ips = nets(&["10.0.0.0/8"]);
        newer.allowed_ips = nets(&["192.0.2.0/24"]);
        assert_eq!(api_key(&older, &newer).allowed_ips, newer.allowed_ips);
        newer.allowed_ips = nets(&["10.0.0.0/8", "192.0.2.0/24"]);
        assert_eq!(api_key(&older, &newer).allowed_ips, older.allowed_ips);
    }

    #[test]
    fn limits_are_compared_by_burst_and_by_rate() {
        let rate = |limit, window_seconds| RateLimit { limit, window_seconds };
        assert!(slower(rate(10, 60), rate(20, 60)) && slower(rate(10, 60), rate(10, 30)));
        assert!(slower(rate(10, 1), rate(20, 60)), "a smaller burst");
        assert!(!slower(rate(20, 60), rate(10, 60)) && !slower(rate(10, 60), rate(10, 60)));
        assert_eq!(role(Role::Owner, Role::Viewer), Role::Viewer);
        assert_eq!(role(Role::Member, Role::Admin), Role::Member);
    }
}
