//! The contract's rules on granting access through keys, implemented a second time and independently of the
//! program.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};
use tollhouse::domain::time::Timestamp;

/// The expected state of a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    pub id: String,
    pub organization: Option<String>,
    pub scopes: Vec<String>,
    /// Milliseconds; `None` = never.
    pub expires_at: Option<i64>,
    pub cidrs: Option<Vec<IpNet>>,
    pub self_rotation: bool,
    pub disabled: bool,
    pub revoked: bool,
}

/// The fields that a key is created with.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub scopes: Vec<&'static str>,
    /// Hours from now; `None` = never.
    pub expires: Option<u32>,
    pub cidrs: Option<Vec<&'static str>>,
    pub self_rotation: bool,
}

/// The fields of a patch; `None` = not in the patch.
#[derive(Clone, Debug)]
pub(super) struct Patch {
    pub scopes: Option<Vec<&'static str>>,
    pub expires: Option<Option<u32>>,
    pub cidrs: Option<Option<Vec<&'static str>>>,
    pub self_rotation: Option<bool>,
    pub disabled: Option<bool>,
}

fn hours_from(now: i64, hours: Option<u32>) -> Option<i64> {
    hours.map(|hours| now + i64::from(hours) * 3_600_000)
}

fn time(millis: Option<i64>) -> Value {
    millis.map_or(Value::Null, |millis| Timestamp::from_millis(millis).to_string().into())
}

fn parse_cidrs(cidrs: &[&'static str]) -> Vec<IpNet> {
    cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect()
}

fn owned(scopes: &[&'static str]) -> Vec<String> {
    scopes.iter().map(|scope| (*scope).to_owned()).collect()
}

impl Grant {
    pub(super) fn body(&self, now: i64, organization: Option<&str>) -> Value {
        let mut body = json!({"name": "created", "scopes": self.scopes, "allowed_ips": self.cidrs,
            "self_rotation": self.self_rotation, "expires_at": time(hours_from(now, self.expires))});
        if let Some(organization) = organization {
            body["organization_id"] = organization.into();
        }
        body
    }

    pub(super) fn key(&self, now: i64, id: &str, organization: Option<&str>) -> Key {
        Key {
            id: id.to_owned(),
            organization: organization.map(str::to_owned),
            scopes: owned(&self.scopes),
            expires_at: hours_from(now, self.expires),
            cidrs: self.cidrs.as_deref().map(parse_cidrs),
            self_rotation: self.self_rotation,
            disabled: false,
            revoked: false,
        }
    }
}

impl Patch {
    pub(super) fn body(&self, now: i64) -> Value {
        let mut body = json!({"name": "changed"});
        if let Some(scopes) = &self.scopes {
            body["scopes"] = json!(scopes);
        }
        if let Some(hours) = self.expires {
            body["expires_at"] = time(hours_from(now, hours));
        }
        if let Some(cidrs) = &self.cidrs {
            body["allowed_ips"] = json!(cidrs);
        }
        if let Some(self_rotation) = self.self_rotation {
            body["self_rotation"] = self_rotation.into();
        }
        if let Some(disabled) = self.disabled {
            body["status"] = if disabled { "disabled" } else { "active" }.into();
        }
        body
    }

    pub(super) fn apply(&self, now: i64, before: &Key) -> Key {
        let mut after = before.clone();
        if let Some(scopes) = &self.scopes {
            after.scopes = owned(scopes);
        }
        if let Some(hours) = self.expires {
            after.expires_at = hours_from(now, hours);
        }
        if let Some(cidrs) = &self.cidrs {
            after.cidrs = cidrs.as_deref().map(parse_cidrs);
        }
        after.self_rotation = self.self_rotation.unwrap_or(after.self_rotation);
        after.disabled = self.disabled.unwrap_or(after.disabled);
        after
    }
}

fn holds(scopes: &[String], scope: &str) -> bool {
    let (resource, _) = scope.split_once(':').unwrap_or(("", ""));
    scopes.iter().any(|held| held == "*" || held == scope || scope != "*" && *held == format!("{resource}:*"))
}

pub(super) fn is_administrative(scope: &str) -> bool {
    scope == "*" || scope.starts_with("admin:") || scope.starts_with("keys:")
}

fn is_contained(cidr: &IpNet, outer: &[IpNet]) -> bool {
    outer.iter().any(|outer| {
        outer.prefix_len() <= cidr.prefix_len()
            && outer.contains(&cidr.network())
            && outer.contains(&cidr.broadcast())
    })
}

/// True if every address in `cidrs` is in `wider`; `None` is every address.
pub(super) fn is_no_wider(cidrs: Option<&[IpNet]>, wider: Option<&[IpNet]>) -> bool {
    match (cidrs, wider) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(cidrs), Some(wider)) => cidrs.iter().all(|cidr| is_contained(cidr, wider)),
    }
}

