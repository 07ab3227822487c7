//! Statements on usage.

use std::sync::LazyLock;

use super::engine::{self, Row, ToValue, Value, params};
use super::tx::Tx;
use crate::domain::meter::Meter;
use crate::domain::subject::Subject;
use crate::domain::time::Timestamp;
use crate::domain::usage::{Interval, OUTCOME_COUNT, Span, UsageCounts, magnitude};
use crate::error::Result;

/// The columns of the usage tables that hold counts: `cost`, then one column per outcome.
static COLUMNS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let outcomes = UsageCounts::names().map(str::to_lowercase);
    std::iter::once("cost".to_owned()).chain(outcomes).collect()
});

/// The SQL statements on `usage_hourly` and `usage_daily`.
struct UsageSql {
    add_hour: String,
    add_day: String,
    select_day: String,
    series: [String; 2],
    hourly_series_of_sums: String,
    sum_of_span: [String; 2],
}

static SQL: LazyLock<UsageSql> = LazyLock::new(|| {
    let columns = COLUMNS.join(", ");
    let placeholders: Vec<_> = (1..=COLUMNS.len()).map(|index| format!("?{}", index + 2)).collect();
    let values = placeholders.join(", ");
    let additions = |table: &str| {
        let addition = |column: &String| format!("{column} = {table}.{column} + excluded.{column}");
        COLUMNS.iter().map(addition).collect::<Vec<_>>().join(", ")
    };
    let parent = COLUMNS.len() + 3;
    let magnitude = COLUMNS.len() + 4;
    // CROSS JOIN makes the time buckets the outer loop and the usage table the inner one, so that the cost is
    // one index lookup per bucket.
    let select = |columns: &str, interval: Interval| {
        let table = table_name(interval);
        let step = interval.millis();
        format!(
            "WITH RECURSIVE buckets (start) AS (VALUES (?2) UNION ALL \
             SELECT start + {step} FROM buckets WHERE start + {step} < ?3) \
             SELECT {columns} FROM buckets CROSS JOIN {table} u WHERE u.start = buckets.start AND u.subject = ?1"
        )
    };
    let select_both = |columns: &str| [select(columns, Interval::Hour), select(columns, Interval::Day)];
    let sums: Vec<_> = COLUMNS.iter().map(|column| format!("coalesce(sum(u.{column}), 0)")).collect();
    UsageSql {
        add_hour: format!(
            "INSERT INTO usage_hourly (start, subject, {columns}) VALUES (?1, ?2, {values}) \
             ON CONFLICT (start, subject) DO UPDATE SET {}",
            additions("usage_hourly")
        ),
        add_day: format!(
            "INSERT INTO usage_daily (start, subject, {columns}, parent, magnitude) \
             VALUES (?1, ?2, {values}, ?{parent}, ?{magnitude}) \
             ON CONFLICT (start, subject) DO UPDATE SET {}",
            additions("usage_daily")
        ),
        // A separate query instead of RETURNING in `add_day`, because RETURNING gives each statement a
        // journal. Closing that journal takes longer the more the savepoint has written.
        select_day: format!("SELECT {columns}, magnitude FROM usage_daily WHERE start = ?1 AND subject = ?2"),
        series: select_both(&format!("u.start, {}", qualified_columns("u"))),
        // `subject <= 0` repeats the condition of the partial index, without which SQLite can't use it.
        hourly_series_of_sums: format!(
            "SELECT start, {columns} FROM usage_hourly INDEXED BY usage_hourly_sums \
             WHERE subject = ?1 AND subject <= 0 AND start >= ?2 AND start < ?3"
        ),
        sum_of_span: select_both(&sums.join(", ")),
    }
});

pub(super) fn table_name(interval: Interval) -> &'static str {
    match interval {
        Interval::Hour => "usage_hourly",
        Interval::Day => "usage_daily",
    }
}

/// [`COLUMNS`] of the table with this alias.
pub(super) fn qualified_columns(alias: &str) -> String {
    COLUMNS.iter().map(|column| format!("{alias}.{column}")).collect::<Vec<_>>().join(", ")
}

