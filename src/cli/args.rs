//! The command line's arguments and help texts.

pub(crate) mod data_commands;
mod examples;
pub(crate) mod key_and_audit_commands;

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use super::output;
use crate::config::{ConfigFlags, ListenAddress};
use data_commands::{Backup, Check, Export, Import, Restore};
use key_and_audit_commands::{AdminKey, Audit};

/// API keys, organizations, limits and an audit log in one binary with one SQLite file
///
/// Without a command, `tollhouse` runs `tollhouse serve`.
#[derive(Debug, Parser)]
#[command(version = env!("TOLLHOUSE_VERSION"), after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    common: CommonFlags,
    #[command(flatten)]
    serve: Serve,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "\
Examples:
  tollhouse --dev
  tollhouse serve --listen :8080 --data /var/lib/tollhouse
  tollhouse backup /backups/tollhouse.db --data /var/lib/tollhouse

Settings come from the file given with --config, else from /etc/tollhouse/config.toml if it exists, and \
from environment variables: TOLLHOUSE_ and the setting's path, with two underscores between levels, such \
as TOLLHOUSE_HTTP__LISTEN. `tollhouse config show` prints all settings.

Exit status: 0 success, 1 failure, 2 usage error.";

/// The display order in `--help` of the flags that every command accepts. It places them after the command's
/// own flags.
const COMMON_FLAG_DISPLAY_ORDER: usize = 100;

/// Flags that every command accepts.
#[derive(Debug, clap::Args)]
struct CommonFlags {
    /// Read settings from this TOML file [env: TOLLHOUSE_CONFIG] [default: /etc/tollhouse/config.toml]
    #[arg(long, value_name = "FILE", global = true, display_order = COMMON_FLAG_DISPLAY_ORDER)]
    config: Option<PathBuf>,

    /// Keep the database in this directory (setting: database.dir)
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, global = true,
        display_order = COMMON_FLAG_DISPLAY_ORDER)]
    data: Option<String>,
}

/// Arguments of `tollhouse serve`.
#[derive(Debug, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct Serve {
    /// Listen on this address and port (setting: http.listen)
    ///
    /// 8080 is a port for this machine only, :8080 listens on all addresses, localhost:8080 on both
    /// loopback addresses, and 192.0.2.1:8080 or [::1]:8080 on one address. Port 0 picks a free port.
    #[arg(long, value_name = "ADDR", value_parser = parse_listen_address)]
    pub(crate) listen: Option<ListenAddress>,

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
    #[command(after_help = examples::SERVE)]
    Serve(Serve),

    /// Ask a running server whether it is ready
    ///
    /// Asks /readyz at the address in the setting http.listen. Prints "ready" and exits with status 0, or
    /// says why not and exits with status 1. For the health checks of containers.
    #[command(after_help = examples::HEALTH)]
    Health(Health),

    /// Create, list and revoke platform keys (break-glass access)
    #[command(subcommand, after_help = examples::ADMIN_KEY)]
    AdminKey(AdminKey),

    /// Verify and export the audit log
    #[command(subcommand, after_help = examples::AUDIT)]
    Audit(Audit),

    /// Import organizations, users, members and keys (by their hashes)
    ///
    /// Each record is either stored completely or refused with a reason. Existing records that are
    /// equal are skipped, so an import can be repeated. Works while a server is running. Exits with
    /// status 1 if a record was refused. docs/guides/import-and-export.md describes the record formats.
    #[command(after_help = examples::IMPORT)]
    Import(Import),

    /// Export settings, organizations, users, memberships, scopes and keys as NDJSON for import
    ///
    /// The export contains hashes of keys, so protect it like the database. Use `audit export` for the
    /// audit log. Usage and used quota units are only in backups.
    #[command(after_help = examples::EXPORT)]
    Export(Export),

    /// Copy the database to FILE and verify the copy; works while a server is running
    #[command(after_help = examples::BACKUP)]
    Backup(Backup),

    /// Replace the database with a backup; the server must be stopped
    ///
    /// Everything that was revoked, disabled, suspended, deleted, narrowed or rotated since the backup
    /// stays so: these changes are reapplied from the replaced database.
    #[command(after_help = examples::RESTORE)]
    Restore(Restore),

    /// Check the database's integrity: pages, references, audit log, counts
    ///
    /// Exits with status 1 if there are errors.
    #[command(after_help = examples::CHECK)]
    Check(Check),

    /// Accept a clock that jumped
    #[command(subcommand, after_help = examples::CLOCK)]
    Clock(Clock),

    /// Show, check and create the configuration
    #[command(subcommand, after_help = examples::CONFIG)]
    Config(Config),

    /// Print the OpenAPI document as JSON
    #[command(after_help = examples::OPENAPI)]
    Openapi(Openapi),

    /// Print shell completions
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Write a man page for each command
    #[command(after_help = examples::MAN)]
    Man {
        /// The directory to write to; it is created if it doesn't exist
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        directory: PathBuf,
    },

    /// Print the version
    #[command(after_help = examples::VERSION)]
    Version,
}

