//! The files in `deploy/`, run with the programs that they are made for.

mod systemd;

use std::process::Output;

/// What a command printed on both outputs, for messages.
fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
