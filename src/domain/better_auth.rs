//! Converts rows of a better-auth database into records of an import.
//!
//! The tables are those of better-auth and its plugins `organization`, `admin` and `api-key`. Each row is
//! converted into the record that an import file would contain, and then imported like a line of such a file.

use serde_json::{Map, Value, json};

use super::scope;
use super::time::Timestamp;

/// A database row or an import record: values by column or field name.
pub(crate) type Row = Map<String, Value>;

/// A table of better-auth from which an import reads, in the order of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum Table {
    Organization,
    User,
    Member,
    ApiKey,
}

impl Table {
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }
}

/// The columns, of all tables, that the functions of this module read.
pub(crate) const IMPORTED_COLUMNS: &[&str] = &[
    "id",
    "name",
    "email",
    "metadata",
    "createdAt",
    "slug",
    "logo",
    "banned",
    "organizationId",
    "userId",
    "referenceId",
    "role",
    "start",
    "key",
    "permissions",
    "enabled",
    "remaining",
    "refillAmount",
    "refillInterval",
    "rateLimitEnabled",
    "rateLimitMax",
    "rateLimitTimeWindow",
    "expiresAt",
    "lastRequest",
];

/// The maximum length of a metadata value, in characters.
const MAX_METADATA_VALUE_CHARS: usize = 500;

/// The length of a day in milliseconds.
const DAY_MILLIS: i64 = 86_400_000;
/// The length of an hour in milliseconds.
const HOUR_MILLIS: i64 = 3_600_000;
/// The length of a week in milliseconds.
const WEEK_MILLIS: i64 = 7 * DAY_MILLIS;

fn text_column<'r>(row: &'r Row, column: &str) -> Option<&'r str> {
    row.get(column).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn integer_column(row: &Row, column: &str) -> Option<i64> {
    row.get(column).and_then(Value::as_i64)
}

/// Reads a timestamp column: RFC 3339 text, or a number of milliseconds since the epoch. A number too small
/// to be milliseconds is read as seconds.
fn time_column(row: &Row, column: &str) -> Value {
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

/// Inserts a field into a record. A null value is left out.
fn insert_non_null(record: &mut Row, name: &str, value: Value) {
    if !value.is_null() {
        record.insert(name.to_owned(), value);
    }
}

/// Reads the metadata of a row. Strings are kept as they are; other values become JSON text.
fn metadata_column(row: &Row) -> Row {
    let parsed = text_column(row, "metadata").and_then(|text| serde_json::from_str(text).ok());
    let Some(Value::Object(pairs)) = parsed else { return Row::new() };
    let as_text = |value: Value| match value {
        Value::String(text) => text,
        value => value.to_string(),
    };
    pairs.into_iter().map(|(name, value)| (name, json!(as_text(value)))).collect()
}

/// Converts an organization. better-auth stores no email address for an organization, so the query adds that of
/// its owner or, without an owner, of its first member to the row as `email`.
pub(crate) fn convert_organization(row: &Row) -> Row {
    let mut metadata = metadata_column(row);
    for name in ["slug", "logo"] {
        if let Some(text) =
            text_column(row, name).filter(|text| text.chars().count() <= MAX_METADATA_VALUE_CHARS)
        {
            metadata.entry(name).or_insert_with(|| json!(text));
        }
    }
    let mut record = Row::new();
    insert_non_null(&mut record, "type", json!("organization"));
    for name in ["id", "name", "email"] {
        insert_non_null(&mut record, name, json!(text_column(row, name)));
    }
    insert_non_null(&mut record, "metadata", json!(metadata));
    insert_non_null(&mut record, "created_at", time_column(row, "createdAt"));
    record
}

/// Converts a user. A banned user becomes a suspended user.
pub(crate) fn convert_user(row: &Row) -> Row {
    let mut record = Row::new();
    insert_non_null(&mut record, "type", json!("user"));
    insert_non_null(&mut record, "id", json!(text_column(row, "id")));
    insert_non_null(&mut record, "external_id", json!(text_column(row, "id")));
    insert_non_null(&mut record, "email", json!(text_column(row, "email")));
    insert_non_null(&mut record, "name", json!(text_column(row, "name").or(text_column(row, "email"))));
    if integer_column(row, "banned").is_some_and(|banned| banned != 0) {
        insert_non_null(&mut record, "status", json!("suspended"));
    }
    insert_non_null(&mut record, "created_at", time_column(row, "createdAt"));
    record
}

/// Converts a member of an organization. Of several roles the highest is kept; an unknown role becomes
/// `viewer`.
pub(crate) fn convert_member(row: &Row) -> Row {
    let roles = text_column(row, "role").unwrap_or_default();
    let has = |wanted: &&str| roles.split(',').any(|role| role.trim() == *wanted);
    let role = ["owner", "admin", "member"].into_iter().find(has).unwrap_or("viewer");
    let mut record = Row::new();
    insert_non_null(&mut record, "type", json!("membership"));
    insert_non_null(&mut record, "organization_id", json!(text_column(row, "organizationId")));
    insert_non_null(&mut record, "user_id", json!(text_column(row, "userId")));
    insert_non_null(&mut record, "role", json!(role));
    insert_non_null(&mut record, "created_at", time_column(row, "createdAt"));
    record
}

/// The owner of a key in better-auth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The organization with this id owns the key.
    Organization(String),
    /// The user with this id owns the key. The list contains the ids of the user's organizations.
    User(String, Vec<String>),
    /// The owner doesn't exist in better-auth.
    Nobody,
}

