//! The command line's arguments and help texts.

pub(crate) mod data_commands;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::ConfigFlags;
use crate::domain::chain::ChainAnchor;
use data_commands::{Backup, Check, Export, Import, Restore};

/// API keys, organizations, limits and an audit log in one binary with one SQLite file
///
/// Without a command, `tollhouse` runs `tollhouse serve`.
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    common: CommonFlags,
    #[command(flatten)]
    serve: Serve,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "\
Settings come from the file given with --config or from environment variables: TOLLHOUSE_ and the \
setting's path, with two underscores between levels, such as TOLLHOUSE_HTTP__LISTEN. `tollhouse \
config check` prints all settings.

Exit status: 0 success, 1 failure, 2 usage error.";

/// The display order in `--help` of the flags that every command accepts. It places them after the command's
/// own flags.
const COMMON_FLAG_DISPLAY_ORDER: usize = 100;

/// Flags that every command accepts.
#[derive(Debug, clap::Args)]
struct CommonFlags {
    /// Read settings from this TOML file [env: TOLLHOUSE_CONFIG]
    #[arg(long, value_name = "FILE", global = true, display_order = COMMON_FLAG_DISPLAY_ORDER)]
    config: Option<PathBuf>,

    /// Keep the database in this directory (setting: database.dir)
    #[arg(long, value_name = "DIR", global = true, display_order = COMMON_FLAG_DISPLAY_ORDER)]
    data: Option<String>,
}

/// Arguments of `tollhouse serve`.
#[derive(Debug, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct Serve {
    /// Listen on this address and port; port 0 picks a free port (setting: http.listen)
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,

    /// Write the first admin key, created if the database is empty, to this file [default: DIR/admin.key]
    ///
    /// On a terminal, the key is printed instead. No key is created if TOLLHOUSE_ADMIN_KEY contains
    /// one, or the file named by TOLLHOUSE_ADMIN_KEY_FILE.
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_key_file: Option<PathBuf>,

    /// Fail if there is no database instead of creating one (setting: database.must_exist)
    #[arg(long)]
    pub(crate) must_exist: bool,

    /// Serve a month of sample data, discarded when the server stops
    ///
    /// Listens only on loopback. The database is in a temporary directory, which is removed when the
    /// server stops. The admin key is printed; set TOLLHOUSE_ADMIN_KEY to choose it.
    #[arg(long)]
    pub(crate) dev: bool,
}

/// The commands of `tollhouse`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum Command {
    /// Serve the API (the default command)
    Serve(Serve),

    /// Create platform keys (break-glass access)
    #[command(subcommand)]
    AdminKey(AdminKey),

    /// Verify and export the audit log
    #[command(subcommand)]
    Audit(Audit),

    /// Import organizations, users, members and keys (by their hashes)
    ///
    /// Each record is either stored completely or refused with a reason. Existing records that are
    /// equal are skipped, so an import can be repeated. Works while a server is running. Exits with
    /// status 1 if a record was refused. docs/guides/import-and-export.md describes the record formats.
    Import(Import),

    /// Export settings, organizations, users, memberships, scopes and keys as NDJSON for import
    ///
    /// The export contains hashes of keys, so protect it like the database. Use `audit export` for the
    /// audit log. Usage and used quota units are only in backups.
    Export(Export),

    /// Copy the database to FILE and verify the copy; works while a server is running
    Backup(Backup),

    /// Replace the database with a backup; the server must be stopped
    ///
    /// Everything that was revoked, disabled, suspended, deleted, narrowed or rotated since the backup
    /// stays so: these changes are reapplied from the replaced database.
    Restore(Restore),

    /// Check the database's integrity: pages, references, audit log, counts
    ///
    /// Exits with status 1 if there are errors.
    Check(Check),

    /// Accept a clock that jumped
    #[command(subcommand)]
    Clock(Clock),

    /// Check the configuration
    #[command(subcommand)]
    Config(Config),

    /// Print the OpenAPI document as JSON
    Openapi,

    /// Print shell completions
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// The subcommands of `tollhouse admin-key`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum AdminKey {
    /// Create a platform key and print it once
    ///
    /// Works while a server is running; the server accepts the key within a second.
    Create(CreateAdminKey),
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
    Verify(AuditVerify),

    /// Export all events, oldest first
    Export(AuditExport),
}

