//! Who may do what: the one place where it is decided.
//!
//! A decision is a function of the caller and the thing, so that it can be asked before a transaction
//! (the route's scope) and again inside it, where it counts.

use std::net::IpAddr;
use std::sync::Arc;

use super::api_key::{ApiKey, Credential, Status};
use super::scope;
use super::time::Timestamp;
use super::verification;
use crate::error::{Code, Detail, Error, Result};

/// Who calls.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Somebody with a key.
    Key(Arc<Credential>),
    /// The operator at the command line, who could as well write the file: may do all.
    Operator,
    /// The server itself.
    System,
}

impl Caller {
    /// The calling key.
    pub(crate) fn key(&self) -> Option<&ApiKey> {
        match self {
            Caller::Key(credential) => Some(&credential.key),
            Caller::Operator | Caller::System => None,
        }
    }

    /// The organization that the caller is bound to; `None` reaches all of them.
    pub(crate) fn organization_id(&self) -> Option<&str> {
        self.key().and_then(|key| key.organization_id.as_deref())
    }

    /// Does the caller hold a scope?
    pub(crate) fn holds(&self, wanted: &str) -> bool {
        self.key().is_none_or(|key| scope::any_covers(&key.scopes, wanted))
    }

    /// May the caller see what belongs to this organization (`None`: to the platform)? If not, it
    /// isn't there.
    pub(crate) fn reaches(&self, organization_id: Option<&str>) -> bool {
        match self.organization_id() {
            None => true,
            own => own == organization_id,
        }
    }

    /// `PLATFORM_KEY_REQUIRED` unless the caller is of the platform.
    pub(crate) fn require_platform(&self) -> Result<()> {
        if self.organization_id().is_none() {
            return Ok(());
        }
        Err(Error::new(Code::PlatformKeyRequired, "Only a platform key may do this."))
    }

    /// `INSUFFICIENT_SCOPE`, naming what is missing, unless the caller holds one of these; an empty
    /// list asks for nothing.
    pub(crate) fn require_scope(&self, any_of: &[&str]) -> Result<()> {
        self.key().map_or(Ok(()), |key| require_scope(key, any_of))
    }
}

/// `INSUFFICIENT_SCOPE`, naming what is missing, unless the key has one of these; an empty list asks for
/// nothing.
pub(crate) fn require_scope(key: &ApiKey, any_of: &[&str]) -> Result<()> {
    if any_of.is_empty() || any_of.iter().any(|wanted| scope::any_covers(&key.scopes, wanted)) {
        return Ok(());
    }
    let message = format!("The key lacks the scope {}.", any_of.join(" or "));
    Err(Error::new(Code::InsufficientScope, message))
}

/// Is this credential good now? Which of the reasons it was is not told.
pub(crate) fn usable(credential: &Credential, now: Timestamp) -> Result<()> {
    let good = verification::standing(credential, now).is_valid();
    if good { Ok(()) } else { Err(invalid_api_key()) }
}

/// `INVALID_API_KEY`, the same for every reason.
pub(crate) fn invalid_api_key() -> Error {
    Error::new(Code::InvalidApiKey, "The API key is not valid.")
}

/// `IP_NOT_ALLOWED` unless the key may be used from this address; an unknown address is outside of
/// every allowlist.
pub(crate) fn from_address(key: &ApiKey, ip: Option<IpAddr>) -> Result<()> {
    let Some(cidrs) = &key.allowed_ips else { return Ok(()) };
    if ip.is_some_and(|ip| cidrs.iter().any(|range| range.contains(&ip))) {
        return Ok(());
    }
    Err(Error::new(Code::IpNotAllowed, "The key may not be used from this address."))
}

/// May the caller administer this key at all? Not when it has administrative scopes beyond the caller's.
pub(crate) fn ensure_can_administer(caller: &Caller, key: &ApiKey) -> Result<()> {
    for (index, wanted) in key.scopes.iter().enumerate() {
        if scope::is_administrative(wanted) && !caller.holds(wanted) {
            let message = format!("Your key lacks the scope {wanted}, which this key has or would have.");
            let detail = exceeds(format!("/scopes/{index}"), message.clone());
            return Err(Error { details: vec![detail], ..Error::new(Code::InsufficientScope, message) });
        }
    }
    Ok(())
}

/// May the caller hand this key out: make it, widen it, or replace its secret? Its administrative
/// scopes, its expiry and its allowlist must lie within the caller's.
pub(crate) fn ensure_can_grant(caller: &Caller, key: &ApiKey) -> Result<()> {
    ensure_can_administer(caller, key)?;
    let Some(own) = caller.key() else { return Ok(()) };
    let mut details = Vec::new();
    if let Some(end) = own.expires_at
        && key.expires_at.is_none_or(|later| later > end)
    {
        details.push(exceeds(
            "/expires_at".into(),
            format!("Must not be later than your own key's expiry, {end}."),
        ));
    }
    if let Some(cidrs) = &own.allowed_ips {
        let inside = |range| cidrs.iter().any(|own| own.contains(range));
        if !key.allowed_ips.as_ref().is_some_and(|wanted| wanted.iter().all(inside)) {
            let message = "Each range must lie within one of your own key's allowed_ips.".to_owned();
            details.push(exceeds("/allowed_ips".into(), message));
        }
    }
    if details.is_empty() {
        return Ok(());
    }
    let message = "The key would reach further than your own; see details.";
    Err(Error { details, ..Error::new(Code::InsufficientScope, message) })
}

/// Does the change give the key anything, so that it must be [handed out](ensure_can_grant) anew?
pub(crate) fn widens(before: &ApiKey, after: &ApiKey) -> bool {
    after.expires_at != before.expires_at
        || after.allowed_ips != before.allowed_ips
        || after.status == Status::Active && before.status != Status::Active
        || after.scopes.iter().any(|wanted| !scope::any_covers(&before.scopes, wanted))
}

fn exceeds(pointer: String, message: String) -> Detail {
    Detail { pointer: Some(pointer), parameter: None, code: "EXCEEDS_CALLER".into(), message }
}
