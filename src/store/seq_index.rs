//! Translates a range of time into a range of `seq`, in tables that grow with time.
//!
//! Their rows are stored in nearly chronological order, so a range of time corresponds to a range of
//! `seq`, and a page of last year's rows doesn't scan all rows stored since. The order is not exact:
//! concurrent callers overtake each other, and clocks are set back. The largest clock skew, by how much
//! any row was ever older than a row stored before it, is recorded, and the range is widened by it on
//! both sides. No row outside the widened range is of the requested time, whatever the clock did.

use super::engine::params;
use super::tx::Tx;
use crate::domain::time::Timestamp;
use crate::error::Result;

/// A table with a `seq` and an index on the time of its rows.
pub(crate) struct SeqIndex {
    /// Name of the table.
    pub(crate) table: &'static str,
    /// Name of the column with the time of the row.
    pub(crate) column: &'static str,
}

/// A range of `seq`: lower and upper bound, both exclusive. `None` means unbounded.
pub(crate) type SeqRange = (Option<i64>, Option<i64>);

/// Minimum clock skew, in milliseconds. It is always assumed and never recorded, because aggregated rows are
/// stored only after their minute is over.
const MIN_CLOCK_SKEW_MILLIS: i64 = 120_000;

impl SeqIndex {
    /// Records by how much a row that is about to be stored is older than the newest stored row, if that
    /// exceeds the largest clock skew so far.
    pub(crate) fn record_skew(&self, tx: &Tx<'_>, row_time: Timestamp) -> Result<()> {
        let Self { table, column } = self;
        let sql = format!("SELECT max({column}) FROM {table}");
        let latest: Option<i64> = tx.query_first(&sql, &[], |row| row.get(0))?.flatten();
        let skew_millis = latest.map_or(0, |latest| latest - row_time.as_millis());
        if skew_millis > MIN_CLOCK_SKEW_MILLIS && skew_millis > self.max_clock_skew(tx)? {
            let sql = "INSERT INTO meta (name, value) VALUES (?1, ?2) \
                       ON CONFLICT (name) DO UPDATE SET value = excluded.value";
            tx.execute(sql, params![self.meta_name(), skew_millis.to_string()])?;
        }
        Ok(())
    }

    /// A range of `seq` that contains all rows with a time at or after `from` and before `to`.
    pub(crate) fn seq_range_of(
        &self,
        tx: &Tx<'_>,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<SeqRange> {
        let Self { table, column } = self;
        let max_clock_skew = self.max_clock_skew(tx)?;
        // The bounds are the last row before the widened range of time, and the first row after it.
        let nearest = |time: Option<i64>, comparison: &str, order: &str| {
            let Some(time) = time else { return Ok(None) };
            let sql = format!(
                "SELECT seq FROM {table} WHERE {column} {comparison} ?1 ORDER BY {column} {order} LIMIT 1"
            );
            tx.query_first(&sql, params![time], |row| row.get(0))
        };
        let low = nearest(from.map(|from| from.as_millis() - max_clock_skew), "<", "DESC")?;
        let high = nearest(to.map(|to| to.as_millis() + max_clock_skew), ">=", "ASC")?;
        Ok((low, high))
    }

    /// The largest clock skew, in milliseconds: the time by which a row is older than a row stored before it.
    fn max_clock_skew(&self, tx: &Tx<'_>) -> Result<i64> {
        let sql = "SELECT CAST(value AS INTEGER) FROM meta WHERE name = ?1";
        Ok(tx.query_first(sql, params![self.meta_name()], |row| row.get(0))?.unwrap_or(MIN_CLOCK_SKEW_MILLIS))
    }

    fn meta_name(&self) -> String {
        format!("max_clock_skew of {}", self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::test_database::open_new_database;

    const SEQ_INDEX: SeqIndex = SeqIndex { table: "t", column: "at" };
    const MINUTE: i64 = 60_000;

    fn insert_rows(tx: &Tx<'_>, minutes: impl IntoIterator<Item = i64>) -> Result<()> {
        minutes.into_iter().try_for_each(|minute| {
            SEQ_INDEX.record_skew(tx, Timestamp::from_millis(minute * MINUTE))?;
            tx.execute("INSERT INTO t (at) VALUES (?1)", params![minute * MINUTE]).map(drop)
        })
    }

    /// The range of `seq` for these minutes, and whether the range contains all rows of these minutes.
    fn range_and_completeness(tx: &Tx<'_>, from: i64, to: i64) -> Result<(SeqRange, bool)> {
        let time = |minute| Some(Timestamp::from_millis(minute * MINUTE));
        let (low, high) = SEQ_INDEX.seq_range_of(tx, time(from), time(to))?;
        let sql = "SELECT count(*) FROM t WHERE at >= ?1 AND at < ?2 AND (seq <= ?3 OR seq >= ?4)";
        let missed: Option<i64> =
            tx.query_first(sql, params![from * MINUTE, to * MINUTE, low, high], |row| row.get(0))?;
        Ok(((low, high), missed == Some(0)))
    }

    #[tokio::test]
    async fn a_range_is_tight_and_contains_all_rows_even_after_the_clock_was_set_back() {
        let (_dir, db) = open_new_database();
        let written = db.write(|tx| {
            tx.execute("CREATE TABLE t (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL) STRICT", &[])?;
            tx.execute("CREATE INDEX t_at ON t (at)", &[])?;
            assert_eq!(range_and_completeness(tx, 1, 2)?, ((None, None), true));
            // One row per minute; the time of every third is two minutes later.
            insert_rows(tx, (0..300).map(|n| n + if n % 3 == 0 { 2 } else { 0 }))?;
            assert_eq!(range_and_completeness(tx, 100, 110)?, ((Some(98), Some(113)), true));
            assert_eq!(range_and_completeness(tx, -10, 500)?, ((None, None), true));
            // The clock is set back by an hour and goes on from there.
            insert_rows(tx, 240..400)?;
            for from in 0..400 {
                for length in [1, 7, 90] {
                    let ((low, high), complete) = range_and_completeness(tx, from, from + length)?;
                    assert!(complete, "{from} {length}: {low:?} {high:?}");
                }
            }
            // The range is wider by the clock skew and no more.
            let ((low, high), _) = range_and_completeness(tx, 100, 110)?;
            assert!(low > Some(30) && high < Some(180), "{low:?} {high:?}");
            Ok(())
        });
        written.await.unwrap();
    }
}
