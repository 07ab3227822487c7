//! Tables that grow with time: where in them a time lies.
//!
//! Their rows are stored in nearly the order in which things happened, so that a time can be found as a
//! place, and a page of last year's rows does not walk all that came since. Nearly: callers overtake each
//! other, and clocks are set back. So it is known how far a row ever was behind one before it, and a place is
//! sought that much to the side. What lies beyond it is not of that time, whatever the clock did.

use rusqlite::params;

use super::db::Tx;
use crate::domain::time::Timestamp;
use crate::error::Result;

/// A table with a `seq`, and an index over the time of its rows.
pub(crate) struct SeqIndex {
    /// Its name.
    pub(crate) table: &'static str,
    /// The time.
    pub(crate) column: &'static str,
}

/// A stretch of a list: beyond the one `seq`, up to the other, both left out.
pub(crate) type Stretch = (Option<i64>, Option<i64>);

/// So many milliseconds a row may be behind one before it without a note: what is folded is stored when its
/// minute has closed.
const USUAL: i64 = 120_000;

impl SeqIndex {
    /// Notes how far a row that is about to be stored is behind the latest, if that was never so far.
    pub(crate) fn note(&self, tx: &Tx<'_>, at: Timestamp) -> Result<()> {
        let Self { table, column } = self;
        let sql = format!("SELECT max({column}) FROM {table}");
        let latest: Option<i64> = tx.one(&sql, [], |row| row.get(0))?.flatten();
        let behind = latest.map_or(0, |latest| latest - at.as_millis());
        if behind > USUAL && behind > self.max_clock_skew(tx)? {
            let sql = "INSERT INTO meta (name, value) VALUES (?1, ?2) \
                       ON CONFLICT (name) DO UPDATE SET value = excluded.value";
            tx.execute(sql, params![self.name(), behind.to_string()])?;
        }
        Ok(())
    }

    /// Where every row lies whose time is not before the one and before the other.
    pub(crate) fn between(
        &self,
        tx: &Tx<'_>,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<Stretch> {
        let Self { table, column } = self;
        let max_clock_skew = self.max_clock_skew(tx)?;
        // Of the rows that are too early, and of those that are too late, the nearest.
        let place = |time: Option<i64>, side: &str, order: &str| {
            let Some(time) = time else { return Ok(None) };
            let sql =
                format!("SELECT seq FROM {table} WHERE {column} {side} ?1 ORDER BY {column} {order} LIMIT 1");
            tx.one(&sql, params![time], |row| row.get(0))
        };
        let low = place(from.map(|from| from.as_millis() - max_clock_skew), "<", "DESC")?;
        let high = place(to.map(|to| to.as_millis() + max_clock_skew), ">=", "ASC")?;
        Ok((low, high))
    }

    /// No row is further behind one before it.
    fn max_clock_skew(&self, tx: &Tx<'_>) -> Result<i64> {
        let sql = "SELECT CAST(value AS INTEGER) FROM meta WHERE name = ?1";
        Ok(tx.one(sql, params![self.name()], |row| row.get(0))?.unwrap_or(USUAL))
    }

    fn name(&self) -> String {
        format!("max_clock_skew of {}", self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::db::{Db, Options};

    const SEQ_INDEX: SeqIndex = SeqIndex { table: "t", column: "at" };
    const MINUTE: i64 = 60_000;

    fn stored(tx: &Tx<'_>, minutes: impl IntoIterator<Item = i64>) -> Result<()> {
        minutes.into_iter().try_for_each(|minute| {
            SEQ_INDEX.note(tx, Timestamp::from_millis(minute * MINUTE))?;
            tx.execute("INSERT INTO t (at) VALUES (?1)", [minute * MINUTE]).map(drop)
        })
    }

    /// The stretch of these minutes, and whether all that lie in them are in it.
    fn between(tx: &Tx<'_>, from: i64, to: i64) -> Result<(Stretch, bool)> {
        let time = |minute| Some(Timestamp::from_millis(minute * MINUTE));
        let (low, high) = SEQ_INDEX.between(tx, time(from), time(to))?;
        let sql = "SELECT count(*) FROM t WHERE at >= ?1 AND at < ?2 AND (seq <= ?3 OR seq >= ?4)";
        let outside = params![from * MINUTE, to * MINUTE, low, high];
        let missed: Option<i64> = tx.one(sql, outside, |row| row.get(0))?;
        Ok(((low, high), missed == Some(0)))
    }

    #[tokio::test]
    async fn a_stretch_is_tight_and_holds_all_even_when_the_clock_was_set() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            file: dir.path().join("tollhouse.db"),
            readers: 1,
            read_timeout: std::time::Duration::from_secs(10),
            writer_queue: 1,
            group_limit: 1,
            max_bytes: 0,
        };
        let db = Db::open(&options, |_| ()).unwrap();
        let written = db.write(|tx| {
            tx.execute("CREATE TABLE t (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL) STRICT", [])?;
            tx.execute("CREATE INDEX t_at ON t (at)", [])?;
            assert_eq!(between(tx, 1, 2)?, ((None, None), true));
            // A row a minute, of which every third overtook the next but one.
            stored(tx, (0..300).map(|n| n + if n % 3 == 0 { 2 } else { 0 }))?;
            assert_eq!(between(tx, 100, 110)?, ((Some(98), Some(113)), true));
            assert_eq!(between(tx, -10, 500)?, ((None, None), true));
            // An hour back, and on from there.
            stored(tx, 240..400)?;
            for from in 0..400 {
                for length in [1, 7, 90] {
                    let ((low, high), holds_all) = between(tx, from, from + length)?;
                    assert!(holds_all, "{from} {length}: {low:?} {high:?}");
                }
            }
            // No other than that much wider.
            let ((low, high), _) = between(tx, 100, 110)?;
            assert!(low > Some(30) && high < Some(180), "{low:?} {high:?}");
            Ok(())
        });
        written.await.unwrap();
    }
}
