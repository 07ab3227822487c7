//! Statements on usage.

use std::sync::LazyLock;

use rusqlite::{Row, params, params_from_iter};

use super::db::Tx;
use crate::domain::time::Timestamp;
use crate::domain::usage::{Counts, Interval, OUTCOMES, Span, Subject, magnitude};
use crate::error::Result;

/// The columns of the counts: `cost`, then the outcomes.
static COLUMNS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let outcomes = Counts::names().map(str::to_lowercase);
    std::iter::once("cost".to_owned()).chain(outcomes).collect()
});

/// Statements on both tables.
struct Sql {
    add_hour: String,
    add_day: String,
    day: String,
    series: [String; 2],
    series_of_sums: String,
    sum: [String; 2],
}

static SQL: LazyLock<Sql> = LazyLock::new(|| {
    let columns = COLUMNS.join(", ");
    let places: Vec<_> = (1..=COLUMNS.len()).map(|nth| format!("?{}", nth + 2)).collect();
    let values = places.join(", ");
    let added: Vec<_> =
        COLUMNS.iter().map(|column| format!("{column} = {column} + excluded.{column}")).collect();
    let added = added.join(", ");
    let (parent, size) = (COLUMNS.len() + 3, COLUMNS.len() + 4);
    // Lookups bucket by bucket: CROSS JOIN keeps the order, which is never that of the larger table.
    let of = |what: &str, interval: Interval| {
        let (table, step) = (table(interval), interval.millis());
        format!(
            "WITH RECURSIVE buckets (start) AS (VALUES (?2) UNION ALL \
             SELECT start + {step} FROM buckets WHERE start + {step} < ?3) \
             SELECT {what} FROM buckets CROSS JOIN {table} u WHERE u.start = buckets.start AND u.subject = ?1"
        )
    };
    let both = |what: &str| [of(what, Interval::Hour), of(what, Interval::Day)];
    let sums: Vec<_> = COLUMNS.iter().map(|column| format!("coalesce(sum(u.{column}), 0)")).collect();
    let own: Vec<_> = COLUMNS.iter().map(|column| format!("u.{column}")).collect();
    Sql {
        add_hour: format!(
            "INSERT INTO usage_hourly (start, subject, {columns}) VALUES (?1, ?2, {values}) \
             ON CONFLICT (start, subject) DO UPDATE SET {added}"
        ),
        add_day: format!(
            "INSERT INTO usage_daily (start, subject, {columns}, parent, magnitude) \
             VALUES (?1, ?2, {values}, ?{parent}, ?{size}) \
             ON CONFLICT (start, subject) DO UPDATE SET {added}"
        ),
        // Not by RETURNING: that gives each statement a journal, whose end takes the longer the more its
        // savepoint has written.
        day: format!("SELECT {columns}, magnitude FROM usage_daily WHERE start = ?1 AND subject = ?2"),
        series: both(&format!("u.start, {}", own.join(", "))),
        // That the subject is one of these is said once more, because the index is of these alone.
        series_of_sums: format!(
            "SELECT start, {columns} FROM usage_hourly INDEXED BY usage_hourly_sums \
             WHERE subject = ?1 AND subject <= 0 AND start >= ?2 AND start < ?3"
        ),
        sum: both(&sums.join(", ")),
    }
});

fn table(interval: Interval) -> &'static str {
    match interval {
        Interval::Hour => "usage_hourly",
        Interval::Day => "usage_daily",
    }
}

/// The counts in the columns from this one on.
fn counts(row: &Row<'_>, first: usize) -> rusqlite::Result<Counts> {
    let mut outcomes = [0; OUTCOMES];
    for (nth, outcome) in outcomes.iter_mut().enumerate() {
        *outcome = row.get(first + 1 + nth)?;
    }
    Ok(Counts::new(outcomes, row.get(first)?))
}

/// Adds what a subject, which is part of another, did in an hour to that hour and to its day.
pub(crate) fn add(
    tx: &Tx<'_>,
    hour: Timestamp,
    subject: Subject,
    parent: Option<Subject>,
    more: &Counts,
) -> Result<()> {
    let row = |start: Timestamp| {
        let key = [start.as_millis(), subject.number()];
        let figures = std::iter::once(more.cost()).chain(more.outcomes().iter().copied());
        // A count beyond 2^63 would take longer than the sun has.
        key.into_iter().chain(figures.map(|figure| i64::try_from(figure).unwrap_or(i64::MAX))).map(Some)
    };
    tx.execute(&SQL.add_hour, params_from_iter(row(hour)))?;
    let day = Interval::Day.floor(hour);
    let size = magnitude(more.requests());
    let more = [parent.map(Subject::number), Some(size.into())];
    tx.execute(&SQL.add_day, params_from_iter(row(day).chain(more)))?;
    let found = tx.one(&SQL.day, params![day.as_millis(), subject.number()], |row| {
        Ok((counts(row, 0)?.requests(), row.get::<_, u32>(COLUMNS.len())?))
    })?;
    let Some((requests, stored)) = found else { return Ok(()) };
    let size = magnitude(requests);
    if size != stored {
        tx.execute(
            "UPDATE usage_daily SET magnitude = ?3 WHERE start = ?1 AND subject = ?2",
            params![day.as_millis(), subject.number(), size],
        )?;
    }
    Ok(())
}