/// Reads [`COLUMNS`], starting at the column `first`.
pub(super) fn counts_from_row(row: &Row<'_>, first: usize) -> engine::Result<UsageCounts> {
    let mut outcomes = [0; OUTCOME_COUNT];
    for (index, outcome) in outcomes.iter_mut().enumerate() {
        *outcome = row.get(first + 1 + index)?;
    }
    Ok(UsageCounts::new(outcomes, row.get(first)?))
}

/// Adds counts to the rows of a subject for an hour and for the day of that hour. `parent` is the subject
/// that contains this subject, such as the organization of a key.
pub(crate) fn add_counts(
    tx: &Tx<'_>,
    hour: Timestamp,
    subject: Subject,
    parent: Option<Subject>,
    added: &UsageCounts,
) -> Result<()> {
    let cost = added.cost();
    let mut values = Vec::with_capacity(COLUMNS.len() + 4);
    values.extend([hour.as_millis(), subject.number()].map(Value::from));
    values.extend(std::iter::once(&cost).chain(added.outcomes()).map(ToValue::to_value));
    tx.execute(&SQL.add_hour, &values)?;
    let day = Interval::Day.floor(hour);
    values[0] = day.as_millis().into();
    let parent = parent.map(Subject::number);
    let initial_magnitude = magnitude(added.requests());
    values.extend([parent.to_value(), initial_magnitude.to_value()]);
    tx.execute(&SQL.add_day, &values)?;
    let stored = tx.query_first(&SQL.select_day, params![day.as_millis(), subject.number()], |row| {
        Ok((counts_from_row(row, 0)?.requests(), row.get::<u32>(COLUMNS.len())?))
    })?;
    let Some((requests, stored_magnitude)) = stored else { return Ok(()) };
    let new_magnitude = magnitude(requests);
    if new_magnitude != stored_magnitude {
        tx.execute(
            "UPDATE usage_daily SET magnitude = ?3 WHERE start = ?1 AND subject = ?2",
            params![day.as_millis(), subject.number(), new_magnitude],
        )?;
    }
    Ok(())
}

/// Fetches the counts of a subject in a span of time, by bucket (hour or day). Empty buckets are omitted.
pub fn usage_by_bucket(tx: &Tx<'_>, subject: Subject, span: &Span) -> Result<Vec<(Timestamp, UsageCounts)>> {
    let [hourly, daily] = &SQL.series;
    let sql = match (span.interval, subject) {
        (Interval::Day, _) => daily,
        (Interval::Hour, Subject::Key(_)) => hourly,
        (Interval::Hour, Subject::All | Subject::Organization(_)) => &SQL.hourly_series_of_sums,
    };
    tx.query_all(
        sql,
        params![subject.number(), span.start.as_millis(), span.buckets_end().as_millis()],
        |row| Ok((Timestamp::from_millis(row.get(0)?), counts_from_row(row, 1)?)),
    )
}

/// Fetches the sum of a subject's counts in a span of time.
pub(crate) fn total(tx: &Tx<'_>, subject: Subject, span: &Span) -> Result<UsageCounts> {
    let mut total = UsageCounts::default();
    for part in span.split_by_interval() {
        let [hourly, daily] = &SQL.sum_of_span;
        let sql = if part.interval == Interval::Hour { hourly } else { daily };
        if let Some(sum) = tx.query_first(
            sql,
            params![subject.number(), part.start.as_millis(), part.buckets_end().as_millis()],
            |row| counts_from_row(row, 0),
        )? {
            total.merge(&sum);
        }
    }
    Ok(total)
}

/// Fetches the sum of a subject's counts in a span of time, with the cost on this meter.
pub(crate) fn total_on_meter(
    tx: &Tx<'_>,
    subject: Subject,
    meter: Meter,
    span: &Span,
) -> Result<UsageCounts> {
    let counts = total(tx, subject, span)?;
    Ok(match meter {
        Meter::REQUESTS => counts,
        _ => counts.with_cost(total_units(tx, subject, meter, span)?),
    })
}

