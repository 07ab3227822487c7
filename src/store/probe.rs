//! Probes of what verifications and revocations need, for the readiness check: index lookups of a few rows.
//!
//! A damaged page concerns only the rows on it, so each table is probed at several places. It counts as unusable if
//! all of them fail.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::engine::params;
use super::tx::Tx;
use super::{api_keys, audit};
use crate::clock::Clock;
use crate::domain::access::Caller;
use crate::domain::action::{Access, Action, TargetKind};
use crate::domain::api_key::{ApiKey, Status};
use crate::domain::audit::{Actor, Event, EventContext, Outcome, Target};
use crate::domain::id::Kind;
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, Result};

/// Time for which the result of a probe is reused.
const REUSE_FOR: Duration = Duration::from_secs(1);

/// Number of places at which a table is probed.
const MAX_PLACES: usize = 4;

/// The result of a probe, with the monotonic time at its end; `None` before the first run.
type LastRun = Option<(Duration, Result<()>)>;

/// A probe whose result is reused.
#[derive(Default)]
pub(super) struct CachedProbe(Arc<Mutex<LastRun>>);

impl CachedProbe {
    /// Returns the result of `probe`, or that of the last run if it ended less than a second ago. One runs at a time, and
    /// is completed even if nobody waits for it any more.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the result isn't there after `patience`; otherwise those of the probe.
    pub(super) async fn run(
        &self,
        clock: &Clock,
        patience: Duration,
        probe: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Result<()> {
        let clock = clock.clone();
        let result = async {
            let mut last = Arc::clone(&self.0).lock_owned().await;
            if let Some((at, result)) = &*last
                && clock.monotonic().saturating_sub(*at) < REUSE_FOR
            {
                return result.clone();
            }
            let running = tokio::spawn(async move {
                let result = probe.await;
                *last = Some((clock.monotonic(), result.clone()));
                result
            });
            running.await.map_err(Error::internal)?
        };
        let timed_out = |_| {
            let message =
                "The database doesn't respond: its disk is slow, or another process holds its lock.";
            Err(Error::unavailable(message, 1))
        };
        tokio::time::timeout(patience, result).await.unwrap_or_else(timed_out)
    }
}

/// A number that selects other rows for each probe.
pub(super) fn spread_bits(now: Duration) -> u128 {
    (now.as_nanos() + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

/// Writes a value and deletes it. The value is longer than a page, so this fails when the file is at its size limit.
pub(super) fn probe_growth(tx: &Tx<'_>) -> Result<usize> {
    tx.execute("INSERT INTO meta (name, value) VALUES ('probe', ?1)", params!["x".repeat(8192)])?;
    tx.execute("DELETE FROM meta WHERE name = 'probe'", &[])
}

/// Reads what a verification reads. Returns the first fault of the database, if there was one although the probe
/// succeeded. `random` selects the rows.
///
/// # Errors
/// The last error, if no key can be read at any of the places.
pub(super) fn probe_verification(tx: &Tx<'_>, random: u128) -> Result<Option<Error>> {
    let mut first_fault = None;
    probe_places(&mut first_fault, random, |bytes| {
        let from = [[bytes; 16], [bytes; 16]].concat();
        let sql = "SELECT hash FROM api_key_hashes WHERE hash >= ?1 LIMIT 1";
        let Some(hash) = tx.query_first(sql, params![from], |row| row.get(0))? else { return Ok(false) };
        api_keys::find_credential_by_hash(tx, &hash)?;
        Ok(true)
    })?;
    // Keys without an organization or owner don't need these tables, so a fault is only remembered.
    for (prefix, sql) in [
        ("org_", "SELECT status FROM organizations WHERE id >= ?1 ORDER BY id LIMIT 1"),
        ("user_", "SELECT status FROM users WHERE id >= ?1 ORDER BY id LIMIT 1"),
        (
            "org_",
            "SELECT role FROM memberships WHERE organization_id >= ?1 ORDER BY organization_id, user_id LIMIT 1",
        ),
    ] {
        drop(probe_places(&mut first_fault, random, |bytes| {
            // The first place is before all ids.
            let from =
                if bytes == 0 { String::new() } else { format!("{prefix}{}", char::from(bytes % 75 + 48)) };
            Ok(tx.query_first(sql, params![from], |row| row.get::<String>(0))?.is_some())
        }));
    }
    Ok(first_fault)
}

/// Revokes a key within the transaction, and records that. The result is always an error, so that the change is rolled
/// back: [`is_rolled_back`] tells whether the revocation succeeded.
///
/// # Errors
/// `PRECONDITION_FAILED` if a revocation succeeded, with the fault of the database if earlier ones failed; the last
/// error, if no key at any of the places can be revoked.
pub(super) fn probe_revocation(tx: &Tx<'_>, random: u128) -> Result<()> {
    let max: i64 =
        tx.query_first("SELECT max(seq) FROM api_keys", &[], |row| row.get(0))?.unwrap_or(None).unwrap_or(0);
    let mut first_fault = None;
    let mut event_number = 0;
    probe_places(&mut first_fault, random, |bytes| {
        let from = max / 256 * i64::from(bytes) + max % 256 * i64::from(bytes) / 256;
        let sql = "SELECT id FROM api_keys WHERE seq >= ?1 ORDER BY seq LIMIT 1";
        let Some(id) = tx.query_first::<String>(sql, params![from], |row| row.get(0))? else {
            return Ok(false);
        };
        let Some(before) = api_keys::get(tx, &id)? else { return Ok(false) };
        // The status differs from the stored one, so that the indexes and counts change, too.
        let status = if before.status == Status::Revoked { Status::Disabled } else { Status::Revoked };
        let after = ApiKey { status, revoked_at: Some(Timestamp::from_millis(0)), ..before.clone() };
        api_keys::retire_previous_secret(tx, &id)?;
        api_keys::update(tx, &before, &after)?;
        event_number += 1;
        audit::append(tx, revocation_event(tx, &before, random.wrapping_add(event_number))?)?;
        Ok(true)
    })?;
    let rolled_back = Error::new(Code::PreconditionFailed, "The probe is rolled back.");
    Err(first_fault.map_or(rolled_back, |fault| Error { code: Code::PreconditionFailed, ..fault }))
}

/// The audit event of the probe's revocation. It has the time of the last event, so that it is inserted beside that.
fn revocation_event(tx: &Tx<'_>, key: &ApiKey, random: u128) -> Result<Event> {
    let sql = "SELECT occurred_at FROM audit_events ORDER BY seq DESC LIMIT 1";
    let at = Timestamp::from_millis(tx.query_first(sql, &[], |row| row.get(0))?.unwrap_or(0));
    Ok(Event {
        id: Kind::Event.new_id(at, random),
        seq: None,
        occurred_at: at.to_string(),
        organization_id: key.organization_id.clone(),
        actor: Actor::from(&Caller::System),
        action: Action::RevokeApiKey.into(),
        access: Access::Write.into(),
        target: Some(Target { kind: TargetKind::ApiKey.into(), id: Some(key.id.clone()), name: None }),
        outcome: Outcome::Success.into(),
        code: None,
        count: 1,
        changes: Vec::new(),
        context: EventContext::default(),
        prev_hash: None,
        hash: None,
    })
}

/// True if this is the error of a [`probe_revocation`] that succeeded.
pub(super) fn is_rolled_back(error: &Error) -> bool {
    error.code == Code::PreconditionFailed
}

/// Probes the first place and random ones. `probe` tells whether there was a row. Fails if a row was met at none of the
/// places, and the probe failed at one.
fn probe_places(
    first_fault: &mut Option<Error>,
    random: u128,
    mut probe: impl FnMut(u8) -> Result<bool>,
) -> Result<()> {
    let mut has_succeeded = false;
    let mut result = Ok(());
    for place in [0].into_iter().chain(random.to_ne_bytes()).take(MAX_PLACES) {
        match probe(place) {
            Ok(found) => has_succeeded |= found,
            Err(error) if error.database_fault.is_some() => {
                first_fault.get_or_insert_with(|| error.clone());
                result = Err(error);
            }
            Err(error) => return Err(error),
        }
    }
    if has_succeeded { Ok(()) } else { result }
}
