//! Statements on API keys, the hashes of their secrets, and their scopes.

use std::time::Duration;

use super::engine::{self, Row, ToValue, params};
use super::limit_meters;
use super::list::ListQuery;
use super::rows;
use super::search::{self, ListAccess, Lookup, Search};
use super::tx::Tx;
use super::words;
use crate::domain::api_key::{ApiKey, ApiKeyFilter, Credential, Memo, Status, Tenant, TimeFilter};
use crate::domain::invalidation::Invalidation;
use crate::domain::page::{Page, Rows};
use crate::domain::subject::Subject;
use crate::domain::time::Timestamp;
use crate::domain::{organization, user};
use crate::error::Result;

pub(super) const COLUMNS: &str = "k.seq, k.id, k.organization_id, k.user_id, k.name, k.start, k.scopes, k.status, \
                       k.expires_at, k.allowed_ips, k.metadata, k.created_by, k.created_at, k.updated_at, \
                       k.last_used_at, k.rotated_at, k.previous_secret_expires_at, k.revoked_at, \
                       k.revoked_reason, k.revision, k.limits, k.self_rotation";

pub(super) fn api_key_from_row(row: &Row<'_>) -> engine::Result<ApiKey> {
    Ok(ApiKey {
        id: row.get(1)?,
        organization_id: row.get(2)?,
        user_id: row.get(3)?,
        name: row.get(4)?,
        start: row.get(5)?,
        scopes: rows::json_column(row, 6)?,
        status: rows::enum_column(row, 7)?,
        expires_at: rows::optional_timestamp_column(row, 8)?,
        allowed_ips: rows::optional_json_column(row, 9)?,
        metadata: rows::json_column(row, 10)?,
        created_by: row.get(11)?,
        created_at: rows::timestamp_column(row, 12)?,
        updated_at: rows::timestamp_column(row, 13)?,
        last_used_at: rows::optional_timestamp_column(row, 14)?,
        rotated_at: rows::optional_timestamp_column(row, 15)?,
        previous_secret_expires_at: rows::optional_timestamp_column(row, 16)?,
        revoked_at: rows::optional_timestamp_column(row, 17)?,
        revoked_reason: row.get(18)?,
        revision: row.get(19)?,
        limits: rows::optional_json_column(row, 20)?,
        self_rotation: row.get(21)?,
    })
}

/// Stores a new key with the hash of its secret. Returns `false` when the id or the secret is already in use.
pub(crate) fn insert(tx: &Tx<'_>, new: &ApiKey, hash: &[u8; 32]) -> Result<bool> {
    let stored = tx.query_first(
        "INSERT INTO api_keys (id, organization_id, user_id, name, start, scopes, status, expires_at, allowed_ips, \
         metadata, created_by, created_at, updated_at, revision, limits, self_rotation, last_used_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17) \
         ON CONFLICT (id) DO NOTHING RETURNING seq, (SELECT seq FROM organizations WHERE id = ?2)",
        params![
            new.id,
            new.organization_id,
            new.user_id,
            new.name,
            new.start,
            rows::to_json(&new.scopes)?,
            new.status.name(),
            new.expires_at.map(Timestamp::as_millis),
            new.allowed_ips.as_ref().map(rows::to_json).transpose()?,
            rows::to_json(&new.metadata)?,
            new.created_by,
            new.created_at.as_millis(),
            new.updated_at.as_millis(),
            new.revision,
            new.limits.as_ref().map(rows::to_json).transpose()?,
            new.self_rotation,
            new.last_used_at.map(Timestamp::as_millis),
        ],
        |row| Ok((row.get::<i64>(0)?, row.get::<Option<i64>>(1)?)),
    )?;
    let Some((seq, organization)) = stored else { return Ok(false) };
    let stored = tx.execute(
        "INSERT INTO api_key_hashes (hash, key_seq, state) VALUES (?1, ?2, 'current') ON CONFLICT (hash) DO NOTHING",
        params![hash, seq],
    )?;
    insert_scopes(tx, seq, &new.scopes)?;
    limit_meters::replace(tx, Subject::Key(seq), None, new.limits.as_deref())?;
    let tenants: Vec<i64> = [words::ALL_ROWS].into_iter().chain(organization).collect();
    words::insert(tx, &tenants, seq, words::of_key(new));
    tx.invalidate(Invalidation::Secret(*hash));
    Ok(stored == 1)
}

