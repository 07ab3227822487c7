//! The files in `deploy/`, run with the programs that they are made for.

mod deb;
mod litestream;
mod scratch_machine;
mod systemd;

use std::process::Output;

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a command printed on both outputs, for messages.
fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
