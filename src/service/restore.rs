//! Restores a backup: replaces the database with the backup, without restoring access that was revoked after
//! the backup was made.
//!
//! The backup is copied into a separate directory beside the database and verified there. Every revocation
//! made since the backup is read from the database to be replaced and applied to the copy
//! (`reapply_revocations`). Only then is the copy atomically renamed to the database's name. The replaced
//! database file is kept beside the new one.

mod reapply_revocations;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use super::check::{ProgressFn, check_database};
use super::{RequestContext, lifecycle, mutate, secret_prefixes};
use crate::app::App;
use crate::clock::Clock;
use crate::config::{Config, DatabaseConfig};
use crate::domain::access::Caller;
use crate::domain::action::{Action, TargetKind};
use crate::domain::audit::{AuditEntry, ChainHash, Change};
use crate::domain::restore::ReappliedRevocations;
use crate::domain::secret_prefix::KnownPrefixes;
use crate::error::{Code, Error, Result};
use crate::store;
use crate::store::backup::{copy_database, is_same_file, with_suffix};
use crate::store::reader::Reader;
use crate::store::restore::{ReplacedDatabase, StagingDir, disable_wal_mode, replace_database};

/// The options of a restore.
#[derive(Clone, Debug)]
pub(crate) struct RestoreOptions {
    /// The path of the backup file.
    pub(crate) file: PathBuf,
    /// True if an existing database may be replaced.
    pub(crate) replace: bool,
    /// True if the backup is restored even if it is unknown what was revoked since the backup.
    pub(crate) accept_unrevoked: bool,
}

/// The result of a restore, printed by `restore --json`.
#[derive(Debug, Serialize)]
pub(crate) struct RestoreReport {
    /// The path of the restored database.
    pub(crate) file: PathBuf,
    /// The path at which the replaced database is kept; `None` if no database was replaced.
    pub(crate) replaced: Option<PathBuf>,
    /// The head of the backup's audit chain, as `seq:hash`.
    pub(crate) audit_head: String,
    /// The head of the replaced database's audit chain, as `seq:hash`; `None` if the chain could not be read.
    pub(crate) replaced_audit_head: Option<String>,
    /// True if all revocations since the backup are known: the replaced database is a later state of the
    /// backup and was read completely.
    pub(crate) complete: bool,
    /// The numbers of revocations that were reapplied to the restored database.
    #[serde(rename = "carried")]
    pub(crate) reapplied: ReappliedRevocations,
}

/// Formats the head of an audit chain as `seq:hash`.
fn format_head((seq, hash): &(i64, ChainHash)) -> String {
    format!("{seq}:{}", hex::encode(hash))
}

fn conflict_error(message: String) -> Error {
    Error::new(Code::Conflict, message)
}

const ACCEPT_HINT: &str = "--accept-unrevoked restores anyway, with every right as it was in the backup";

/// Restores a backup. The database file is replaced atomically: at any moment it is either the complete old
/// database or the complete new one.
///
/// # Errors
/// `CONFLICT` with a message that says what to do. If an error is returned, nothing was replaced.
pub(crate) async fn run(
    config: Config,
    clock: Clock,
    options: &RestoreOptions,
    progress: ProgressFn<'_>,
) -> Result<RestoreReport> {
    let dir = config.database.dir.clone();
    let file = config.database.file();
    let mut backup = Reader::open(&options.file).map_err(|error| match error.cause {
        Some(cause) => conflict_error(format!("Could not read the backup: {cause}. Use another backup.")),
        None => error,
    })?;
    if is_same_file(&file, &options.file) {
        return Err(conflict_error("This is the database itself. Choose a backup.".to_owned()));
    }
    let exists = store::file_access::exists(&file)?;
    if exists && !options.replace {
        let message = format!(
            "A database already exists at {}. Use --force to replace it; the old one is kept beside it.",
            file.display()
        );
        return Err(conflict_error(message));
    }
    if !exists && !options.accept_unrevoked {
        let message = format!(
            "There is no database at {}, so it is unknown what was revoked since the backup. {ACCEPT_HINT}.",
            file.display()
        );
        return Err(conflict_error(message));
    }
    // The lock is held until the restore ends, so that no server can start during the restore.
    let _lock = store::db::lock_data_dir(&dir).map_err(|error| match error.code {
        Code::Conflict => conflict_error(format!("{} Stop it first.", error.message)),
        _ => error,
    })?;
    let replaced_db = if exists { open_replaced(&file, options.accept_unrevoked)? } else { None };
    let staged = StagingDir::create(&dir)?;
    let restore = Restore { config, clock, options, file, staged, replaced_db };
    restore.run(&mut backup, progress).await
}

