//! `tollhouse`: parse the command line and dispatch.

use std::process::ExitCode;

use tollhouse::cli::{self, args::Args};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(Args::read())
}
