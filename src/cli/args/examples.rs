//! The examples that `--help` shows for each command. A test parses every one of them.

pub(super) const SERVE: &str = "\
Examples:
  tollhouse serve --listen :8080 --data /var/lib/tollhouse
  tollhouse serve --config /etc/tollhouse/config.toml
  tollhouse serve --dev";

pub(super) const HEALTH: &str = "\
Examples:
  tollhouse health
  tollhouse health --listen localhost:8080";

pub(super) const ADMIN_KEY: &str = "\
Examples:
  tollhouse admin-key create --name alice
  tollhouse admin-key list
  tollhouse admin-key revoke key_123";

pub(super) const AUDIT: &str = "\
Examples:
  tollhouse audit verify
  tollhouse audit export --output events.ndjson";

pub(super) const IMPORT: &str = "\
Examples:
  tollhouse import keys.csv
  tollhouse import auth.db --from better-auth --organization org_1
  tollhouse export --data old | tollhouse import - --data new";

pub(super) const EXPORT: &str = "\
Examples:
  tollhouse export --output all.ndjson
  tollhouse export | gzip > all.ndjson.gz";

pub(super) const BACKUP: &str = "\
Examples:
  tollhouse backup /backups/tollhouse.db --force
  tollhouse backup - | gzip > tollhouse.db.gz";

pub(super) const RESTORE: &str = "\
Examples:
  tollhouse restore /backups/tollhouse.db --force --data /var/lib/tollhouse";

pub(super) const CHECK: &str = "\
Examples:
  tollhouse check --data /var/lib/tollhouse
  tollhouse check /backups/tollhouse.db --json";

pub(super) const CLOCK: &str = "\
Examples:
  tollhouse clock accept --data /var/lib/tollhouse";

pub(super) const CONFIG: &str = "\
Examples:
  tollhouse config init /etc/tollhouse/config.toml
  tollhouse config check
  tollhouse config show";

pub(super) const CONFIG_SHOW: &str = "\
Examples:
  tollhouse config show
  tollhouse config show --config tollhouse.toml";

pub(super) const CONFIG_CHECK: &str = "\
Examples:
  tollhouse config check --config tollhouse.toml";

pub(super) const CONFIG_INIT: &str = "\
Examples:
  tollhouse config init
  tollhouse config init /etc/tollhouse/config.toml";

pub(super) const OPENAPI: &str = "\
Examples:
  tollhouse openapi > openapi.json
  tollhouse openapi --version 3.0 --server https://api.example.com > openapi.json";

pub(super) const COMPLETIONS: &str = "\
Examples:
  tollhouse completions bash > ~/.local/share/bash-completion/completions/tollhouse
  tollhouse completions zsh > ~/.zfunc/_tollhouse
  tollhouse completions fish > ~/.config/fish/completions/tollhouse.fish

For zsh, the directory must be in fpath before compinit runs. Open a new shell afterwards.";

pub(super) const MAN: &str = "\
Examples:
  tollhouse man ~/.local/share/man/man1
  sudo tollhouse man /usr/local/share/man/man1";

pub(super) const VERSION: &str = "\
Examples:
  tollhouse version";
