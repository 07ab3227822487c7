//! Imports records from other systems or from an export, with their state and the hashes of API key secrets.
//!
//! Each record is one atomic change with a savepoint and an audit event; the writer commits many changes
//! together. A record that exists already with the same values is skipped, so that an import can be repeated.
//! A record that exists with different values is refused. Existing records are never changed.

mod records;
mod source;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use records::{StoredRecord, store_record};
pub(crate) use source::{ImportSource, SourceRecord};

use super::check::ProgressFn;
use crate::app::App;
use crate::domain::id::Kind;
use crate::domain::import::{ImportDefaults, ImportLine, Record};
use crate::domain::redaction::Redactor;
use crate::error::{Code, Error, Result};
use crate::store;

/// The largest number of records that wait for the writer at a time, and thus of records in one commit.
const MAX_QUEUED_RECORDS: usize = 256;

/// The largest number of refused records that the report lists; further refused records are only counted.
const MAX_LISTED_REFUSALS: usize = 1000;

/// The options of an import.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImportOptions {
    /// True if unknown scopes are added to the catalogue.
    pub(crate) create_scopes: bool,
    /// The id of the organization to which API keys without an organization are assigned.
    pub(crate) organization_id: Option<String>,
}

/// The result of an import, printed by `import --json`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ImportReport {
    /// The number of stored records, by kind.
    pub(crate) imported: BTreeMap<&'static str, u64>,
    /// The number of records that existed already with the same values, by kind.
    pub(crate) unchanged: BTreeMap<&'static str, u64>,
    /// The number of refused records.
    pub(crate) refused: u64,
    /// The first refused records, at most 1,000.
    pub(crate) refusals: Vec<RefusedRecord>,
    /// True if the source is an export whose end is missing.
    pub(crate) cut_off: bool,
    /// True if the database has a platform key that can manage API keys after the import.
    pub(crate) has_platform_key: bool,
}

/// A record that was refused and therefore not stored.
#[derive(Debug, Serialize)]
pub(crate) struct RefusedRecord {
    /// The record's position in the source.
    pub(crate) at: String,
    /// The reasons for the refusal: what is wrong in which field of the record.
    pub(crate) reasons: Vec<String>,
}

/// A record of the source, or the reasons for its refusal.
type ParsedRecord = std::result::Result<Box<Record>, Vec<String>>;

/// Imports all records of a source and counts them in `report`.
///
/// # Errors
/// Errors of reading the source or of the database. Records that were stored before the error stay stored, and
/// `report` counts them.
pub(crate) async fn run(
    app: &App,
    source: &mut ImportSource<'_>,
    options: &ImportOptions,
    progress: ProgressFn<'_>,
    report: &mut ImportReport,
) -> Result<()> {
    let defaults = ImportDefaults {
        organization_id: options
            .organization_id
            .as_deref()
            .map(|id| Kind::Organization.convert_foreign_id(id)),
    };
    let max_queued = MAX_QUEUED_RECORDS.min(app.config.database.writer_queue);
    let mut has_begin = false;
    let mut has_end = false;
    let mut records = 0;
    let redactor = Redactor::default();
    let mut queue: Vec<(String, ParsedRecord)> = Vec::with_capacity(max_queued);
    while let Some(SourceRecord { at, json }) = source.take_next()? {
        let now = app.clock.now();
        let line = json.map_err(|reason| vec![redactor.recorded_text(&reason)]).and_then(|mut json| {
            redactor.flag_secrets(&mut json);
            ImportLine::read(&json, &defaults, now).map_err(|error| refusal_reasons(&error))
        });
        let record = match line {
            Ok(ImportLine::Begin) => {
                has_begin = true;
                continue;
            }
            Ok(ImportLine::End(count)) => {
                has_end = count == records;
                continue;
            }
            Ok(ImportLine::Record(record)) => Ok(record),
            Err(reasons) => Err(reasons),
        };
        records += 1;
        queue.push((at, record));
        if queue.len() >= max_queued {
            store_records(app, std::mem::take(&mut queue), options, report).await?;
            progress("records", source.amount_read(), source.total_amount().unwrap_or(0));
        }
    }
    store_records(app, queue, options, report).await?;
    report.cut_off = has_begin && !has_end;
    report.has_platform_key = app.db.read(|tx| store::api_keys::has_other_recovery_key(tx, "")).await?;
    Ok(())
}

/// Stores records together, in their order, because an organization must be stored before its API keys.
async fn store_records(
    app: &App,
    records: Vec<(String, ParsedRecord)>,
    options: &ImportOptions,
    report: &mut ImportReport,
) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let started_at = app.clock.monotonic();
    let at_once = records.len();
    // The first poll of each future, which happens in the order of the stream, puts its change into the writer's
    // queue.
    let mut results = stream::iter(records)
        .map(|(at, record)| async move {
            let stored = match record {
                Ok(record) => store_record(app, *record, options.create_scopes).await,
                Err(reasons) => return (at, Ok(Err(reasons))),
            };
            match stored {
                Err(error) if is_record_error(&error) => (at, Ok(Err(refusal_reasons(&error)))),
                stored => (at, stored.map(Ok)),
            }
        })
        .buffered(at_once);
    while let Some((at, result)) = results.next().await {
        report.add(at, result?);
    }
    // The import pauses, because a server that runs on the same database waits for the same write lock.
    let elapsed = app.clock.monotonic() - started_at;
    tokio::time::sleep((elapsed / 8).min(Duration::from_millis(50))).await;
    Ok(())
}

/// True if an error is caused by the record itself, so that only this record is refused.
fn is_record_error(error: &Error) -> bool {
    matches!(
        error.code,
        Code::InvalidRequest | Code::SecretInField | Code::AlreadyExists | Code::NotFound | Code::Conflict
    )
}

/// The messages of an error, each with the field of the record that it concerns. Long messages are truncated
/// and secrets are cut out, because they may contain values of the record.
fn refusal_reasons(error: &Error) -> Vec<String> {
    let redactor = Redactor::default();
    if error.details.is_empty() {
        return vec![redactor.recorded_text(&error.message)];
    }
    let reason = |detail: &crate::error::ErrorDetail| {
        let field = detail.pointer.as_deref().unwrap_or_default().trim_start_matches('/');
        let separator = if field.is_empty() { "" } else { ": " };
        redactor.recorded_text(&format!("{field}{separator}{}", detail.message))
    };
    error.details.iter().map(reason).collect()
}

impl ImportReport {
    /// Counts a record that was stored, that existed already, or that was refused for these reasons.
    fn add(&mut self, at: String, result: std::result::Result<StoredRecord, Vec<String>>) {
        match result {
            Ok(StoredRecord { kind, is_new }) => {
                let counts = if is_new { &mut self.imported } else { &mut self.unchanged };
                *counts.entry(kind.name()).or_default() += 1;
            }
            Err(reasons) => {
                self.refused += 1;
                if self.refusals.len() < MAX_LISTED_REFUSALS {
                    self.refusals.push(RefusedRecord { at, reasons });
                }
            }
        }
    }
}
