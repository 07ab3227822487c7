//! The policy for API keys, which is part of the settings. The policy applies to new keys and to changed
//! fields of existing keys. A key that is older than a rule stays valid, and its scopes can still be reduced.

use std::time::Duration;

use super::api_key::ApiKey;
use super::scope;
use super::settings::KeySettings;
use super::time::Timestamp;
use crate::error::{Error, ErrorDetail, Result};

const DAY: Duration = Duration::from_secs(86_400);

/// Returns the expiry of a key that is created without an expiry: the configured default or, without a
/// default, the latest allowed expiry. `None` means that the key never expires.
pub(crate) fn default_expiry(keys: &KeySettings, now: Timestamp) -> Option<Timestamp> {
    let days = if keys.default_expiry_days > 0 { keys.default_expiry_days } else { keys.max_expiry_days };
    (days > 0).then(|| now + DAY * days)
}

/// Checks a new or changed key against the policy. For a new key, `before` is `None`.
///
/// # Errors
/// `INVALID_REQUEST` with all violations of the policy.
pub(crate) fn ensure_allowed(
    keys: &KeySettings,
    before: Option<&ApiKey>,
    after: &ApiKey,
    now: Timestamp,
) -> Result<()> {
    let mut details = Vec::new();
    let sets_expiry = before.is_none_or(|before| before.expires_at != after.expires_at);
    let latest = (keys.max_expiry_days > 0).then(|| now + DAY * keys.max_expiry_days);
    if let Some(latest) = latest.filter(|_| sets_expiry)
        && after.expires_at.is_none_or(|end| end > latest)
    {
        let days = keys.max_expiry_days;
        let message = format!("Keys must expire within {days} days, by {latest}.");
        details.push(policy_violation("/expires_at", message));
    }
    let is_unrestricted = |key: &ApiKey| key.allowed_ips.is_none() && is_administrative(key);
    let is_exempt = |before: &ApiKey| {
        is_unrestricted(before) && after.scopes.iter().all(|wanted| scope::any_covers(&before.scopes, wanted))
    };
    if keys.require_allowed_ips_for_admin && is_unrestricted(after) && !before.is_some_and(is_exempt) {
        let message = "Keys with administrative scopes must have an allowlist (allowed_ips).";
        details.push(policy_violation("/allowed_ips", message.to_owned()));
    }
    if details.is_empty() { Ok(()) } else { Err(Error::invalid_request(details)) }
}

fn is_administrative(key: &ApiKey) -> bool {
    key.scopes.iter().any(|scope| scope::is_administrative(scope))
}

fn policy_violation(pointer: &str, message: String) -> ErrorDetail {
    ErrorDetail { pointer: Some(pointer.to_owned()), parameter: None, code: "EXCEEDS_POLICY".into(), message }
}
