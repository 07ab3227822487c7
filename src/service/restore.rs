//! Replaces the database with a backup, without restoring any access that was revoked since.
//!
//! The backup is copied into a directory of its own beside the database and verified there. Every revocation
//! made since is read from the database to be replaced and applied to the copy (`reapply_revocations`). Only
//! then is the copy atomically renamed to the database's name; the replaced file is kept beside it.

mod reapply_revocations;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use super::check::{ProgressFn, examine};
use super::{RequestContext, mutate};
use crate::app::App;
use crate::clock::Clock;
use crate::config::Config;
use crate::domain::access::Caller;
use crate::domain::audit::{ChainHash, Change, Entry};
use crate::domain::chain::hex;
use crate::domain::restore::ReappliedRevocations;
use crate::error::{Code, Error, Result};
use crate::store;
use crate::store::backup::{copy, is_same_file, with_suffix};
use crate::store::reader::Reader;
use crate::store::restore::{
    ReplacedDatabase, create_staging_dir, leave_wal, remove_staging_dir, replace_database,
};

/// The options of a restore.
#[derive(Clone, Debug)]
pub(crate) struct RestoreOptions {
    /// The backup.
    pub(crate) file: PathBuf,
    /// Replace an existing database.
    pub(crate) replace: bool,
    /// Restore even if it is unknown what was revoked since the backup.
    pub(crate) accept_unrevoked: bool,
}

/// The result of a restore, printed by `restore --json`.
#[derive(Debug, Serialize)]
pub(crate) struct Restored {
    /// The database.
    pub(crate) file: PathBuf,
    /// Where the replaced database is kept.
    pub(crate) replaced: Option<PathBuf>,
    /// The head of the backup's audit chain.
    pub(crate) audit_head: String,
    /// The head of the replaced database's audit chain; `None` if it could not be read.
    pub(crate) replaced_audit_head: Option<String>,
    /// True if the replaced database is a later state of the backup and was read completely.
    pub(crate) complete: bool,
    /// The revocations applied to the restored database.
    #[serde(rename = "carried")]
    pub(crate) reapplied: ReappliedRevocations,
}

/// The head of an audit chain as `seq:hash`.
fn format_head((seq, hash): &(i64, ChainHash)) -> String {
    format!("{seq}:{}", hex(hash))
}

fn refuse(message: String) -> Error {
    Error::new(Code::Conflict, message)
}

const ACCEPT_HINT: &str = "--accept-unrevoked restores anyway, with every right as it was in the backup";

/// Restores a backup. At any moment the database file is either the old or the new one, complete.
///
/// # Errors
/// `CONFLICT` with what to do; nothing is replaced then.
pub(crate) async fn run(
    config: Config,
    clock: Clock,
    options: &RestoreOptions,
    progress: ProgressFn<'_>,
) -> Result<Restored> {
    let dir = config.database.dir.clone();
    let file = dir.join("tollhouse.db");
    let mut backup = Reader::open(&options.file)?;
    if is_same_file(&file, &options.file) {
        return Err(refuse("This is the database itself. Choose a backup.".to_owned()));
    }
    let exists = file.exists();
    if exists && !options.replace {
        let message = format!(
            "A database already exists at {}. Use --force to replace it; the old one is kept beside it.",
            file.display()
        );
        return Err(refuse(message));
    }
    if !exists && !options.accept_unrevoked {
        let message = format!(
            "There is no database at {}, so it is unknown what was revoked since the backup. {ACCEPT_HINT}.",
            file.display()
        );
        return Err(refuse(message));
    }
    // Held until the end, so that no server starts meanwhile.
    let _lock = store::db::lock(&dir).map_err(|error| match error.code {
        Code::Conflict => refuse(format!("{} Stop it first.", error.message)),
        _ => error,
    })?;
    let replaced_db = if exists { open_replaced(&file, options.accept_unrevoked)? } else { None };
    let staged = dir.join(".restoring");
    create_staging_dir(&staged)?;
    let restore = Restore { config, clock, options, file, staged: staged.clone(), replaced_db };
    let result = restore.run(&mut backup, progress).await;
    // Whatever the result, what is left in the directory is of no use.
    result
        .and_then(|restored| remove_staging_dir(&staged).map(|()| restored))
        .inspect_err(|_| drop(remove_staging_dir(&staged)))
}