/// Opens and checks the database to be replaced; returns `None` if the database can't be read and
/// `accept_unrevoked` is true.
fn open_replaced(file: &Path, accept_unrevoked: bool) -> Result<Option<ReplacedDatabase>> {
    let opened = ReplacedDatabase::lock_for_replacement(file).and_then(|replaced_db| {
        let Some(mut replaced_db) = replaced_db else { return Ok(None) };
        let mut faults = replaced_db.read(store::check::find_page_errors)?;
        // With a changed schema, what was revoked may have been undone.
        faults.extend(replaced_db.read(store::schema_comparison::find_schema_differences)?);
        match faults.first() {
            None => Ok(Some(replaced_db)),
            Some(fault) => Err(Error::internal(fault.as_str())),
        }
    });
    match opened {
        Ok(Some(replaced_db)) => Ok(Some(replaced_db)),
        Ok(None) => Err(conflict_error("Another process has the database open. Stop it first.".to_owned())),
        Err(_) if accept_unrevoked => Ok(None),
        Err(error) => {
            let cause = error.cause.unwrap_or_else(|| error.message.to_string());
            Err(conflict_error(format!(
                "{} can't be read ({cause}), so it is unknown what was revoked since the backup. {ACCEPT_HINT}.",
                file.display()
            )))
        }
    }
}

/// A restore in progress.
struct Restore<'a> {
    config: Config,
    clock: Clock,
    options: &'a RestoreOptions,
    file: PathBuf,
    staged: StagingDir,
    replaced_db: Option<ReplacedDatabase>,
}

