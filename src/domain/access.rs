//! Authorization: the only place that decides who may do what.
//!
//! Each decision is a function of the caller and the resource, so that it can be made before a
//! transaction (the route's scope) and again inside it, where it is binding.

use std::net::IpAddr;
use std::sync::Arc;

use super::api_key::{ApiKey, Credential, Status};
use super::scope;
use super::time::Timestamp;
use super::verification;
use crate::error::{Code, Detail, Error, Result};

/// The caller of an operation.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A client that authenticated with an API key.
    Key(Arc<Credential>),
    /// The operator at the command line. May do everything, because the operator can also write the file.
    Operator,
    /// The server itself.
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

    /// True if one of the caller's scopes covers `wanted`.
    pub(crate) fn holds(&self, wanted: &str) -> bool {
        self.key().is_none_or(|key| scope::any_covers(&key.scopes, wanted))
    }

    /// True if the caller may see resources of this organization (`None` = the platform). Other
    /// resources are reported as not found.
    pub(crate) fn reaches(&self, organization_id: Option<&str>) -> bool {
        match self.organization_id() {
            None => true,
            organization => organization == organization_id,
        }
    }

    /// `PLATFORM_KEY_REQUIRED` if the caller belongs to an organization.
    pub(crate) fn require_platform(&self) -> Result<()> {
        if self.organization_id().is_none() {
            return Ok(());
        }
        Err(Error::new(Code::PlatformKeyRequired, "This operation requires a platform key."))
    }

    /// `SECRET_SUPERSEDED` if the caller authenticated with a rotated secret in its grace period. Such a secret
    /// may have leaked, so it can't give, keep or end access.
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

    /// `INSUFFICIENT_SCOPE`, naming the missing scopes, unless the caller holds one of them. An empty
    /// list requires nothing.
    pub(crate) fn require_scope(&self, any_of: &[&str]) -> Result<()> {
        self.key().map_or(Ok(()), |key| require_scope(key, any_of))
    }
}

/// `INSUFFICIENT_SCOPE`, naming the missing scopes, unless the key has one of them. An empty list
/// requires nothing.
pub(crate) fn require_scope(key: &ApiKey, any_of: &[&str]) -> Result<()> {
    if any_of.is_empty() || any_of.iter().any(|wanted| scope::any_covers(&key.scopes, wanted)) {
        return Ok(());
    }
    let message = format!("The key lacks the scope {}.", any_of.join(" or "));
    Err(Error::new(Code::InsufficientScope, message))
}

/// `INVALID_API_KEY` unless the credential is valid at `now`. The error doesn't reveal the reason.
pub(crate) fn ensure_usable(credential: &Credential, now: Timestamp) -> Result<()> {
    let outcome = verification::check_credential(credential, now);
    if outcome.is_valid() { Ok(()) } else { Err(invalid_api_key()) }
}

/// `INVALID_API_KEY`, the same for every reason.
pub(crate) fn invalid_api_key() -> Error {
    Error::new(Code::InvalidApiKey, "The API key is not valid.")
}

/// `IP_NOT_ALLOWED` unless the key may be used from this address. An unknown address is outside every
/// allowlist.
pub(crate) fn ensure_address_allowed(key: &ApiKey, ip: Option<IpAddr>) -> Result<()> {
    let Some(cidrs) = &key.allowed_ips else { return Ok(()) };
    if ip.is_some_and(|ip| cidrs.iter().any(|cidr| cidr.contains(&ip))) {
        return Ok(());
    }
    Err(Error::new(Code::IpNotAllowed, "The key can't be used from this address."))
}

/// `INSUFFICIENT_SCOPE` if the key has administrative scopes that the caller lacks.
pub(crate) fn ensure_can_administer(caller: &Caller, key: &ApiKey) -> Result<()> {
    let Some(index) = scope_beyond(caller, &key.scopes) else { return Ok(()) };
    let wanted = &key.scopes[index];
    let message = format!("Your key lacks the scope {wanted}, which this key has or would have.");
    let detail = exceeds_caller(format!("/scopes/{index}"), message.clone());
    Err(Error { details: vec![detail], ..Error::new(Code::InsufficientScope, message) })
}

/// `INSUFFICIENT_SCOPE`, naming the key, if a user's key has administrative scopes that the caller lacks. What
/// happens to the user happens to the key, so it must not be a way around [`ensure_can_administer`].
pub(crate) fn ensure_can_affect_owned(caller: &Caller, key_id: &str, scopes: &[String]) -> Result<()> {
    let Some(index) = scope_beyond(caller, scopes) else { return Ok(()) };
    let wanted = &scopes[index];
    let message =
        format!("The user owns the key {key_id}, which has the scope {wanted}. Your key lacks that scope.");
    Err(Error::new(Code::InsufficientScope, message))
}

/// The index of the first administrative scope that the caller lacks.
fn scope_beyond(caller: &Caller, scopes: &[String]) -> Option<usize> {
    scopes.iter().position(|wanted| scope::is_administrative(wanted) && !caller.holds(wanted))
}

/// `INSUFFICIENT_SCOPE` unless the caller may grant this key: create it, widen it, or rotate its
/// secret. The key's administrative scopes, expiry and allowlist must not exceed the caller's.
pub(crate) fn ensure_can_grant(caller: &Caller, key: &ApiKey) -> Result<()> {
    ensure_can_administer(caller, key)?;
    let Some(calling) = caller.key() else { return Ok(()) };
    let mut details = Vec::new();
    if let Some(end) = calling.expires_at
        && key.expires_at.is_none_or(|later| later > end)
    {
        details.push(exceeds_caller(
            "/expires_at".into(),
            format!("Must not be later than your key's expiry, {end}."),
        ));
    }
    if let Some(cidrs) = &calling.allowed_ips {
        let is_covered = |cidr| cidrs.iter().any(|wider| wider.contains(cidr));
        if !key.allowed_ips.as_ref().is_some_and(|wanted| wanted.iter().all(is_covered)) {
            let message = "Each CIDR must be within one of your key's allowed_ips.".to_owned();
            details.push(exceeds_caller("/allowed_ips".into(), message));
        }
    }
    if details.is_empty() {
        return Ok(());
    }
    let message = "The key would exceed the permissions of your key; see details.";
    Err(Error { details, ..Error::new(Code::InsufficientScope, message) })
}

/// True if the change gives the key more access, which requires [`ensure_can_grant`].
pub(crate) fn widens(before: &ApiKey, after: &ApiKey) -> bool {
    after.expires_at != before.expires_at
        || after.allowed_ips != before.allowed_ips
        || after.status == Status::Active && before.status != Status::Active
        || after.scopes.iter().any(|wanted| !scope::any_covers(&before.scopes, wanted))
}

fn exceeds_caller(pointer: String, message: String) -> Detail {
    Detail { pointer: Some(pointer), parameter: None, code: "EXCEEDS_CALLER".into(), message }
}
