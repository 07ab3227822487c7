//! `tollhouse`: parses the command line and dispatches.

use std::process::ExitCode;

use tollhouse::cli::{self, args::Args};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(Args::read())
}
