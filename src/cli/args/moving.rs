//! What `import`, `export`, `backup`, `restore` and `check` may be told.

use std::path::PathBuf;

use clap::ValueEnum;

/// `tollhouse import`
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Import {
    /// What to import: NDJSON, CSV, or the SQLite file of another system (--from)
    pub(crate) file: PathBuf,

    /// How FILE is written [default: by its ending, .ndjson, .jsonl or .csv]
    #[arg(long, value_enum, conflicts_with = "from")]
    pub(crate) format: Option<ImportFormat>,

    /// FILE is the SQLite database of this system; it is only read
    #[arg(long, value_enum, value_name = "SYSTEM")]
    pub(crate) from: Option<System>,

    /// Keys that name no organization belong to this one
    ///
    /// With --from better-auth: keys of users who are in no organization or in several; the users become
    /// members of it. It has to be there, or in FILE.
    #[arg(long, value_name = "ID")]
    pub(crate) organization: Option<String>,

    /// Add scopes of keys that the catalogue doesn't have, instead of refusing the keys
    #[arg(long)]
    pub(crate) create_scopes: bool,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportFormat {
    /// One JSON object a line
    Ndjson,
    /// A table with a header line
    Csv,
}

/// Systems whose files are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum System {
    /// better-auth with its plugins organization and api-key
    BetterAuth,
}

/// `tollhouse export`
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Export {
    /// Write to this file, which must not exist yet, instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// `tollhouse backup`
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Backup {
    /// Where to write it
    pub(crate) file: PathBuf,

    /// Replace FILE if it is there, once the new one is proven
    #[arg(long)]
    pub(crate) force: bool,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tollhouse restore`
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Restore {
    /// A backup
    pub(crate) file: PathBuf,

    /// Replace the database that is there; it is kept beside, as tollhouse.db.before-restore
    #[arg(long)]
    pub(crate) force: bool,

    /// Restore though nobody knows what was revoked since the backup
    ///
    /// Needed where there is no database to take that from, where it can't be read, or where it didn't
    /// come from the backup. Keys that were revoked since are good again then.
    #[arg(long)]
    pub(crate) accept_unrevoked: bool,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tollhouse check`
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Check {
    /// A backup to look at instead of the database
    pub(crate) file: Option<PathBuf>,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
