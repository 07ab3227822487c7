//! Statements on the audit chain.

use super::engine::{self, Row, params};
use super::list::ListQuery;
use super::rows;
use super::seq_index::SeqIndex;
use super::tx::Tx;
use crate::domain::action::{Access, Action};
use crate::domain::audit::{AuditFilter, ChainHash, Event, GENESIS_HASH, Outcome};
use crate::domain::chain::{self, ChainAnchor, ChainLink};
use crate::domain::id;
use crate::domain::page::{Page, Rows};
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};

const SEQ_INDEX: SeqIndex = SeqIndex { table: "audit_events", column: "occurred_at" };

/// Returns `seq` and hash of the last audit event; `(0, GENESIS)` for an empty chain.
pub(crate) fn chain_head(tx: &Tx<'_>) -> Result<(i64, ChainHash)> {
    let sql = "SELECT seq, hash FROM audit_events ORDER BY seq DESC LIMIT 1";
    Ok(tx.query_first(sql, &[], |row| Ok((row.get(0)?, row.get(1)?)))?.unwrap_or((0, GENESIS_HASH)))
}

/// Appends an event to the audit chain and assigns its `seq`.
pub fn append(tx: &Tx<'_>, mut event: Event) -> Result<()> {
    // The head is read inside the transaction, because another process may have appended an event. It is read
    // once for all mutations of the transaction.
    let (last, prev_hash) = match tx.state.chain_head.get() {
        Some(head) => head,
        None => chain_head(tx)?,
    };
    let seq = last + 1;
    event.seq = Some(seq);
    let id = id::event_id_bytes(&event.id).ok_or_else(|| Error::internal("an event id is not a ULID"))?;
    let occurred_at = Timestamp::parse(&event.occurred_at)
        .ok_or_else(|| Error::internal("the time of an event is not valid"))?;
    SEQ_INDEX.record_skew(tx, occurred_at)?;
    let json = rows::to_json(&event)?;
    let hash = chain::hash(&prev_hash, &json);
    tx.execute(
        "INSERT INTO audit_events (seq, id, occurred_at, organization_id, actor_id, action, target_id, access, \
         outcome, prev_hash, hash, event) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        params![
            seq,
            id,
            occurred_at.as_millis(),
            event.organization_id,
            event.actor.id,
            event.action.as_str(),
            event.target.as_ref().and_then(|target| target.id.as_deref()),
            event.access.as_str(),
            event.outcome.as_str(),
            prev_hash,
            hash,
            json,
        ],
    )?;
    tx.state.chain_head.set(Some((seq, hash)));
    Ok(())
}

/// An audit event as stored.
#[derive(Clone, Debug)]
pub(crate) struct StoredEvent {
    pub(crate) link: ChainLink,
    /// True if the actor is a key of the event's organization.
    pub(crate) by_own_key: bool,
}

const SELECT: &str = "SELECT e.seq, e.prev_hash, e.hash, e.event, k.organization_id = e.organization_id \
                      FROM audit_events e LEFT JOIN api_keys k ON k.id = e.actor_id WHERE 1 = 1";

fn stored_event_from_row(row: &Row<'_>) -> engine::Result<StoredEvent> {
    let link = ChainLink { seq: row.get(0)?, prev_hash: row.get(1)?, hash: row.get(2)?, json: row.get(3)? };
    Ok(StoredEvent { link, by_own_key: row.get::<Option<bool>>(4)?.unwrap_or(false) })
}

/// Fetches an audit event. With `organization_id`, only if the event belongs to that organization.
pub(crate) fn get(tx: &Tx<'_>, event_id: &str, organization_id: Option<&str>) -> Result<Option<StoredEvent>> {
    let Some(id) = id::event_id_bytes(event_id) else { return Ok(None) };
    let sql = format!("{SELECT} AND e.id = ?1 AND (?2 IS NULL OR e.organization_id = ?2)");
    tx.query_first(&sql, params![id, organization_id], stored_event_from_row)
}

pub(crate) fn list(tx: &Tx<'_>, filter: &AuditFilter, page: &Page) -> Result<Rows<StoredEvent>> {
    list_query(tx, filter)?.fetch_page(tx, "e.seq", page, stored_event_from_row)
}

pub(super) fn list_query(tx: &Tx<'_>, filter: &AuditFilter) -> Result<ListQuery> {
    let list = ListQuery::new(SELECT);
    let list = match filter.outcome {
        // The index on the outcome excludes successes. SQLite uses such a partial index only if the query
        // repeats its condition.
        Some(outcome) if outcome != Outcome::Success => list.and_fixed_condition("e.outcome <> 'success'"),
        _ => list,
    };
    let list = list.and_equal(&[
        ("e.target_id", filter.target_id.as_deref()),
        ("e.actor_id", filter.actor_id.as_deref()),
        ("e.organization_id", filter.org_id.as_deref()),
        ("e.action", filter.action.as_deref()),
        ("e.outcome", filter.outcome.map(Outcome::name)),
        ("e.access", filter.access.map(Access::name)),
    ]);
    // The unary plus prevents SQLite from using the index on `occurred_at`, which would require a sort by
    // `seq`. `SEQ_INDEX` uses that index to find the range of `seq`.
    Ok(list
        .and_condition("+e.occurred_at >= ?", filter.from.map(Timestamp::as_millis))
        .and_condition("+e.occurred_at < ?", filter.to.map(Timestamp::as_millis))
        .in_seq_range(SEQ_INDEX.seq_range_of(tx, filter.from, filter.to)?))
}

