//! The headers that tell how the limits of a verified key stand.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::rate_limits::ceil_seconds;
use crate::domain::limits::LimitSpan;
use crate::domain::time::Timestamp;
use crate::verify::decision::LimitStatus;
use crate::verify::verifier::Verdict;

/// Adds the headers of the limits that applied to a verification. `RateLimit` and `RateLimit-Policy` of the IETF draft
/// (draft-ietf-httpapi-ratelimit-headers) list every limit by its name, such as `key-requests-60s`. The common
/// `X-RateLimit-*` headers can show only one: the limit that refused the request, otherwise the one with the smallest
/// share left.
pub(super) fn add(headers: &mut HeaderMap, verdict: &Verdict, now: Timestamp) {
    let Some(shown) = shown_limit(verdict) else { return };
    let list = |item: fn(&LimitStatus, Timestamp) -> String| {
        verdict.limits.iter().map(|status| item(status, now)).collect::<Vec<_>>().join(", ")
    };
    let values = [
        ("x-ratelimit-limit", Some(shown.limit.limit.to_string())),
        ("x-ratelimit-remaining", Some(shown.remaining().to_string())),
        ("x-ratelimit-reset", shown.resets_at(now).map(|time| time.as_seconds_ceil().to_string())),
        ("ratelimit-policy", Some(list(policy_item))),
        ("ratelimit", Some(list(state_item))),
    ];
    for (name, value) in values {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

fn shown_limit(verdict: &Verdict) -> Option<&LimitStatus> {
    if let Some(limited) = verdict.limited_by {
        return verdict.limits.get(limited.index);
    }
    // Compares remaining / limit without dividing.
    verdict.limits.iter().min_by(|a, b| {
        let share = |part: &LimitStatus, whole: &LimitStatus| {
            u128::from(part.remaining()) * u128::from(whole.limit.limit)
        };
        share(a, b).cmp(&share(b, a))
    })
}

/// The name of a limit: `key-requests-60s`, `organization-tokens-month`.
fn name(status: &LimitStatus) -> String {
    let owner = status.owner.name();
    let meter = status.limit.meter;
    match status.limit.span {
        LimitSpan::Window(seconds) => format!("{owner}-{meter}-{seconds}s"),
        LimitSpan::Period(period) => format!("{owner}-{meter}-{}", period.name()),
    }
}

fn policy_item(status: &LimitStatus, _: Timestamp) -> String {
    let item = format!("\"{}\";q={}", name(status), status.limit.limit);
    match status.limit.span {
        LimitSpan::Window(seconds) => format!("{item};w={seconds}"),
        LimitSpan::Period(_) => item,
    }
}

fn state_item(status: &LimitStatus, now: Timestamp) -> String {
    let item = format!("\"{}\";r={}", name(status), status.remaining());
    match status.next_unit_after(now) {
        Some(time) => format!("{item};t={}", ceil_seconds(time)),
        None => item,
    }
}
