//! What the settings demand of keys. It binds what is made, and of what is changed that which changes: a key
//! that was there before a rule stays as it is, and can still be narrowed.

use std::time::Duration;

use super::api_key::ApiKey;
use super::scope;
use super::settings::Keys;
use super::time::Timestamp;
use crate::error::{Detail, Error, Result};

const DAY: Duration = Duration::from_secs(86_400);

/// When a key ends whose maker names no expiry: after the default, else as late as is allowed.
pub(crate) fn default_expiry(keys: &Keys, now: Timestamp) -> Option<Timestamp> {
    let days = if keys.default_expiry_days > 0 { keys.default_expiry_days } else { keys.max_expiry_days };
    (days > 0).then(|| now + DAY * days)
}

/// Is the key, made (`before` is `None`) or changed, as it must be?
///
/// # Errors
/// `INVALID_REQUEST` with all that is wrong.
pub(crate) fn accept(keys: &Keys, before: Option<&ApiKey>, after: &ApiKey, now: Timestamp) -> Result<()> {
    let mut details = Vec::new();
    let given = before.is_none_or(|before| before.expires_at != after.expires_at);
    let latest = (keys.max_expiry_days > 0).then(|| now + DAY * keys.max_expiry_days);
    if let Some(latest) = latest.filter(|_| given)
        && after.expires_at.is_none_or(|end| end > latest)
    {
        let days = keys.max_expiry_days;
        let message = format!("Keys must expire within {days} days here: at {latest} at the latest.");
        details.push(fault("/expires_at", message));
    }
    let is_bare = |key: &ApiKey| key.allowed_ips.is_none() && is_administrative(key);
    let was_so = |before: &ApiKey| {
        is_bare(before) && after.scopes.iter().all(|wanted| scope::any_covers(&before.scopes, wanted))
    };
    if keys.require_allowed_ips_for_admin && is_bare(after) && !before.is_some_and(was_so) {
        let message = "A key with administrative scopes must say from which addresses it may be used here.";
        details.push(fault("/allowed_ips", message.to_owned()));
    }
    if details.is_empty() { Ok(()) } else { Err(Error::invalid(details)) }
}

fn is_administrative(key: &ApiKey) -> bool {
    key.scopes.iter().any(|scope| scope::is_administrative(scope))
}

fn fault(pointer: &str, message: String) -> Detail {
    Detail { pointer: Some(pointer.to_owned()), parameter: None, code: "EXCEEDS_POLICY".into(), message }
}
