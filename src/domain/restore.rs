//! Reapplies revocations after a restore: every right that was withdrawn after the backup was made stays
//! withdrawn.
//!
//! A backup contains the rights as of the time it was made. Each function here takes a resource as restored
//! and as it was in the replaced database, and returns the restored one without the rights that were
//! withdrawn in between. The result never grants more than the backup did, except where an allowlist or a
//! role was replaced.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::Serialize;

use super::api_key::{ApiKey, Status};
use super::limits::{Limit, MAX_LIMITS};
use super::membership::Role;
use super::organization;
use super::scope;

/// The number of resources whose revocations were reapplied after a restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ReappliedRevocations {
    /// Number of organizations that were deleted or suspended since the backup.
    pub(crate) organizations: u64,
    /// Number of users that were deleted or suspended since the backup.
    pub(crate) users: u64,
    /// Number of memberships that ended, or whose role was lowered, since the backup.
    pub(crate) memberships: u64,
    /// Number of keys that were revoked, disabled or rotated, or lost scopes, lifetime or self-rotation, since the
    /// backup.
    pub(crate) api_keys: u64,
    /// Number of quotas with units that were used since the backup.
    pub(crate) quotas: u64,
}

/// Returns the restored key without the rights that the key lost since the backup. The fields about its
/// secret are those of the replaced database. `plan_limits` are those of its organization's plan for keys.
pub(crate) fn reapply_key_revocations(restored: &ApiKey, replaced: &ApiKey, plan_limits: &[Limit]) -> ApiKey {
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
    if let Some(cidrs) = &replaced.allowed_ips
        && !restored.allowed_ips.as_ref().is_some_and(|older| is_covered_by(older, cidrs))
    {
        key.allowed_ips = Some(cidrs.clone());
    }
    key.self_rotation = restored.self_rotation && replaced.self_rotation;
    key.limits = reapply_limits(restored.limits.as_deref(), replaced.limits.as_deref(), plan_limits);
    key
}

/// Returns the scopes that both lists grant.
fn common_scopes(restored: &[String], replaced: &[String]) -> Vec<String> {
    let kept = restored.iter().filter(|grant| scope::any_covers(replaced, grant));
    let narrowed = replaced.iter().filter(|grant| scope::any_covers(restored, grant));
    let mut seen = BTreeSet::new();
    kept.chain(narrowed).filter(|grant| seen.insert(grant.as_str())).cloned().collect()
}

fn is_covered_by(cidrs: &[IpNet], allowed: &[IpNet]) -> bool {
    cidrs.iter().all(|cidr| allowed.iter().any(|wider| wider.contains(cidr)))
}

/// Returns the limits of a restored key or organization: those that it has and those that it had in the replaced
/// database; the stricter one where both have a limit on a meter for the same time. `None` stands for the limits of the
/// plan, which are `plan_limits`.
pub(crate) fn reapply_limits(
    restored: Option<&[Limit]>,
    replaced: Option<&[Limit]>,
    plan_limits: &[Limit],
) -> Option<Vec<Limit>> {
    let same = |limits: &[Limit], other: &Limit| {
        limits.iter().find(|limit| (limit.meter, limit.span) == (other.meter, other.span)).copied()
    };
    let effective = restored.unwrap_or(plan_limits);
    let withdrawn = replaced.unwrap_or(plan_limits);
    let stricter = |limit: &Limit| {
        let other = same(withdrawn, limit).map_or(limit.limit, |other| other.limit);
        Limit { limit: limit.limit.min(other), ..*limit }
    };
    let mut limits: Vec<_> = effective.iter().map(stricter).collect();
    let added = withdrawn.iter().filter(|limit| same(effective, limit).is_none());
    limits.extend(added.take(MAX_LIMITS.saturating_sub(limits.len())));
    if limits == effective { restored.map(<[Limit]>::to_vec) } else { Some(limits) }
}

/// Returns the status of a restored organization or user: suspended if it was suspended in the replaced
/// database, otherwise the restored status.
pub(crate) fn reapply_suspension(
    restored: organization::Status,
    replaced: organization::Status,
) -> organization::Status {
    if replaced == organization::Status::Suspended { replaced } else { restored }
}

