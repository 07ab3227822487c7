//! The real program in a separate process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use super::{ADMIN_KEY, Client};

/// The highest amount of memory that a process has used, in bytes.
pub(crate) fn peak_memory(process_id: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// The rest of a line's message after this prefix. The line is a JSON object or plain text.
fn message_after(line: &str, prefix: &str) -> Option<String> {
    let json: Option<Value> = serde_json::from_str(line).ok();
    let message = json.as_ref().map_or(Some(line), |json| json["message"].as_str());
    message?.strip_prefix(prefix).map(str::to_owned)
}

pub(crate) struct Binary {
    child: Child,
    pub url: String,
    /// Its standard error, line by line.
    pub log: mpsc::Receiver<String>,
    /// The log lines up to and including `listening on`.
    pub start: Vec<String>,
}

impl Binary {
    /// A command that runs the program with these arguments, not yet started.
    pub(crate) fn command(args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollhouse"));
        command.args(args).env_remove("TOLLHOUSE_ADMIN_KEY").env_remove("TOLLHOUSE_ADMIN_KEY_FILE");
        command.env_remove("TOLLHOUSE_CONFIG").env_remove("RUST_LOG");
        command
    }

    /// Runs a command until it exits.
    pub(crate) fn run(args: &[&str]) -> Output {
        Self::command(args).output().unwrap()
    }

    /// Serves this data directory on a free port, with the tests' admin key.
    pub(crate) fn serve(dir: &Path) -> Self {
        Self::serve_with(dir, |command| {
            command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY);
        })
    }

    /// Serves this data directory on a free port; `change` adds environment variables and arguments.
    pub(crate) fn serve_with(dir: &Path, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Self::command(&["--listen", "127.0.0.1:0", "--data", dir.to_str().unwrap()]);
        change(&mut command);
        Self::start(command)
    }

    /// Starts a command that serves, and waits until it listens.
    #[allow(clippy::zombie_processes)] // `drop` waits for the process.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, log) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut start = Vec::new();
        loop {
            let line = log
                .recv_timeout(Duration::from_secs(30))
                .unwrap_or_else(|_| panic!("the server did not start: {start:#?}"));
            start.push(line.clone());
            if let Some(url) = message_after(&line, "listening on ") {
                return Self { child, url, log, start };
            }
        }
    }

    /// Starts a command that serves, waits until it listens, and reads no more of its standard error. The reader
    /// keeps it open.
    #[allow(clippy::zombie_processes)] // `drop` waits for the process.
    pub(crate) fn start_unread(mut command: Command) -> (Self, BufReader<ChildStderr>) {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut reader = BufReader::new(child.stderr.take().unwrap());
        let mut start = Vec::new();
        loop {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).unwrap() > 0, "the server did not start: {start:#?}");
            start.push(line.trim_end().to_owned());
            if let Some(url) = message_after(line.trim_end(), "listening on ") {
                let server = Self { child, url, log: mpsc::channel().1, start };
                return (server, reader);
            }
        }
    }

    /// The URL of `/metrics`.
    pub(crate) fn metrics_url(&self) -> String {
        let url = self.start.iter().find_map(|line| message_after(line, "metrics on "));
        url.unwrap_or_else(|| panic!("no metrics: {:?}", self.start))
    }

    pub(crate) fn admin(&self) -> Client {
        self.client(ADMIN_KEY)
    }

    pub(crate) fn client(&self, key: &str) -> Client {
        Client::new(&self.url, Some(key))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGKILL and waits for the exit.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM, waits for the exit and returns the exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.wait()
    }

    /// Sends a signal, `TERM` or `INT`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the exit. Returns the exit code, or `None` if a signal ended the process.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Returns the next log line that contains this text.
    pub(crate) fn line_with(&self, part: &str) -> String {
        loop {
            let line = self.log.recv_timeout(Duration::from_secs(30));
            let line = line.unwrap_or_else(|_| panic!("no log line contains {part:?}"));
            if line.contains(part) {
                return line;
            }
        }
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
