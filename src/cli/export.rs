//! `tollhouse export`: writes all resources as NDJSON, for import into another Tollhouse or another system.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Read, Seek as _, Write};
use std::path::Path;
use std::sync::Arc;

use super::args::data_commands::Export;
use super::output::ResultStream;
use super::progress::ProgressReporter;
use super::{interrupt, output};
use crate::app::App;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::service::{export, lifecycle};
use crate::store::part_file::PartFile;

/// Exports all resources to a file or to standard output.
pub(crate) async fn run(config: Config, args: Export) -> Result<()> {
    let target = interrupt::export_target(args.output.as_deref())?;
    let dir = config.database.dir.clone();
    let app = super::open_existing_database(config).await?;
    let part = target.map(|target| PartFile::create_for_operator(target, args.force, &dir)).transpose()?;
    let exported = match &part {
        Some(part) => write_export(&app, part.file()).await,
        None => export_to_standard_output(&app, &dir).await,
    };
    let closed = lifecycle::close(&app).await;
    let (records, unrecorded) = exported?;
    if let Some(part) = part {
        part.rename_to_target(args.force)?;
    }
    output::message(&format!("{records} records"));
    if let Some(error) = unrecorded {
        super::print_unrecorded("the export", &error);
    }
    closed
}

/// Writes the export to a file. Returns the number of records, and the error because of which the export's audit event
/// could not be stored.
async fn write_export(app: &Arc<App>, file: &File) -> Result<(u64, Option<Error>)> {
    let mut buffered = BufWriter::with_capacity(1 << 16, file);
    let progress = ProgressReporter::new();
    let show = |step, done, total| progress.show(step, done, total);
    let exported = export::run(app, &mut buffered, &show).await?;
    buffered.flush().map_err(Error::internal)?;
    Ok(exported)
}

/// Writes the export to a temporary file, and then to standard output. Otherwise a slow reader of standard
/// output would keep the database's read transaction open.
async fn export_to_standard_output(app: &Arc<App>, dir: &Path) -> Result<(u64, Option<Error>)> {
    // The file has no name, so nothing remains of it even after a crash.
    let mut file = tempfile::tempfile_in(dir).map_err(|error| in_directory(dir, error))?;
    let exported = write_export(app, &file).await?;
    file.rewind().map_err(|error| in_directory(dir, error))?;
    let mut output = ResultStream::open();
    let mut lines = BufReader::with_capacity(1 << 16, file);
    let mut chunk = Vec::new();
    while read_lines(&mut lines, &mut chunk).map_err(|error| in_directory(dir, error))? {
        if !output.write(&chunk)? {
            break;
        }
    }
    Ok(exported)
}

/// Reads some KiB of complete lines into `chunk`. Returns false at the end.
fn read_lines(input: &mut BufReader<impl Read>, chunk: &mut Vec<u8>) -> io::Result<bool> {
    chunk.clear();
    while chunk.len() < 1 << 16 && input.read_until(b'\n', chunk)? > 0 {}
    Ok(!chunk.is_empty())
}

fn in_directory(dir: &Path, error: io::Error) -> Error {
    Error::internal(format!("temporary file in {}: {error}", dir.display()))
}