fn insert_scopes(tx: &Tx<'_>, seq: i64, scopes: &[String]) -> Result<()> {
    for scope in scopes {
        tx.execute("INSERT INTO api_key_scopes (scope, key_seq) VALUES (?1, ?2)", params![scope, seq])?;
    }
    Ok(())
}

/// Fetches a key, whatever its status.
pub(crate) fn get(tx: &Tx<'_>, id: &str) -> Result<Option<ApiKey>> {
    tx.query_first(
        &format!("SELECT {COLUMNS} FROM api_keys k WHERE k.id = ?1"),
        params![id],
        api_key_from_row,
    )
}

/// Fetches, by the hash of a secret, the key with everything that decides whether the secret is valid.
pub fn find_credential_by_hash(tx: &Tx<'_>, hash: &[u8; 32]) -> Result<Option<Credential>> {
    tx.query_first(&select_credential("h.hash = ?1"), params![hash], credential_from_row)
}

/// Fetches a key by its id, with everything that decides whether its current secret is valid.
pub(crate) fn find_credential_by_id(tx: &Tx<'_>, id: &str) -> Result<Option<Credential>> {
    let sql = select_credential("k.id = ?1 AND h.state = 'current'");
    tx.query_first(&sql, params![id], credential_from_row)
}

fn select_credential(condition: &str) -> String {
    format!(
        "SELECT {COLUMNS}, h.state, o.name, o.status, o.deleted_at, u.status, u.deleted_at, m.seq, o.plan, o.seq, \
         o.limits, u.external_id \
         FROM api_key_hashes h JOIN api_keys k ON k.seq = h.key_seq \
         LEFT JOIN organizations o ON o.id = k.organization_id \
         LEFT JOIN users u ON u.id = k.user_id \
         LEFT JOIN memberships m ON m.organization_id = k.organization_id AND m.user_id = k.user_id \
         WHERE {condition}"
    )
}

fn credential_from_row(row: &Row<'_>) -> engine::Result<Credential> {
    let key = api_key_from_row(row)?;
    // A retired secret ended in the past: the epoch stands for any past time.
    let epoch = Timestamp::from_millis(0);
    let secret_ends_at = match row.get::<&str>(22)? {
        "current" => None,
        "previous" => Some(key.previous_secret_expires_at.unwrap_or(epoch)),
        _ => Some(epoch),
    };
    let organization = match &key.organization_id {
        None => None,
        Some(_) => {
            let deleted = row.get::<Option<i64>>(25)?.is_some();
            let status = if deleted { organization::Status::Suspended } else { rows::enum_column(row, 24)? };
            Some(Tenant {
                seq: row.get(30)?,
                name: row.get(23)?,
                plan: row.get(29)?,
                status,
                limits: rows::optional_json_column(row, 31)?,
            })
        }
    };
    let owner = match &key.user_id {
        None => None,
        Some(_) => {
            let deleted = row.get::<Option<i64>>(27)?.is_some();
            let member = row.get::<Option<i64>>(28)?.is_some();
            Some(if deleted || !member { user::Status::Suspended } else { rows::enum_column(row, 26)? })
        }
    };
    let owner_external_id = row.get(32)?;
    let seq = row.get(0)?;
    Ok(Credential { seq, key, secret_ends_at, organization, owner, owner_external_id, memo: Memo::default() })
}

/// Stores all mutable fields of a key, and updates the scope index if the scopes changed.
pub(crate) fn update(tx: &Tx<'_>, before: &ApiKey, changed: &ApiKey) -> Result<()> {
    let seq: Option<i64> = tx.query_first(
        "UPDATE api_keys SET name = ?2, start = ?3, scopes = ?4, status = ?5, expires_at = ?6, allowed_ips = ?7, \
         metadata = ?8, updated_at = ?9, rotated_at = ?10, previous_secret_expires_at = ?11, revoked_at = ?12, \
         revoked_reason = ?13, revision = ?14, limits = ?15, self_rotation = ?16 \
         WHERE id = ?1 RETURNING seq",
        params![
            changed.id,
            changed.name,
            changed.start,
            rows::to_json(&changed.scopes)?,
            changed.status.name(),
            changed.expires_at.map(Timestamp::as_millis),
            changed.allowed_ips.as_ref().map(rows::to_json).transpose()?,
            rows::to_json(&changed.metadata)?,
            changed.updated_at.as_millis(),
            changed.rotated_at.map(Timestamp::as_millis),
            changed.previous_secret_expires_at.map(Timestamp::as_millis),
            changed.revoked_at.map(Timestamp::as_millis),
            changed.revoked_reason,
            changed.revision,
            changed.limits.as_ref().map(rows::to_json).transpose()?,
            changed.self_rotation,
        ],
        |row| row.get(0),
    )?;
    let Some(seq) = seq else { return Ok(()) };
    limit_meters::replace(tx, Subject::Key(seq), before.limits.as_deref(), changed.limits.as_deref())?;
    if before.scopes != changed.scopes {
        for scope in &before.scopes {
            tx.execute("DELETE FROM api_key_scopes WHERE scope = ?1 AND key_seq = ?2", params![scope, seq])?;
        }
        insert_scopes(tx, seq, &changed.scopes)?;
    }
    // Revocations, which change no words, have to be fast.
    let has_same_words = before.name == changed.name
        && before.start == changed.start
        && before.expires_at == changed.expires_at;
    if has_same_words {
        return Ok(());
    }
    let tenants = words::tenants(tx, changed.organization_id.as_deref())?;
    words::replace(tx, &tenants, seq, &words::of_key(before), &words::of_key(changed));
    Ok(())
}