/// Converts an API key. `fallback` is the organization for the key of a user who isn't a member of exactly
/// one organization.
///
/// # Errors
/// A message that says why the key can't be imported, and what to do.
pub(crate) fn api_key(row: &Row, owner: &Owner, fallback: Option<&str>) -> Result<Row, String> {
    let mut record = Row::new();
    insert_non_null(&mut record, "id", json!(text_column(row, "id")));
    match owner {
        Owner::Nobody => {
            return Err(
                "The key's owner doesn't exist as a user or an organization in better-auth.".to_owned()
            );
        }
        Owner::Organization(id) => insert_non_null(&mut record, "organization_id", json!(id)),
        Owner::User(id, organizations) => {
            let organization = match (organizations.as_slice(), fallback) {
                ([only], _) => only,
                (_, Some(fallback)) => fallback,
                (many, None) => {
                    return Err(format!(
                        "The key's user is a member of {} organizations; set --organization for such keys.",
                        many.len()
                    ));
                }
            };
            insert_non_null(&mut record, "organization_id", json!(organization));
            insert_non_null(&mut record, "user_id", json!(id));
        }
    }
    insert_non_null(
        &mut record,
        "name",
        json!(text_column(row, "name").or(text_column(row, "start")).unwrap_or("API key")),
    );
    insert_non_null(&mut record, "start", json!(text_column(row, "start")));
    insert_non_null(&mut record, "hash", json!(text_column(row, "key").unwrap_or_default()));
    insert_non_null(&mut record, "hash_encoding", json!("base64url"));
    insert_non_null(&mut record, "scopes", json!(convert_permissions(row)?));
    let metadata = metadata_column(row);
    let limits: Vec<_> = convert_rate_limit(row).into_iter().chain(convert_remaining(row)).collect();
    // better-auth permanently refuses a key that has no remaining requests and no refill, so that key is
    // imported as disabled.
    let is_nothing_left = integer_column(row, "remaining").is_some_and(|remaining| remaining <= 0);
    let used_up = is_nothing_left && refill(row).is_none();
    let enabled = integer_column(row, "enabled").is_none_or(|enabled| enabled != 0) && !used_up;
    insert_non_null(&mut record, "status", json!(if enabled { "active" } else { "disabled" }));
    insert_non_null(&mut record, "metadata", json!(metadata));
    // A key without limits gets those of its plan, unless its rate limit is turned off in better-auth.
    if !limits.is_empty() || integer_column(row, "rateLimitEnabled") == Some(0) {
        insert_non_null(&mut record, "limits", json!(limits));
    }
    for (name, column) in
        [("expires_at", "expiresAt"), ("created_at", "createdAt"), ("last_used_at", "lastRequest")]
    {
        insert_non_null(&mut record, name, time_column(row, column));
    }
    Ok(record)
}

/// Creates the membership that the owner of a key needs in the key's organization.
pub(crate) fn membership_for_key(key: &Row) -> Row {
    let mut record = Row::new();
    insert_non_null(&mut record, "type", json!("membership"));
    for name in ["organization_id", "user_id"] {
        insert_non_null(&mut record, name, key.get(name).cloned().unwrap_or_default());
    }
    insert_non_null(&mut record, "role", json!("member"));
    record
}

