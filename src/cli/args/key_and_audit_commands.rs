//! Arguments of `admin-key` and `audit`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use crate::domain::chain::ChainAnchor;

/// The subcommands of `tollhouse admin-key`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum AdminKey {
    /// Create a platform key and print it once
    ///
    /// Works while a server is running; the server accepts the key within a second.
    #[command(after_help = "\
Examples:
  tollhouse admin-key create --data /var/lib/tollhouse
  tollhouse admin-key create --name auditor --scopes admin:audit --json")]
    Create(CreateAdminKey),

    /// List the platform keys, without their secrets
    #[command(after_help = "\
Examples:
  tollhouse admin-key list --data /var/lib/tollhouse
  tollhouse admin-key list --json")]
    List(ListAdminKeys),

    /// Revoke a key permanently, of the platform or of any organization
    ///
    /// Works with and without a running server. Returns when a running server refuses the key.
    #[command(after_help = "\
Examples:
  tollhouse admin-key revoke key_123
  tollhouse admin-key revoke key_123 --reason \"laptop was stolen\"")]
    Revoke(RevokeAdminKey),
}

/// Arguments of `tollhouse admin-key list`.
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct ListAdminKeys {
    /// Print the keys as a JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `tollhouse admin-key revoke`.
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct RevokeAdminKey {
    /// ID of the key, not its secret
    pub(crate) id: String,

    /// Why the key is revoked; the key and the audit log keep it
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,

    /// Print the revoked key as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `tollhouse admin-key create`.
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct CreateAdminKey {
    /// Name of the key, 1 to 200 characters
    #[arg(long, value_name = "NAME", default_value = "admin")]
    pub(crate) name: String,

    /// Scopes of the key, separated by commas, such as admin:keys,admin:audit
    #[arg(long, value_name = "SCOPES", value_delimiter = ',', default_value = "*")]
    pub(crate) scopes: Vec<String>,

    /// Print the key as JSON instead of only its secret
    #[arg(long)]
    pub(crate) json: bool,
}

/// The subcommands of `tollhouse audit`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum Audit {
    /// Detect events that were edited, removed or reordered
    ///
    /// Anyone who can write to the database can rewrite all events after the last head stored
    /// elsewhere. Pass such a head as --anchor. Exits with status 1 if the log was changed.
    #[command(after_help = "\
Examples:
  tollhouse audit verify --data /var/lib/tollhouse
  tollhouse audit verify events.ndjson --json
  xzcat events.ndjson.xz | tollhouse audit verify -")]
    Verify(AuditVerify),

    /// Export all events, oldest first
    #[command(after_help = "\
Examples:
  tollhouse audit export --output events.ndjson
  tollhouse audit export --format csv --output events.csv --force
  tollhouse audit export | xz > events.ndjson.xz")]
    Export(AuditExport),
}

/// Arguments of `tollhouse audit verify`.
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct AuditVerify {
    /// Exported NDJSON file to verify instead of the database; - for standard input
    pub(crate) file: Option<PathBuf>,

    /// FILE is a filtered export: check each event, but not whether events are missing
    #[arg(long, requires = "file", conflicts_with = "anchor")]
    pub(crate) filtered: bool,

    /// A head stored elsewhere: the sequence number of an event and its hash
    #[arg(long, value_name = "SEQ:HASH", value_parser = parse_chain_anchor)]
    pub(crate) anchor: Option<ChainAnchor>,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `tollhouse audit export`.
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct AuditExport {
    /// Output format; only ndjson can be verified later
    #[arg(long, value_enum, default_value_t = ExportFormat::Ndjson)]
    pub(crate) format: ExportFormat,

    /// Write to this file; - for standard output, which is the default
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Replace the file given with --output if it exists
    #[arg(long, requires = "output")]
    pub(crate) force: bool,
}

/// The output format of `tollhouse audit export`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// One JSON object per line, byte for byte as hashed
    Ndjson,
    /// Table for spreadsheets
    Csv,
}

fn parse_chain_anchor(text: &str) -> Result<ChainAnchor, &'static str> {
    ChainAnchor::parse(text)
        .ok_or("expected the sequence number of an event, a colon, and its hash (64 hexadecimal digits)")
}
