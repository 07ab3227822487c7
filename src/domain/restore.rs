//! Reapplies revocations after a restore: every right that was withdrawn after the backup was made stays
//! withdrawn.
//!
//! A backup contains the rights as of the time it was made. Each function here takes a resource as restored
//! and as it was in the replaced database, and returns the restored one without the rights that were
//! withdrawn in between. The result never grants more than the backup did, except where an allowlist or a
//! role was replaced.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::Serialize;

use super::api_key::{ApiKey, Status};
use super::limits::{Limit, MAX_LIMITS};
use super::membership::Role;
use super::meter::Meter;
use super::organization;
use super::scope;
use super::settings::Plan;

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
/// secret are those of the replaced database. `context` has the limits of its organization's plan for keys.
pub(crate) fn reapply_key_revocations(
    restored: &ApiKey,
    replaced: &ApiKey,
    context: LimitContext<'_>,
) -> ApiKey {
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
    key.limits = reapply_limits(restored.limits.as_deref(), replaced.limits.as_deref(), context);
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

/// What the limits of a restored key or organization depend on in the restored settings.
#[derive(Clone, Copy, Default)]
pub(crate) struct LimitContext<'a> {
    /// The limits of the plan, for which `None` stands.
    pub(crate) plan_limits: &'a [Limit],
    /// The meters that exist. Limits on others can't be reapplied: no request can name these meters either.
    pub(crate) meters: &'a [Meter],
}

/// Returns the limits of a restored key or organization: those that it has and those that it had in the replaced
/// database; the stricter one where both have a limit on a meter for the same time. If these are more than
/// [`MAX_LIMITS`], those are left out that it didn't have in the replaced database.
pub(crate) fn reapply_limits(
    restored: Option<&[Limit]>,
    replaced: Option<&[Limit]>,
    context: LimitContext<'_>,
) -> Option<Vec<Limit>> {
    let LimitContext { plan_limits, meters } = context;
    let same = |limits: &[Limit], other: &Limit| {
        limits.iter().find(|limit| (limit.meter, limit.span) == (other.meter, other.span)).copied()
    };
    let effective = restored.unwrap_or(plan_limits);
    let withdrawn = replaced.unwrap_or(plan_limits);
    let stricter = |limit: &Limit, others: &[Limit]| {
        let other = same(others, limit).map_or(limit.limit, |other| other.limit);
        Limit { limit: limit.limit.min(other), ..*limit }
    };
    let is_known = |limit: &&Limit| meters.contains(&limit.meter);
    let mut limits: Vec<_> = effective.iter().map(|limit| stricter(limit, withdrawn)).collect();
    limits.extend(withdrawn.iter().filter(|limit| same(effective, limit).is_none()).filter(is_known));
    if limits.len() > MAX_LIMITS {
        limits = withdrawn.iter().filter(is_known).map(|limit| stricter(limit, effective)).collect();
    }
    if limits == effective { restored.map(<[Limit]>::to_vec) } else { Some(limits) }
}

/// Returns the plan of a restored organization: that in the replaced database if it grants no more, otherwise the
/// restored one.
pub(crate) fn reapply_plan<'a>(
    restored: &'a str,
    replaced: &'a str,
    plans: &BTreeMap<String, Plan>,
) -> &'a str {
    match (plans.get(restored), plans.get(replaced)) {
        (Some(restored_plan), Some(replaced_plan)) if grants_no_more(replaced_plan, restored_plan) => {
            replaced
        }
        _ => restored,
    }
}

