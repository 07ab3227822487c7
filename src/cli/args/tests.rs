//! Tests of the command line's definition.

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
        ConfigFlags { listen: "127.0.0.1:0".parse().ok(), data: Some("d".to_owned()), must_exist: true }
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
        "clock accept",
        "config check",
        "openapi",
        "completions bash",
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
