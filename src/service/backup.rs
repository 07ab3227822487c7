//! Backups: copies the database while other processes may write to it, and verifies the copy before renaming
//! it to its final name.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use super::check::{ProgressFn, check_database};
use super::{RequestContext, mutate};
use crate::app::App;
use crate::config::DatabaseConfig;
use crate::domain::access::Caller;
use crate::domain::action::{Action, TargetKind};
use crate::domain::audit::{AuditEntry, Change};
use crate::error::{Code, Error, Result};
use crate::store;
use crate::store::backup::{copy_database, is_same_file};
use crate::store::part_file::PartFile;
use crate::store::reader::Reader;

/// The result of a backup, printed by `backup --json`.
#[derive(Debug, Serialize)]
pub(crate) struct BackupReport {
    pub(crate) file: PathBuf,
    /// The size of the backup file, in bytes.
    pub(crate) bytes: u64,
    /// The head of the backup's audit chain, as `seq:hash`. A copy of the head that is kept elsewhere reveals
    /// whether the backup was replaced by another file.
    pub(crate) audit_head: String,
    /// The number of rows of each table in the backup.
    pub(crate) rows: store::check::RowCounts,
    /// The duration of copying the database, in seconds.
    pub(crate) copy_seconds: f64,
    /// The duration of verifying the copy, in seconds.
    pub(crate) verification_seconds: f64,
}

/// Copies the database to a temporary file beside `target`, verifies the copy, and only then renames the copy
/// to `target`.
///
/// # Errors
/// `ALREADY_EXISTS` when `target` exists and `replace` is false; `CONFLICT` when `target` is not a regular
/// file, or when the copy fails verification, after which the copy is removed.
pub(crate) fn write(
    app: &App,
    target: &Path,
    replace: bool,
    progress: ProgressFn<'_>,
) -> Result<BackupReport> {
    let live = app.config.database.file();
    if is_same_file(&live, target) {
        return Err(Error::new(Code::Conflict, "This is the database itself. Choose another file."));
    }
    let part = PartFile::create_for_operator(target, replace, &app.config.database.dir)?;
    let report = copy_and_verify(app, &live, part.path(), progress)?;
    part.rename_to_target(replace)?;
    Ok(BackupReport { file: target.to_owned(), ..report })
}

/// Copies the database to a temporary file in the data directory, which exists as long as the returned value, and
/// verifies the copy.
///
/// # Errors
/// `CONFLICT` when the copy fails verification.
pub(crate) fn write_temporary(app: &App, progress: ProgressFn<'_>) -> Result<(PartFile, BackupReport)> {
    let dir = &app.config.database.dir;
    let part = PartFile::create(&dir.join("tollhouse.backup"))?;
    let report = copy_and_verify(app, &app.config.database.file(), part.path(), progress)?;
    Ok((part, report))
}

/// Records that a backup was made: as an audit event, and as the time of the last backup.
pub(crate) async fn record(app: &App, report: &BackupReport) -> Result<()> {
    let ctx = RequestContext::internal(app, Caller::Operator, Action::BackUpDatabase)?;
    let name = report.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let head = Change { field: "audit_head".into(), from: Value::Null, to: json!(report.audit_head) };
    let entry = AuditEntry::for_resource(None, TargetKind::Database, DatabaseConfig::FILE_NAME, &name)
        .with_changes(vec![head]);
    let now = ctx.now;
    mutate(app, &ctx, 200, move |tx, _| {
        store::backup::set_last_backup_at(tx, now)?;
        Ok(((), vec![entry.clone()]))
    })
    .await
}

/// Copies the database to the temporary file `part`, and verifies the copy.
fn copy_and_verify(app: &App, live: &Path, part: &Path, progress: ProgressFn<'_>) -> Result<BackupReport> {
    let started_at = app.clock.monotonic();
    let copied = copy_database(&mut Reader::open(live)?, part, &|done, total| progress("copy", done, total))?;
    let copied_at = app.clock.monotonic();
    let findings = check_database(&mut Reader::open(part)?, progress)?;
    let head =
        (findings.audit.last_seq.unwrap_or(0), findings.audit.head_hash.unwrap_or(hex::encode([0; 32])));
    let mut faults = findings.faults;
    if head != (copied.head.0, hex::encode(copied.head.1)) {
        faults.push(format!("its audit log ends at event {} instead of {}", head.0, copied.head.0));
    }
    if findings.rows != copied.rows {
        faults.push("its row counts differ from the database's".to_owned());
    }
    if !faults.is_empty() {
        let message = format!("The copy failed verification and was removed: {}.", faults.join("; "));
        return Err(Error::new(Code::Conflict, message));
    }
    Ok(BackupReport {
        file: part.to_owned(),
        bytes: copied.bytes,
        audit_head: format!("{}:{}", head.0, head.1),
        rows: copied.rows,
        copy_seconds: (copied_at - started_at).as_secs_f64(),
        verification_seconds: (app.clock.monotonic() - copied_at).as_secs_f64(),
    })
}
