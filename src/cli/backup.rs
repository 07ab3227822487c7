//! `tollhouse backup`: a proven copy, also beside a running server.

use super::args::moving::Backup;
use super::progress::ProgressReporter;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::service::backup;

/// Makes a backup.
pub(crate) async fn run(config: Config, args: Backup) -> Result<()> {
    // A server beside this comes first. Where the system doesn't let us, it is only slower.
    let _ = rustix::process::nice(19);
    let app = super::open_beside(config).await?;
    let progress = ProgressReporter::new();
    let made =
        backup::run(&app, &args.file, args.force, &|what, done, of| progress.show(what, done, of)).await;
    drop(progress);
    let closed = app.close().await;
    let made = made?;
    if args.json {
        println!("{}", serde_json::to_string(&made).map_err(Error::internal)?);
    } else {
        println!(
            "{}: {} bytes, proven; copied in {:.1} s, proven in {:.1} s; audit head {}",
            made.file.display(),
            made.bytes,
            made.copy_seconds,
            made.proof_seconds,
            made.audit_head
        );
    }
    closed
}
