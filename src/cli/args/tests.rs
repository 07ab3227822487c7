//! Tests of the command line's definition.

use std::path::Path;

use clap::ValueEnum;

use super::key_and_audit_commands::{
    AuditExport, AuditVerify, CreateAdminKey, ExportFormat, ListAdminKeys, RevokeAdminKey,
};
use super::*;
use crate::domain::chain::ChainAnchor;

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
    let serve =
        parse_args("--must-exist --listen 127.0.0.1:0 --data d --config c --admin-key-file k").unwrap();
    assert_eq!(
        serve,
        parse_args("serve --must-exist --listen 127.0.0.1:0 --data d --config c --admin-key-file k").unwrap()
    );
    assert_eq!(
        serve,
        parse_args("--listen 127.0.0.1:0 --config c serve --data d --must-exist --admin-key-file k").unwrap()
    );
    assert_eq!(serve.config.as_deref(), Some(Path::new("c")));
    assert_eq!(
        serve.flags,
        ConfigFlags {
            listen: ListenAddress::parse("127.0.0.1:0"),
            data: Some("d".to_owned()),
            must_exist: true
        }
    );
    assert_eq!(parse_command(""), Command::Serve(Serve::default()));
    for line in ["--dev", "serve --dev --listen [::1]:0", "--dev serve"] {
        assert!(matches!(parse_command(line), Command::Serve(Serve { dev: true, .. })), "{line}");
    }
    let named = parse_args("--listen 127.0.0.1:1 serve --listen 127.0.0.1:2").unwrap();
    assert_eq!(named.flags.listen, ListenAddress::parse("127.0.0.1:2"));
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
        "clock accept",
        "config check",
        "config show",
        "config init",
        "health",
        "version",
        "admin-key list",
        "admin-key revoke key_1",
        "openapi",
        "completions bash",
        "man d",
    ] {
        for line in [format!("--config c --data d {words}"), format!("{words} --config c --data d")] {
            let read = parse_args(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(read.config.as_deref(), Some(Path::new("c")), "{line}");
            assert_eq!(
                read.flags,
                ConfigFlags { data: Some("d".to_owned()), ..ConfigFlags::default() },
                "{line}"
            );
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
    let export = AuditExport { format: ExportFormat::Csv, output: Some("x.csv".into()), force: false };
    assert_eq!(
        parse_command("audit export --format csv --output x.csv"),
        Command::Audit(Audit::Export(export))
    );
    assert_eq!(parse_command("config check"), Command::Config(Config::Check));
    assert_eq!(parse_command("config show"), Command::Config(Config::Show));
    let init = ConfigInit { file: "tollhouse.toml".into(), force: false };
    assert_eq!(parse_command("config init"), Command::Config(Config::Init(init)));
    let health = parse_args("health --listen :8080").unwrap();
    assert_eq!(health.flags.listen, ListenAddress::parse("[::]:8080"));
    let openapi = |server: Option<&str>, specification| {
        Command::Openapi(Openapi { server: server.map(str::to_owned), specification })
    };
    assert_eq!(parse_command("openapi"), openapi(None, OpenapiVersion::V3_1));
    let line = "openapi --server https://api.example.com --version 3.0";
    assert_eq!(parse_command(line), openapi(Some("https://api.example.com"), OpenapiVersion::V3_0));
    assert_eq!(parse_command("version"), Command::Version);
    assert_eq!(parse_command("man d"), Command::Man { directory: "d".into() });
    let revoke = RevokeAdminKey { id: "key_1".to_owned(), reason: Some("lost".to_owned()), json: true };
    assert_eq!(
        parse_command("admin-key revoke key_1 --reason lost --json"),
        Command::AdminKey(AdminKey::Revoke(revoke))
    );
    assert_eq!(
        parse_command("admin-key list"),
        Command::AdminKey(AdminKey::List(ListAdminKeys { json: false }))
    );

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
        "--dev --must-exist",
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
        "clock",
        "completions",
        "man",
        "openapi --server api.example.com",
        "export --force",
        "audit export --force",
        "admin-key revoke",
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

/// The command and all commands below it, except the generated `help`.
fn all_commands(command: &clap::Command) -> Vec<&clap::Command> {
    let below = command.get_subcommands().filter(|command| command.get_name() != "help");
    std::iter::once(command).chain(below.flat_map(all_commands)).collect()
}

#[test]
fn every_command_has_examples_that_are_valid() {
    let mut cli = Cli::command();
    cli.build();
    let commands = all_commands(&cli);
    assert!(commands.len() > 20);
    for command in commands {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples = help.lines().filter_map(|line| line.split_once("tollhouse ").map(|(_, rest)| rest));
        let examples: Vec<_> = examples.filter(|line| !line.starts_with("config show` ")).collect();
        assert!(help.starts_with("Examples:\n") && !examples.is_empty(), "{}", command.get_name());
        for example in examples.iter().flat_map(|line| line.split(" | tollhouse ")) {
            let line = example.split(['>', '|']).next();
            let line = line.unwrap().replace("\"laptop was stolen\"", "stolen");
            parse_args(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
