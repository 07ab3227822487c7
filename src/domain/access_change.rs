//! Changes of access, as a request names them: what to deny if such a change can't be stored, and which denials
//! end once it is stored.

use ipnet::IpNet;

use super::access::{self, Caller};
use super::action::Action;
use super::api_key::{ApiKey, Credential, SettableStatus, Status};
use super::cidr;
use super::fields::Faults;
use super::json::Json;
use super::restore::{LimitContext, reapply_key_revocations};
use super::time::Timestamp;
use super::{organization, user};

/// A change of the access of a key, an organization or a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessChange {
    /// The id of the key, organization or user.
    pub(crate) id: String,
    kind: AccessChangeKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum AccessChangeKind {
    RevokeKey,
    ExpirePreviousSecret,
    RotateKey,
    UpdateKey(Box<KeyAccessUpdate>),
    SuspendOrganization,
    DeleteOrganization,
    ActivateOrganization,
    SuspendUser,
    DeleteUser,
    ActivateUser,
    /// Ends the user's membership in this organization.
    EndMembership(String),
}

/// The fields of a key's update that decide on its access; `None` if the update doesn't narrow the field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct KeyAccessUpdate {
    status: Option<Status>,
    scopes: Option<Vec<String>>,
    allowed_ips: Option<Vec<IpNet>>,
    expires_at: Option<Timestamp>,
    self_rotation: Option<bool>,
}

impl AccessChange {
    /// The change of access that a request to the route with this action makes; `None` if it makes none. The body
    /// isn't validated: what isn't valid is ignored.
    pub(crate) fn from_request(action: Action, params: &[String], body: Option<&Json>) -> Option<Self> {
        use AccessChangeKind as Kind;
        use organization::Status as AccountStatus;
        let id = params.last()?.clone();
        let status = || text(member(body?, "status")?)?.parse::<AccountStatus>().ok();
        let kind = match action {
            Action::RevokeApiKey => Kind::RevokeKey,
            Action::ExpirePreviousSecret => Kind::ExpirePreviousSecret,
            Action::RotateApiKey => Kind::RotateKey,
            Action::UpdateApiKey => Kind::UpdateKey(Box::new(KeyAccessUpdate::from_body(body?)?)),
            Action::DeleteOrganization => Kind::DeleteOrganization,
            Action::DeleteUser => Kind::DeleteUser,
            Action::DeleteMembership => Kind::EndMembership(params.first()?.clone()),
            Action::UpdateOrganization if status() == Some(AccountStatus::Suspended) => {
                Kind::SuspendOrganization
            }
            Action::UpdateOrganization if status() == Some(AccountStatus::Active) => {
                Kind::ActivateOrganization
            }
            Action::UpdateUser if status() == Some(AccountStatus::Suspended) => Kind::SuspendUser,
            Action::UpdateUser if status() == Some(AccountStatus::Active) => Kind::ActivateUser,
            _ => return None,
        };
        Some(Self { id, kind })
    }

    /// True if the change may take access away. A rotation doesn't: if it fails, nobody gets a new secret.
    pub(crate) fn takes_access_away(&self) -> bool {
        use AccessChangeKind as Kind;
        match &self.kind {
            Kind::UpdateKey(update) => update.may_narrow(),
            Kind::RotateKey | Kind::ActivateOrganization | Kind::ActivateUser => false,
            _ => true,
        }
    }

    /// True if the caller may make the change, as far as that doesn't depend on the affected keys.
    /// [`deny`](Self::deny) checks the rest for each key.
    pub(crate) fn is_allowed_for(&self, caller: &Caller) -> bool {
        use AccessChangeKind as Kind;
        match &self.kind {
            Kind::SuspendOrganization | Kind::DeleteOrganization | Kind::SuspendUser | Kind::DeleteUser => {
                caller.require_platform().and_then(|()| caller.require_current_secret()).is_ok()
            }
            Kind::EndMembership(organization_id) => caller.can_access_organization(Some(organization_id)),
            _ => true,
        }
    }

    /// True if the change concerns a single key, which may be the last one that can manage keys.
    pub(crate) fn concerns_one_key(&self) -> bool {
        matches!(self.kind, AccessChangeKind::RevokeKey | AccessChangeKind::UpdateKey(_))
    }