/// Adds units of a meter other than `requests` to the sums of a subject for an hour and for the day of that hour.
/// `parent` is the subject that contains this subject.
pub(crate) fn add_units(
    tx: &Tx<'_>,
    hour: Timestamp,
    subject: Subject,
    parent: Option<Subject>,
    meter: Meter,
    units: u64,
) -> Result<()> {
    let number = subject.number();
    tx.execute(
        "INSERT INTO usage_units_hourly (start, subject, meter, units) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (start, subject, meter) DO UPDATE SET units = usage_units_hourly.units + excluded.units",
        params![hour.as_millis(), number, meter.name(), units],
    )?;
    let day = Interval::Day.floor(hour).as_millis();
    tx.execute(
        "INSERT INTO usage_units_daily (start, subject, meter, units, parent, magnitude) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
         ON CONFLICT (start, subject, meter) DO UPDATE SET units = usage_units_daily.units + excluded.units",
        params![day, number, meter.name(), units, parent.map(Subject::number), magnitude(units)],
    )?;
    let stored = tx.query_first(
        "SELECT units, magnitude FROM usage_units_daily WHERE start = ?1 AND subject = ?2 AND meter = ?3",
        params![day, number, meter.name()],
        |row| Ok((row.get::<u64>(0)?, row.get::<u32>(1)?)),
    )?;
    if let Some((sum, stored_magnitude)) = stored
        && magnitude(sum) != stored_magnitude
    {
        tx.execute(
            "UPDATE usage_units_daily SET magnitude = ?4 WHERE start = ?1 AND subject = ?2 AND meter = ?3",
            params![day, number, meter.name(), magnitude(sum)],
        )?;
    }
    Ok(())
}

pub(super) fn meter_table_name(interval: Interval) -> &'static str {
    match interval {
        Interval::Hour => "usage_units_hourly",
        Interval::Day => "usage_units_daily",
    }
}

/// Fetches the units of a meter that a subject used in a span of time, by bucket (hour or day). Empty buckets are
/// omitted.
pub(crate) fn units_by_bucket(
    tx: &Tx<'_>,
    subject: Subject,
    meter: Meter,
    span: &Span,
) -> Result<Vec<(Timestamp, u64)>> {
    // One index lookup per bucket, as in `usage_by_bucket`.
    let table = meter_table_name(span.interval);
    let step = span.interval.millis();
    let sql = format!(
        "WITH RECURSIVE buckets (start) AS (VALUES (?3) UNION ALL \
         SELECT start + {step} FROM buckets WHERE start + {step} < ?4) \
         SELECT u.start, u.units FROM buckets CROSS JOIN {table} u \
         WHERE u.start = buckets.start AND u.subject = ?1 AND u.meter = ?2"
    );
    let (start, end) = (span.start.as_millis(), span.buckets_end().as_millis());
    tx.query_all(&sql, params![subject.number(), meter.name(), start, end], |row| {
        Ok((Timestamp::from_millis(row.get(0)?), row.get(1)?))
    })
}

/// Fetches the units of a meter that a subject used in a span of time.
fn total_units(tx: &Tx<'_>, subject: Subject, meter: Meter, span: &Span) -> Result<u64> {
    let mut total = 0;
    for part in span.split_by_interval() {
        total += units_by_bucket(tx, subject, meter, &part)?.iter().map(|(_, units)| units).sum::<u64>();
    }
    Ok(total)
}

/// The set of subjects among which [`busiest`] searches.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SubjectSet {
    /// All API keys.
    Keys,
    /// The subjects whose parent is this subject, such as the keys of an organization.
    PartsOf(Subject),
}

