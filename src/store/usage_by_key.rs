//! Statements that sum up the usage of many keys, for groups of keys.
//!
//! The daily row of a key names its organization (`parent`), so the keys that were used on a day are found there. Each
//! row of another table of usage has such a row.

use super::engine::params;
use super::tx::Tx;
use super::usage::{self, SubjectSet};
use crate::domain::meter::Meter;
use crate::domain::usage::{Interval, Span, UsageCounts};
use crate::error::Result;

/// The WITH clause of the buckets of a span, and the condition on `usage_daily` that finds the keys that were used on the
/// day of a bucket.
fn keys_and_buckets(keys: SubjectSet, interval: Interval) -> (String, String) {
    let step = interval.millis();
    let day = Interval::Day.millis();
    let buckets = format!(
        "WITH RECURSIVE buckets (start) AS (VALUES (?2) UNION ALL \
         SELECT start + {step} FROM buckets WHERE start + {step} < ?3)"
    );
    let is_one_of_them = match keys {
        SubjectSet::Keys => "d.subject > 0 AND ?1 = 0",
        SubjectSet::PartsOf(_) => "d.parent = ?1",
    };
    (buckets, format!("{is_one_of_them} AND d.start = buckets.start / {day} * {day}"))
}

/// The number of the subject of which the keys are parts.
fn parent_number(keys: SubjectSet) -> i64 {
    match keys {
        SubjectSet::Keys => 0,
        SubjectSet::PartsOf(subject) => subject.number(),
    }
}

/// Number of rows that the sums over a part of a span look up, at most `max`.
pub(crate) fn count_lookups(tx: &Tx<'_>, keys: SubjectSet, part: &Span, max: u64) -> Result<u64> {
    let (buckets, condition) = keys_and_buckets(keys, part.interval);
    let sql = format!(
        "{buckets} SELECT count(*) FROM (SELECT 1 FROM buckets CROSS JOIN usage_daily d WHERE {condition} LIMIT ?4)"
    );
    let (start, end) = (part.start.as_millis(), part.buckets_end().as_millis());
    Ok(tx.query_first(&sql, params![parent_number(keys), start, end, max], |row| row.get(0))?.unwrap_or(0))
}

/// Fetches the keys that were used in a part of a span, at most `max`, each with the id of its user.
pub(crate) fn keys_with_users(
    tx: &Tx<'_>,
    keys: SubjectSet,
    part: &Span,
    max: usize,
) -> Result<Vec<(i64, Option<String>)>> {
    let (buckets, condition) = keys_and_buckets(keys, part.interval);
    // DISTINCT comes first, so that each key is looked up once.
    let sql = format!(
        "{buckets} SELECT used.subject, k.user_id \
         FROM (SELECT DISTINCT d.subject FROM buckets CROSS JOIN usage_daily d WHERE {condition}) used \
         LEFT JOIN api_keys k ON k.seq = used.subject LIMIT ?4"
    );
    let (start, end) = (part.start.as_millis(), part.buckets_end().as_millis());
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    tx.query_all(&sql, params![parent_number(keys), start, end, max], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Passes the counts of each key and bucket of a part of a span to `add`, with the key's `seq`.
pub(crate) fn each_count(
    tx: &Tx<'_>,
    keys: SubjectSet,
    part: &Span,
    mut add: impl FnMut(i64, UsageCounts),
) -> Result<()> {
    let (buckets, condition) = keys_and_buckets(keys, part.interval);
    let table = usage::table_name(part.interval);
    let columns = usage::qualified_columns("u");
    let sql = format!(
        "{buckets} SELECT u.subject, {columns} FROM buckets CROSS JOIN usage_daily d CROSS JOIN {table} u \
         WHERE {condition} AND u.start = buckets.start AND u.subject = d.subject"
    );
    let (start, end) = (part.start.as_millis(), part.buckets_end().as_millis());
    tx.query_all(&sql, params![parent_number(keys), start, end], |row| {
        add(row.get(0)?, usage::counts_from_row(row, 1)?);
        Ok(())
    })?;
    Ok(())
}

/// Passes the units of a meter of each key and bucket of a part of a span to `add`, with the key's `seq`.
pub(crate) fn each_unit(
    tx: &Tx<'_>,
    keys: SubjectSet,
    meter: Meter,
    part: &Span,
    mut add: impl FnMut(i64, u64),
) -> Result<()> {
    let (buckets, condition) = keys_and_buckets(keys, part.interval);
    let table = usage::meter_table_name(part.interval);
    let sql = format!(
        "{buckets} SELECT u.subject, u.units FROM buckets CROSS JOIN usage_daily d CROSS JOIN {table} u \
         WHERE {condition} AND u.start = buckets.start AND u.subject = d.subject AND u.meter = ?4"
    );
    let (start, end) = (part.start.as_millis(), part.buckets_end().as_millis());
    tx.query_all(&sql, params![parent_number(keys), start, end, meter.name()], |row| {
        add(row.get(0)?, row.get(1)?);
        Ok(())
    })?;
    Ok(())
}

/// Fetches the id of the user of a key; `None` if the key has none.
pub(crate) fn find_user_id(tx: &Tx<'_>, key_seq: i64) -> Result<Option<String>> {
    let sql = "SELECT user_id FROM api_keys WHERE seq = ?1";
    Ok(tx.query_first(sql, params![key_seq], |row| row.get(0))?.flatten())
}

/// Fetches the name of a user: one that isn't deleted and, with an organization, is a member of it.
pub(crate) fn find_user_name(tx: &Tx<'_>, id: &str, member_of: Option<&str>) -> Result<Option<String>> {
    let sql = "SELECT name FROM users WHERE id = ?1 AND deleted_at IS NULL AND (?2 IS NULL OR EXISTS \
               (SELECT 1 FROM memberships WHERE organization_id = ?2 AND user_id = users.id))";
    tx.query_first(sql, params![id, member_of], |row| row.get(0))
}
