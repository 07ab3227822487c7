//! `tollhouse restore`: replaces the database with a backup.

use super::args::data_commands::Restore;
use super::progress::ProgressReporter;
use super::{interrupt, output};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::Result;
use crate::service::restore::{self, RestoreOptions};

pub(crate) async fn run(config: Config, args: Restore) -> Result<()> {
    let order =
        RestoreOptions { file: args.file, replace: args.force, accept_unrevoked: args.accept_unrevoked };
    let file = config.database.file();
    let inode_before = interrupt::inode(&file);
    interrupt::end_process_on_signal(move || {
        if interrupt::inode(&file) == inode_before {
            "the database was not changed. Run the command again to restore.".to_owned()
        } else {
            "the database is already replaced; the restore is complete.".to_owned()
        }
    })?;
    let progress = ProgressReporter::new();
    let show = |step, done, total| progress.show(step, done, total);
    let restored = restore::run(config, Clock::system(), &order, &show).await;
    drop(progress);
    let restored = restored?;
    if args.json {
        return output::print_json(&restored);
    }
    let mut lines = vec![format!("restored {} to {}", order.file.display(), restored.file.display())];
    if let Some(replaced) = &restored.replaced {
        lines.push(format!("kept the replaced database as {}", replaced.display()));
        let reapplied = restored.reapplied;
        lines.push(format!(
            "reapplied revocations since the backup: {} organizations, {} users, {} memberships, {} keys, \
             {} quotas",
            reapplied.organizations,
            reapplied.users,
            reapplied.memberships,
            reapplied.api_keys,
            reapplied.quotas
        ));
    }
    if !restored.complete {
        lines.push("warning: keys that were revoked since the backup may be valid again".to_owned());
    }
    output::print(&lines.join("\n"))
}
