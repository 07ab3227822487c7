//! `tollhouse check`: checks the integrity of the database or a backup.

use std::path::Path;

use super::args::data_commands::Check;
use super::progress::ProgressReporter;
use super::{interrupt, output};
use crate::config::Config;
use crate::error::Result;
use crate::service::check::{self, CheckReport};
use crate::store::reader::Reader;
use crate::telemetry::escape;

/// Checks the database or a backup and prints the findings. Returns false if there are errors.
pub(crate) fn run(config: &Config, args: &Check) -> Result<bool> {
    let live = config.database.file();
    let file = args.file.as_deref().unwrap_or(&live);
    match check_database(file) {
        Ok(findings) => print_findings(&findings, args.json, file),
        Err(error) if args.json => super::print_failure_as_json(file, &error),
        Err(error) => Err(error),
    }
}

/// Prints the findings. Returns whether there are no errors.
fn print_findings(findings: &CheckReport, json: bool, file: &Path) -> Result<bool> {
    if json {
        output::print_json(findings)?;
    } else if findings.ok {
        let head = findings.audit.head_hash.as_deref().unwrap_or("-");
        let last = findings.audit.last_seq.unwrap_or(0);
        output::print(&format!("ok: {} audit events, head {last}:{head}", findings.audit.checked))?;
    } else {
        let faults = findings.faults.iter().map(|fault| format!("\n  {}", escape::escape_line(fault)));
        output::print(&format!("ERRORS FOUND in {}:{}", file.display(), faults.collect::<String>()))?;
    }
    Ok(findings.ok)
}

fn check_database(file: &Path) -> Result<CheckReport> {
    interrupt::end_process_on_signal(|| "the check is not complete. It changes nothing.".to_owned())?;
    let mut reader = Reader::open(file)?;
    let progress = ProgressReporter::new();
    check::check_database(&mut reader, &|step, done, total| progress.show(step, done, total))
}
