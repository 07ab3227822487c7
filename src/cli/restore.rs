//! `tollhouse restore`: replaces the database with a backup.

use super::args::data_commands::Restore;
use super::progress::ProgressReporter;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::service::restore::{self, RestoreOptions};

pub(crate) async fn run(config: Config, args: Restore) -> Result<()> {
    let order =
        RestoreOptions { file: args.file, replace: args.force, accept_unrevoked: args.accept_unrevoked };
    let progress = ProgressReporter::new();
    let show = |step, done, total| progress.show(step, done, total);
    let restored = restore::run(config, Clock::system(), &order, &show).await;
    drop(progress);
    let restored = restored?;
    if args.json {
        println!("{}", serde_json::to_string(&restored).map_err(Error::internal)?);
        return Ok(());
    }
    println!("restored {} to {}", order.file.display(), restored.file.display());
    if let Some(replaced) = &restored.replaced {
        println!("kept the replaced database as {}", replaced.display());
        let reapplied = restored.reapplied;
        println!(
            "reapplied revocations since the backup: {} organizations, {} users, {} memberships, {} keys, \
             {} quotas",
            reapplied.organizations,
            reapplied.users,
            reapplied.memberships,
            reapplied.api_keys,
            reapplied.quotas
        );
    }
    if !restored.complete {
        println!("warning: keys that were revoked since the backup may be valid again");
    }
    Ok(())
}
