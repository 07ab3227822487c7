//! `tollhouse export`: writes all resources as NDJSON, for import into another Tollhouse or another system.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use super::args::data_commands::Export;
use super::progress::ProgressReporter;
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::service::export;
use crate::store::part_file::PartFile;

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
    let part = PartFile::create(args.output.as_deref().unwrap_or(&dir.join("tollhouse.export")))?;
    let written = async {
        let mut output = BufWriter::with_capacity(1 << 16, part.file());
        let progress = ProgressReporter::new();
        let records =
            export::run(&app, &mut output, &|step, done, total| progress.show(step, done, total)).await?;
        output.flush().map_err(Error::internal)?;
        Ok(records)
    };
    let written: Result<_> = written.await;
    let closed = app.close().await;
    let records = written?;
    match &args.output {
        Some(_) => part.rename_to_target(false)?,
        None => copy_to_standard_output(part.file())?,
    }
    eprintln!("{records} records");
    closed
}

fn copy_to_standard_output(mut file: &File) -> Result<()> {
    let mut output = io::stdout().lock();
    let copied = file.seek(SeekFrom::Start(0)).and_then(|_| io::copy(&mut file, &mut output));
    match copied.and_then(|_| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::internal(error)),
        _ => Ok(()),
    }
}
