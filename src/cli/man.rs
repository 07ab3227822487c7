//! `tollhouse man`: man pages, generated from the definition of the command line.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::args;
use crate::error::{Error, Result};

/// Writes a page for each command. Pages that exist are replaced.
pub(super) fn write_pages(directory: &Path) -> Result<()> {
    let mut command = args::definition().disable_help_subcommand(true);
    command.build();
    let written = fs::create_dir_all(directory).and_then(|()| write_pages_of(&command, directory));
    written.map_err(|error| {
        let message = format!("Could not write man pages to {}: {error}", directory.display());
        Error::internal(message)
    })
}

/// The date of the pages as an argument of a macro. Without quotes, an empty one would be skipped.
const DATE: &str = match env!("TOLLHOUSE_DATE").as_bytes() {
    [] => "\"\"",
    _ => env!("TOLLHOUSE_DATE"),
};

fn write_pages_of(command: &Command, directory: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands() {
        write_pages_of(subcommand, directory)?;
    }
    let page = Man::new(command.clone())
        .date(DATE)
        .source(format!("tollhouse {}", env!("CARGO_PKG_VERSION")))
        .manual("Tollhouse");
    fs::write(directory.join(page.get_filename()), render(&page, command)?)
}

/// The page. What follows the options in `--help` gets headings, which `Man::render` doesn't do.
fn render(page: &Man, command: &Command) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    let after_help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut roff = Roff::new();
    let (examples, notes): (Vec<_>, Vec<_>) =
        after_help.split("\n\n").partition(|paragraph| paragraph.starts_with("Examples:\n"));
    for example in examples {
        roff.control("SH", ["EXAMPLES"]);
        roff.control("nf", []);
        for line in example.lines().skip(1) {
            roff.text([roman(line.trim_start())]);
        }
        roff.control("fi", []);
    }
    for (number, note) in notes.iter().enumerate() {
        match number {
            0 => roff.control("SH", ["NOTES"]),
            _ => roff.control("PP", []),
        };
        roff.text([roman(*note)]);
    }
    roff.to_writer(&mut text)?;
    Ok(text)
}
