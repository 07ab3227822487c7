//! `tollhouse check`: is the file whole?

use std::process::ExitCode;

use super::args::moving::Check;
use super::progress::ProgressReporter;
use crate::config::Config;
use crate::error::Result;
use crate::service::check::{self, Findings};
use crate::store::reader::Reader;

/// Looks; exit status 1 when something is wrong.
pub(crate) fn run(config: &Config, args: &Check) -> ExitCode {
    match look(config, args) {
        Ok(findings) => {
            if args.json {
                println!("{}", serde_json::to_string(&findings).unwrap_or_default());
            } else if findings.sound {
                let head = findings.audit.head_hash.as_deref().unwrap_or("-");
                let last = findings.audit.last_seq.unwrap_or(0);
                println!("sound: {} audit events, head {last}:{head}", findings.audit.checked);
            } else {
                println!("NOT SOUND:");
                findings.faults.iter().for_each(|fault| println!("  {fault}"));
            }
            if findings.sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => super::report(Err(error)),
    }
}

fn look(config: &Config, args: &Check) -> Result<Findings> {
    let live = config.database.dir.join("tollhouse.db");
    let mut reader = Reader::open(args.file.as_deref().unwrap_or(&live))?;
    let progress = ProgressReporter::new();
    check::examine(&mut reader, &|what, done, of| progress.show(what, done, of))
}
