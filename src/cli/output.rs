//! The output of commands: results on standard output, messages on standard error.
//!
//! `println!` and `eprintln!` panic if their output is closed or full, so Clippy refuses them in this crate. A
//! reader that closes its pipe early (`| head`) ends the output, not the command: the exit status is the one
//! that the command has anyway. Any other failure to write a result is an error.
//!
//! Stored and imported text may contain escape sequences, with which it could change what a terminal shows.
//! They are escaped.

use std::fs;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use rustix::io::Errno;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::telemetry::escape::{escape_controls, escape_json};
use crate::telemetry::log_output;

/// Prints lines of a result to standard output.
pub(crate) fn print(text: &str) -> Result<()> {
    ignore_closed_pipe(write_to_standard_output(format!("{}\n", escape_controls(text)).as_bytes()))
}

/// Prints a result as one line of JSON to standard output.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    ignore_closed_pipe(write_to_standard_output(json_line(value)?.as_bytes()))
}

/// Writes a text that this program generated, such as a document, to standard output as it is.
pub(crate) fn print_document(text: &[u8]) -> Result<()> {
    ignore_closed_pipe(write_to_standard_output(text))
}

/// Prints a text that must not get lost, such as a secret. Unlike [`print`], it fails if the pipe is closed.
pub(crate) fn print_secret(text: &str) -> Result<()> {
    write_to_standard_output(format!("{text}\n").as_bytes()).map_err(output_error)
}

/// Prints a JSON object that contains a secret. It fails if the pipe is closed.
pub(crate) fn print_secret_json(value: &impl Serialize) -> Result<()> {
    write_to_standard_output(json_line(value)?.as_bytes()).map_err(output_error)
}

/// Writes a part of a binary result. Unlike [`print_document`], it fails if the pipe is closed.
pub(crate) fn write_all(bytes: &[u8]) -> Result<()> {
    write_to_standard_output(bytes).map_err(output_error)
}

/// True if everything written to standard output is discarded: it is `/dev/null`, which also takes the place of
/// a standard output that was closed before the program started.
pub(crate) fn is_discarded() -> bool {
    let Ok(null) = fs::metadata("/dev/null") else { return false };
    rustix::fs::fstat(io::stdout().as_fd())
        .is_ok_and(|output| null.file_type().is_char_device() && output.st_rdev == null.rdev())
}

/// Prints a message for the operator to standard error. A failure is ignored, because there is nowhere to
/// report it.
pub(crate) fn message(text: &str) {
    log_output::print_text(text);
}

/// Standard output for a result that is written in pieces.
pub(crate) struct ResultStream {
    is_terminal: bool,
}

impl ResultStream {
    pub(crate) fn open() -> Self {
        Self { is_terminal: io::stdout().is_terminal() }
    }

    /// Writes complete lines. Returns false if the reader has closed the pipe, so that no more output is needed.
    /// The bytes are unchanged, except that on a terminal control characters are escaped.
    pub(crate) fn write(&mut self, lines: &[u8]) -> Result<bool> {
        let written = if self.is_terminal {
            write_to_standard_output(escape_json(&String::from_utf8_lossy(lines)).as_bytes())
        } else {
            write_to_standard_output(lines)
        };
        match written {
            Err(Errno::PIPE) => Ok(false),
            result => result.map(|()| true).map_err(output_error),
        }
    }
}

fn json_line(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(value).map_err(Error::internal)?;
    Ok(format!("{}\n", escape_json(&text)))
}

/// Writes directly to the file descriptor: the standard library hides an output that can't be written to.
fn write_to_standard_output(mut bytes: &[u8]) -> std::result::Result<(), Errno> {
    let output = io::stdout();
    while !bytes.is_empty() {
        match rustix::io::write(output.as_fd(), bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            // The descriptor is shared with a process that has made it nonblocking, such as Node.js.
            Err(Errno::AGAIN) => {
                let mut poll = [rustix::event::PollFd::new(&output, rustix::event::PollFlags::OUT)];
                match rustix::event::poll(&mut poll, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn ignore_closed_pipe(written: std::result::Result<(), Errno>) -> Result<()> {
    match written {
        Err(Errno::PIPE) => Ok(()),
        result => result.map_err(output_error),
    }
}

fn output_error(error: Errno) -> Error {
    Error::internal(format!("Could not write to standard output: {}", io::Error::from(error)))
}
