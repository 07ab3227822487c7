//! The command line: what may be said, and the help that explains it.

pub(crate) mod moving;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::Flags;
use crate::domain::chain::Anchor;
use moving::{Backup, Check, Export, Import, Restore};

/// API keys, organizations, limits and an audit log: one binary, one SQLite file.
///
/// Without a command, `tollhouse` serves.
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    serve: Serve,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "\
Every setting can be given in the file that --config names, or as an environment variable: TOLLHOUSE_ and \
its path with two underscores between levels, such as TOLLHOUSE_HTTP__LISTEN. `tollhouse config check` shows \
all of them.

Exit status: 0 done, 1 failed, 2 wrong usage.";

/// Where flags that every command takes stand in its help: behind its own.
const LAST: usize = 100;

/// What every command takes.
#[derive(Debug, clap::Args)]
struct Common {
    /// Read settings from this TOML file [env: TOLLHOUSE_CONFIG]
    #[arg(long, value_name = "FILE", global = true, display_order = LAST)]
    config: Option<PathBuf>,

    /// Keep the database in this directory (setting: database.dir)
    #[arg(long, value_name = "DIR", global = true, display_order = LAST)]
    data: Option<String>,
}

/// How to serve.
#[derive(Debug, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct Serve {
    /// Listen on this address and port; port 0 takes a free one (setting: http.listen)
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,

    /// Write the first key, made when the database is empty, into this file [default: DIR/admin.key]
    ///
    /// On a terminal the key is shown there instead. None is made when TOLLHOUSE_ADMIN_KEY holds one, or
    /// the file that TOLLHOUSE_ADMIN_KEY_FILE names.
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_key_file: Option<PathBuf>,

    /// Serve a month of sample data from a throw-away database, to look around
    ///
    /// On loopback alone. The database lies in a temporary directory, which is removed at the stop; the
    /// admin key is shown (TOLLHOUSE_ADMIN_KEY may give it).
    #[arg(long)]
    pub(crate) dev: bool,
}

/// What to do.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum Command {
    /// Serve the API (what happens without a command)
    Serve(Serve),

    /// Platform keys, for whoever lost theirs
    #[command(subcommand)]
    AdminKey(AdminKey),

    /// The audit log
    #[command(subcommand)]
    Audit(Audit),

    /// Take in organizations, users, members and keys (by their hashes) from elsewhere
    ///
    /// Each record is stored whole or refused, with the reason. What is there already and the same is left
    /// alone, so an import can be run again. Works beside a running server. Exit status 1 if something was
    /// refused. docs/guides/import-and-export.md says what records look like.
    Import(Import),

    /// Write out settings, organizations, users, memberships, scopes and keys, as NDJSON that import reads
    ///
    /// Of keys it has the hashes, so keep it as you keep the database. The audit log is exported by
    /// `audit export`; usage, and what is used of quotas, are in a backup alone.
    Export(Export),

    /// Copy the database into FILE and prove the copy, also beside a running server
    Backup(Backup),

    /// Put a backup in the place of the database, once the server is stopped
    ///
    /// What was revoked, disabled, suspended, deleted, narrowed or rotated since the backup stays so: it is
    /// taken over from the database that is replaced.
    Restore(Restore),

    /// Look whether the database is whole: pages, references, audit log, counts
    ///
    /// Exit status 1 if it isn't.
    Check(Check),

    /// The configuration
    #[command(subcommand)]
    Config(Config),

    /// Print the OpenAPI document of the API, as JSON
    Openapi,

    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// `tollhouse admin-key …`
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum AdminKey {
    /// Make a platform key and print it, once
    ///
    /// Works beside a running server, which takes the key within a second.
    Create(CreateAdminKey),
}

