//! Puts a backup in the place of the database, without giving back what was taken away since.
//!
//! The backup is copied into a directory of its own beside the database and proven there. From the file that
//! it will replace it takes over every right that was withdrawn since (`reapply_revocations`). Only then does it get the
//! name of the database, in one step; the replaced file keeps one beside it.

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

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// The backup.
    pub(crate) file: PathBuf,
    /// May it replace a database?
    pub(crate) replace: bool,
    /// May it be restored though nobody knows what was revoked since?
    pub(crate) accept_unrevoked: bool,
}

/// What was done.
#[derive(Debug, Serialize)]
pub(crate) struct Restored {
    /// The database.
    pub(crate) file: PathBuf,
    /// Where the replaced one is.
    pub(crate) replaced: Option<PathBuf>,
    /// The head of the backup's audit chain.
    pub(crate) audit_head: String,
    /// The head of the replaced one's, if it could be read.
    pub(crate) replaced_audit_head: Option<String>,
    /// Is the replaced one known to be a later state of the backup, read whole?
    pub(crate) complete: bool,
    /// What was taken over from it.
    pub(crate) reapplied: ReappliedRevocations,
}

/// The head of a chain as `seq:hash`.
fn written((seq, hash): &(i64, ChainHash)) -> String {
    format!("{seq}:{}", hex(hash))
}

fn refuse(message: String) -> Error {
    Error::new(Code::Conflict, message)
}

const ACCEPT: &str = "--accept-unrevoked restores all the same, with every right as the backup has it";

/// Restores. At each moment the database is the old one or the new one, whole.
///
/// # Errors
/// `CONFLICT` with what to do; nothing is replaced then.
pub(crate) async fn run(
    config: Config,
    clock: Clock,
    order: &Order,
    progress: ProgressFn<'_>,
) -> Result<Restored> {
    let dir = config.database.dir.clone();
    let file = dir.join("tollhouse.db");
    let mut backup = Reader::open(&order.file)?;
    if is_same_file(&file, &order.file) {
        return Err(refuse("This is the database itself; name a backup.".to_owned()));
    }
    let exists = file.exists();
    if exists && !order.replace {
        let message =
            format!("There is a database at {}; --force replaces it and keeps it beside.", file.display());
        return Err(refuse(message));
    }
    if !exists && !order.accept_unrevoked {
        let message = format!(
            "There is no database at {} to tell what was revoked since the backup. {ACCEPT}.",
            file.display()
        );
        return Err(refuse(message));
    }
    // Held to the end: no server starts meanwhile.
    let _lock = store::db::lock(&dir).map_err(|error| match error.code {
        Code::Conflict => refuse(format!("{} Stop it first.", error.message)),
        _ => error,
    })?;
    let held = if exists { hold(&file, order.accept_unrevoked)? } else { None };
    let staged = dir.join(".restoring");
    create_staging_dir(&staged)?;
    let work = Work { config, clock, order, file, staged: staged.clone(), held };
    let result = work.run(&mut backup, progress).await;
    // Whatever happened, what is left there is of no use.
    result
        .and_then(|restored| remove_staging_dir(&staged).map(|()| restored))
        .inspect_err(|_| drop(remove_staging_dir(&staged)))
}

/// The database that is to be replaced; `None` when it can't be read and need not be.
fn hold(file: &Path, accept: bool) -> Result<Option<ReplacedDatabase>> {
    let whole = ReplacedDatabase::take(file).and_then(|mut held| {
        let faults = held.read(store::check::integrity)?;
        match faults.first() {
            None => Ok(held),
            Some(fault) => Err(Error::internal(fault)),
        }
    });
    match whole {
        Ok(held) => Ok(Some(held)),
        Err(error) if error.code == Code::Unavailable => {
            Err(refuse("Another process has the database open; end it first.".to_owned()))
        }
        Err(_) if accept => Ok(None),
        Err(error) => {
            let cause = error.cause.unwrap_or_else(|| error.message.to_string());
            Err(refuse(format!(
                "{} can't be read ({cause}), so nobody knows what was revoked since the backup. {ACCEPT}.",
                file.display()
            )))
        }
    }
}