/// Fetches the subjects with the most units of a meter on a day, at most `max`, each with the [`magnitude`] of its
/// number of units. Those of the meter `requests` are ranked by the number of requests instead, denied ones included.
pub(crate) fn busiest_subjects(
    tx: &Tx<'_>,
    candidates: SubjectSet,
    meter: Meter,
    day: Timestamp,
    max: usize,
) -> Result<Vec<(Subject, u32)>> {
    let is_candidate = match candidates {
        SubjectSet::Keys => "subject > 0",
        SubjectSet::PartsOf(_) => "parent = ?3",
    };
    let table = match meter {
        Meter::REQUESTS => "usage_daily",
        _ => "usage_units_daily",
    };
    let mut sql = format!("SELECT subject, magnitude FROM {table} WHERE start = ?1 AND {is_candidate}");
    let mut values = vec![day.as_millis().into(), i64::try_from(max).unwrap_or(i64::MAX).into()];
    if let SubjectSet::PartsOf(subject) = candidates {
        values.push(subject.number().into());
    }
    if meter != Meter::REQUESTS {
        values.push(meter.name().to_value());
        sql += &format!(" AND meter = ?{}", values.len());
    }
    sql += " ORDER BY magnitude DESC LIMIT ?2";
    tx.query_all(&sql, &values, |row| Ok((Subject::from_number(row.get(0)?), row.get(1)?)))
}

/// Deletes hourly and daily rows that start before these times, at most `max_rows` of each table. Returns the
/// larger of the two numbers of deleted rows.
pub(crate) fn prune(
    tx: &Tx<'_>,
    hourly_before: Timestamp,
    daily_before: Timestamp,
    max_rows: usize,
) -> Result<usize> {
    let max_rows = i64::try_from(max_rows).unwrap_or(i64::MAX);
    let mut deleted = 0;
    for (interval, before) in [(Interval::Hour, hourly_before), (Interval::Day, daily_before)] {
        for (table, key) in
            [(table_name(interval), "start, subject"), (meter_table_name(interval), "start, subject, meter")]
        {
            let sql = format!(
                "DELETE FROM {table} WHERE ({key}) IN \
                 (SELECT {key} FROM {table} WHERE start < ?1 ORDER BY {key} LIMIT ?2)"
            );
            deleted = deleted.max(tx.execute(&sql, params![before.as_millis(), max_rows])?);
        }
    }
    Ok(deleted)
}

/// Id and name of a key or organization, for usage reports.
#[derive(Clone, Debug)]
pub(crate) struct NamedSubject {
    pub(crate) seq: i64,
    pub(crate) id: String,
    pub(crate) name: String,
    /// `id` and `seq` of the key's organization; `None` for an organization or a platform key.
    pub(crate) organization: Option<(String, i64)>,
}

const SELECT_KEY: &str = "SELECT k.seq, k.id, k.name, o.id, o.seq FROM api_keys k \
                   LEFT JOIN organizations o ON o.id = k.organization_id";
const SELECT_ORGANIZATION: &str = "SELECT seq, id, name, NULL, NULL FROM organizations";

fn named_subject_from_row(row: &Row<'_>) -> engine::Result<NamedSubject> {
    let organization = match row.get(3)? {
        None => None,
        Some(id) => Some((id, row.get(4)?)),
    };
    Ok(NamedSubject { seq: row.get(0)?, id: row.get(1)?, name: row.get(2)?, organization })
}

/// Fetches id and name of a key, whatever its status.
pub(crate) fn find_key(tx: &Tx<'_>, id: &str) -> Result<Option<NamedSubject>> {
    tx.query_first(&format!("{SELECT_KEY} WHERE k.id = ?1"), params![id], named_subject_from_row)
}

/// Fetches id and name of an organization, deleted or not.
pub(crate) fn organization(tx: &Tx<'_>, id: &str) -> Result<Option<NamedSubject>> {
    tx.query_first(&format!("{SELECT_ORGANIZATION} WHERE id = ?1"), params![id], named_subject_from_row)
}

/// Fetches id and name of a subject; `None` for [`Subject::All`], or when the key or organization doesn't
/// exist.
pub(crate) fn find_subject(tx: &Tx<'_>, subject: Subject) -> Result<Option<NamedSubject>> {
    match subject {
        Subject::All => Ok(None),
        Subject::Organization(seq) => tx.query_first(
            &format!("{SELECT_ORGANIZATION} WHERE seq = ?1"),
            params![seq],
            named_subject_from_row,
        ),
        Subject::Key(seq) => {
            tx.query_first(&format!("{SELECT_KEY} WHERE k.seq = ?1"), params![seq], named_subject_from_row)
        }
    }
}