    /// Denies what this change takes away, in a credential as stored. Has no effect on a key that the caller may
    /// not administer.
    pub(crate) fn deny(&self, caller: &Caller, credential: &mut Credential) {
        use AccessChangeKind as Kind;
        let key = &mut credential.key;
        let is_same = |id: &Option<String>| id.as_ref() == Some(&self.id);
        let may_administer = caller.can_access_organization(key.organization_id.as_deref())
            && access::ensure_can_administer(caller, key).is_ok();
        match &self.kind {
            Kind::RevokeKey if may_administer && key.id == self.id => key.status = Status::Revoked,
            Kind::UpdateKey(update) if may_administer && key.id == self.id => *key = update.narrow(key),
            Kind::ExpirePreviousSecret if may_administer && key.id == self.id => {
                key.previous_secret_expires_at = None;
                credential.secret_ends_at = credential.secret_ends_at.map(|_| Timestamp::from_millis(0));
            }
            Kind::SuspendOrganization | Kind::DeleteOrganization if is_same(&key.organization_id) => {
                if let Some(organization) = &mut credential.organization {
                    organization.status = organization::Status::Suspended;
                }
            }
            Kind::SuspendUser | Kind::DeleteUser if may_administer && is_same(&key.user_id) => {
                credential.owner = Some(user::Status::Suspended);
            }
            Kind::EndMembership(organization_id)
                if may_administer
                    && is_same(&key.user_id)
                    && key.organization_id.as_ref() == Some(organization_id) =>
            {
                credential.owner = Some(user::Status::Suspended);
            }
            _ => {}
        }
    }

    /// True if the change takes all access of its key, organization, user or membership away, for good.
    pub(crate) fn is_final(&self) -> bool {
        use AccessChangeKind as Kind;
        matches!(
            self.kind,
            Kind::RevokeKey | Kind::DeleteOrganization | Kind::DeleteUser | Kind::EndMembership(_)
        )
    }

    /// True if `earlier` is obsolete once this change is stored: the same access was decided on again. What ends access
    /// for good is obsolete only once that is stored.
    pub(crate) fn supersedes(&self, earlier: &Self) -> bool {
        use AccessChangeKind as Kind;
        self.id == earlier.id
            && match (&self.kind, &earlier.kind) {
                (Kind::RevokeKey, _) => true,
                (Kind::UpdateKey(update), Kind::UpdateKey(earlier)) => update.decides_all_of(earlier),
                (Kind::RotateKey | Kind::ExpirePreviousSecret, Kind::ExpirePreviousSecret) => true,
                (Kind::DeleteOrganization | Kind::DeleteUser, _) => true,
                (Kind::SuspendOrganization | Kind::ActivateOrganization, Kind::SuspendOrganization) => true,
                (Kind::SuspendUser | Kind::ActivateUser, Kind::SuspendUser) => true,
                (Kind::EndMembership(organization), Kind::EndMembership(other)) => organization == other,
                _ => false,
            }
    }
}

impl KeyAccessUpdate {
    /// `None` if the body changes nothing that decides on access.
    fn from_body(body: &Json) -> Option<Self> {
        let strings = |json: &Json| match json {
            Json::Array(items) => items.iter().map(|item| text(item).map(str::to_owned)).collect(),
            _ => None,
        };
        let status = member(body, "status").and_then(text).and_then(|status| status.parse().ok());
        let update = Self {
            status: status.map(|status: SettableStatus| status.into()),
            scopes: member(body, "scopes").and_then(strings),
            allowed_ips: member(body, "allowed_ips")
                .and_then(|json| cidr::parse_allowlist(json, &mut Faults::default())),
            expires_at: member(body, "expires_at").and_then(text).and_then(Timestamp::parse),
            self_rotation: member(body, "self_rotation").and_then(boolean),
        };
        (update != Self::default()).then_some(update)
    }

    /// True if the update may take access away: it doesn't only enable the key or allow self-rotation.
    fn may_narrow(&self) -> bool {
        let narrowing = Self {
            status: self.status.filter(|status| *status != Status::Active),
            self_rotation: self.self_rotation.filter(|is_allowed| !is_allowed),
            ..self.clone()
        };
        narrowing != Self::default()
    }

    /// Returns the key without the access that the update takes away. What the update gives is not given.
    fn narrow(&self, key: &ApiKey) -> ApiKey {
        let updated = ApiKey {
            status: self.status.unwrap_or(key.status),
            scopes: self.scopes.as_ref().unwrap_or(&key.scopes).clone(),
            allowed_ips: self.allowed_ips.as_ref().or(key.allowed_ips.as_ref()).cloned(),
            expires_at: self.expires_at.or(key.expires_at),
            self_rotation: self.self_rotation.unwrap_or(key.self_rotation),
            ..key.clone()
        };
        reapply_key_revocations(key, &updated, LimitContext::default())
    }

    /// True if this update sets all fields that the earlier one set.
    fn decides_all_of(&self, earlier: &Self) -> bool {
        (self.status.is_some() || earlier.status.is_none())
            && (self.scopes.is_some() || earlier.scopes.is_none())
            && (self.allowed_ips.is_some() || earlier.allowed_ips.is_none())
            && (self.expires_at.is_some() || earlier.expires_at.is_none())
            && (self.self_rotation.is_some() || earlier.self_rotation.is_none())
    }
}

/// The first field of this name; `None` if the value is no object or has no such field.
fn member<'j>(json: &'j Json, name: &str) -> Option<&'j Json> {
    let Json::Object(fields) = json else { return None };
    fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
}

fn boolean(json: &Json) -> Option<bool> {
    match json {
        Json::Bool(value) => Some(*value),
        _ => None,
    }
}

fn text(json: &Json) -> Option<&str> {
    match json {
        Json::String(text) => Some(text),
        _ => None,
    }
}