/// `tollhouse admin-key create`
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct CreateAdminKey {
    /// What to call it, 1 to 200 characters
    #[arg(long, value_name = "NAME", default_value = "admin")]
    pub(crate) name: String,

    /// What it may do, with commas between, such as admin:keys,admin:audit
    #[arg(long, value_name = "SCOPES", value_delimiter = ',', default_value = "*")]
    pub(crate) scopes: Vec<String>,

    /// Print the whole key as JSON instead of its secret alone
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tollhouse audit …`
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum Audit {
    /// Look for events that were edited, removed or reordered
    ///
    /// Who can write the database can also rewrite all of it that follows the last head kept elsewhere:
    /// give such a head as --anchor. Exit status 1 if the log isn't as it was written.
    Verify(AuditVerify),

    /// Write out all events, oldest first
    Export(AuditExport),
}

/// `tollhouse audit verify`
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct AuditVerify {
    /// An exported NDJSON file to check instead of the database
    pub(crate) file: Option<PathBuf>,

    /// FILE is a selection: check each event by itself, not that none is missing
    #[arg(long, requires = "file", conflicts_with = "anchor")]
    pub(crate) filtered: bool,

    /// A head that was kept elsewhere: the number of an event and its hash
    #[arg(long, value_name = "SEQ:HASH", value_parser = anchor)]
    pub(crate) anchor: Option<Anchor>,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `tollhouse audit export`
#[derive(Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct AuditExport {
    /// The form of the events; only ndjson can be verified later
    #[arg(long, value_enum, default_value_t = ExportFormat::Ndjson)]
    pub(crate) format: ExportFormat,

    /// Write to this file, which must not exist yet, instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// The form of exported events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// One JSON object a line, byte for byte as it was hashed
    Ndjson,
    /// A table for spreadsheets
    Csv,
}

/// `tollhouse config …`
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum Config {
    /// Check the configuration and print the settings in effect, with where they came from
    Check,
}

/// A command line that makes sense.
#[derive(Debug, PartialEq)]
pub struct Args {
    /// `--config`
    pub(crate) config: Option<PathBuf>,
    /// The settings among the flags.
    pub(crate) flags: Flags,
    /// What to do.
    pub(crate) command: Command,
}

impl Args {
    /// Reads the command line of this process. Ends the process when it asks for help or the version
    /// (status 0) or is wrong (status 2).
    pub fn read() -> Self {
        Cli::parse().resolve().unwrap_or_else(|error| error.exit())
    }
}

/// The completions for a shell, as its script.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tollhouse", &mut script);
    script
}

impl Cli {
    /// `serve` is implied, so its flags may also stand before or without it, but not with another command.
    fn resolve(self) -> Result<Args, clap::Error> {
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
                let message = "--listen, --admin-key-file and --dev are for serving, not for another command";
                return Err(Cli::command().error(ErrorKind::ArgumentConflict, message));
            }
        };
        let listen = match &command {
            Command::Serve(serve) => {
                serve.check(common.data.as_deref())?;
                serve.listen
            }
            _ => None,
        };
        Ok(Args { config: common.config, flags: Flags { listen, data: common.data }, command })
    }
}

impl Serve {
    /// What is thrown away is nobody's data, and open to this machine alone.
    fn check(&self, data: Option<&str>) -> Result<(), clap::Error> {
        let message = match self.listen {
            _ if !self.dev => return Ok(()),
            _ if data.is_some() => "--dev makes a database of its own and throws it away; leave --data out",
            _ if self.admin_key_file.is_some() => "--dev shows its admin key; leave --admin-key-file out",
            Some(listen) if !listen.ip().is_loopback() => {
                "--dev listens on loopback alone, such as 127.0.0.1"
            }
            _ => return Ok(()),
        };
        Err(Cli::command().error(ErrorKind::ArgumentConflict, message))
    }
}

fn anchor(text: &str) -> Result<Anchor, &'static str> {
    Anchor::parse(text)
        .ok_or("expected the number of an event, a colon, and its hash of 64 hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(line: &str) -> Result<Args, clap::Error> {
        let words = std::iter::once("tollhouse").chain(line.split_whitespace());
        Cli::try_parse_from(words).and_then(Cli::resolve)
    }

    fn command(line: &str) -> Command {
        read(line).unwrap_or_else(|error| panic!("{line}: {error}")).command
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serving_is_implied() {
        let serve = read("--listen 127.0.0.1:0 --data d --config c --admin-key-file k").unwrap();
        assert_eq!(serve, read("serve --listen 127.0.0.1:0 --data d --config c --admin-key-file k").unwrap());
        assert_eq!(serve, read("--listen 127.0.0.1:0 --config c serve --data d --admin-key-file k").unwrap());
        assert_eq!(serve.config.as_deref(), Some(Path::new("c")));
        assert_eq!(serve.flags, Flags { listen: "127.0.0.1:0".parse().ok(), data: Some("d".to_owned()) });
        assert_eq!(command(""), Command::Serve(Serve::default()));
        for line in ["--dev", "serve --dev --listen [::1]:0", "--dev serve"] {
            assert!(matches!(command(line), Command::Serve(Serve { dev: true, .. })), "{line}");
        }
        let named = read("--listen 127.0.0.1:1 serve --listen 127.0.0.1:2").unwrap();
        assert_eq!(named.flags.listen, "127.0.0.1:2".parse().ok());
    }

    #[test]
    fn config_and_data_work_everywhere() {
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
                let read = read(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
                assert_eq!(read.config.as_deref(), Some(Path::new("c")), "{line}");
                assert_eq!(read.flags, Flags { listen: None, data: Some("d".to_owned()) }, "{line}");
            }
        }
    }

    #[test]
    fn commands_are_read() {
        let create = |name: &str, scopes: &[&str], json| {
            let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
            Command::AdminKey(AdminKey::Create(CreateAdminKey { name: name.to_owned(), scopes, json }))
        };
        assert_eq!(command("admin-key create"), create("admin", &["*"], false));
        let line = "admin-key create --name ops --scopes admin:keys,admin:audit --json";
        assert_eq!(command(line), create("ops", &["admin:keys", "admin:audit"], true));

        let hash = "ab".repeat(32);
        let verify = AuditVerify {
            file: Some("events.ndjson".into()),
            filtered: false,
            anchor: Anchor::parse(&format!("7:{hash}")),
            json: true,
        };
        let line = format!("audit verify events.ndjson --anchor 7:{hash} --json");
        assert_eq!(command(&line), Command::Audit(Audit::Verify(verify)));
        let export = AuditExport { format: ExportFormat::Csv, output: Some("x.csv".into()) };
        assert_eq!(
            command("audit export --format csv --output x.csv"),
            Command::Audit(Audit::Export(export))
        );
        assert_eq!(command("config check"), Command::Config(Config::Check));

        let import = moving::Import {
            file: "auth.db".into(),
            format: None,
            from: Some(moving::System::BetterAuth),
            organization: Some("org_1".to_owned()),
            create_scopes: true,
            json: true,
        };
        let line = "import auth.db --from better-auth --organization org_1 --create-scopes --json";
        assert_eq!(command(line), Command::Import(import));
        let restore = moving::Restore { file: "b".into(), force: true, accept_unrevoked: true, json: false };
        assert_eq!(command("restore b --force --accept-unrevoked"), Command::Restore(restore));
    }

    #[test]
    fn wrong_usage_is_status_2() {
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
            let error = read(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
        assert_eq!(read("--help").unwrap_err().exit_code(), 0);
        assert_eq!(read("--version").unwrap_err().exit_code(), 0);
    }

    #[test]
    fn completions_know_the_commands() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(completions(*shell)).unwrap();
            assert!(script.contains("admin-key-file") && script.contains("completions"), "{shell}");
        }
    }
}
