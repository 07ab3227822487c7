//! `tollhouse`: parses the command line and dispatches.

use std::process::ExitCode;

use tollhouse::cli::{self, args::Args};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The panic is already reported. Without this, its exit status would be 101.
    std::panic::catch_unwind(|| cli::run(Args::read())).unwrap_or(ExitCode::FAILURE)
}