/// Makes a new secret the current one. With `keep_previous` the replaced secret becomes the previous one,
/// valid until the row's `previous_secret_expires_at`; otherwise it is retired immediately. An existing
/// previous secret is retired. Returns `false` when the new secret is already in use.
pub(crate) fn rotate_secret(tx: &Tx<'_>, id: &str, hash: &[u8; 32], keep_previous: bool) -> Result<bool> {
    retire_previous_secret(tx, id)?;
    tx.execute("UPDATE api_keys SET previous_start = start WHERE id = ?1", params![id])?;
    let state = if keep_previous { "previous" } else { "retired" };
    tx.execute(
        "UPDATE api_key_hashes SET state = ?2 WHERE state = 'current' \
         AND key_seq = (SELECT seq FROM api_keys WHERE id = ?1)",
        params![id, state],
    )?;
    let stored = tx.execute(
        "INSERT INTO api_key_hashes (hash, key_seq, state) SELECT ?2, seq, 'current' FROM api_keys WHERE id = ?1 \
         ON CONFLICT (hash) DO NOTHING",
        params![id, hash],
    )?;
    tx.invalidate(Invalidation::Secret(*hash));
    Ok(stored == 1)
}

/// Retires the previous secret of a key, if there is one.
pub(crate) fn retire_previous_secret(tx: &Tx<'_>, id: &str) -> Result<()> {
    tx.execute(
        "UPDATE api_key_hashes SET state = 'retired' WHERE state = 'previous' \
         AND key_seq = (SELECT seq FROM api_keys WHERE id = ?1)",
        params![id],
    )?;
    Ok(())
}

/// The scopes of the unrevoked keys that a user owns in this organization or, if `organization_id` is `None`,
/// in any: each distinct list of scopes once, with the id of one key that has it.
pub(crate) fn scopes_of_owned_keys(
    tx: &Tx<'_>,
    organization_id: Option<&str>,
    user_id: &str,
) -> Result<Vec<(String, Vec<String>)>> {
    let organization = if organization_id.is_some() { "organization_id = ?2" } else { "?2 IS NULL" };
    let sql = format!(
        "SELECT min(id), scopes FROM api_keys WHERE user_id = ?1 AND {organization} AND status <> 'revoked' \
         GROUP BY scopes ORDER BY min(id)"
    );
    tx.query_all(&sql, params![user_id, organization_id], |row| Ok((row.get(0)?, rows::json_column(row, 1)?)))
}

/// Revokes all keys of an organization, or with `user_id` only those this user owns. Returns the number of
/// keys revoked.
pub(crate) fn revoke_all(
    tx: &Tx<'_>,
    organization_id: &str,
    user_id: Option<&str>,
    reason: &str,
    now: Timestamp,
) -> Result<usize> {
    let set = "UPDATE api_keys SET status = 'revoked', revoked_at = ?3, revoked_reason = ?4, updated_at = ?3, \
               revision = revision + 1 WHERE status <> 'revoked'";
    let owner = if user_id.is_some() { "user_id = ?2" } else { "?2 IS NULL" };
    let sql = format!("{set} AND organization_id = ?1 AND {owner}");
    tx.execute(&sql, params![organization_id, user_id, now.as_millis(), reason])
}

