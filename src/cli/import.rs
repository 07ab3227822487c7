//! `tollhouse import`: imports an NDJSON file, a CSV file, or another system's database.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;

use super::args::data_commands::{Import, ImportFormat, System};
use super::progress::ProgressReporter;
use crate::app::App;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::service::import::{self, ImportOptions, ImportReport, ImportSource};

/// Imports a file and prints a report. Returns exit status 1 if a record was refused or the file is
/// truncated.
pub(crate) async fn run(config: Config, args: Import) -> ExitCode {
    let print_json = args.json;
    match import(config, args).await {
        Ok(report) => {
            if print_json {
                println!("{}", serde_json::to_string(&report).unwrap_or_default());
            } else {
                print_report(&report);
            }
            if report.cut_off {
                eprintln!("error: the export is truncated: its last line, or lines before it, are missing.");
            }
            if !report.has_platform_key {
                eprintln!(
                    "note: no key can administer this database; `tollhouse admin-key create` creates one."
                );
            }
            if report.refused == 0 && !report.cut_off { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => super::report_result(Err(error)),
    }
}

async fn import(config: Config, args: Import) -> Result<ImportReport> {
    let mut source = open_source(&args)?;
    let length = match source.total_amount() {
        Some(total) => total,
        None => std::fs::metadata(&args.file).map_or(0, |file| file.len()),
    };
    let database = config.database.dir.join("tollhouse.db");
    if !database.exists() {
        eprintln!("note: no database at {}; creating it.", database.display());
    }
    let app = App::open(config, Clock::system()).await?;
    let options = ImportOptions { create_scopes: args.create_scopes, organization_id: args.organization };
    let progress =
        if args.from.is_some() { ProgressReporter::new() } else { ProgressReporter::counting_bytes() };
    let show = |step, done, _| progress.show(step, done, length);
    let mut report = ImportReport::default();
    let imported = import::run(&app, &mut source, &options, &show, &mut report).await;
    drop(progress);
    let closed = app.close().await;
    if let Err(error) = imported {
        let stored = list_counts(&report.imported);
        eprintln!("note: stored before the failure: {stored}; run the same import again to store the rest.");
        return Err(error);
    }
    closed.map(|()| report)
}

fn open_source(args: &Import) -> Result<ImportSource<'static>> {
    let path = &args.file;
    if args.from == Some(System::BetterAuth) {
        return ImportSource::better_auth(path, args.organization.as_deref());
    }
    let format = args.format.or_else(|| format_by_extension(path)).ok_or_else(|| {
        let message = format!("{}: unknown extension; set --format to ndjson or csv.", path.display());
        Error::new(Code::InvalidRequest, message)
    })?;
    let file = File::open(path).map_err(|error| Error::internal(format!("{}: {error}", path.display())))?;
    let input = Box::new(BufReader::with_capacity(1 << 16, file));
    match format {
        ImportFormat::Ndjson => Ok(ImportSource::ndjson(input)),
        ImportFormat::Csv => ImportSource::csv(input),
    }
}

fn format_by_extension(path: &Path) -> Option<ImportFormat> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "ndjson" | "jsonl" => Some(ImportFormat::Ndjson),
        "csv" => Some(ImportFormat::Csv),
        _ => None,
    }
}

/// The number of records of each kind, such as `3 users, 2 memberships`.
fn list_counts(counts: &BTreeMap<&'static str, u64>) -> String {
    let each: Vec<_> = counts.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
    if each.is_empty() { "nothing".to_owned() } else { each.join(", ") }
}

fn print_report(report: &ImportReport) {
    println!("imported: {}", list_counts(&report.imported));
    println!("unchanged: {}", list_counts(&report.unchanged));
    println!("refused: {}", report.refused);
    for refusal in &report.refusals {
        println!("  {}: {}", refusal.at, refusal.reasons.join("; "));
    }
    let not_listed = report.refused - report.refusals.len() as u64;
    if not_listed > 0 {
        println!("  and {not_listed} more");
    }
}
