//! What the contract says about handing out keys, said a second time and apart from the program's own
//! rules.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};
use tollhouse::domain::time::Timestamp;

/// A key as it ought to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    pub id: String,
    pub organization: Option<String>,
    pub scopes: Vec<String>,
    /// Milliseconds; `None` = never.
    pub expires_at: Option<i64>,
    pub cidrs: Option<Vec<IpNet>>,
    pub disabled: bool,
    pub revoked: bool,
}

/// What a key is made of, or comes to be by a patch.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub scopes: Vec<&'static str>,
    /// In so many hours.
    pub expires: Option<u32>,
    pub cidrs: Option<Vec<&'static str>>,
}

/// What a patch says; `None` = nothing of this.
#[derive(Clone, Debug)]
pub(super) struct Patch {
    pub scopes: Option<Vec<&'static str>>,
    pub expires: Option<Option<u32>>,
    pub cidrs: Option<Option<Vec<&'static str>>>,
    pub disabled: Option<bool>,
}

fn hours_from(now: i64, hours: Option<u32>) -> Option<i64> {
    hours.map(|hours| now + i64::from(hours) * 3_600_000)
}

fn time(millis: Option<i64>) -> Value {
    millis.map_or(Value::Null, |millis| Timestamp::from_millis(millis).to_string().into())
}

fn nets(cidrs: &[&'static str]) -> Vec<IpNet> {
    cidrs.iter().map(|range| range.parse().unwrap()).collect()
}

fn owned(scopes: &[&'static str]) -> Vec<String> {
    scopes.iter().map(|scope| (*scope).to_owned()).collect()
}

impl Grant {
    pub(super) fn body(&self, now: i64, organization: Option<&str>) -> Value {
        let mut body = json!({"name": "made", "scopes": self.scopes, "allowed_ips": self.cidrs,
            "expires_at": time(hours_from(now, self.expires))});
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
            cidrs: self.cidrs.as_deref().map(nets),
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
            after.cidrs = cidrs.as_deref().map(nets);
        }
        after.disabled = self.disabled.unwrap_or(after.disabled);
        after
    }
}

fn holds(scopes: &[String], wanted: &str) -> bool {
    let (resource, _) = wanted.split_once(':').unwrap_or(("", ""));
    scopes.iter().any(|own| own == "*" || own == wanted || wanted != "*" && *own == format!("{resource}:*"))
}

pub(super) fn administrative(scope: &str) -> bool {
    scope == "*" || scope.starts_with("admin:") || scope.starts_with("keys:")
}

fn lies_within(range: &IpNet, outer: &[IpNet]) -> bool {
    outer.iter().any(|outer| {
        outer.prefix_len() <= range.prefix_len()
            && outer.contains(&range.network())
            && outer.contains(&range.broadcast())
    })
}

/// Does a key that may be used from `wider` reach as far as one that may be used from `cidr`?
pub(super) fn no_wider(cidrs: Option<&[IpNet]>, wider: Option<&[IpNet]>) -> bool {
    match (cidrs, wider) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(cidrs), Some(wider)) => cidrs.iter().all(|range| lies_within(range, wider)),
    }
}

pub(super) fn no_later(end: Option<i64>, later: Option<i64>) -> bool {
    later.is_none_or(|later| end.is_some_and(|end| end <= later))
}

impl Key {
    pub(super) fn ended(&self, now: i64) -> bool {
        self.revoked || self.expires_at.is_some_and(|end| end <= now)
    }

    pub(super) fn good(&self, now: i64) -> bool {
        !self.disabled && !self.ended(now)
    }

    /// An address that it may be used from.
    pub(super) fn home(&self) -> IpAddr {
        self.cidrs.as_ref().map_or(IpAddr::from([203, 0, 113, 7]), |cidrs| cidrs[0].network())
    }

    /// Does the key answer like this?
    pub(super) fn is_shown_as(&self, now: i64, shown: &Value) -> bool {
        let status = match self {
            Key { revoked: true, .. } => "revoked",
            Key { disabled: true, .. } => "disabled",
            key if key.ended(now) => "expired",
            _ => "active",
        };
        shown["id"] == json!(self.id)
            && shown["organization_id"] == json!(self.organization)
            && shown["scopes"] == json!(self.scopes)
            && shown["expires_at"] == time(self.expires_at)
            && shown["allowed_ips"] == json!(self.cidrs)
            && shown["status"] == status
    }

    /// May it be handed any further than this?
    fn has_rights_over(&self, other: &Key) -> bool {
        other.scopes.iter().all(|scope| !administrative(scope) || holds(&self.scopes, scope))
    }

    fn may_hand_out(&self, made: &Key) -> bool {
        self.has_rights_over(made)
            && no_later(made.expires_at, self.expires_at)
            && no_wider(made.cidrs.as_deref(), self.cidrs.as_deref())
    }

    /// The statuses with which a call that manages keys may be refused before its thing is looked at.
    pub(super) fn refusal_at_the_gate(&self, now: i64, from: IpAddr) -> Option<u16> {
        if !self.good(now) {
            return Some(401);
        }
        let outside = self.cidrs.as_ref().is_some_and(|cidrs| !cidrs.iter().any(|r| r.contains(&from)));
        (outside || !holds(&self.scopes, "admin:keys")).then_some(403)
    }

    fn reaches(&self, organization: Option<&str>) -> bool {
        self.organization.is_none() || self.organization.as_deref() == organization
    }

    /// How creating this key may be answered.
    pub(super) fn creates(&self, made: &Key) -> &'static [u16] {
        match () {
            () if !self.reaches(made.organization.as_deref()) => &[404],
            () if !self.may_hand_out(made) => &[403],
            () => &[201],
        }
    }

    /// How changing one into the other may be answered.
    pub(super) fn changes(&self, before: &Key, after: &Key) -> &'static [u16] {
        let gained = after.scopes.iter().any(|scope| !holds(&before.scopes, scope))
            || after.expires_at != before.expires_at
            || after.cidrs != before.cidrs
            || before.disabled && !after.disabled;
        match () {
            () if !self.reaches(before.organization.as_deref()) => &[404],
            () if before.revoked => &[403, 409],
            () if !self.has_rights_over(before) || !self.has_rights_over(after) => &[403],
            () if gained && !self.may_hand_out(after) => &[403],
            () => &[200],
        }
    }

    /// How giving this key a new secret may be answered.
    pub(super) fn rotates(&self, now: i64, key: &Key) -> &'static [u16] {
        match () {
            () if !self.reaches(key.organization.as_deref()) => &[404],
            () if key.ended(now) => &[403, 409],
            () if !self.may_hand_out(key) => &[403],
            () => &[200],
        }
    }

    /// How revoking this key may be answered.
    pub(super) fn revokes(&self, key: &Key) -> &'static [u16] {
        match () {
            () if !self.reaches(key.organization.as_deref()) => &[404],
            () if !self.has_rights_over(key) => &[403],
            () => &[200],
        }
    }
}
