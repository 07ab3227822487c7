//! Checks the integrity of a database file: its pages, schema, foreign keys, audit chain and stored counts.

use std::ops::ControlFlow;

use serde::Serialize;

use super::audit::ChainWalk;
use crate::domain::audit::Verification;
use crate::error::Result;
use crate::store;
use crate::store::check::RowCounts;
use crate::store::reader::Reader;

/// A function that receives the progress of a long operation: the name of the current step, the amount done,
/// and the total amount, which is 0 if unknown.
pub(crate) type ProgressFn<'a> = &'a (dyn Fn(&'static str, u64, u64) + Sync);

/// The result of a database check, printed by `check --json`.
#[derive(Debug, Serialize)]
pub(crate) struct CheckReport {
    /// True if the check found no faults.
    pub(crate) ok: bool,
    /// Descriptions of the faults that the check found.
    pub(crate) faults: Vec<String>,
    /// The result of verifying the audit chain.
    pub(crate) audit: Verification,
    /// The number of rows of each table in the database.
    pub(crate) rows: RowCounts,
    pub(crate) schema_version: i64,
}

/// Checks a database. Parts that can't be read because the file is damaged are reported as faults.
///
/// # Errors
/// Errors of reading the schema version. Later errors of reading become faults in the result.
pub(crate) fn check_database(reader: &mut Reader, progress: ProgressFn<'_>) -> Result<CheckReport> {
    let mut findings = CheckReport {
        ok: false,
        faults: Vec::new(),
        audit: Verification::default(),
        rows: RowCounts::new(),
        schema_version: reader.read(store::check::schema_version)?,
    };
    progress("pages and indexes", 0, 0);
    findings.add_faults("pages", reader.read(store::check::find_page_errors));
    findings.add_faults("schema", reader.read(store::schema_comparison::find_schema_differences));
    progress("references", 0, 0);
    findings.add_faults("references", reader.read(store::check::find_broken_foreign_keys));
    match verify_chain(reader, progress) {
        Ok(verification) => {
            if let Some(at) = verification.broken_at {
                findings.faults.push(format!("the audit log is broken at event {at}"));
            }
            findings.audit = verification;
        }
        Err(error) => findings.faults.push(format!("audit log: {error}")),
    }
    progress("counts", 0, 0);
    // All counts are read in one transaction, because a write between two reads would appear as a difference.
    let counted = reader.read(|tx| {
        let faults = [
            store::check::find_wrong_counts(tx)?,
            store::check::find_wrong_response_sums(tx)?,
            store::check::find_inconsistent_keys(tx)?,
            store::check_words::find_wrong_words(tx)?,
        ]
        .concat();
        Ok((faults, store::check::count_rows(tx)?))
    });
    match counted {
        Ok((faults, rows)) => {
            findings.faults.extend(faults);
            findings.rows = rows;
        }
        Err(error) => findings.faults.push(format!("counts: {error}")),
    }
    findings.ok = findings.faults.is_empty();
    Ok(findings)
}

impl CheckReport {
    /// Adds the faults found by a step, or the error of the step as a fault.
    fn add_faults(&mut self, step: &str, result: Result<Vec<String>>) {
        match result {
            Ok(faults) => self.faults.extend(faults),
            Err(error) => self.faults.push(format!("{step}: {error}")),
        }
    }
}

/// Verifies the audit chain of the database.
fn verify_chain(reader: &mut Reader, progress: ProgressFn<'_>) -> Result<Verification> {
    let (last, _) = reader.read(store::audit::chain_head)?;
    let mut walk = reader.read(|tx| ChainWalk::start(tx, None))?;
    loop {
        walk = match reader.read(|tx| walk.verify_chunk(tx))? {
            ControlFlow::Continue(walk) => walk,
            ControlFlow::Break(verification) => return Ok(verification),
        };
        let unsigned = |seq: i64| u64::try_from(seq).unwrap_or(0);
        progress("audit log", unsigned(walk.next), unsigned(last).max(unsigned(walk.next)));
    }
}