/// True if a key other than `id` is a [recovery key](ApiKey::is_recovery_key).
pub(crate) fn has_other_recovery_key(tx: &Tx<'_>, id: &str) -> Result<bool> {
    let sql = format!(
        "SELECT {COLUMNS} FROM api_keys k WHERE k.organization_id IS NULL AND k.id <> ?1 \
         AND k.status = 'active' AND k.expires_at IS NULL AND k.user_id IS NULL AND k.allowed_ips IS NULL"
    );
    // Only a few rows match: keys of the platform's own staff.
    Ok(tx.query_all(&sql, params![id], api_key_from_row)?.iter().any(ApiKey::is_recovery_key))
}

/// Fetches all platform keys, oldest first. There are only a few: keys of the platform's own staff.
pub(crate) fn platform_keys(tx: &Tx<'_>) -> Result<Vec<ApiKey>> {
    let sql = format!("SELECT {COLUMNS} FROM api_keys k WHERE k.organization_id IS NULL ORDER BY k.seq");
    tx.query_all(&sql, &[], api_key_from_row)
}

/// True if any key was ever stored. Keys are never deleted from the table.
pub(crate) fn any_key_exists(tx: &Tx<'_>) -> Result<bool> {
    // Not through an index: a server with a damaged index can start and verify keys.
    Ok(tx.query_first("SELECT 1 FROM api_keys NOT INDEXED LIMIT 1", &[], |_| Ok(()))?.is_some())
}

/// Sets `last_used_at` of keys, by `seq`. A later stored time is kept, unless it is more than a day later,
/// because the clock was wrong when it was stored. The revision (the ETag) doesn't change.
pub(crate) fn update_last_used(tx: &Tx<'_>, used: &[(i64, Timestamp)]) -> Result<()> {
    const DAY: Duration = Duration::from_secs(86_400);
    for (seq, at) in used {
        let sql = "SELECT last_used_at, organization_id FROM api_keys WHERE seq = ?1";
        let stored = tx.query_first(sql, params![seq], |row| {
            Ok((rows::optional_timestamp_column(row, 0)?, row.get::<Option<String>>(1)?))
        })?;
        let Some((before, organization_id)) = stored else { continue };
        if before.is_some_and(|before| before >= *at && before <= *at + DAY) {
            continue;
        }
        tx.execute("UPDATE api_keys SET last_used_at = ?2 WHERE seq = ?1", params![seq, at.as_millis()])?;
        // They change at most once a day.
        let words_before = words::of_last_use(before);
        let words_after = words::of_last_use(Some(*at));
        if words_before != words_after {
            let tenants = words::tenants(tx, organization_id.as_deref())?;
            words::replace(tx, &tenants, *seq, &words_before, &words_after);
        }
    }
    Ok(())
}

/// Fetches a page of keys, whatever their status unless the filter names one.
pub(crate) fn list(tx: &Tx<'_>, filter: &ApiKeyFilter, page: &Page, now: Timestamp) -> Result<Rows<ApiKey>> {
    let seq = order_column(filter, now);
    let list = |lookup: Lookup| list_query(filter, now, lookup);
    let tenant = || words::tenant(tx, filter.organization_id.as_deref());
    let list_access = if filter.user_id.is_some() { ListAccess::FewRows } else { ListAccess::InOrder };
    if let Some(query) = filter.q.as_ref().filter(|query| query.has_words()) {
        let search = Search::new(query, tenant()?, list_access);
        return search::fetch_page(tx, list, seq, page, &search, api_key_from_row);
    }
    let (kind, buckets) = match filter.by_time(now) {
        Some(TimeFilter::Expiry(buckets)) if list_access == ListAccess::InOrder => (words::EXPIRY, buckets),
        Some(TimeFilter::LastUse(buckets)) if list_access == ListAccess::InOrder => {
            (words::LAST_USE, buckets)
        }
        _ => return list(Lookup::ByConditions).fetch_page(tx, seq, page, api_key_from_row),
    };
    search::fetch_page_of_words(tx, list, seq, page, (tenant()?, kind, buckets), api_key_from_row)
}

/// True if the list is read through the scope index, which is ordered by `seq` too. An organization or a user has few keys,
/// so with such a filter the scope is checked for each key, and so it is for the keys that a search or a filter by time
/// finds.
fn is_driven_by_scope(filter: &ApiKeyFilter, now: Timestamp) -> bool {
    let is_search = filter.q.as_ref().is_some_and(|query| query.has_words());
    let has_owner = filter.user_id.is_some() || filter.organization_id.is_some();
    filter.scope.is_some() && !has_owner && !is_search && filter.by_time(now).is_none()
}

