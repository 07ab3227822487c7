//! `tollhouse import`: imports an NDJSON file, a CSV file, or another system's database.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::args::data_commands::{Import, ImportFormat, System};
use super::progress::ProgressReporter;
use super::{interrupt, output};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::service::import::{self, ImportOptions, ImportReport, ImportSource};
use crate::service::lifecycle;
use crate::telemetry::escape;

/// The percentage of an input whose length is unknown, such as standard input.
const UNKNOWN_PERCENTAGE: u64 = u64::MAX;

/// Imports a file and prints a report. Returns false if a record was refused or the file is truncated.
pub(crate) async fn run(config: Config, args: Import) -> Result<bool> {
    let print_json = args.json;
    let report = import(config, args).await?;
    let printed =
        if print_json { output::print_json(&report) } else { output::print(&format_report(&report)) };
    if report.cut_off {
        output::message("error: the export is truncated: its last line, or lines before it, are missing.");
    }
    if !report.has_platform_key {
        output::message(
            "note: no key can administer this database; `tollhouse admin-key create` creates one.",
        );
    }
    printed.map(|()| report.refused == 0 && !report.cut_off)
}

async fn import(config: Config, args: Import) -> Result<ImportReport> {
    let name = args.file.display().to_string();
    let progress_in_percent = Arc::new(AtomicU64::new(UNKNOWN_PERCENTAGE));
    let percent = progress_in_percent.clone();
    interrupt::end_process_on_signal(move || {
        let part = match percent.load(Ordering::Relaxed) {
            UNKNOWN_PERCENTAGE => format!("a part of {name}"),
            percent => format!("about {percent} % of {name}"),
        };
        format!(
            "{part} was imported and stays. Run the command again to continue; equal records are skipped."
        )
    })?;
    let mut source = open_source(&args)?;
    let length = match source.total_amount() {
        Some(total) => total,
        None => std::fs::metadata(&args.file).map_or(0, |file| file.len()),
    };
    let database = config.database.file();
    if !database.exists() {
        output::message(&format!("note: no database at {}; creating it.", database.display()));
    }
    let app = lifecycle::open(config, Clock::system()).await?;
    let options = ImportOptions { create_scopes: args.create_scopes, organization_id: args.organization };
    let progress =
        if args.from.is_some() { ProgressReporter::new() } else { ProgressReporter::counting_bytes() };
    let show = |step, done: u64, _| {
        progress.show(step, done, length);
        progress_in_percent
            .store((done * 100).checked_div(length).unwrap_or(UNKNOWN_PERCENTAGE), Ordering::Relaxed);
    };
    let mut report = ImportReport::default();
    let imported = import::run(&app, &mut source, &options, &show, &mut report).await;
    drop(progress);
    let closed = lifecycle::close(&app).await;
    if let Err(error) = imported {
        let stored = list_counts(&report.imported);
        output::message(&format!(
            "note: stored before the failure: {stored}; run the same import again to store the rest."
        ));
        return Err(error);
    }
    closed.map(|()| report)
}

fn open_source(args: &Import) -> Result<ImportSource<'static>> {
    let path = &args.file;
    if args.from == Some(System::BetterAuth) {
        return ImportSource::better_auth(path, args.organization.as_deref());
    }
    let is_standard_input = path == Path::new("-");
    let by_name = || if is_standard_input { Some(ImportFormat::Ndjson) } else { format_by_extension(path) };
    let format = args.format.or_else(by_name).ok_or_else(|| {
        let message = format!("{}: unknown extension; set --format to ndjson or csv.", path.display());
        Error::new(Code::InvalidRequest, message)
    })?;
    let input: Box<dyn BufRead> = if is_standard_input {
        Box::new(std::io::stdin().lock())
    } else {
        let file = File::open(path).map_err(|error| Error::at_path(path, error))?;
        Box::new(BufReader::with_capacity(1 << 16, file))
    };
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

fn format_report(report: &ImportReport) -> String {
    let mut lines = vec![
        format!("imported: {}", list_counts(&report.imported)),
        format!("unchanged: {}", list_counts(&report.unchanged)),
        format!("refused: {}", report.refused),
    ];
    for refusal in &report.refusals {
        let refused = format!("  {}: {}", refusal.at, refusal.reasons.join("; "));
        lines.push(escape::escape_line(&refused));
    }
    let not_listed = report.refused - report.refusals.len() as u64;
    if not_listed > 0 {
        lines.push(format!("  and {not_listed} more"));
    }
    lines.join("\n")
}