/// Arguments of `tollhouse health`.
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Health {
    /// The address that the server listens on (setting: http.listen)
    #[arg(long, value_name = "ADDR", value_parser = parse_listen_address)]
    pub(crate) listen: Option<ListenAddress>,
}

/// Arguments of `tollhouse openapi`.
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Openapi {
    /// URL of the server, for tools that read the document from a file [default: relative to the document]
    #[arg(long, value_name = "URL", value_parser = parse_server_url)]
    pub(crate) server: Option<String>,

    /// Version of the OpenAPI Specification; 3.0 is for tools that can't read 3.1
    #[arg(long = "version", value_name = "VERSION", value_enum, default_value_t = OpenapiVersion::V3_1)]
    pub(crate) specification: OpenapiVersion,
}

/// A version of the OpenAPI Specification that `tollhouse openapi` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OpenapiVersion {
    #[value(name = "3.0")]
    V3_0,
    #[value(name = "3.1")]
    V3_1,
}

/// The subcommands of `tollhouse clock`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum Clock {
    /// Declare that the system clock is right
    ///
    /// After the clock jumped, the server deletes nothing because of its age for an hour. This command
    /// ends that wait, and makes keys expire by the system clock again after it was set back. Works
    /// while a server is running; the server follows within a second.
    #[command(after_help = examples::CLOCK)]
    Accept,
}

/// The subcommands of `tollhouse config`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum Config {
    /// Print the effective settings with their sources
    ///
    /// The output is usable as a configuration file.
    #[command(after_help = examples::CONFIG_SHOW)]
    Show,

    /// Check the configuration and the TLS files: prints "ok", or all errors
    #[command(after_help = examples::CONFIG_CHECK)]
    Check,

    /// Write a configuration file in which all settings are explained and commented out
    #[command(after_help = examples::CONFIG_INIT)]
    Init(ConfigInit),
}

/// Arguments of `tollhouse config init`.
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct ConfigInit {
    /// File to write; - for standard output
    #[arg(default_value = "tollhouse.toml")]
    pub(crate) file: PathBuf,

    /// Replace FILE if it exists
    #[arg(long)]
    pub(crate) force: bool,
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
        Cli::try_parse().and_then(Cli::into_args).unwrap_or_else(|error| {
            if error.use_stderr() {
                error.exit();
            }
            let text = error.render();
            let has_colors = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let text = if has_colors { text.ansi().to_string() } else { text.to_string() };
            let printed = output::print_document(text.as_bytes());
            std::process::exit(if super::report_failure(printed) { 1 } else { 0 })
        })
    }
}

/// The definition of the command line, from which completions and man pages are generated.
pub(crate) fn definition() -> clap::Command {
    Cli::command()
}

/// Generates the completion script for a shell.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut definition(), "tollhouse", &mut script);
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
        match &command {
            Command::Serve(serve) => {
                serve.ensure_dev_is_temporary(flags.data.as_deref())?;
                flags.listen = serve.listen;
                flags.must_exist = serve.must_exist;
            }
            Command::Health(health) => flags.listen = health.listen,
            _ => {}
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
            Some(listen) if !listen.is_loopback() => {
                "--dev listens only on loopback; use an address such as 127.0.0.1"
            }
            _ => return Ok(()),
        };
        Err(Cli::command().error(ErrorKind::ArgumentConflict, message))
    }
}

/// Returns the line that `tollhouse --version` prints.
pub(crate) fn version() -> String {
    Cli::command().render_version().trim_end().to_owned()
}

fn parse_listen_address(text: &str) -> Result<ListenAddress, String> {
    ListenAddress::parse(text).ok_or_else(|| format!("expected {}", ListenAddress::EXPECTED))
}

fn parse_server_url(text: &str) -> Result<String, &'static str> {
    let is_url = ["http://", "https://"].iter().any(|scheme| {
        text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace))
    });
    if is_url { Ok(text.to_owned()) } else { Err("expected a URL, such as https://api.example.com") }
}

#[cfg(test)]
mod tests;
