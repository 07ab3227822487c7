//! `tollhouse check`: checks the integrity of the database or a backup.

use std::process::ExitCode;

use super::args::data_commands::Check;
use super::progress::ProgressReporter;
use crate::config::Config;
use crate::error::Result;
use crate::service::check::{self, CheckReport};
use crate::store::reader::Reader;

/// Checks the database or a backup and prints the findings. Returns exit status 1 if there are errors.
pub(crate) fn run(config: &Config, args: &Check) -> ExitCode {
    match check_database(config, args) {
        Ok(findings) => {
            if args.json {
                println!("{}", serde_json::to_string(&findings).unwrap_or_default());
            } else if findings.sound {
                let head = findings.audit.head_hash.as_deref().unwrap_or("-");
                let last = findings.audit.last_seq.unwrap_or(0);
                println!("ok: {} audit events, head {last}:{head}", findings.audit.checked);
            } else {
                println!("ERRORS FOUND:");
                findings.faults.iter().for_each(|fault| println!("  {fault}"));
            }
            if findings.sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => super::report_result(Err(error)),
    }
}

fn check_database(config: &Config, args: &Check) -> Result<CheckReport> {
    let live = config.database.dir.join("tollhouse.db");
    let mut reader = Reader::open(args.file.as_deref().unwrap_or(&live))?;
    let progress = ProgressReporter::new();
    check::check_database(&mut reader, &|step, done, total| progress.show(step, done, total))
}