/// Arguments of `tollhouse audit verify`.
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct AuditVerify {
    /// Exported NDJSON file to verify instead of the database
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

    /// Write to this new file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// The output format of `tollhouse audit export`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// One JSON object per line, byte for byte as hashed
    Ndjson,
    /// Table for spreadsheets
    Csv,
}

/// The subcommands of `tollhouse clock`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum Clock {
    /// Declare that the system clock is right
    ///
    /// After the clock jumped, the server deletes nothing because of its age for an hour. This command
    /// ends that wait, and makes keys expire by the system clock again after it was set back. Works
    /// while a server is running; the server follows within a second.
    Accept,
}

/// The subcommands of `tollhouse config`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum Config {
    /// Check the configuration and print the effective settings with their sources
    Check,
}

/// A parsed command line whose flags don't contradict each other.
#[derive(Debug, PartialEq)]
pub struct Args {
    /// The configuration file given with `--config`.
    pub(crate) config: Option<PathBuf>,
    /// The flags that override settings of the configuration, such as `--listen`.
    pub(crate) flags: ConfigFlags,
    /// The command to run.
    pub(crate) command: Command,
}

impl Args {
    /// Parses the command line of this process. `--help` and `--version` exit the process with status 0,
    /// usage errors with status 2.
    pub fn read() -> Self {
        Cli::parse().into_args().unwrap_or_else(|error| error.exit())
    }
}

/// Generates the completion script for a shell.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tollhouse", &mut script);
    script
}

impl Cli {
    /// Merges the flags of the default command `serve` into the named command. The flags of `serve` may stand
    /// before the word `serve` or without it, but are refused together with another command.
    fn into_args(self) -> Result<Args, clap::Error> {
        let Cli { common, serve: implied, command } = self;
        let command = match command {
            None => Command::Serve(implied),
            Some(Command::Serve(named)) => Command::Serve(Serve {
                listen: named.listen.or(implied.listen),
                admin_key_file: named.admin_key_file.or(implied.admin_key_file),
                must_exist: named.must_exist || implied.must_exist,
                dev: named.dev || implied.dev,
            }),
            Some(other) if implied == Serve::default() => other,
            Some(_) => {
                let message =
                    "--listen, --admin-key-file, --must-exist and --dev can only be used with serve";
                return Err(Cli::command().error(ErrorKind::ArgumentConflict, message));
            }
        };
        let mut flags = ConfigFlags { data: common.data, ..ConfigFlags::default() };
        if let Command::Serve(serve) = &command {
            serve.ensure_dev_is_temporary(flags.data.as_deref())?;
            flags.listen = serve.listen;
            flags.must_exist = serve.must_exist;
        }
        Ok(Args { config: common.config, flags, command })
    }
}

impl Serve {
    /// Refuses flags that contradict `--dev`, which uses only temporary data and listens only on loopback.
    fn ensure_dev_is_temporary(&self, data: Option<&str>) -> Result<(), clap::Error> {
        let message = match self.listen {
            _ if !self.dev => return Ok(()),
            _ if data.is_some() => "--dev uses a temporary database; remove --data",
            _ if self.must_exist => "--dev creates a temporary database; remove --must-exist",
            _ if self.admin_key_file.is_some() => "--dev prints its admin key; remove --admin-key-file",
            Some(listen) if !listen.ip().is_loopback() => {
                "--dev listens only on loopback; use an address such as 127.0.0.1"
            }
            _ => return Ok(()),
        };
        Err(Cli::command().error(ErrorKind::ArgumentConflict, message))
    }
}

fn parse_chain_anchor(text: &str) -> Result<ChainAnchor, &'static str> {
    ChainAnchor::parse(text)
        .ok_or("expected the sequence number of an event, a colon, and its hash (64 hexadecimal digits)")
}

#[cfg(test)]
mod tests;