/// The name of the column `seq` that orders the list.
pub(super) fn order_column(filter: &ApiKeyFilter, now: Timestamp) -> &'static str {
    if is_driven_by_scope(filter, now) { "s.key_seq" } else { "k.seq" }
}

/// The query for a list of keys. CROSS JOIN fixes the join order.
pub(super) fn list_query(filter: &ApiKeyFilter, now: Timestamp, lookup: Lookup) -> ListQuery {
    let (checked_scope, driving_scope) = match is_driven_by_scope(filter, now) {
        true => (None, filter.scope.as_deref()),
        false => (filter.scope.clone(), None),
    };
    let now = now.as_millis();
    let keys = format!("api_keys k{}", lookup.hint());
    let from = match (&checked_scope, driving_scope) {
        (None, None) => format!("{keys} WHERE 1 = 1"),
        (Some(_), _) => format!("{keys} CROSS JOIN api_key_scopes s WHERE s.key_seq = k.seq"),
        (_, Some(_)) => format!("api_key_scopes s CROSS JOIN {keys} WHERE k.seq = s.key_seq"),
    };
    let status = filter.status.map(|status| if status == Status::Expired { Status::Active } else { status });
    let list = ListQuery::new(&format!("SELECT {COLUMNS} FROM {from}"))
        .and_equal(&[
            ("k.user_id", filter.user_id.as_deref()),
            ("k.organization_id", filter.organization_id.as_deref()),
            ("s.scope", driving_scope),
            ("k.status", status.map(Status::name)),
        ])
        .and_condition("s.scope = ?", checked_scope)
        .and_condition("+k.expires_at < ?", filter.expires_before.map(Timestamp::as_millis))
        .and_condition("+k.expires_at > ?", filter.expires_after.map(Timestamp::as_millis))
        .and_condition("k.last_used_at < ?", filter.last_used_before.map(Timestamp::as_millis));
    let list = match filter.never_used {
        Some(true) => list.and_fixed_condition("k.last_used_at IS NULL"),
        Some(false) => list.and_fixed_condition("k.last_used_at IS NOT NULL"),
        None => list,
    };
    match filter.status {
        Some(Status::Active) => list.and_condition("(k.expires_at IS NULL OR k.expires_at > ?)", Some(now)),
        Some(Status::Expired) => list.and_condition("+k.expires_at <= ?", Some(now)),
        _ => list,
    }
}

/// For each of these prefixes: true if a secret of a key that isn't revoked may consist of the prefix, `_` and digits,
/// judged by the stored starts of the current secret and of a previous one in its grace period.
pub(crate) fn are_prefixes_used(tx: &Tx<'_>, prefixes: &[&str], now: Timestamp) -> Result<Vec<bool>> {
    // Only digits, so no `_`, may follow. Compared in both directions, because the stored start of an imported key may be
    // shorter than the prefix.
    let matches = |start: &str, index: usize| {
        format!(
            "(substr({start}, 1, length(?{index})) = ?{index} \
             AND substr({start}, length(?{index}) + 1) NOT LIKE '%\\_%' ESCAPE '\\' \
             OR substr(?{index}, 1, length({start})) = {start})"
        )
    };
    let columns = (2..2 + prefixes.len()).map(|index| {
        let current = matches("start", index);
        let previous = matches("coalesce(previous_start, '')", index);
        let condition = format!("{current} OR previous_secret_expires_at > ?1 AND {previous}");
        format!("max(CASE WHEN {condition} THEN 1 ELSE 0 END)")
    });
    let columns = columns.collect::<Vec<_>>().join(", ");
    // One scan of all keys, which is acceptable: it runs when prefixes are added.
    let sql = format!("SELECT {columns} FROM api_keys WHERE status <> 'revoked'");
    let patterns: Vec<String> = prefixes.iter().map(|prefix| format!("{prefix}_")).collect();
    let now = now.as_millis();
    let values: Vec<_> = [now.to_value()].into_iter().chain(patterns.iter().map(ToValue::to_value)).collect();
    let used = tx.query_first(&sql, &values, |row| {
        let is_used = |column| Ok(row.get::<Option<i64>>(column)? == Some(1));
        (0..prefixes.len()).map(is_used).collect::<engine::Result<Vec<_>>>()
    })?;
    Ok(used.unwrap_or_default())
}
