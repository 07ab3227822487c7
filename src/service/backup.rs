//! A backup: a copy beside those who write, proven before it has its name.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use super::check::{ProgressFn, examine};
use super::{RequestContext, mutate};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::audit::{Change, Entry};
use crate::domain::chain::hex;
use crate::error::{Code, Error, Result};
use crate::store;
use crate::store::backup::{copy, is_same_file, remove, rename_durably, with_suffix};
use crate::store::reader::Reader;

/// What was made.
#[derive(Debug, Serialize)]
pub(crate) struct Made {
    /// Where it is.
    pub(crate) file: PathBuf,
    /// How large it is.
    pub(crate) bytes: u64,
    /// The head of its audit chain, as `seq:hash`: kept elsewhere, it tells a backup that was exchanged.
    pub(crate) audit_head: String,
    /// Rows of each table.
    pub(crate) rows: store::check::RowCounts,
    /// How long the copy took.
    pub(crate) copy_seconds: f64,
    /// How long the proof took.
    pub(crate) proof_seconds: f64,
}

/// Copies the database into `target`, proves the copy, and only then gives it its name.
///
/// # Errors
/// `ALREADY_EXISTS` when there is such a file, unless it may be replaced; `CONFLICT` when there is something
/// else, or when the copy is not sound: it is removed then.
pub(crate) async fn run(app: &App, target: &Path, replace: bool, progress: ProgressFn<'_>) -> Result<Made> {
    let live = app.config.database.dir.join("tollhouse.db");
    if is_same_file(&live, target) {
        return Err(Error::new(Code::Conflict, "This is the database itself; name another file."));
    }
    if let Ok(there) = target.symlink_metadata() {
        // A copy takes its place by its name, and would put an end to a device such as /dev/null, or to a link.
        if !there.is_file() {
            let message = format!("{} is there and not a plain file; name another one.", target.display());
            return Err(Error::new(Code::Conflict, message));
        }
        if !replace {
            let message = format!("{} exists; --force replaces it.", target.display());
            return Err(Error::new(Code::AlreadyExists, message));
        }
    }
    let part = with_suffix(target, ".part");
    let made = make(app, &live, &part, progress);
    let made = match made.and_then(|made| rename_durably(&part, target).map(|()| made)) {
        Ok(made) => Made { file: target.to_owned(), ..made },
        Err(error) => {
            // Half a backup helps nobody; what it failed of is what is told.
            let _ = remove(&part);
            return Err(error);
        }
    };
    let ctx = RequestContext::internal(app, Caller::Operator, "database.backup", "read")?;
    let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let head = Change { field: "audit_head".into(), from: Value::Null, to: json!(made.audit_head) };
    let (entry, now) = (Entry::of(None, "database", "tollhouse.db", &name).with(vec![head]), ctx.now);
    mutate(app, &ctx, 200, move |tx, _| {
        store::backup::set_last_backup_at(tx, now)?;
        Ok(((), vec![entry.clone()]))
    })
    .await?;
    Ok(made)
}

/// A proven copy, durable under the name that it has meanwhile.
fn make(app: &App, live: &Path, part: &Path, progress: ProgressFn<'_>) -> Result<Made> {
    let began = app.clock.monotonic();
    let copied = copy(&mut Reader::open(live)?, part, &|done, of| progress("copy", done, of))?;
    let ended = app.clock.monotonic();
    let findings = examine(&mut Reader::open(part)?, progress)?;
    let head = (findings.audit.last_seq.unwrap_or(0), findings.audit.head_hash.unwrap_or(hex(&[0; 32])));
    let mut faults = findings.faults;
    if head != (copied.head.0, hex(&copied.head.1)) {
        faults.push(format!("its audit log ends at {} instead of {}", head.0, copied.head.0));
    }
    if findings.rows != copied.rows {
        faults.push("it has other rows than the database".to_owned());
    }
    if !faults.is_empty() {
        let message = format!("The copy is not sound, so there is no backup: {}.", faults.join("; "));
        return Err(Error::new(Code::Conflict, message));
    }
    Ok(Made {
        file: part.to_owned(),
        bytes: copied.bytes,
        audit_head: format!("{}:{}", head.0, head.1),
        rows: copied.rows,
        copy_seconds: (ended - began).as_secs_f64(),
        proof_seconds: (app.clock.monotonic() - ended).as_secs_f64(),
    })
}