fn grants_no_more(plan: &Plan, other: &Plan) -> bool {
    let limits_no_less = |limits: &[Limit], others: &[Limit]| {
        others.iter().all(|other| {
            let is_as_strict = |limit: &Limit| {
                (limit.meter, limit.span) == (other.meter, other.span) && limit.limit <= other.limit
            };
            limits.iter().any(is_as_strict)
        })
    };
    // 0 means no limit.
    let allows_no_more = |max: u32, other: u32| other == 0 || (1..=other).contains(&max);
    limits_no_less(&plan.key_limits, &other.key_limits)
        && limits_no_less(&plan.organization_limits, &other.organization_limits)
        && allows_no_more(plan.max_keys, other.max_keys)
        && allows_no_more(plan.max_members, other.max_members)
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
        assert_eq!(reapply_key_revocations(&older, &newer, context(&[])), older);
        older.status = Status::Revoked;
        assert_eq!(reapply_key_revocations(&older, &newer, context(&[])), older);
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
            assert!(is_withdrawn(&reapply_key_revocations(&older, &newer, context(&[]))), "case {index}");
        }
        let mut newer = key();
        newer.scopes = vec!["*".into()];
        assert_eq!(reapply_key_revocations(&older, &newer, context(&[])).scopes, older.scopes);
    }

    #[test]
    fn an_allowlist_with_new_addresses_is_the_later_one() {
        let mut older = key();
        let mut newer = key();
        older.allowed_ips = cidrs(&["10.0.0.0/8"]);
        newer.allowed_ips = cidrs(&["192.0.2.0/24"]);
        assert_eq!(reapply_key_revocations(&older, &newer, context(&[])).allowed_ips, newer.allowed_ips);
        newer.allowed_ips = cidrs(&["10.0.0.0/8", "192.0.2.0/24"]);
        assert_eq!(reapply_key_revocations(&older, &newer, context(&[])).allowed_ips, older.allowed_ips);
    }

    #[test]
    fn limits_of_both_databases_apply() {
        let minute = |units| limit(units, LimitSpan::Window(60));
        let day = |units| limit(units, LimitSpan::Period(Period::Day));
        let tokens = |units| Limit { meter: Meter::parse("tokens").unwrap(), ..day(units) };
        let windows = |seconds: std::ops::Range<u32>, units| -> Vec<_> {
            seconds.map(|seconds| limit(units, LimitSpan::Window(seconds))).collect()
        };
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
            // The later list if both have more limits than one list can have.
            (Some(windows(1..5, 7)), Some(windows(5..9, 7)), Some(windows(1..9, 7))),
            (Some(windows(1..6, 7)), Some(windows(5..10, 9)), {
                Some([windows(5..6, 7), windows(6..10, 9)].concat())
            }),
            (Some(windows(1..9, 7)), None, Some(vec![minute(100)])),
            // No request can name a meter that the restored settings don't have.
            (None, Some(vec![tokens(1)]), None),
            (Some(windows(1..9, 7)), Some(vec![tokens(1), minute(5)]), Some(vec![minute(5)])),
        ] {
            let reapplied = reapply_limits(restored.as_deref(), replaced.as_deref(), context(&plan));
            assert_eq!(reapplied, expected, "{restored:?} after {replaced:?}");
            let again = reapply_limits(reapplied.as_deref(), replaced.as_deref(), context(&plan));
            assert_eq!(again, reapplied, "nothing is left to reapply");
        }
        assert_eq!(lower_role(Role::Owner, Role::Viewer), Role::Viewer);
        assert_eq!(lower_role(Role::Member, Role::Admin), Role::Member);
    }

    #[test]
    fn a_change_to_a_plan_that_grants_no_more_is_reapplied() {
        let minute = |units| vec![limit(units, LimitSpan::Window(60))];
        let day = |units| vec![limit(units, LimitSpan::Period(Period::Day))];
        let plan = |key_limits, organization_limits, max_keys| Plan {
            key_limits,
            organization_limits,
            max_keys,
            max_members: 0,
        };
        let plans = [
            ("large", plan(minute(100), minute(1000), 0)),
            ("small", plan(minute(10), minute(1000), 5)),
            ("daily", plan([minute(100), day(1)].concat(), minute(1000), 0)),
            ("other", plan(day(1), minute(1), 1)),
            ("free", plan(Vec::new(), Vec::new(), 0)),
        ]
        .map(|(name, plan)| (name.to_owned(), plan));
        let plans = BTreeMap::from(plans);
        for (restored, replaced, expected) in [
            ("large", "large", "large"),
            ("large", "small", "small"),
            ("large", "daily", "daily"),
            ("free", "large", "large"),
            ("small", "large", "small"),
            ("small", "daily", "small"),
            ("large", "other", "large"),
            ("large", "free", "large"),
            ("large", "unknown", "large"),
            ("unknown", "large", "unknown"),
        ] {
            assert_eq!(reapply_plan(restored, replaced, &plans), expected, "{restored} after {replaced}");
        }
    }

    fn context(plan_limits: &[Limit]) -> LimitContext<'_> {
        LimitContext { plan_limits, meters: &[Meter::REQUESTS] }
    }

    fn limit(units: u64, span: LimitSpan) -> Limit {
        Limit { meter: Meter::REQUESTS, limit: units, span }
    }
}
