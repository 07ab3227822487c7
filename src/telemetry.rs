//! The log: lines on standard error, for people or for a log collector. And what is counted for `/metrics`.

pub(crate) mod families;
pub(crate) mod machine;
pub(crate) mod tally;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env;
use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::panic;
use std::thread;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Sends what is logged to standard error, and panics to the log. A second call changes nothing.
pub(crate) fn init(log: &Log) {
    let terminal = io::stderr().is_terminal();
    let form = Form::choose(log.format, terminal, env::var_os("NO_COLOR").as_deref());
    // Its own failures (standard error was closed) would be printed to standard error: that panics, and
    // within the panic hook it would abort the process.
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::builder().parse_lossy(&log.level))
        .with_writer(io::stderr)
        .log_internal_errors(false);
    let installed = match form {
        Form::Json => lines.json().flatten_event(true).with_span_list(false).try_init(),
        Form::Human { colours } => lines.with_ansi(colours).try_init(),
    };
    if installed.is_ok() {
        log_panics();
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Form {
    Human { colours: bool },
    Json,
}

impl Form {
    /// `no_color` is the environment variable of that name: set and not empty, it forbids colours
    /// (<https://no-color.org>).
    fn choose(format: LogFormat, terminal: bool, no_color: Option<&OsStr>) -> Self {
        match format {
            LogFormat::Json => Form::Json,
            LogFormat::Auto if !terminal => Form::Json,
            LogFormat::Auto | LogFormat::Human => {
                Form::Human { colours: terminal && no_color.is_none_or(OsStr::is_empty) }
            }
        }
    }
}

/// Logs where a panic happened, never what it says: its payload may hold what a client sent.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        // Only function names and lines, and only if RUST_BACKTRACE asks for them.
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(thread, location, backtrace, "panicked");
    }));
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use serde_json::Value;

    use super::*;

    #[test]
    fn people_get_colours_on_a_terminal_and_collectors_get_json() {
        let colourful = Form::Human { colours: true };
        let plain = Form::Human { colours: false };
        let (empty, one) = (Some(OsStr::new("")), Some(OsStr::new("1")));
        assert_eq!(Form::choose(LogFormat::Auto, true, None), colourful);
        assert_eq!(Form::choose(LogFormat::Auto, true, empty), colourful);
        assert_eq!(Form::choose(LogFormat::Auto, true, one), plain);
        assert_eq!(Form::choose(LogFormat::Auto, false, None), Form::Json);
        assert_eq!(Form::choose(LogFormat::Human, true, one), plain);
        assert_eq!(Form::choose(LogFormat::Human, false, None), plain);
        assert_eq!(Form::choose(LogFormat::Json, true, None), Form::Json);
    }

    /// Not a test: what the tests below run in a process of its own, because the log and the panic hook
    /// belong to the whole process.
    #[test]
    #[ignore = "run by the others, with its standard error caught"]
    fn a_process_that_logs_and_panics() {
        let log = |level: &str| Log { level: level.to_owned(), format: LogFormat::Auto };
        init(&log("warn,told=debug"));
        init(&log("trace"));
        tracing::info!("too quiet");
        tracing::debug!(target: "told", answer = 42, "loud enough");
        let panicking = thread::Builder::new().name("doomed".to_owned()).spawn(|| {
            panic!("toll_{}", "secret");
        });
        assert!(panicking.unwrap().join().is_err());
        assert!(panic::catch_unwind(|| panic!("toll_secret")).is_err());
    }

    fn child() -> Command {
        let mut child = Command::new(env::current_exe().unwrap());
        let name = "telemetry::tests::a_process_that_logs_and_panics";
        child.args(["--ignored", "--exact", name, "--nocapture"]).env_remove("RUST_BACKTRACE");
        child
    }

    #[test]
    fn i6_a_panic_is_logged_without_its_payload() {
        let output = child().output().unwrap();
        assert!(output.status.success());
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!told.contains("secret"), "{told}");
        let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3, "{told}");
        assert_eq!((&lines[0]["message"], &lines[0]["answer"]), (&"loud enough".into(), &42.into()));
        assert_eq!((&lines[1]["message"], &lines[1]["thread"]), (&"panicked".into(), &"doomed".into()));
        for panic in &lines[1..] {
            assert_eq!(panic["level"], "ERROR");
            assert!(panic["location"].as_str().unwrap().contains("telemetry.rs:"), "{told}");
            assert_eq!(panic["backtrace"], Value::Null);
        }
    }

    #[test]
    fn a_backtrace_is_logged_when_it_is_asked_for() {
        let output = child().env("RUST_BACKTRACE", "1").output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        let last: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
        assert!(last["backtrace"].as_str().unwrap().contains("a_process_that_logs_and_panics"), "{told}");
        assert!(!told.contains("secret"), "{told}");
    }

    #[test]
    fn a_closed_standard_error_stops_nobody() {
        let mut child = child().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stderr.take());
        assert!(child.wait().unwrap().success());
    }
}