/// A restore under way.
struct Work<'a> {
    config: Config,
    clock: Clock,
    order: &'a Order,
    file: PathBuf,
    staged: PathBuf,
    held: Option<ReplacedDatabase>,
}

impl Work<'_> {
    async fn run(mut self, backup: &mut Reader, progress: ProgressFn<'_>) -> Result<Restored> {
        let new = self.staged.join("tollhouse.db");
        let copied = copy(backup, &new, &|done, of| progress("copy", done, of))?;
        let mut reader = Reader::open(&new)?;
        let findings = examine(&mut reader, progress)?;
        if !findings.sound {
            let faults = findings.faults.join("; ");
            return Err(refuse(format!("{} is not sound: {faults}.", self.order.file.display())));
        }
        let origin = reader.read(store::check::origin)?;
        drop(reader);

        let mut replaced_head = None;
        let mut complete = false;
        if let Some(held) = &mut self.held {
            let head = held.read(store::audit::head)?;
            complete =
                held.read(|tx| Ok(store::check::origin(tx)? == origin))? && follows(held, &copied.head)?;
            replaced_head = Some(written(&head));
        }
        if !complete && !self.order.accept_unrevoked {
            return Err(refuse(format!(
                "The database at {} is no later state of this backup (its audit log doesn't go on from the \
                 backup's), so nobody knows what was revoked since. {ACCEPT}.",
                self.file.display()
            )));
        }

        let mut config = self.config.clone();
        config.database.dir = self.staged.clone();
        let app = App::open(config, self.clock.clone()).await?;
        let done = self.take_over(&app, &written(&copied.head), replaced_head.as_deref(), progress).await;
        let closed = app.close().await;
        drop(app);
        let reapplied = done?;
        closed?;
        leave_wal(&new)?;

        let kept = self.file.exists().then(|| free_name(&self.file));
        replace_database(&new, &self.file, kept.as_deref())?;
        Ok(Restored {
            file: self.file,
            replaced: kept,
            audit_head: written(&copied.head),
            replaced_audit_head: replaced_head,
            complete,
            reapplied,
        })
    }

    /// The event that tells of the restore, and then what was withdrawn since.
    async fn take_over(
        &mut self,
        app: &App,
        head: &str,
        replaced_head: Option<&str>,
        progress: ProgressFn<'_>,
    ) -> Result<ReappliedRevocations> {
        let ctx = RequestContext::internal(app, Caller::Operator, "database.restore", "write")?;
        let changed = |field: &str, from, to| Change { field: field.to_owned(), from, to };
        let entry = Entry::of(None, "database", "tollhouse.db", "").with(vec![
            changed("audit_head", json!(replaced_head), json!(head)),
            changed("accept_unrevoked", Value::Null, json!(self.order.accept_unrevoked)),
        ]);
        mutate(app, &ctx, 200, move |_, _| Ok(((), vec![entry.clone()]))).await?;
        match &mut self.held {
            Some(held) => reapply_revocations::all(app, held, progress).await,
            None => Ok(ReappliedRevocations::default()),
        }
    }
}

/// Does the chain of the replaced database go on from this head? Where retention has removed that event,
/// the common origin has to do.
fn follows(held: &mut ReplacedDatabase, head: &(i64, ChainHash)) -> Result<bool> {
    let (seq, hash) = *head;
    if seq == 0 {
        return Ok(true);
    }
    let (there, first) = held.read(|tx| store::restore::event_at(tx, seq))?;
    Ok(match there {
        Some(there) => there == hash,
        None => first.is_some_and(|first| first > seq),
    })
}

/// A name beside the database that nobody has.
fn free_name(file: &Path) -> PathBuf {
    let first = with_suffix(file, ".before-restore");
    let numbered = (2..).map(|n: u32| with_suffix(file, &format!(".before-restore-{n}")));
    std::iter::once(first.clone()).chain(numbered).find(|name| !name.exists()).unwrap_or(first)
}
