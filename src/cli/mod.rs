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
mod import;
mod openapi;
mod progress;
mod restore;
mod serve;
mod unfinished;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::runtime::Builder;

use crate::app::App;
use crate::clock::Clock;
use crate::config::{Config, EffectiveConfig};
use crate::error::{Error, Result};
use crate::telemetry::{self, log_output};
use args::{AdminKey, Args, Audit, Command};

/// Runs the command that the arguments name.
pub fn run(args: Args) -> ExitCode {
    let Args { config: file, flags, command } = args;
    match &command {
        Command::Completions { shell } => {
            return report_result(write_to_standard_output(&args::completions(*shell)));
        }
        Command::Openapi => return report_result(openapi::print_document()),
        Command::Config(_) => return config::check(file.as_deref(), flags),
        Command::Serve(_) | Command::AdminKey(_) | Command::Audit(_) | Command::Clock(_) => {}
        Command::Import(_)
        | Command::Export(_)
        | Command::Backup(_)
        | Command::Restore(_)
        | Command::Check(_) => {}
    }
    let effective = match EffectiveConfig::load(file.as_deref(), std::env::vars_os(), flags) {
        Ok(effective) => effective,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::FAILURE;
        }
    };
    if !matches!(command, Command::Serve(_)) {
        print_warnings(&effective.warnings);
    }
    let runtime =
        match Builder::new_multi_thread().enable_all().on_thread_start(lower_thread_priority).build() {
            Ok(runtime) => runtime,
            Err(error) => return report_result(Err(Error::internal(error))),
        };
    runtime.block_on(async {
        if !matches!(command, Command::Serve(_))
            && let Err(error) = unfinished::remove_on_signal()
        {
            return report_result(Err(error));
        }
        match command {
            Command::Serve(serve) => {
                let _log_guard = telemetry::init_logging(&effective.config.log);
                effective.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                report_result(match serve.dev {
                    true => dev::run(effective).await,
                    false => serve::run(effective, serve::InitialData::FirstKey(serve.admin_key_file)).await,
                })
            }
            Command::AdminKey(AdminKey::Create(create)) => {
                report_result(admin_key::create(effective.config, create).await)
            }
            Command::Audit(Audit::Verify(verify)) => audit::verify(effective.config, verify).await,
            Command::Audit(Audit::Export(export)) => {
                report_result(audit::export(effective.config, export).await)
            }
            Command::Import(args) => import::run(effective.config, args).await,
            Command::Export(args) => report_result(export::run(effective.config, args).await),
            Command::Backup(args) => report_result(backup::run(effective.config, args).await),
            Command::Restore(args) => report_result(restore::run(effective.config, args).await),
            Command::Check(args) => check::run(&effective.config, &args),
            Command::Clock(args::Clock::Accept) => report_result(clock::accept(effective.config).await),
            Command::Config(_) | Command::Openapi | Command::Completions { .. } => ExitCode::SUCCESS,
        }
    })
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
        // A closed standard error must not fail the command.
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
}

/// Writes a command's result to standard output. A reader that closes the pipe early (`| head`) is not an
/// error.
fn write_to_standard_output(text: &[u8]) -> Result<()> {
    match std::io::stdout().lock().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::internal(error)),
        _ => Ok(()),
    }
}

/// Prints the error of a command, if any, to standard error, and returns the exit status.
fn report_result(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log_output::print_text(&format!("error: {}", operator_message(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Returns the internal cause of an error, which only the operator may see, or the public message if the
/// error has no cause.
fn operator_message(error: &Error) -> String {
    error.cause.clone().unwrap_or_else(|| error.message.to_string())
}

/// Opens the configured database, which a running server may be using at the same time. A missing database is
/// an error.
async fn open_existing_database(config: Config) -> Result<Arc<App>> {
    let file = config.database.dir.join("tollhouse.db");
    if !file.exists() {
        let message = format!("No database at {}; start the server first, or set --data.", file.display());
        return Err(Error::new(crate::error::Code::NotFound, message));
    }
    App::open(config, Clock::system()).await
}
