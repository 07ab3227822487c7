//! What better-auth keeps, as records of ours.
//!
//! Its tables are those of better-auth and its plugins `organization`, `admin` and `api-key`. A row becomes
//! the record that somebody would write into a file for an import, and goes the same way from there.

use serde_json::{Map, Value, json};

use super::scope;
use super::time::Timestamp;

/// A row by its columns' names.
pub(crate) type Row = Map<String, Value>;

/// The longest value that metadata holds, in characters.
const MAX_METADATA_VALUE_CHARS: usize = 500;

/// Milliseconds of a day, and of what is taken for a month.
const DAY: i64 = 86_400_000;
const MONTH: std::ops::RangeInclusive<i64> = 28 * DAY..=31 * DAY;

fn text<'r>(row: &'r Row, column: &str) -> Option<&'r str> {
    row.get(column).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn number(row: &Row, column: &str) -> Option<i64> {
    row.get(column).and_then(Value::as_i64)
}

/// A time: RFC 3339, or since the epoch in milliseconds or (what is too small for those) in seconds.
fn time(row: &Row, column: &str) -> Value {
    match row.get(column) {
        Some(Value::Number(number)) => {
            let number = number.as_i64().unwrap_or(0);
            let millis = if number < 100_000_000_000 { number.saturating_mul(1000) } else { number };
            json!(Timestamp::from_millis(millis))
        }
        Some(Value::String(text)) if !text.is_empty() => json!(text),
        _ => Value::Null,
    }
}

/// Puts down what is there.
fn insert_non_null(record: &mut Row, name: &str, value: Value) {
    if !value.is_null() {
        record.insert(name.to_owned(), value);
    }
}

/// Pairs of a JSON object: texts as they are, other values as JSON.
fn pairs(row: &Row) -> Row {
    let parsed = text(row, "metadata").and_then(|text| serde_json::from_str(text).ok());
    let Some(Value::Object(pairs)) = parsed else { return Row::new() };
    let as_text = |value: Value| match value {
        Value::String(text) => text,
        value => value.to_string(),
    };
    pairs.into_iter().map(|(name, value)| (name, json!(as_text(value)))).collect()
}

/// An organization. It has no address of its own there, so the row brings that of an owner as `email`.
pub(crate) fn organization(row: &Row) -> Row {
    let mut metadata = pairs(row);
    for name in ["slug", "logo"] {
        if let Some(text) = text(row, name).filter(|text| text.chars().count() <= MAX_METADATA_VALUE_CHARS) {
            metadata.entry(name).or_insert_with(|| json!(text));
        }
    }
    let mut record = Row::new();
    insert_non_null(&mut record, "type", json!("organization"));
    for name in ["id", "name", "email"] {
        insert_non_null(&mut record, name, json!(text(row, name)));
    }
    insert_non_null(&mut record, "metadata", json!(metadata));
    insert_non_null(&mut record, "created_at", time(row, "createdAt"));
    record
}

/// A user. Who is banned there is suspended here.
pub(crate) fn user(row: &Row) -> Row {
    let mut record = Row::new();
    insert_non_null(&mut record, "type", json!("user"));
    insert_non_null(&mut record, "id", json!(text(row, "id")));
    insert_non_null(&mut record, "external_id", json!(text(row, "id")));
    insert_non_null(&mut record, "email", json!(text(row, "email")));
    insert_non_null(&mut record, "name", json!(text(row, "name").or(text(row, "email"))));
    if number(row, "banned").is_some_and(|banned| banned != 0) {
        insert_non_null(&mut record, "status", json!("suspended"));
    }
    insert_non_null(&mut record, "created_at", time(row, "createdAt"));
    record
}

/// A member. The highest of its roles counts; one that we don't have gives the least.
pub(crate) fn member(row: &Row) -> Row {
    let roles = text(row, "role").unwrap_or_default();
    let has = |wanted: &&str| roles.split(',').any(|role| role.trim() == *wanted);
    let role = ["owner", "admin", "member"].into_iter().find(has).unwrap_or("viewer");
    let mut record = Row::new();
    insert_non_null(&mut record, "type", json!("membership"));
    insert_non_null(&mut record, "organization_id", json!(text(row, "organizationId")));
    insert_non_null(&mut record, "user_id", json!(text(row, "userId")));
    insert_non_null(&mut record, "role", json!(role));
    insert_non_null(&mut record, "created_at", time(row, "createdAt"));
    record
}

/// Whom a key belongs to there, and where it goes here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// An organization.
    Organization(String),
    /// A user, with the organizations that it is a member of.
    User(String, Vec<String>),
    /// Nobody that is there.
    Nobody,
}

