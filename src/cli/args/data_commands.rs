//! Arguments of `import`, `export`, `backup`, `restore` and `check`.

use std::path::PathBuf;

use clap::ValueEnum;

/// Arguments of `tollhouse import`.
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Import {
    /// File to import: NDJSON, CSV, or the SQLite database of another system (--from); - for standard input
    pub(crate) file: PathBuf,

    /// Format of FILE [default: by its extension, .ndjson, .jsonl or .csv; ndjson for standard input]
    #[arg(long, value_enum, conflicts_with = "from")]
    pub(crate) format: Option<ImportFormat>,

    /// FILE is the SQLite database of this system (opened read-only)
    #[arg(long, value_enum, value_name = "SYSTEM")]
    pub(crate) from: Option<System>,

    /// Organization for keys that name none
    ///
    /// With --from better-auth, this applies to keys of users who are members of no organization or of
    /// several; these users become its members. The organization must exist, in the database or in
    /// FILE.
    #[arg(long, value_name = "ID")]
    pub(crate) organization: Option<String>,

    /// Create scopes that are missing in the catalogue instead of refusing the keys
    #[arg(long)]
    pub(crate) create_scopes: bool,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The file format of `tollhouse import`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportFormat {
    /// One JSON object per line
    Ndjson,
    /// Table with a header line
    Csv,
}

/// Another system whose database `tollhouse import --from` can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum System {
    /// better-auth with the plugins organization and api-key
    BetterAuth,
}

/// Arguments of `tollhouse export`.
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Export {
    /// Write to this file; - for standard output, which is the default
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Replace the file given with --output if it exists
    #[arg(long, requires = "output")]
    pub(crate) force: bool,
}

/// Arguments of `tollhouse backup`.
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Backup {
    /// File to write; - writes the verified copy to standard output
    pub(crate) file: PathBuf,

    /// Replace FILE if it exists, once the new backup is verified
    #[arg(long)]
    pub(crate) force: bool,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `tollhouse restore`.
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Restore {
    /// Backup to restore
    pub(crate) file: PathBuf,

    /// Replace an existing database; it is kept as tollhouse.db.before-restore
    #[arg(long)]
    pub(crate) force: bool,

    /// Restore even if revocations since the backup are unknown
    ///
    /// Required if there is no current database to take revocations from, if it can't be read, or if it
    /// has a different origin than the backup. Keys that were revoked since the backup become valid
    /// again.
    #[arg(long)]
    pub(crate) accept_unrevoked: bool,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `tollhouse check`.
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Check {
    /// Backup to check instead of the database
    pub(crate) file: Option<PathBuf>,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