pub(super) fn expires_no_later(end: Option<i64>, limit: Option<i64>) -> bool {
    limit.is_none_or(|limit| end.is_some_and(|end| end <= limit))
}

impl Key {
    pub(super) fn has_ended(&self, now: i64) -> bool {
        self.revoked || self.expires_at.is_some_and(|end| end <= now)
    }

    pub(super) fn is_valid(&self, now: i64) -> bool {
        !self.disabled && !self.has_ended(now)
    }

    /// An address from which the key may be used.
    pub(super) fn allowed_ip(&self) -> IpAddr {
        self.cidrs.as_ref().map_or(IpAddr::from([203, 0, 113, 7]), |cidrs| cidrs[0].network())
    }

    /// True if `shown`, the API's representation of a key, is this key.
    pub(super) fn is_shown_as(&self, now: i64, shown: &Value) -> bool {
        let status = match self {
            Key { revoked: true, .. } => "revoked",
            Key { disabled: true, .. } => "disabled",
            key if key.has_ended(now) => "expired",
            _ => "active",
        };
        shown["id"] == json!(self.id)
            && shown["organization_id"] == json!(self.organization)
            && shown["scopes"] == json!(self.scopes)
            && shown["expires_at"] == time(self.expires_at)
            && shown["allowed_ips"] == json!(self.cidrs)
            && shown["self_rotation"] == self.self_rotation
            && shown["status"] == status
    }

    /// True if this key holds every administrative scope of the other.
    fn can_administer(&self, other: &Key) -> bool {
        other.scopes.iter().all(|scope| !is_administrative(scope) || holds(&self.scopes, scope))
    }

    fn can_grant(&self, other: &Key) -> bool {
        self.can_administer(other)
            && expires_no_later(other.expires_at, self.expires_at)
            && is_no_wider(other.cidrs.as_deref(), self.cidrs.as_deref())
    }

    /// The status of a call that manages keys if it is refused before its target is read.
    pub(super) fn early_refusal(&self, now: i64, from: IpAddr) -> Option<u16> {
        if !self.is_valid(now) {
            return Some(401);
        }
        let outside = self.cidrs.as_ref().is_some_and(|cidrs| !cidrs.iter().any(|cidr| cidr.contains(&from)));
        (outside || !holds(&self.scopes, "admin:keys")).then_some(403)
    }

    fn reaches(&self, organization: Option<&str>) -> bool {
        self.organization.is_none() || self.organization.as_deref() == organization
    }

    /// The allowed statuses of a call with this key that creates `created`.
    pub(super) fn create_statuses(&self, created: &Key) -> &'static [u16] {
        match () {
            () if !self.reaches(created.organization.as_deref()) => &[404],
            () if !self.can_grant(created) => &[403],
            () => &[201],
        }
    }

    /// The allowed statuses of a call with this key that changes `before` into `after`.
    pub(super) fn change_statuses(&self, before: &Key, after: &Key) -> &'static [u16] {
        let gains_access = after.scopes.iter().any(|scope| !holds(&before.scopes, scope))
            || after.expires_at != before.expires_at
            || after.cidrs != before.cidrs
            || after.self_rotation && !before.self_rotation
            || before.disabled && !after.disabled;
        match () {
            () if !self.reaches(before.organization.as_deref()) => &[404],
            () if before.revoked => &[403, 409],
            () if !self.can_administer(before) || !self.can_administer(after) => &[403],
            () if gains_access && !self.can_grant(after) => &[403],
            () => &[200],
        }
    }

    /// The allowed statuses of a call with this key that rotates `key`.
    pub(super) fn rotate_statuses(&self, now: i64, key: &Key) -> &'static [u16] {
        match () {
            () if !self.reaches(key.organization.as_deref()) => &[404],
            () if key.has_ended(now) => &[403, 409],
            () if !self.can_grant(key) => &[403],
            () => &[200],
        }
    }

    /// The allowed statuses of a call with this key that revokes `key`.
    pub(super) fn revoke_statuses(&self, key: &Key) -> &'static [u16] {
        match () {
            () if !self.reaches(key.organization.as_deref()) => &[404],
            () if !self.can_administer(key) => &[403],
            () => &[200],
        }
    }
}