/// A key, or why it can't be one here.
///
/// # Errors
/// A message that says what to do.
pub(crate) fn api_key(row: &Row, owner: &Owner, fallback: Option<&str>) -> Result<Row, String> {
    let mut record = Row::new();
    insert_non_null(&mut record, "id", json!(text(row, "id")));
    match owner {
        Owner::Nobody => return Err("Its owner is neither a user nor an organization there.".to_owned()),
        Owner::Organization(id) => insert_non_null(&mut record, "organization_id", json!(id)),
        Owner::User(id, organizations) => {
            let organization = match (organizations.as_slice(), fallback) {
                ([one], _) => one,
                (_, Some(fallback)) => fallback,
                (many, None) => {
                    return Err(format!(
                        "Its user is a member of {} organizations; say with --organization where such keys go.",
                        many.len()
                    ));
                }
            };
            insert_non_null(&mut record, "organization_id", json!(organization));
            insert_non_null(&mut record, "user_id", json!(id));
        }
    }
    insert_non_null(&mut record, "name", json!(text(row, "name").or(text(row, "start")).unwrap_or("API key")));
    insert_non_null(&mut record, "start", json!(text(row, "start")));
    insert_non_null(&mut record, "hash", json!(text(row, "key").unwrap_or_default()));
    insert_non_null(&mut record, "hash_encoding", json!("base64url"));
    insert_non_null(&mut record, "scopes", json!(scopes(row)?));
    let mut metadata = pairs(row);
    let (remaining, refill) = (number(row, "remaining"), quota(row));
    if let (Some(remaining), None) = (remaining, &refill) {
        metadata.insert("better_auth_remaining".to_owned(), json!(remaining.to_string()));
    }
    // One that is used up is refused there from then on, unless it is refilled.
    let used_up = remaining == Some(0) && number(row, "refillAmount").is_none();
    let enabled = number(row, "enabled").is_none_or(|enabled| enabled != 0) && !used_up;
    insert_non_null(&mut record, "status", json!(if enabled { "active" } else { "disabled" }));
    insert_non_null(&mut record, "metadata", json!(metadata));
    insert_non_null(&mut record, "quota", json!(refill));
    insert_non_null(&mut record, "rate_limit", json!(rate_limit(row)));
    for (name, column) in
        [("expires_at", "expiresAt"), ("created_at", "createdAt"), ("last_used_at", "lastRequest")]
    {
        insert_non_null(&mut record, name, time(row, column));
    }
    Ok(record)
}

/// The membership that a user's key needs where it goes.
pub(crate) fn membership(key: &Row) -> Row {
    let mut record = Row::new();
    insert_non_null(&mut record, "type", json!("membership"));
    for name in ["organization_id", "user_id"] {
        insert_non_null(&mut record, name, key.get(name).cloned().unwrap_or_default());
    }
    insert_non_null(&mut record, "role", json!("member"));
    record
}

/// `{"files": ["read"]}` is `files:read`. Nothing there may become a right over Tollhouse itself.
fn scopes(row: &Row) -> Result<Vec<String>, String> {
    let Some(permissions) = text(row, "permissions") else { return Ok(Vec::new()) };
    let parsed = match serde_json::from_str(permissions) {
        Ok(Value::Object(parsed)) => parsed,
        Ok(Value::Null) => return Ok(Vec::new()),
        _ => return Err("Its permissions can't be read.".to_owned()),
    };
    let mut scopes = Vec::new();
    for (resource, actions) in parsed {
        for action in actions.as_array().into_iter().flatten() {
            let scope = format!("{resource}:{}", action.as_str().unwrap_or_default());
            if scope::is_administrative(&scope) {
                return Err(format!("Its permission {scope} would administer Tollhouse; rename it there."));
            }
            if !scope::is_own(&scope) && !scope::is_own(&scope.replace(":*", ":all")) {
                return Err(format!(
                    "Its permission {scope:?} can't be a scope, which is resource:action in lower case."
                ));
            }
            scopes.push(scope);
        }
    }
    Ok(scopes)
}

fn rate_limit(row: &Row) -> Option<Value> {
    if number(row, "rateLimitEnabled").is_some_and(|enabled| enabled == 0) {
        return None;
    }
    let (limit, window) = (number(row, "rateLimitMax")?, number(row, "rateLimitTimeWindow")?);
    // No window of ours is longer than a day: what is allowed in a longer one is allowed in proportion.
    let limit = if window > DAY { limit.saturating_mul(DAY) / window } else { limit };
    let seconds = (window.clamp(1, DAY) + 999) / 1000;
    Some(json!({"limit": limit.clamp(1, 1_000_000_000), "window_seconds": seconds}))
}

