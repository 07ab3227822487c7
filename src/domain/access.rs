//! Authorization: the only place that decides who may do what.
//!
//! Each decision is a function of the caller and the resource, so that it can be made before a
//! transaction (the route's scope) and again inside it, where it is binding.

use std::net::IpAddr;
use std::sync::Arc;

use super::api_key::{ApiKey, Credential, Status};
use super::audit::{Actor, ActorKind};
use super::cidr;
use super::scope;
use super::time::Timestamp;
use super::verification;
use crate::error::{Code, Error, ErrorDetail, Result};

/// The caller of an operation.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A client that authenticated with an API key.
    Key(Arc<Credential>),
    /// The operator at the command line, who may do everything. A check would add no protection, because the
    /// operator can write the database file directly.
    Operator,
    /// The server itself, such as its background jobs.
    System,
}

impl Caller {
    pub(crate) fn key(&self) -> Option<&ApiKey> {
        match self {
            Caller::Key(credential) => Some(&credential.key),
            Caller::Operator | Caller::System => None,
        }
    }

    /// The caller's organization; `None` means that the caller can access all organizations.
    pub(crate) fn organization_id(&self) -> Option<&str> {
        self.key().and_then(|key| key.organization_id.as_deref())
    }

    /// True if one of the caller's scopes covers the scope `wanted`.
    pub(crate) fn has_scope(&self, wanted: &str) -> bool {
        self.key().is_none_or(|key| scope::any_covers(&key.scopes, wanted))
    }

    /// True if the caller may see resources of this organization, or of the platform if `organization_id` is
    /// `None`. Resources that the caller may not see are reported as not found.
    pub(crate) fn can_access_organization(&self, organization_id: Option<&str>) -> bool {
        match self.organization_id() {
            None => true,
            organization => organization == organization_id,
        }
    }

    /// Returns the error `PLATFORM_KEY_REQUIRED` if the caller belongs to an organization.
    pub(crate) fn require_platform(&self) -> Result<()> {
        if self.organization_id().is_none() {
            return Ok(());
        }
        Err(Error::new(Code::PlatformKeyRequired, "This operation requires a platform key."))
    }

    /// Returns the error `SECRET_SUPERSEDED` if the caller authenticated with the previous secret of a rotated
    /// key. Such a secret may have leaked, so it must not give, keep or end access.
    pub(crate) fn require_current_secret(&self) -> Result<()> {
        match self {
            Caller::Key(credential) if credential.is_superseded() => {
                let message = "This secret was rotated and is in its grace period. It can't change who has \
                               access. Use the key's current secret.";
                Err(Error::new(Code::SecretSuperseded, message))
            }
            _ => Ok(()),
        }
    }

    /// Returns the error `SELF_ROTATION_NOT_ALLOWED` unless the calling key can rotate itself.
    pub(crate) fn require_self_rotation(&self) -> Result<()> {
        if self.key().is_some_and(|key| key.self_rotation) {
            return Ok(());
        }
        let message = "This key can't rotate itself. An administrator can allow it with self_rotation, or rotate the \
                       key.";
        Err(Error::new(Code::SelfRotationNotAllowed, message))
    }

    /// Returns the error `INSUFFICIENT_SCOPE` if the caller has none of the scopes `any_of`. An empty list
    /// requires no scope.
    pub(crate) fn require_scope(&self, any_of: &[&str]) -> Result<()> {
        self.key().map_or(Ok(()), |key| require_scope(key, any_of))
    }
}

impl From<&Caller> for Actor {
    fn from(caller: &Caller) -> Self {
        let kind = match caller {
            Caller::Key(_) => ActorKind::ApiKey,
            Caller::Operator => ActorKind::Cli,
            Caller::System => ActorKind::System,
        };
        Self {
            kind: kind.into(),
            id: caller.key().map(|key| key.id.clone()),
            name: caller.key().map(|key| key.name.clone()),
            user_id: caller.key().and_then(|key| key.user_id.clone()),
        }
    }
}

/// Returns the error `INSUFFICIENT_SCOPE` if the key has none of the scopes `any_of`. An empty list requires
/// no scope.
pub(crate) fn require_scope(key: &ApiKey, any_of: &[&str]) -> Result<()> {
    let [first, ..] = any_of else { return Ok(()) };
    if any_of.iter().any(|wanted| scope::any_covers(&key.scopes, wanted)) {
        return Ok(());
    }
    let message = format!("The key lacks the scope {}.", any_of.join(" or "));
    Err(missing_scope_error(first, message))
}

/// The error `INSUFFICIENT_SCOPE` for a key that lacks this scope.
fn missing_scope_error(scope: &str, message: String) -> Error {
    Error { missing_scope: Some(scope.into()), ..Error::new(Code::InsufficientScope, message) }
}

/// Returns the error `INVALID_API_KEY` if the credential is not valid at `now`. The error doesn't reveal why.
pub(crate) fn ensure_usable(credential: &Credential, now: Timestamp) -> Result<()> {
    let outcome = verification::check_credential(credential, now);
    if outcome.is_valid() { Ok(()) } else { Err(invalid_api_key()) }
}

/// The error `INVALID_API_KEY`. Its message is the same for every cause, so that it doesn't reveal whether a
/// key exists.
pub(crate) fn invalid_api_key() -> Error {
    Error::new(Code::InvalidApiKey, "The API key is not valid.")
}

/// Returns the error `IP_NOT_ALLOWED` if the key's allowlist doesn't contain the client's address.
pub(crate) fn ensure_address_allowed(key: &ApiKey, ip: Option<IpAddr>) -> Result<()> {
    if cidr::is_allowed(key.allowed_ips.as_deref(), ip) {
        return Ok(());
    }
    Err(Error::new(Code::IpNotAllowed, "The key can't be used from this address."))
}

