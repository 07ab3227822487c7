//! The command line. Results go to standard output, everything else to standard error. The exit status
//! is 0 (success), 1 (failure) or 2 (usage error).

mod admin_key;
pub mod args;
mod audit;
mod backup;
mod check;
mod clock;
mod config;
mod dev;
mod export;
mod first_key;
mod health;
mod import;
mod interrupt;
mod listeners;
mod man;
mod openapi;
mod output;
mod progress;
mod reload;
mod restore;
mod sample_data;
mod serve;
mod service_manager;
mod stop_signals;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap_complete::Shell;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::app::App;
use crate::clock::Clock;
use crate::config::{Config, ConfigError, ConfigFault, ConfigFlags, EffectiveConfig, LogConfig};
use crate::error::{Code, Error, Result};
use crate::service::lifecycle;
use crate::store::file_access;
use crate::telemetry::notice::Notice;
use crate::telemetry::{self, log_output};
use args::key_and_audit_commands::{AdminKey, Audit};
use args::{Args, Command, Serve};
use reload::ConfigReloader;

/// Runs the command that the arguments name.
pub fn run(args: Args) -> ExitCode {
    let Args { config: file, flags, command } = args;
    let command = match command {
        Command::Completions { shell } => return report_result(print_completions(shell)),
        Command::Man { directory } => return report_result(man::write_pages(&directory)),
        Command::Openapi(openapi) => return report_result(openapi::print_document(&openapi)),
        Command::Version => return report_result(output::print(&args::version())),
        Command::Config(command) => return config::run(&command, file.as_deref(), flags),
        other => other,
    };
    let effective = match EffectiveConfig::load(file.as_deref(), std::env::vars_os(), flags.clone()) {
        Ok(effective) => effective,
        Err(error) => {
            report_config_error(&error, matches!(command, Command::Serve(_)));
            return ExitCode::FAILURE;
        }
    };
    if let Command::Serve(serve) = command {
        return run_server(serve, file, flags, effective);
    }
    print_warnings(&effective.warnings);
    match build_runtime() {
        Ok(runtime) => report_verdict(runtime.block_on(run_with_config(command, effective))),
        Err(error) => report_result(Err(error)),
    }
}

fn build_runtime() -> Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.enable_all().on_thread_start(lower_thread_priority).build().map_err(Error::internal)
}

/// Runs the server, whose standard error consists of log lines.
fn run_server(
    serve: Serve,
    file: Option<PathBuf>,
    flags: ConfigFlags,
    effective: EffectiveConfig,
) -> ExitCode {
    let (_log_guard, log_filter) = telemetry::init_logging(&effective.config.log);
    for warning in &effective.warnings {
        tracing::warn!(problem = warning, "environment variable ignored");
    }
    let reloader = ConfigReloader::new(file, flags, effective.config.clone(), log_filter);
    let served = build_runtime().and_then(|runtime| {
        runtime.block_on(async {
            catch_file_size_signal()?;
            if serve.dev {
                return dev::run(effective, reloader).await;
            }
            serve::run(effective, serve::InitialData::FirstKey(serve.admin_key_file), reloader).await
        })
    });
    let Err(error) = served else { return ExitCode::SUCCESS };
    report_server_failure(&operator_message(&error))
}

fn report_server_failure(message: &str) -> ExitCode {
    Notice::error("server failed").field("error", message).text(format!("error: {message}")).print();
    ExitCode::FAILURE
}

/// Reports the errors of the configuration: the server as log lines, other commands as text.
fn report_config_error(error: &ConfigError, is_server: bool) {
    let log = LogConfig { level: "info".to_owned(), format: error.log_format };
    let _log = is_server.then(|| telemetry::init_logging(&log));
    if !log_output::writes_json() {
        return output::message(&error.to_string());
    }
    for ConfigFault { source, setting, message } in &error.faults {
        let setting = setting.as_deref().unwrap_or_default();
        Notice::error("invalid configuration")
            .field("source", source)
            .field("setting", setting)
            .field("problem", message)
            .print();
    }
}