/// The buckets of a span in which there was something, with where they begin.
pub fn series(tx: &Tx<'_>, subject: Subject, span: &Span) -> Result<Vec<(Timestamp, Counts)>> {
    let [hourly, daily] = &SQL.series;
    let sql = match (span.interval, subject) {
        (Interval::Day, _) => daily,
        (Interval::Hour, Subject::Key(_)) => hourly,
        (Interval::Hour, Subject::All | Subject::Organization(_)) => &SQL.series_of_sums,
    };
    let range = params![subject.number(), span.start.as_millis(), span.buckets_end().as_millis()];
    tx.all(sql, range, |row| Ok((Timestamp::from_millis(row.get(0)?), counts(row, 1)?)))
}

/// The sum of a span.
pub(crate) fn total(tx: &Tx<'_>, subject: Subject, span: &Span) -> Result<Counts> {
    let mut total = Counts::default();
    for part in span.parts() {
        let [hourly, daily] = &SQL.sum;
        let sql = if part.interval == Interval::Hour { hourly } else { daily };
        let range = params![subject.number(), part.start.as_millis(), part.buckets_end().as_millis()];
        if let Some(counted) = tx.one(sql, range, |row| counts(row, 0))? {
            total.merge(&counted);
        }
    }
    Ok(total)
}

/// Whose busiest are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Of {
    /// All keys.
    Keys,
    /// The parts of a subject.
    Parts(Subject),
}

/// The busiest subjects of a day, at most so many, with the [`magnitude`] of their requests.
pub(crate) fn busiest(tx: &Tx<'_>, of: Of, day: Timestamp, max: usize) -> Result<Vec<(Subject, u32)>> {
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    let found = |row: &Row<'_>| Ok((Subject::from_number(row.get(0)?), row.get(1)?));
    match of {
        Of::Keys => tx.all(
            "SELECT subject, magnitude FROM usage_daily WHERE start = ?1 AND subject > 0 \
             ORDER BY magnitude DESC LIMIT ?2",
            params![day.as_millis(), max],
            found,
        ),
        Of::Parts(subject) => tx.all(
            "SELECT subject, magnitude FROM usage_daily WHERE parent = ?1 AND start = ?2 \
             ORDER BY magnitude DESC LIMIT ?3",
            params![subject.number(), day.as_millis(), max],
            found,
        ),
    }
}

/// Removes at most so many rows of each table that begin before these times; how many it were.
pub(crate) fn prune(tx: &Tx<'_>, hourly: Timestamp, daily: Timestamp, max: usize) -> Result<usize> {
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    let mut gone = 0;
    for (interval, before) in [(Interval::Hour, hourly), (Interval::Day, daily)] {
        let table = table(interval);
        let sql = format!(
            "DELETE FROM {table} WHERE (start, subject) IN \
             (SELECT start, subject FROM {table} WHERE start < ?1 ORDER BY start, subject LIMIT ?2)"
        );
        gone = gone.max(tx.execute(&sql, params![before.as_millis(), max])?);
    }
    Ok(gone)
}

/// What an answer calls a subject.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// Its place.
    pub(crate) seq: i64,
    /// Its id.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// Of a key: the `id` and the `seq` of its organization, if it has one.
    pub(crate) organization: Option<(String, i64)>,
}

const KEY: &str = "SELECT k.seq, k.id, k.name, o.id, o.seq FROM api_keys k \
                   LEFT JOIN organizations o ON o.id = k.organization_id";
const ORGANIZATION: &str = "SELECT seq, id, name, NULL, NULL FROM organizations";

fn named(row: &Row<'_>) -> rusqlite::Result<Named> {
    let organization = match row.get(3)? {
        None => None,
        Some(id) => Some((id, row.get(4)?)),
    };
    Ok(Named { seq: row.get(0)?, id: row.get(1)?, name: row.get(2)?, organization })
}

/// A key, whatever became of it.
pub(crate) fn key(tx: &Tx<'_>, id: &str) -> Result<Option<Named>> {
    tx.one(&format!("{KEY} WHERE k.id = ?1"), params![id], named)
}

/// An organization, also a deleted one.
pub(crate) fn organization(tx: &Tx<'_>, id: &str) -> Result<Option<Named>> {
    tx.one(&format!("{ORGANIZATION} WHERE id = ?1"), params![id], named)
}

/// The key or organization that a subject is; `None` for all others.
pub(crate) fn name(tx: &Tx<'_>, subject: Subject) -> Result<Option<Named>> {
    match subject {
        Subject::All => Ok(None),
        Subject::Organization(seq) => tx.one(&format!("{ORGANIZATION} WHERE seq = ?1"), params![seq], named),
        Subject::Key(seq) => tx.one(&format!("{KEY} WHERE k.seq = ?1"), params![seq], named),
    }
}