/// Returns the error `INSUFFICIENT_SCOPE` if `key` has administrative scopes that the caller lacks.
pub(crate) fn ensure_can_administer(caller: &Caller, key: &ApiKey) -> Result<()> {
    let Some(index) = find_exceeding_scope(caller, &key.scopes) else { return Ok(()) };
    let wanted = &key.scopes[index];
    let message = format!("Your key lacks the scope {wanted}, which this key has or would have.");
    let detail = exceeds_caller_detail(format!("/scopes/{index}"), message.clone());
    Err(Error { details: vec![detail], ..missing_scope_error(wanted, message) })
}

/// Returns the error `INSUFFICIENT_SCOPE`, naming the key, if a key that a user owns has administrative scopes
/// that the caller lacks. A change of the user affects the key, so it must not bypass
/// [`ensure_can_administer`].
pub(crate) fn ensure_can_affect_owned_key(caller: &Caller, key_id: &str, scopes: &[String]) -> Result<()> {
    let Some(index) = find_exceeding_scope(caller, scopes) else { return Ok(()) };
    let wanted = &scopes[index];
    let message =
        format!("The user owns the key {key_id}, which has the scope {wanted}. Your key lacks that scope.");
    Err(missing_scope_error(wanted, message))
}

/// The index of the first administrative scope that the caller lacks.
fn find_exceeding_scope(caller: &Caller, scopes: &[String]) -> Option<usize> {
    scopes.iter().position(|wanted| scope::is_administrative(wanted) && !caller.has_scope(wanted))
}

/// Returns the error `INSUFFICIENT_SCOPE` if the caller may not create `key`, widen its access or rotate its
/// secret. The key's administrative scopes, expiry and allowlist must not exceed those of the calling key.
pub(crate) fn ensure_can_grant(caller: &Caller, key: &ApiKey) -> Result<()> {
    ensure_can_administer(caller, key)?;
    let Some(calling) = caller.key() else { return Ok(()) };
    let mut details = Vec::new();
    if let Some(end) = calling.expires_at
        && key.expires_at.is_none_or(|later| later > end)
    {
        details.push(exceeds_caller_detail(
            "/expires_at".into(),
            format!("Must not be later than your key's expiry, {end}."),
        ));
    }
    if let Some(cidrs) = &calling.allowed_ips {
        let is_covered = |cidr| cidrs.iter().any(|wider| wider.contains(cidr));
        if !key.allowed_ips.as_ref().is_some_and(|wanted| wanted.iter().all(is_covered)) {
            let message = "Each CIDR must be within one of your key's allowed_ips.".to_owned();
            details.push(exceeds_caller_detail("/allowed_ips".into(), message));
        }
    }
    if details.is_empty() {
        return Ok(());
    }
    let message = "The key would exceed the permissions of your key; see details.";
    Err(Error { details, ..Error::new(Code::InsufficientScope, message) })
}

/// True if a changed key may have more access than before. Such a change requires [`ensure_can_grant`].
pub(crate) fn widens_access(before: &ApiKey, after: &ApiKey) -> bool {
    after.expires_at != before.expires_at
        || after.allowed_ips != before.allowed_ips
        || after.self_rotation && !before.self_rotation
        || after.status == Status::Active && before.status != Status::Active
        || after.scopes.iter().any(|wanted| !scope::any_covers(&before.scopes, wanted))
}

/// True if a changed key has at most the access that it had before, and nothing but its access changed: it was
/// disabled or revoked, or lost scopes, addresses, time, its self-rotation, or its previous secret.
pub(crate) fn only_narrows_access(before: &ApiKey, after: &ApiKey) -> bool {
    let keeps_status = after.status == before.status;
    let narrows_expiry = match (before.expires_at, after.expires_at) {
        (_, None) => before.expires_at.is_none(),
        (None, Some(_)) => true,
        (Some(before), Some(after)) => after <= before,
    };
    let narrows_addresses = match (&before.allowed_ips, &after.allowed_ips) {
        (_, None) => before.allowed_ips.is_none(),
        (None, Some(_)) => true,
        (Some(before), Some(after)) => {
            after.iter().all(|cidr| before.iter().any(|wider| wider.contains(cidr)))
        }
    };
    let narrows_previous_secret = after.previous_secret_expires_at.is_none()
        || after.previous_secret_expires_at == before.previous_secret_expires_at;
    let narrows_self_rotation = before.self_rotation || !after.self_rotation;
    // The fields compared above and those that a withdrawal sets.
    let only_access_changed = ApiKey {
        scopes: before.scopes.clone(),
        status: before.status,
        expires_at: before.expires_at,
        allowed_ips: before.allowed_ips.clone(),
        self_rotation: before.self_rotation,
        previous_secret_expires_at: before.previous_secret_expires_at,
        revoked_at: before.revoked_at,
        revoked_reason: before.revoked_reason.clone(),
        ..after.clone()
    } == *before;
    only_access_changed
        && (keeps_status || after.status != Status::Active)
        && after.scopes.iter().all(|scope| scope::any_covers(&before.scopes, scope))
        && narrows_expiry
        && narrows_addresses
        && narrows_previous_secret
        && narrows_self_rotation
}

fn exceeds_caller_detail(pointer: String, message: String) -> ErrorDetail {
    ErrorDetail { pointer: Some(pointer), parameter: None, code: "EXCEEDS_CALLER".into(), message }
}