/// Refilled by the hour, day or month is our quota; other refills have none.
fn quota(row: &Row) -> Option<Value> {
    let (amount, interval) = (number(row, "refillAmount")?, number(row, "refillInterval")?);
    let period = match interval {
        3_600_000 => "hour",
        DAY => "day",
        interval if MONTH.contains(&interval) => "month",
        _ => return None,
    };
    Some(json!({"limit": amount.max(1), "period": period}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: Value) -> Row {
        let Value::Object(row) = value else { panic!("{value}") };
        row
    }

    #[test]
    fn a_users_key_goes_where_its_user_is_a_member() {
        let key = row(json!({"id": "k", "key": "h", "enabled": 1}));
        let user = |organizations: &[&str]| {
            Owner::User("u".into(), organizations.iter().map(|id| (*id).to_owned()).collect())
        };
        let whose = |owner: &Owner, fallback| {
            let record = api_key(&key, owner, fallback).ok()?;
            Some((record["organization_id"].clone(), record.get("user_id").cloned()))
        };
        let (o, u) = (json!("o"), Some(json!("u")));
        assert_eq!(whose(&Owner::Organization("o".into()), None), Some((o.clone(), None)));
        assert_eq!(whose(&user(&["o"]), Some("org_other")), Some((o, u.clone())));
        assert_eq!(whose(&user(&[]), Some("org_other")), Some((json!("org_other"), u.clone())));
        assert_eq!(whose(&user(&["a", "b"]), Some("org_other")), Some((json!("org_other"), u)));
        assert_eq!(whose(&user(&["a", "b"]), None), None);
        assert_eq!(whose(&Owner::Nobody, Some("org_other")), None);
    }

    #[test]
    fn permissions_become_scopes_and_never_rights_over_us() {
        let of = |permissions: &str| scopes(&row(json!({"permissions": permissions})));
        assert_eq!(of(r#"{"files":["read","*"],"a-b":["c"]}"#).unwrap(), ["a-b:c", "files:read", "files:*"]);
        assert_eq!(of("null").unwrap(), [""; 0]);
        for (refused, why) in [
            (r#"{"admin":["keys"]}"#, "admin:keys"),
            (r#"{"keys":["*"]}"#, "keys:*"),
            (r#"{"*":["*"]}"#, "*:*"),
            (r#"{"apiKey":["read"]}"#, "apiKey:read"),
            (r#"{"files":[1]}"#, "files:"),
            ("[", "can't be read"),
        ] {
            assert!(of(refused).unwrap_err().contains(why), "{refused}");
        }
    }

    #[test]
    fn what_limits_a_key_there_limits_it_here() {
        let limits = |value| {
            let record = api_key(&row(value), &Owner::Organization("o".into()), None).unwrap();
            (record.get("rate_limit").cloned(), record.get("quota").cloned(), record["status"].clone())
        };
        let rate = json!({"limit": 3, "window_seconds": 60});
        let counted = json!({"rateLimitEnabled": 1, "rateLimitMax": 3, "rateLimitTimeWindow": 60_000});
        assert_eq!(limits(counted), (Some(rate), None, json!("active")));
        let uncounted = json!({"rateLimitEnabled": 0, "rateLimitMax": 3, "rateLimitTimeWindow": 60_000});
        assert_eq!(limits(uncounted).0, None);
        let week = json!({"rateLimitMax": 70, "rateLimitTimeWindow": 7 * DAY});
        assert_eq!(limits(week).0, Some(json!({"limit": 10, "window_seconds": 86_400})));
        let refilled = json!({"remaining": 0, "refillAmount": 9, "refillInterval": 30 * DAY});
        assert_eq!(limits(refilled), (None, Some(json!({"limit": 9, "period": "month"})), json!("active")));
        assert_eq!(limits(json!({"remaining": 0, "enabled": 1})).2, "disabled");
        assert_eq!(limits(json!({"enabled": 0})).2, "disabled");
    }

    #[test]
    fn times_are_read_in_every_form_that_its_adapters_write() {
        for value in [json!("2026-11-24T14:22:57.404Z"), json!(1_795_530_177_404_i64)] {
            assert_eq!(time(&row(json!({"t": value})), "t"), "2026-11-24T14:22:57.404Z");
        }
        assert_eq!(time(&row(json!({"t": 1_795_530_177})), "t"), "2026-11-24T14:22:57.000Z");
        assert_eq!(time(&row(json!({"t": null})), "t"), Value::Null);
    }
}
