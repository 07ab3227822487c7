//! `tollhouse backup`: writes a verified copy of the database. The command works while a server is running.

use super::args::data_commands::Backup;
use super::progress::ProgressReporter;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::service::backup;

pub(crate) async fn run(config: Config, args: Backup) -> Result<()> {
    // Lowers the priority of this process, so that a running server is not slowed down. A failure is ignored,
    // because the backup works at any priority.
    let _ = rustix::process::nice(19);
    let app = super::open_existing_database(config).await?;
    let progress = ProgressReporter::new();
    let backup =
        backup::run(&app, &args.file, args.force, &|step, done, total| progress.show(step, done, total))
            .await;
    drop(progress);
    let closed = app.close().await;
    let backup = backup?;
    if args.json {
        println!("{}", serde_json::to_string(&backup).map_err(Error::internal)?);
    } else {
        println!(
            "{}: {} bytes, verified; copied in {:.1} s, verified in {:.1} s; audit head {}",
            backup.file.display(),
            backup.bytes,
            backup.copy_seconds,
            backup.proof_seconds,
            backup.audit_head
        );
    }
    closed
}