/// A row of the audit chain, to be verified.
pub struct ChainRow {
    pub(crate) seq: i64,
    /// The link, and the columns that copy parts of the event's JSON for filters. A column that contradicts
    /// the JSON breaks the chain, as a wrong hash does. `None` when the row can't be read because it was
    /// modified.
    pub link: Option<(ChainLink, chain::EventColumns)>,
}

/// Fetches at most `max` rows of the audit chain whose `seq` is `first` or greater, oldest first.
pub fn chain_rows(tx: &Tx<'_>, first: i64, max: usize) -> Result<Vec<ChainRow>> {
    tx.query_all(
        "SELECT seq, prev_hash, hash, event, id, occurred_at, organization_id, actor_id, action, target_id, access, \
         outcome FROM audit_events WHERE seq >= ?1 ORDER BY seq LIMIT ?2",
        params![first, i64::try_from(max).unwrap_or(i64::MAX)],
        |row| Ok(ChainRow { seq: row.get(0)?, link: link_from_row(row).ok() }),
    )
}

fn link_from_row(row: &Row<'_>) -> engine::Result<(ChainLink, chain::EventColumns)> {
    let link = ChainLink { seq: row.get(0)?, prev_hash: row.get(1)?, hash: row.get(2)?, json: row.get(3)? };
    let columns = chain::EventColumns {
        id: row.get(4)?,
        occurred_at: rows::timestamp_column(row, 5)?,
        organization_id: row.get(6)?,
        actor_id: row.get(7)?,
        action: row.get(8)?,
        target_id: row.get(9)?,
        access: row.get(10)?,
        outcome: row.get(11)?,
    };
    Ok((link, columns))
}

/// The last pruning checkpoint: the newest event that pruning has deleted or is about to delete.
pub(crate) fn last_pruning_checkpoint(tx: &Tx<'_>) -> Result<Option<ChainAnchor>> {
    let sql = "SELECT event FROM audit_events WHERE action = ?1 ORDER BY seq DESC LIMIT 1";
    let event = tx.query_first(sql, params![Action::PruneAuditLog.name()], |row| row.get::<String>(0))?;
    // An unreadable event is no checkpoint; the verification of the chain reports it.
    let event: Option<Event> = event.and_then(|json| serde_json::from_str(&json).ok());
    Ok(event.as_ref().and_then(ChainAnchor::from_pruning_event))
}

/// The `seq` of the oldest stored audit event.
pub(crate) fn first_seq(tx: &Tx<'_>) -> Result<Option<i64>> {
    tx.query_first("SELECT seq FROM audit_events ORDER BY seq LIMIT 1", &[], |row| row.get(0))
}

/// The newest event that can be pruned with `time` as the limit: the event occurred before `time`, and no event
/// before it in the chain occurred between `time` and `now`. Events that seem to have occurred after `now` were
/// recorded while the clock was wrong; their position in the chain decides. `None` when no event can be pruned.
pub(crate) fn last_prunable_event(
    tx: &Tx<'_>,
    time: Timestamp,
    now: Timestamp,
) -> Result<Option<ChainAnchor>> {
    let (time, now) = (time.as_millis(), now.as_millis());
    let sql = "SELECT occurred_at FROM audit_events ORDER BY seq LIMIT 1";
    let oldest: Option<i64> = tx.query_first(sql, &[], |row| row.get(0))?;
    if oldest.is_none_or(|oldest| (time..=now).contains(&oldest)) {
        return Ok(None);
    }
    // The unary plus makes SQLite use the index on `occurred_at`, which is small compared with the table.
    let sql = "SELECT min(+seq) FROM audit_events WHERE occurred_at BETWEEN ?1 AND ?2";
    let first_kept: Option<i64> = tx.query_first(sql, params![time, now], |row| row.get(0))?.flatten();
    let before = first_kept.unwrap_or(i64::MAX);
    // The unary plus makes SQLite walk back from `first_kept`, where it finds such an event at once.
    let sql =
        "SELECT seq, hash FROM audit_events WHERE seq < ?1 AND +occurred_at < ?2 ORDER BY seq DESC LIMIT 1";
    let anchor = |row: &Row<'_>| Ok(ChainAnchor { seq: row.get(0)?, hash: row.get(1)? });
    tx.query_first(sql, params![before, time], anchor)
}

/// Deletes audit events up to and including a checkpoint, oldest first, at most `max`. Returns the number of
/// deleted events: 0 if the checkpoint isn't an event of this chain.
pub(crate) fn delete_through(tx: &Tx<'_>, checkpoint: ChainAnchor, max: usize) -> Result<usize> {
    tx.execute(
        "DELETE FROM audit_events WHERE seq IN (SELECT seq FROM audit_events WHERE seq <= ?1 \
         AND (SELECT hash FROM audit_events WHERE seq = ?1) = ?2 ORDER BY seq LIMIT ?3)",
        params![checkpoint.seq, checkpoint.hash, i64::try_from(max).unwrap_or(i64::MAX)],
    )
}
