//! `tollhouse export`: writes all resources as NDJSON, for import into another Tollhouse or another system.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::args::data_commands::Export;
use super::progress::ProgressReporter;
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::service::export;
use crate::store::backup::{remove_file_if_exists, rename_durably, with_suffix};

/// Exports all resources to a file or to standard output.
pub(crate) async fn run(config: Config, args: Export) -> Result<()> {
    if let Some(output) = &args.output
        && output.exists()
    {
        return Err(Error::new(
            Code::AlreadyExists,
            format!("{} exists; choose another file.", output.display()),
        ));
    }
    let dir = config.database.dir.clone();
    let app = super::open_existing_database(config).await?;
    // The export is written to a file first. Otherwise a slow reader of standard output would keep the
    // database's read transaction open.
    let part = match &args.output {
        Some(output) => with_suffix(output, ".part"),
        None => dir.join("tollhouse.export.part"),
    };
    let written = async {
        let file = create_private_file(&part)?;
        let mut output = BufWriter::with_capacity(1 << 16, file);
        let progress = ProgressReporter::new();
        let records =
            export::run(&app, &mut output, &|step, done, total| progress.show(step, done, total)).await?;
        let file = output.into_inner().map_err(|error| Error::internal(error.error()))?;
        file.sync_all().map_err(Error::internal)?;
        Ok((file, records))
    };
    let written: Result<_> = written.await;
    let closed = app.close().await;
    let (file, records) = written.inspect_err(|_| drop(remove_file_if_exists(&part)))?;
    match &args.output {
        Some(output) => rename_durably(&part, output)?,
        None => {
            remove_file_if_exists(&part)?;
            copy_to_standard_output(file)?;
        }
    }
    eprintln!("{records} records");
    closed
}

/// Creates an export file that only its owner can read, because an export contains hashes of keys.
fn create_private_file(path: &Path) -> Result<File> {
    remove_file_if_exists(path)?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| Error::internal(format!("{}: {error}", path.display())))
}

fn copy_to_standard_output(mut file: File) -> Result<()> {
    let mut output = io::stdout().lock();
    let copied = file.seek(SeekFrom::Start(0)).and_then(|_| io::copy(&mut file, &mut output));
    match copied.and_then(|_| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::internal(error)),
        _ => Ok(()),
    }
}
