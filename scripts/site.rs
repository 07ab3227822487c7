//! Writes the documentation as files, for `scripts/site`: the pages that the program shows below `/docs/`, with relative
//! links, so that they need no server.

#[path = "../build/mod.rs"]
mod documentation;

use std::fs;
use std::path::{Path, PathBuf};

use documentation::{Documentation, Result, Target};

/// The directory of the pages' files.
const ASSETS: &str = "assets";

/// What the pages load, relative to `src/`.
const FILES: &[&str] = &["console/console.css", "console/icon.svg", "docs/docs.css", "docs/guide.css"];

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1).ok_or("usage: scripts/site DIRECTORY")?;
    let site = Site { directory: directory.into() };
    if fs::read_dir(&site.directory).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(format!("{} is not empty", site.directory.display()).into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documentation = Documentation::read(root)?;
    let pages = documentation.pages(Target::Files, ASSETS);
    for page in &pages {
        site.write(&page.path, page.html.as_bytes())?;
    }
    for name in FILES {
        site.write(&format!("{ASSETS}/{name}"), &fs::read(root.join("src").join(name))?)?;
    }
    let source = |name: &str| fs::read_to_string(root.join("src/docs").join(name));
    let script = classic_script(&[&source("search.js")?, &source("guide.js")?]);
    site.write(&format!("{ASSETS}/docs/guide.js"), script.as_bytes())?;
    let index =
        format!("globalThis.tollhouseSearchIndex = {};\n", documentation.search_index(Target::Files)?);
    site.write(&format!("{ASSETS}/search-index.js"), index.as_bytes())?;
    site.write("openapi.json", &fs::read(root.join("docs/openapi.json"))?)?;
    println!("wrote {} pages to {}", pages.len(), site.directory.display());
    Ok(())
}

struct Site {
    directory: PathBuf,
}

impl Site {
    fn write(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let path = self.directory.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, bytes)?;
        Ok(())
    }
}

/// Modules as one script, each after those that it imports: browsers load modules only from a server.
fn classic_script(modules: &[&str]) -> String {
    let lines = modules.iter().flat_map(|module| module.lines());
    let lines = lines.filter(|line| !line.starts_with("import "));
    let body: String = lines.map(|line| format!("{}\n", line.trim_start_matches("export "))).collect();
    format!("(() => {{\n'use strict';\n{body}}})();\n")
}