/// Opens and checks the database to be replaced; `None` if it can't be read and `accept_unrevoked` is set.
fn open_replaced(file: &Path, accept_unrevoked: bool) -> Result<Option<ReplacedDatabase>> {
    let opened = ReplacedDatabase::take(file).and_then(|mut replaced_db| {
        let faults = replaced_db.read(store::check::integrity)?;
        match faults.first() {
            None => Ok(replaced_db),
            Some(fault) => Err(Error::internal(fault)),
        }
    });
    match opened {
        Ok(replaced_db) => Ok(Some(replaced_db)),
        Err(error) if error.code == Code::Unavailable => {
            Err(refuse("Another process has the database open. Stop it first.".to_owned()))
        }
        Err(_) if accept_unrevoked => Ok(None),
        Err(error) => {
            let cause = error.cause.unwrap_or_else(|| error.message.to_string());
            Err(refuse(format!(
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
    staged: PathBuf,
    replaced_db: Option<ReplacedDatabase>,
}

impl Restore<'_> {
    async fn run(mut self, backup: &mut Reader, progress: ProgressFn<'_>) -> Result<Restored> {
        let new = self.staged.join("tollhouse.db");
        let copied = copy(backup, &new, &|done, of| progress("copy", done, of))?;
        let mut reader = Reader::open(&new)?;
        let findings = examine(&mut reader, progress)?;
        if !findings.sound {
            let faults = findings.faults.join("; ");
            return Err(refuse(format!("{} failed verification: {faults}.", self.options.file.display())));
        }
        let origin = reader.read(store::check::origin)?;
        drop(reader);

        let mut replaced_head = None;
        let mut complete = false;
        if let Some(replaced_db) = &mut self.replaced_db {
            let head = replaced_db.read(store::audit::head)?;
            complete = replaced_db.read(|tx| Ok(store::check::origin(tx)? == origin))?
                && continues_chain(replaced_db, &copied.head)?;
            replaced_head = Some(format_head(&head));
        }
        if !complete && !self.options.accept_unrevoked {
            return Err(refuse(format!(
                "The database at {} is not a later state of this backup (its audit log does not continue the \
                 backup's), so it is unknown what was revoked since. {ACCEPT_HINT}.",
                self.file.display()
            )));
        }

        let mut config = self.config.clone();
        config.database.dir = self.staged.clone();
        let app = App::open(config, self.clock.clone()).await?;
        let result = self
            .record_and_reapply(&app, &format_head(&copied.head), replaced_head.as_deref(), progress)
            .await;
        let closed = app.close().await;
        drop(app);
        let reapplied = result?;
        closed?;
        leave_wal(&new)?;

        let kept_as = self.file.exists().then(|| unused_name(&self.file));
        replace_database(&new, &self.file, kept_as.as_deref())?;
        Ok(Restored {
            file: self.file,
            replaced: kept_as,
            audit_head: format_head(&copied.head),
            replaced_audit_head: replaced_head,
            complete,
            reapplied,
        })
    }

    /// Records the restore as an audit event, then reapplies what was revoked since the backup.
    async fn record_and_reapply(
        &mut self,
        app: &App,
        head: &str,
        replaced_head: Option<&str>,
        progress: ProgressFn<'_>,
    ) -> Result<ReappliedRevocations> {
        let ctx = RequestContext::internal(app, Caller::Operator, "database.restore", "write")?;
        let change = |field: &str, from, to| Change { field: field.to_owned(), from, to };
        let entry = Entry::of(None, "database", "tollhouse.db", "").with(vec![
            change("audit_head", json!(replaced_head), json!(head)),
            change("accept_unrevoked", Value::Null, json!(self.options.accept_unrevoked)),
        ]);
        mutate(app, &ctx, 200, move |_, _| Ok(((), vec![entry.clone()]))).await?;
        match &mut self.replaced_db {
            Some(replaced_db) => reapply_revocations::reapply_all(app, replaced_db, progress).await,
            None => Ok(ReappliedRevocations::default()),
        }
    }
}

/// True if the audit chain of the replaced database continues from this head. Where retention has removed
/// that event, the common origin, which the caller checks, has to suffice.
fn continues_chain(replaced_db: &mut ReplacedDatabase, head: &(i64, ChainHash)) -> Result<bool> {
    let (seq, hash) = *head;
    if seq == 0 {
        return Ok(true);
    }
    let (event_hash, first) = replaced_db.read(|tx| store::restore::event_at(tx, seq))?;
    Ok(match event_hash {
        Some(event_hash) => event_hash == hash,
        None => first.is_some_and(|first| first > seq),
    })
}

/// An unused name beside the database for the replaced file.
fn unused_name(file: &Path) -> PathBuf {
    let first = with_suffix(file, ".before-restore");
    let numbered = (2..).map(|n: u32| with_suffix(file, &format!(".before-restore-{n}")));
    std::iter::once(first.clone()).chain(numbered).find(|name| !name.exists()).unwrap_or(first)
}
