//! Logging to standard error, as text for people or as JSON for a log collector; and the metrics.

pub(crate) mod connections;
pub(crate) mod escape;
pub(crate) mod failure_streak;
pub(crate) mod families;
pub(crate) mod log_output;
pub(crate) mod machine;
pub(crate) mod notice;
pub(crate) mod repeated_requests;
pub(crate) mod tally;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env;
use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::panic;
use std::thread;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, reload};

use self::log_output::LogGuard;
use crate::config::{LogConfig, LogFormat};

/// The level of modules for which no directive gives one.
const DEFAULT_DIRECTIVE: &str = "info,";

/// Changes which events the running process logs.
pub(crate) struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// Replaces the filter by the one that these directives describe (`log.level`).
    pub(crate) fn set(&self, directives: &str) {
        // Fails only if this process has another subscriber, which this filter doesn't apply to.
        let _ = self.0.reload(parse_filter(directives));
    }
}

/// The filter of these directives. Without a level for the rest, that is logged at the default level: directives for
/// one module alone, perhaps meant for another program, must not silence the others.
fn parse_filter(directives: &str) -> EnvFilter {
    let has_level = directives.split(',').any(|directive| directive.parse::<LevelFilter>().is_ok());
    let default = if has_level { "" } else { DEFAULT_DIRECTIVE };
    EnvFilter::builder().parse_lossy(format!("{default}{directives}"))
}

/// Initializes logging: log events are written to standard error, and panics are logged, until the returned
/// guard is dropped. A second call has no effect.
pub(crate) fn init_logging(log: &LogConfig) -> (LogGuard, LogFilter) {
    let is_terminal = io::stderr().is_terminal();
    let format = OutputFormat::choose(log.format, is_terminal, env::var_os("NO_COLOR").as_deref());
    let (output, guard) = log_output::start_writer();
    // Internal errors of the subscriber are not reported: the subscriber would print them to standard error,
    // which panics if standard error is closed, and a panic inside the panic hook aborts the process.
    let lines = fmt::layer().with_writer(output).log_internal_errors(false);
    let lines = match format {
        OutputFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
        OutputFormat::Human { colors } => lines.with_ansi(colors).boxed(),
    };
    let (filter, handle) = reload::Layer::new(parse_filter(&log.level));
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        install_panic_hook();
        if format == OutputFormat::Json {
            log_output::use_json();
        }
    }
    (guard, LogFilter(handle))
}

#[derive(Debug, PartialEq, Eq)]
enum OutputFormat {
    Human { colors: bool },
    Json,
}

impl OutputFormat {
    /// Chooses the format. `no_color` is the value of the environment variable `NO_COLOR`; a nonempty value
    /// disables colors (<https://no-color.org>).
    fn choose(format: LogFormat, is_terminal: bool, no_color: Option<&OsStr>) -> Self {
        match format {
            LogFormat::Json => OutputFormat::Json,
            LogFormat::Auto if !is_terminal => OutputFormat::Json,
            LogFormat::Auto | LogFormat::Human => {
                OutputFormat::Human { colors: is_terminal && no_color.is_none_or(OsStr::is_empty) }
            }
        }
    }
}

/// Installs a panic hook that logs the location of a panic. The panic's message is not logged, because the
/// message may contain data that a client sent.
fn install_panic_hook() {
    panic::set_hook(Box::new(|panic| {
        let thread = thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        // A backtrace contains only function names and lines. The backtrace is captured only if
        // RUST_BACKTRACE is set.
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
    fn a_terminal_gets_colors_and_a_log_collector_gets_json() {
        let colored = OutputFormat::Human { colors: true };
        let plain = OutputFormat::Human { colors: false };
        let empty = Some(OsStr::new(""));
        let set = Some(OsStr::new("1"));
        assert_eq!(OutputFormat::choose(LogFormat::Auto, true, None), colored);
        assert_eq!(OutputFormat::choose(LogFormat::Auto, true, empty), colored);
        assert_eq!(OutputFormat::choose(LogFormat::Auto, true, set), plain);
        assert_eq!(OutputFormat::choose(LogFormat::Auto, false, None), OutputFormat::Json);
        assert_eq!(OutputFormat::choose(LogFormat::Human, true, set), plain);
        assert_eq!(OutputFormat::choose(LogFormat::Human, false, None), plain);
        assert_eq!(OutputFormat::choose(LogFormat::Json, true, None), OutputFormat::Json);
    }

    #[test]
    fn only_a_level_without_a_module_changes_what_else_is_logged() {
        for (directives, max_level) in [
            ("info", LevelFilter::INFO),
            ("warn", LevelFilter::WARN),
            ("OFF", LevelFilter::OFF),
            ("sqlx=off", LevelFilter::INFO),
            ("tollhouse::store=warn", LevelFilter::INFO),
            ("tollhouse=debug,error", LevelFilter::DEBUG),
        ] {
            assert_eq!(parse_filter(directives).max_level_hint(), Some(max_level), "{directives}");
        }
        let filter = parse_filter("sqlx=debug").to_string();
        assert!(filter.split(',').any(|directive| directive == "info"), "{filter}");
    }

    /// Logs and panics in a child process, which the tests below start, because the log and the panic hook
    /// are process-wide.
    #[test]
    #[ignore = "run by the other tests, which capture its standard error"]
    fn a_process_that_logs_and_panics() {
        let log = |level: &str| LogConfig { level: level.to_owned(), format: LogFormat::Auto };
        let (_guard, _filter) = init_logging(&log("warn,verbose=debug"));
        drop(init_logging(&log("trace")));
        tracing::info!("filtered out");
        tracing::debug!(target: "verbose", answer = 42, "logged");
        let panicking = thread::Builder::new().name("doomed".to_owned()).spawn(|| {
            panic!("toll_{}", "secret");
        });
        assert!(panicking.unwrap().join().is_err());
        assert!(panic::catch_unwind(|| panic!("toll_secret")).is_err());
    }

    fn logging_child() -> Command {
        let mut child = Command::new(env::current_exe().unwrap());
        let name = "telemetry::tests::a_process_that_logs_and_panics";
        child.args(["--ignored", "--exact", name, "--nocapture"]).env_remove("RUST_BACKTRACE");
        child
    }

    #[test]
    fn i6_a_panic_is_logged_without_its_payload() {
        let output = logging_child().output().unwrap();
        assert!(output.status.success());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!stderr.contains("secret"), "{stderr}");
        let lines: Vec<Value> = stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3, "{stderr}");
        assert_eq!((&lines[0]["message"], &lines[0]["answer"]), (&"logged".into(), &42.into()));
        assert_eq!((&lines[1]["message"], &lines[1]["thread"]), (&"panicked".into(), &"doomed".into()));
        for panic in &lines[1..] {
            assert_eq!(panic["level"], "ERROR");
            assert!(panic["location"].as_str().unwrap().contains("telemetry.rs:"), "{stderr}");
            assert_eq!(panic["backtrace"], Value::Null);
        }
    }

    #[test]
    fn a_backtrace_is_logged_when_rust_backtrace_is_set() {
        let output = logging_child().env("RUST_BACKTRACE", "1").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let last: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
        assert!(last["backtrace"].as_str().unwrap().contains("a_process_that_logs_and_panics"), "{stderr}");
        assert!(!stderr.contains("secret"), "{stderr}");
    }

    #[test]
    fn logging_to_a_closed_standard_error_does_not_fail() {
        let mut child = logging_child().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stderr.take());
        assert!(child.wait().unwrap().success());
    }
}