impl Restore<'_> {
    async fn run(mut self, backup: &mut Reader, progress: ProgressFn<'_>) -> Result<RestoreReport> {
        let new = self.staged.create_file(DatabaseConfig::FILE_NAME)?;
        let copied = copy_database(backup, &new, &|done, of| progress("copy", done, of))?;
        let mut reader = Reader::open(&new)?;
        let backup_name = self.options.file.display().to_string();
        ensure_no_faults(&mut reader, &backup_name, progress)?;
        let origin = reader.read(store::check::database_origin)?;
        drop(reader);

        let mut replaced_head = None;
        let mut complete = false;
        if let Some(replaced_db) = &mut self.replaced_db {
            let head = replaced_db.read(store::audit::chain_head)?;
            complete = replaced_db.read(|tx| Ok(store::check::database_origin(tx)? == origin))?
                && continues_chain(replaced_db, &copied.head)?;
            replaced_head = Some(format_head(&head));
        }
        if !complete && !self.options.accept_unrevoked {
            return Err(conflict_error(format!(
                "The database at {} is not a later state of this backup (its audit log does not continue the \
                 backup's), so it is unknown what was revoked since. {ACCEPT_HINT}.",
                self.file.display()
            )));
        }

        let mut config = self.config.clone();
        config.database.dir = self.staged.path().to_owned();
        config.database.must_exist = true;
        let app = lifecycle::open(config, self.clock.clone()).await?;
        let result = self
            .record_and_reapply(
                &app,
                &format_head(&copied.head),
                replaced_head.as_deref(),
                complete,
                progress,
            )
            .await;
        let closed = lifecycle::close(&app).await;
        drop(app);
        let reapplied = result?;
        closed?;
        disable_wal_mode(&new)?;
        // The result is verified too: reapplying revocations must not have damaged the database.
        let result_name = format!("The restored copy of {backup_name}");
        ensure_no_faults(&mut Reader::open(&new)?, &result_name, progress)?;

        let model = if self.file.exists() { &self.file } else { &self.config.database.dir };
        store::file_access::copy_owner(model, &new)?;
        let kept_as = self.file.exists().then(|| unused_name_for_replaced(&self.file));
        replace_database(&new, &self.file, kept_as.as_deref())?;
        Ok(RestoreReport {
            file: self.file,
            replaced: kept_as,
            audit_head: format_head(&copied.head),
            replaced_audit_head: replaced_head,
            complete,
            reapplied,
        })
    }

    /// Records the restore as an audit event, then reapplies what was revoked since the backup. `is_later_state` is true
    /// if the replaced database is a later state of the backup.
    async fn record_and_reapply(
        &mut self,
        app: &App,
        head: &str,
        replaced_head: Option<&str>,
        is_later_state: bool,
        progress: ProgressFn<'_>,
    ) -> Result<ReappliedRevocations> {
        let ctx = RequestContext::internal(app, Caller::Operator, Action::RestoreDatabase)?;
        let change = |field: &str, from, to| Change { field: field.to_owned(), from, to };
        let entry = AuditEntry::for_resource(None, TargetKind::Database, DatabaseConfig::FILE_NAME, "")
            .with_changes(vec![
                change("audit_head", json!(replaced_head), json!(head)),
                change("accept_unrevoked", Value::Null, json!(self.options.accept_unrevoked)),
            ]);
        let known_prefixes = match &mut self.replaced_db {
            Some(replaced_db) if is_later_state => {
                replaced_db.read(store::settings::get)?.known_prefixes.clone()
            }
            _ => KnownPrefixes::default(),
        };
        let now = ctx.expiry_time;
        mutate(app, &ctx, 200, move |tx, _| {
            // Keys that were rotated since the backup may have these prefixes.
            secret_prefixes::add_replaced(tx, &known_prefixes, now)?;
            Ok(((), vec![entry.clone()]))
        })
        .await?;
        match &mut self.replaced_db {
            Some(replaced_db) => {
                let reapplied = reapply_revocations::reapply_all(app, replaced_db, progress).await?;
                // A second pass finds what the first one didn't withdraw.
                let left = reapply_revocations::reapply_all(app, replaced_db, progress).await?;
                if left != ReappliedRevocations::default() {
                    return Err(conflict_error(
                        "Revocations since the backup could not be reapplied. The database was not replaced."
                            .to_owned(),
                    ));
                }
                Ok(reapplied)
            }
            None => Ok(ReappliedRevocations::default()),
        }
    }
}

/// Checks a database. `CONFLICT` with its faults when it has any; `name` names it in the message.
fn ensure_no_faults(reader: &mut Reader, name: &str, progress: ProgressFn<'_>) -> Result<()> {
    let findings = check_database(reader, progress)?;
    if findings.ok {
        return Ok(());
    }
    Err(conflict_error(format!(
        "{name} failed verification: {}. The database was not replaced.",
        findings.faults.join("; ")
    )))
}

/// True if the audit chain of the replaced database continues from this head. If retention has removed the
/// head's event, the chain can't be compared; the result is then true, and the caller relies on the same
/// origin of both databases.
fn continues_chain(replaced_db: &mut ReplacedDatabase, head: &(i64, ChainHash)) -> Result<bool> {
    let (seq, hash) = *head;
    if seq == 0 {
        return Ok(true);
    }
    let (event_hash, first) = replaced_db.read(|tx| store::restore::event_hash_and_first_seq(tx, seq))?;
    Ok(match event_hash {
        Some(event_hash) => event_hash == hash,
        None => first.is_some_and(|first| first > seq),
    })
}

/// Returns an unused file name beside the database, for the replaced database.
fn unused_name_for_replaced(file: &Path) -> PathBuf {
    let first = with_suffix(file, ".before-restore");
    let numbered = (2..).map(|n: u32| with_suffix(file, &format!(".before-restore-{n}")));
    std::iter::once(first.clone()).chain(numbered).find(|name| !name.exists()).unwrap_or(first)
}