/// Returns the role of a restored membership: the lower of the restored role and the role in the replaced
/// database.
pub(crate) fn lower_role(restored: Role, replaced: Role) -> Role {
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
    use crate::domain::limits::{LimitSpan, Period};
    use crate::domain::meter::Meter;
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
            limits: None,
            self_rotation: true,
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

    fn cidrs(list: &[&str]) -> Option<Vec<IpNet>> {
        Some(list.iter().map(|cidr| cidr.parse().unwrap()).collect())
    }

    #[test]
    fn a_restore_does_not_reapply_rights_granted_after_the_backup() {
        let mut older = key();
        older.status = Status::Disabled;
        older.expires_at = Some(Timestamp::from_millis(5));
        older.allowed_ips = cidrs(&["10.0.0.0/8"]);
        older.limits = Some(vec![limit(1, LimitSpan::Window(1)), limit(1, LimitSpan::Period(Period::Day))]);
        older.self_rotation = false;
        let mut newer = key();
        newer.scopes = vec!["*".into()];
        newer.name = "renamed".into();
        newer.allowed_ips = cidrs(&["0.0.0.0/0"]);
        newer.limits = Some(vec![limit(2, LimitSpan::Window(1)), limit(2, LimitSpan::Period(Period::Day))]);
        assert_eq!(reapply_key_revocations(&older, &newer, &[]), older);
        older.status = Status::Revoked;
        assert_eq!(reapply_key_revocations(&older, &newer, &[]), older);
    }

    #[test]
    fn each_withdrawn_right_stays_withdrawn() {
        let older = key();
        type Case = (fn(&mut ApiKey), fn(&ApiKey) -> bool);
        let cases: [Case; 9] = [
            (|key| key.status = Status::Revoked, |key| key.status == Status::Revoked),
            (|key| key.status = Status::Disabled, |key| key.status == Status::Disabled),
            (|key| key.expires_at = Some(Timestamp::from_millis(9)), |key| key.expires_at.is_some()),
            (|key| key.scopes = vec!["workflows:read".into()], |key| key.scopes == ["workflows:read"]),
            (|key| key.scopes = vec![], |key| key.scopes.is_empty()),
            (|key| key.allowed_ips = cidrs(&["10.0.0.0/8"]), |key| key.allowed_ips == cidrs(&["10.0.0.0/8"])),
            (
                |key| key.limits = Some(vec![limit(9, LimitSpan::Window(60))]),
                |key| key.limits == Some(vec![limit(9, LimitSpan::Window(60))]),
            ),
            (|key| key.self_rotation = false, |key| !key.self_rotation),
            (|key| key.start = "toll_bbbb".into(), |key| key.start == "toll_bbbb"),
        ];
        for (index, (withdraw, is_withdrawn)) in cases.into_iter().enumerate() {
            let mut newer = key();
            withdraw(&mut newer);
            assert!(is_withdrawn(&reapply_key_revocations(&older, &newer, &[])), "case {index}");
        }
        let mut newer = key();
        newer.scopes = vec!["*".into()];
        assert_eq!(reapply_key_revocations(&older, &newer, &[]).scopes, older.scopes);
    }

    #[test]
    fn an_allowlist_with_new_addresses_is_the_later_one() {
        let mut older = key();
        let mut newer = key();
        older.allowed_ips = cidrs(&["10.0.0.0/8"]);
        newer.allowed_ips = cidrs(&["192.0.2.0/24"]);
        assert_eq!(reapply_key_revocations(&older, &newer, &[]).allowed_ips, newer.allowed_ips);
        newer.allowed_ips = cidrs(&["10.0.0.0/8", "192.0.2.0/24"]);
        assert_eq!(reapply_key_revocations(&older, &newer, &[]).allowed_ips, older.allowed_ips);
    }

    #[test]
    fn limits_of_both_databases_apply() {
        let minute = |units| limit(units, LimitSpan::Window(60));
        let day = |units| limit(units, LimitSpan::Period(Period::Day));
        let plan = [minute(100)];
        for (restored, replaced, expected) in [
            (None, None, None),
            (None, Some(vec![]), None),
            (None, Some(vec![minute(200)]), None),
            (None, Some(vec![minute(5)]), Some(vec![minute(5)])),
            (None, Some(vec![day(9)]), Some(vec![minute(100), day(9)])),
            (Some(vec![]), None, Some(vec![minute(100)])),
            (Some(vec![]), Some(vec![]), Some(vec![])),
            (Some(vec![]), Some(vec![minute(5)]), Some(vec![minute(5)])),
            (Some(vec![minute(5)]), None, Some(vec![minute(5)])),
            (Some(vec![minute(5)]), Some(vec![]), Some(vec![minute(5)])),
            (Some(vec![minute(5), day(9)]), Some(vec![minute(7)]), Some(vec![minute(5), day(9)])),
            (Some(vec![minute(5)]), Some(vec![day(9), minute(3)]), Some(vec![minute(3), day(9)])),
        ] {
            let reapplied = reapply_limits(restored.as_deref(), replaced.as_deref(), &plan);
            assert_eq!(reapplied, expected, "{restored:?} after {replaced:?}");
        }
        assert_eq!(lower_role(Role::Owner, Role::Viewer), Role::Viewer);
        assert_eq!(lower_role(Role::Member, Role::Admin), Role::Member);
    }

    fn limit(units: u64, span: LimitSpan) -> Limit {
        Limit { meter: Meter::REQUESTS, limit: units, span }
    }
}
