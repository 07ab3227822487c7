//! Looks whether a database file is whole: its pages, its references, its audit chain, its counts.

use serde::Serialize;

use super::audit;
use crate::domain::audit::Verification;
use crate::domain::chain::{Anchor, Walk};
use crate::error::Result;
use crate::store;
use crate::store::check::Rows;
use crate::store::reader::Reader;

/// Told how far a long work is: what is done, how much of it, and of how much (0: nobody knows).
pub(crate) type ProgressFn<'a> = &'a (dyn Fn(&'static str, u64, u64) + Sync);

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct Findings {
    /// Is all well?
    pub(crate) sound: bool,
    /// What isn't, for people.
    pub(crate) faults: Vec<String>,
    /// What walking the audit chain found.
    pub(crate) audit: Verification,
    /// Rows of each table.
    pub(crate) rows: Rows,
    /// The version of the schema.
    pub(crate) schema_version: i64,
}

/// Looks at everything. What can't be read for a fault of the file is a fault, not an error.
///
/// # Errors
/// When the file can't be asked at all.
pub(crate) fn examine(reader: &mut Reader, progress: ProgressFn<'_>) -> Result<Findings> {
    let mut findings = Findings {
        sound: false,
        faults: Vec::new(),
        audit: Verification::default(),
        rows: Rows::new(),
        schema_version: reader.read(store::check::version)?,
    };
    progress("pages and indexes", 0, 0);
    findings.note("pages", reader.read(store::check::integrity));
    progress("references", 0, 0);
    findings.note("references", reader.read(store::check::foreign_keys));
    match walk(reader, progress) {
        Ok(found) => {
            if let Some(at) = found.broken_at {
                findings.faults.push(format!("the audit log is broken at event {at}"));
            }
            findings.audit = found;
        }
        Err(error) => findings.faults.push(format!("audit log: {error}")),
    }
    progress("counts", 0, 0);
    // Of one state, or what is written between would be a difference.
    let counted = reader.read(|tx| {
        let faults = [store::check::counts(tx)?, store::check::keys(tx)?].concat();
        Ok((faults, store::check::rows(tx)?))
    });
    match counted {
        Ok((faults, rows)) => {
            findings.faults.extend(faults);
            findings.rows = rows;
        }
        Err(error) => findings.faults.push(format!("counts: {error}")),
    }
    findings.sound = findings.faults.is_empty();
    Ok(findings)
}

impl Findings {
    fn note(&mut self, what: &str, found: Result<Vec<String>>) {
        match found {
            Ok(faults) => self.faults.extend(faults),
            Err(error) => self.faults.push(format!("{what}: {error}")),
        }
    }
}

fn walk(reader: &mut Reader, progress: ProgressFn<'_>) -> Result<Verification> {
    // Old events may be removed while they are walked over: then the chain begins elsewhere.
    loop {
        let checkpoint = reader.read(store::audit::checkpoint)?;
        if let Some(found) = walk_from(reader, checkpoint, progress)? {
            return Ok(found);
        }
    }
}

/// `None` when the chain was cut meanwhile.
fn walk_from(
    reader: &mut Reader,
    checkpoint: Option<Anchor>,
    progress: ProgressFn<'_>,
) -> Result<Option<Verification>> {
    let (last, _) = reader.read(store::audit::head)?;
    let mut walk = Walk::new(None, true);
    let mut next = checkpoint.map_or(walk.first_seq(), |checkpoint| walk.first_seq().max(checkpoint.seq + 1));
    loop {
        let walked = reader.read(|tx| {
            if store::audit::checkpoint(tx)? != checkpoint {
                return Ok(None);
            }
            audit::walk_on(tx, walk, next).map(Some)
        });
        let Some((walked, more)) = walked? else { return Ok(None) };
        walk = walked;
        let Some(seq) = more else { return Ok(Some(walk.finish())) };
        next = seq;
        let number = |seq: i64| u64::try_from(seq).unwrap_or(0);
        progress("audit log", number(seq), number(last).max(number(seq)));
    }
}