/// Converts the permissions of a key into scopes: `{"files": ["read"]}` becomes `files:read`. A permission
/// whose scope would be an administrative scope of Tollhouse is an error.
fn convert_permissions(row: &Row) -> Result<Vec<String>, String> {
    let Some(permissions) = text_column(row, "permissions") else { return Ok(Vec::new()) };
    let parsed = match serde_json::from_str(permissions) {
        Ok(Value::Object(parsed)) => parsed,
        Ok(Value::Null) => return Ok(Vec::new()),
        _ => return Err("The key's permissions can't be read.".to_owned()),
    };
    let mut scopes = Vec::new();
    for (resource, actions) in parsed {
        for action in actions.as_array().into_iter().flatten() {
            let scope = format!("{resource}:{}", action.as_str().unwrap_or_default());
            if scope::is_administrative(&scope) {
                return Err(format!(
                    "The permission {scope} would administer Tollhouse; rename it in better-auth."
                ));
            }
            if !scope::is_custom_scope_name(&scope)
                && !scope::is_custom_scope_name(&scope.replace(":*", ":all"))
            {
                return Err(format!(
                    "The permission {scope:?} isn't a valid scope; scopes are lowercase resource:action."
                ));
            }
            scopes.push(scope);
        }
    }
    Ok(scopes)
}

fn convert_rate_limit(row: &Row) -> Option<Value> {
    if integer_column(row, "rateLimitEnabled").is_some_and(|enabled| enabled == 0) {
        return None;
    }
    let limit = integer_column(row, "rateLimitMax")?;
    let window = integer_column(row, "rateLimitTimeWindow")?;
    // The window of a rate limit can't be longer than a day. A longer window is shortened to a day, and the
    // limit is reduced proportionally.
    let limit = if window > DAY_MILLIS { limit.saturating_mul(DAY_MILLIS) / window } else { limit };
    let seconds = (window.clamp(1, DAY_MILLIS) + 999) / 1000;
    Some(json!({"limit": limit.clamp(1, 1_000_000_000), "window_seconds": seconds}))
}

/// The amount and the interval at which the remaining requests of a key are refilled; `None` if they aren't: better-auth
/// ignores a refill with an amount or an interval of 0 or less.
fn refill(row: &Row) -> Option<(i64, i64)> {
    let amount = integer_column(row, "refillAmount").filter(|amount| *amount > 0)?;
    let interval = integer_column(row, "refillInterval").filter(|interval| *interval > 0)?;
    Some((amount, interval))
}