/// Runs a command that needs the configuration. Returns its verdict; false for a check that found errors.
async fn run_with_config(command: Command, effective: EffectiveConfig) -> Result<bool> {
    catch_file_size_signal()?;
    let config = effective.config;
    let done = match command {
        Command::Audit(Audit::Verify(verify)) => return audit::verify(config, verify).await,
        Command::Import(args) => return import::run(config, args).await,
        Command::Check(args) => return check::run(&config, &args),
        Command::Clock(args::Clock::Accept) => clock::accept(config).await,
        Command::Health(_) => health::run(&config).await,
        Command::AdminKey(AdminKey::Create(args)) => admin_key::create(config, args).await,
        Command::AdminKey(AdminKey::List(args)) => admin_key::list(config, args).await,
        Command::AdminKey(AdminKey::Revoke(args)) => admin_key::revoke(config, args).await,
        Command::Audit(Audit::Export(args)) => audit::export(config, args).await,
        Command::Export(args) => export::run(config, args).await,
        Command::Backup(args) => backup::run(config, args).await,
        Command::Restore(args) => restore::run(config, args).await,
        Command::Serve(_)
        | Command::Config(_)
        | Command::Openapi(_)
        | Command::Completions { .. }
        | Command::Man { .. }
        | Command::Version => Ok(()),
    };
    done.map(|()| true)
}

fn print_completions(shell: Shell) -> Result<()> {
    output::print_document(&args::completions(shell))?;
    if std::io::stdout().is_terminal() {
        output::message("\nTo install the script, see `tollhouse completions --help`.");
    }
    Ok(())
}

/// Handles SIGXFSZ, whose default action ends the process when a file reaches the size limit of the process. With
/// a handler, the write fails instead, like one to a full disk. The handler stays when the stream is dropped.
fn catch_file_size_signal() -> Result<()> {
    let number = rustix::process::Signal::XFSZ.as_raw();
    signal(SignalKind::from_raw(number)).map(drop).map_err(Error::internal)
}

/// Lowers the priority of the current thread of the control plane, reports and jobs. Otherwise the threads
/// that verify keys would wait milliseconds for a core. Without contention, or on systems without thread
/// priorities, the lower priority has no effect.
fn lower_thread_priority() {
    if cfg!(target_os = "linux") {
        let _ = rustix::process::nice(10);
    }
}

/// Prints warnings about the configuration to standard error.
fn print_warnings(warnings: &[String]) {
    for warning in warnings {
        output::message(&format!("warning: {warning}"));
    }
}

/// Prints the error of a command, if any, to standard error, and returns the exit status.
fn report_result(result: Result<()>) -> ExitCode {
    report_verdict(result.map(|()| true))
}

/// Like [`report_result`], for a command with a verdict: false is exit status 1, too.
fn report_verdict(result: Result<bool>) -> ExitCode {
    let is_success = matches!(result, Ok(true));
    if report_failure(result) || !is_success { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Prints the error, if any, to standard error. Returns whether there is one.
fn report_failure<T>(result: Result<T>) -> bool {
    let Err(error) = result else { return false };
    output::message(&format!("error: {}", operator_message(&error)));
    true
}

/// Prints the error of a command with a verdict as JSON, to standard output. The verdict is "not ok".
fn print_failure_as_json(file: &Path, error: &Error) -> Result<bool> {
    let failure = json!({
        "ok": false,
        "file": file,
        "error": {"code": error.code.name(), "message": operator_message(error)},
    });
    output::print_json(&failure).map(|()| false)
}

/// Warns that the audit event of a finished command could not be stored, which doesn't make the command fail.
fn print_unrecorded(what: &str, error: &Error) {
    let message = match error.code {
        Code::StorageFull => error.message.to_string(),
        _ => operator_message(error),
    };
    output::message(&format!("warning: {what} is complete but not recorded in the database: {message}"));
}

/// Returns the internal cause of an error, which only the operator may see, or the public message if the
/// error has no cause; if it reports several faults, a line for each.
fn operator_message(error: &Error) -> String {
    if error.details.len() > 1 {
        let faults: Vec<_> = error.details.iter().map(|fault| fault.message.as_str()).collect();
        return faults.join("\n");
    }
    error.cause.clone().unwrap_or_else(|| error.message.to_string())
}

/// Opens the configured database, which a running server may be using at the same time, for reading only if it
/// can't be written. A missing database is an error.
async fn open_existing_database(config: Config) -> Result<Arc<App>> {
    let file = config.database.file();
    if !file_access::exists(&file)? {
        let message = format!("No database at {}; start the server first, or set --data.", file.display());
        return Err(Error::new(Code::NotFound, message));
    }
    lifecycle::open_or_read_only(config, Clock::system()).await
}
