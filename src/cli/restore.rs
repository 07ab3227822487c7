//! `tollhouse restore`: a backup in the place of the database.

use super::args::moving::Restore;
use super::progress::ProgressReporter;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::service::restore::{self, RestoreOptions};

/// Restores.
pub(crate) async fn run(config: Config, args: Restore) -> Result<()> {
    let order =
        RestoreOptions { file: args.file, replace: args.force, accept_unrevoked: args.accept_unrevoked };
    let progress = ProgressReporter::new();
    let show = |what, done, of| progress.show(what, done, of);
    let restored = restore::run(config, Clock::system(), &order, &show).await;
    drop(progress);
    let restored = restored?;
    if args.json {
        println!("{}", serde_json::to_string(&restored).map_err(Error::internal)?);
        return Ok(());
    }
    println!("{} is {}", restored.file.display(), order.file.display());
    if let Some(replaced) = &restored.replaced {
        println!("the database that was there is {}", replaced.display());
        let reapplied = restored.reapplied;
        println!(
            "taken over from it, because it was withdrawn since: {} organizations, {} users, {} memberships, \
             {} keys, {} quotas",
            reapplied.organizations,
            reapplied.users,
            reapplied.memberships,
            reapplied.api_keys,
            reapplied.quotas
        );
    }
    if !restored.complete {
        println!("what was revoked since the backup may be good again");
    }
    Ok(())
}
