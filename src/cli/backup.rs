//! `tollhouse backup`: writes a verified copy of the database. The command works while a server is running.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use super::args::data_commands::Backup;
use super::progress::ProgressReporter;
use super::{interrupt, output};
use crate::app::App;
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::service::backup::{self, BackupReport};
use crate::service::lifecycle;

pub(crate) async fn run(config: Config, args: Backup) -> Result<()> {
    let to_standard_output = args.file == Path::new("-");
    match to_standard_output {
        true => interrupt::end_process_on_signal(|| {
            "the backup is not complete. Run the command again.".to_owned()
        })?,
        false => interrupt::end_process_while_writing(&args.file, "back up")?,
    }
    if to_standard_output && io::stdout().is_terminal() {
        let message = "A backup is a binary file. Name a file, or redirect standard output.";
        return Err(Error::new(Code::InvalidRequest, message));
    }
    // Lowers the priority of this process, so that a running server is not slowed down. A failure is ignored,
    // because the backup works at any priority.
    let _ = rustix::process::nice(19);
    let app = super::open_existing_database(config).await?;
    let written = match to_standard_output {
        true => write_to_standard_output(&app),
        false => write_to_file(&app, &args.file, args.force),
    };
    let recorded = match &written {
        Ok(report) => backup::record(&app, report).await,
        Err(_) => Ok(()),
    };
    let closed = lifecycle::close(&app).await;
    let report = written?;
    if let Err(error) = recorded {
        super::print_unrecorded("the backup", &error);
    }
    print_report(&report, args.json, to_standard_output)?;
    closed
}

fn write_to_file(app: &App, file: &Path, replace: bool) -> Result<BackupReport> {
    let progress = ProgressReporter::new();
    backup::write(app, file, replace, &|step, done, total| progress.show(step, done, total))
}

/// Writes the copy to a temporary file, verifies it, and only then writes it to standard output. A backup that its
/// reader didn't take completely is an error, also if the pipe was closed.
fn write_to_standard_output(app: &App) -> Result<BackupReport> {
    let progress = ProgressReporter::new();
    let (part, report) = backup::write_temporary(app, &|step, done, total| progress.show(step, done, total))?;
    drop(progress);
    let mut copy = part.file();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match copy.read(&mut chunk).map_err(|error| part.error(error))? {
            0 => break,
            count => output::write_all(chunk.get(..count).unwrap_or_default())?,
        }
    }
    Ok(BackupReport { file: PathBuf::from("-"), ..report })
}

/// Prints the report to standard output, or to standard error if standard output is the backup.
fn print_report(report: &BackupReport, json: bool, to_standard_error: bool) -> Result<()> {
    if json && to_standard_error {
        output::message(&serde_json::to_string(report).map_err(Error::internal)?);
        return Ok(());
    }
    if json {
        return output::print_json(report);
    }
    let text = format!(
        "{}: {} bytes, verified; copied in {:.1} s, verified in {:.1} s; audit head {}",
        if to_standard_error { "standard output".into() } else { report.file.display().to_string() },
        report.bytes,
        report.copy_seconds,
        report.verification_seconds,
        report.audit_head
    );
    if to_standard_error {
        output::message(&text);
        return Ok(());
    }
    output::print(&text)
}