/// Converts the remaining requests of a key into a quota. With a refill, the quota is that of its calendar period;
/// a refill at another interval has no equivalent in Tollhouse and gets the next longer period. Without a refill, the
/// remaining requests are all that is left.
fn convert_remaining(row: &Row) -> Option<Value> {
    let Some((amount, interval)) = refill(row) else {
        let remaining = integer_column(row, "remaining").filter(|remaining| *remaining > 0)?;
        return Some(json!({"limit": remaining, "period": "total"}));
    };
    let period = match interval {
        _ if interval <= HOUR_MILLIS => "hour",
        _ if interval <= DAY_MILLIS => "day",
        _ if interval <= WEEK_MILLIS => "week",
        _ => "month",
    };
    Some(json!({"limit": amount, "period": period}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(value: Value) -> Row {
        let Value::Object(row) = value else { panic!("{value}") };
        row
    }

    #[test]
    fn a_users_key_goes_to_the_users_only_organization_or_the_fallback() {
        let key = row(json!({"id": "k", "key": "h", "enabled": 1}));
        let user = |organizations: &[&str]| {
            Owner::User("u".into(), organizations.iter().map(|id| (*id).to_owned()).collect())
        };
        let owners = |owner: &Owner, fallback| {
            let record = api_key(&key, owner, fallback).ok()?;
            Some((record["organization_id"].clone(), record.get("user_id").cloned()))
        };
        let o = json!("o");
        let u = Some(json!("u"));
        assert_eq!(owners(&Owner::Organization("o".into()), None), Some((o.clone(), None)));
        assert_eq!(owners(&user(&["o"]), Some("org_other")), Some((o, u.clone())));
        assert_eq!(owners(&user(&[]), Some("org_other")), Some((json!("org_other"), u.clone())));
        assert_eq!(owners(&user(&["a", "b"]), Some("org_other")), Some((json!("org_other"), u)));
        assert_eq!(owners(&user(&["a", "b"]), None), None);
        assert_eq!(owners(&Owner::Nobody, Some("org_other")), None);
    }

    #[test]
    fn permissions_become_scopes_but_never_administrative_ones() {
        let scopes_of = |permissions: &str| convert_permissions(&row(json!({"permissions": permissions})));
        assert_eq!(
            scopes_of(r#"{"files":["read","*"],"a-b":["c"]}"#).unwrap(),
            ["a-b:c", "files:read", "files:*"]
        );
        assert_eq!(scopes_of("null").unwrap(), [""; 0]);
        for (refused, why) in [
            (r#"{"admin":["keys"]}"#, "admin:keys"),
            (r#"{"keys":["*"]}"#, "keys:*"),
            (r#"{"*":["*"]}"#, "*:*"),
            (r#"{"apiKey":["read"]}"#, "apiKey:read"),
            (r#"{"files":[1]}"#, "files:"),
            ("[", "can't be read"),
        ] {
            assert!(scopes_of(refused).unwrap_err().contains(why), "{refused}");
        }
    }

    #[test]
    fn better_auth_limits_are_converted() {
        let limits = |value| {
            let record = api_key(&row(value), &Owner::Organization("o".into()), None).unwrap();
            (record.get("limits").cloned().unwrap_or_default(), record["status"].clone())
        };
        let rate = json!({"limit": 3, "window_seconds": 60});
        let limited = json!({"rateLimitEnabled": 1, "rateLimitMax": 3, "rateLimitTimeWindow": 60_000});
        assert_eq!(limits(limited), (json!([rate]), json!("active")));
        let unlimited = json!({"rateLimitEnabled": 0, "rateLimitMax": 3, "rateLimitTimeWindow": 60_000});
        assert_eq!(limits(unlimited).0, json!([]));
        let week = json!({"rateLimitMax": 70, "rateLimitTimeWindow": 7 * DAY_MILLIS});
        assert_eq!(limits(week).0, json!([{"limit": 10, "window_seconds": 86_400}]));
        for (days, period) in [(1, "day"), (7, "week"), (30, "month"), (31, "month"), (365, "month")] {
            let refilled = json!({"remaining": 0, "refillAmount": 9, "refillInterval": days * DAY_MILLIS});
            assert_eq!(
                limits(refilled),
                (json!([{"limit": 9, "period": period}]), json!("active")),
                "{days}"
            );
        }
        let prepaid = json!({"remaining": 5, "rateLimitMax": 3, "rateLimitTimeWindow": 60_000});
        assert_eq!(limits(prepaid).0, json!([rate, {"limit": 5, "period": "total"}]));
        for remaining in [0, -1] {
            let used_up = json!({"remaining": remaining, "enabled": 1});
            assert_eq!(limits(used_up), (json!(null), json!("disabled")));
            // Without an interval, nothing is refilled.
            let used_up = json!({"remaining": remaining, "refillAmount": 9});
            assert_eq!(limits(used_up), (json!(null), json!("disabled")));
            let refilled = json!({"remaining": remaining, "refillAmount": 9, "refillInterval": DAY_MILLIS});
            assert_eq!(limits(refilled), (json!([{"limit": 9, "period": "day"}]), json!("active")));
        }
        for (amount, interval) in [(0, DAY_MILLIS), (-3, 1000), (9, 0), (9, -1)] {
            let row = |remaining| json!({"remaining": remaining, "refillAmount": amount, "refillInterval": interval});
            for remaining in [0, -5] {
                assert_eq!(limits(row(remaining)), (json!(null), json!("disabled")), "{amount} {interval}");
            }
            let prepaid = (json!([{"limit": 5, "period": "total"}]), json!("active"));
            assert_eq!(limits(row(5)), prepaid, "{amount} {interval}");
        }
        assert_eq!(limits(json!({"enabled": 0})).1, "disabled");
    }

    #[test]
    fn times_are_read_in_every_form_that_better_auths_adapters_write() {
        for value in [json!("2026-11-24T14:22:57.404Z"), json!(1_795_530_177_404_i64)] {
            assert_eq!(time_column(&row(json!({"t": value})), "t"), "2026-11-24T14:22:57.404Z");
        }
        assert_eq!(time_column(&row(json!({"t": 1_795_530_177})), "t"), "2026-11-24T14:22:57.000Z");
        assert_eq!(time_column(&row(json!({"t": null})), "t"), Value::Null);
    }
}
