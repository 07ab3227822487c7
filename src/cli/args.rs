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
                dev: named.dev || implied.dev,
            }),
            Some(other) if implied == Serve::default() => other,
            Some(_) => {
                let message = "--listen, --admin-key-file and --dev can only be used with serve";
                return Err(Cli::command().error(ErrorKind::ArgumentConflict, message));
            }
        };
        let listen = match &command {
            Command::Serve(serve) => {
                serve.ensure_dev_is_temporary(common.data.as_deref())?;
                serve.listen
            }
            _ => None,
        };
        Ok(Args { config: common.config, flags: ConfigFlags { listen, data: common.data }, command })
    }
}

impl Serve {
    /// Refuses flags that contradict `--dev`, which uses only temporary data and listens only on loopback.
    fn ensure_dev_is_temporary(&self, data: Option<&str>) -> Result<(), clap::Error> {
        let message = match self.listen {
            _ if !self.dev => return Ok(()),
            _ if data.is_some() => "--dev uses a temporary database; remove --data",
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
mod tests {
    use std::path::Path;

    use super::*;

    fn parse_args(line: &str) -> Result<Args, clap::Error> {
        let words = std::iter::once("tollhouse").chain(line.split_whitespace());
        Cli::try_parse_from(words).and_then(Cli::into_args)
    }

    fn parse_command(line: &str) -> Command {
        parse_args(line).unwrap_or_else(|error| panic!("{line}: {error}")).command
    }

    #[test]
    fn the_clap_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_is_the_default_command() {
        let serve = parse_args("--listen 127.0.0.1:0 --data d --config c --admin-key-file k").unwrap();
        assert_eq!(
            serve,
            parse_args("serve --listen 127.0.0.1:0 --data d --config c --admin-key-file k").unwrap()
        );
        assert_eq!(
            serve,
            parse_args("--listen 127.0.0.1:0 --config c serve --data d --admin-key-file k").unwrap()
        );
        assert_eq!(serve.config.as_deref(), Some(Path::new("c")));
        assert_eq!(
            serve.flags,
            ConfigFlags { listen: "127.0.0.1:0".parse().ok(), data: Some("d".to_owned()) }
        );
        assert_eq!(parse_command(""), Command::Serve(Serve::default()));
        for line in ["--dev", "serve --dev --listen [::1]:0", "--dev serve"] {
            assert!(matches!(parse_command(line), Command::Serve(Serve { dev: true, .. })), "{line}");
        }
        let named = parse_args("--listen 127.0.0.1:1 serve --listen 127.0.0.1:2").unwrap();
        assert_eq!(named.flags.listen, "127.0.0.1:2".parse().ok());
    }

    #[test]
    fn config_and_data_work_with_every_command() {
        for words in [
            "serve",
            "admin-key create",
            "audit verify",
            "audit export",
            "import f.csv",
            "export",
            "backup f",
            "restore f",
            "check",
            "config check",
            "openapi",
            "completions bash",
        ] {
            for line in [format!("--config c --data d {words}"), format!("{words} --config c --data d")] {
                let read = parse_args(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
                assert_eq!(read.config.as_deref(), Some(Path::new("c")), "{line}");
                assert_eq!(read.flags, ConfigFlags { listen: None, data: Some("d".to_owned()) }, "{line}");
            }
        }
    }

    #[test]
    fn commands_and_their_flags_are_parsed() {
        let create = |name: &str, scopes: &[&str], json| {
            let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
            Command::AdminKey(AdminKey::Create(CreateAdminKey { name: name.to_owned(), scopes, json }))
        };
        assert_eq!(parse_command("admin-key create"), create("admin", &["*"], false));
        let line = "admin-key create --name ops --scopes admin:keys,admin:audit --json";
        assert_eq!(parse_command(line), create("ops", &["admin:keys", "admin:audit"], true));

        let hash = "ab".repeat(32);
        let verify = AuditVerify {
            file: Some("events.ndjson".into()),
            filtered: false,
            anchor: ChainAnchor::parse(&format!("7:{hash}")),
            json: true,
        };
        let line = format!("audit verify events.ndjson --anchor 7:{hash} --json");
        assert_eq!(parse_command(&line), Command::Audit(Audit::Verify(verify)));
        let export = AuditExport { format: ExportFormat::Csv, output: Some("x.csv".into()) };
        assert_eq!(
            parse_command("audit export --format csv --output x.csv"),
            Command::Audit(Audit::Export(export))
        );
        assert_eq!(parse_command("config check"), Command::Config(Config::Check));

        let import = data_commands::Import {
            file: "auth.db".into(),
            format: None,
            from: Some(data_commands::System::BetterAuth),
            organization: Some("org_1".to_owned()),
            create_scopes: true,
            json: true,
        };
        let line = "import auth.db --from better-auth --organization org_1 --create-scopes --json";
        assert_eq!(parse_command(line), Command::Import(import));
        let restore =
            data_commands::Restore { file: "b".into(), force: true, accept_unrevoked: true, json: false };
        assert_eq!(parse_command("restore b --force --accept-unrevoked"), Command::Restore(restore));
    }

    #[test]
    fn usage_errors_exit_with_status_2() {
        for line in [
            "fly",
            "--listen nowhere",
            "--listen 127.0.0.1:0 audit verify",
            "--admin-key-file k config check",
            "audit verify --listen 127.0.0.1:0",
            "audit verify --dev",
            "--dev audit verify",
            "serve --dev --data d",
            "--data d --dev",
            "serve --dev --admin-key-file k",
            "--admin-key-file k serve --dev",
            "serve --dev --listen 0.0.0.0:8080",
            "--dev --listen 192.0.2.1:80",
            "audit verify --filtered",
            "audit verify --anchor 7",
            "audit verify --anchor 7:ab",
            "audit verify f --filtered --anchor 7:abababababababababababababababababababababababababababababababab",
            "audit export --format xml",
            "import",
            "import f --from unkey",
            "import f --from better-auth --format csv",
            "import f --format xml",
            "backup",
            "restore --force",
            "check a b",
            "audit",
            "config",
            "admin-key",
            "completions",
        ] {
            let error = parse_args(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
        assert_eq!(parse_args("--help").unwrap_err().exit_code(), 0);
        assert_eq!(parse_args("--version").unwrap_err().exit_code(), 0);
    }

    #[test]
    fn completions_contain_commands_and_flags() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(completions(*shell)).unwrap();
            assert!(script.contains("admin-key-file") && script.contains("completions"), "{shell}");
        }
    }
}
