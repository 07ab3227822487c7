//! Embeds the files of `src/console` and `src/docs` and the documentation into the program, compressed at build time. A
//! page is served under its name. The files it loads are served below a version, a hash of all these files, so that they
//! can be cached indefinitely. States the version of the program, with the commit that is built.

#[path = "build/commit.rs"]
mod commit;
#[path = "build/mod.rs"]
mod documentation;

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use commit::Commit;
use documentation::{Documentation, Target};

/// Paths and contents.
type Files = Vec<(String, Vec<u8>)>;

/// The console consists of the files of its directory, which are served under their paths in it.
const CONSOLE: Page = Page { name: "console", root: "src/console", parts: &[""] };

/// The API reference and the documentation use files of the console. Their files are served under their paths in `src`, so that an import
/// names the same file in the browser as in the source tree.
const DOCS: Page = Page {
    name: "docs",
    root: "src",
    parts: &[
        "docs",
        "console/console.css",
        "console/forms.js",
        "console/html.js",
        "console/icon.svg",
        "console/key-storage.js",
        "console/route.js",
        "console/vendor/hooks.js",
        "console/vendor/htm.LICENSE.txt",
        "console/vendor/htm.js",
        "console/vendor/preact.LICENSE.txt",
        "console/vendor/preact.js",
    ],
};

/// A page of the program.
struct Page {
    name: &'static str,
    /// The directory to which the paths of its files are relative.
    root: &'static str,
    /// Its files and the directories of its files, relative to `root`.
    parts: &'static [&'static str],
}

fn main() -> Result<(), Box<dyn Error>> {
    state_version()?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    for path in ["build", "docs", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"] {
        println!("cargo::rerun-if-changed={path}");
    }
    let documentation = Documentation::read(Path::new("."))?;
    let mut table = "/// The files of all pages.\npub static FILES: &[File] = &[\n".to_owned();
    for Page { name, root, parts } in [CONSOLE, DOCS] {
        let mut files = Files::new();
        for part in parts {
            let path = Path::new(root).join(part);
            println!("cargo::rerun-if-changed={}", path.display());
            read(Path::new(root), &path, &mut files)?;
        }
        if name == DOCS.name {
            files.push((
                "search-index.json".to_owned(),
                documentation.search_index(Target::Server)?.into_bytes(),
            ));
        }
        files.sort();
        let version = hash(&files);
        for (path, bytes) in files {
            let file = if path.ends_with("index.html") {
                let page = String::from_utf8(bytes)?.replace("{version}", &version);
                Embedded { path: format!("/{name}/"), bytes: page.into_bytes(), is_page: true }
            } else {
                Embedded { path: format!("/{name}/{version}/{path}"), bytes, is_page: false }
            };
            file.add_to(&mut table, &out)?;
        }
        if name == DOCS.name {
            for page in documentation.pages(Target::Server, &version) {
                if page.path.is_empty() {
                    fs::write(out.join("docs-not-found.html"), page.html)?;
                    continue;
                }
                let path = format!("/{name}/{}", page.path);
                Embedded { path, bytes: page.html.into_bytes(), is_page: true }.add_to(&mut table, &out)?;
            }
        }
    }
    table.push_str("];\n");
    table.push_str(
        "const NOT_FOUND_PAGE: &str = include_str!(concat!(env!(\"OUT_DIR\"), \"/docs-not-found.html\"));\n",
    );
    fs::write(out.join("pages.rs"), table)?;
    Ok(())
}

/// Sets `TOLLHOUSE_VERSION`, such as `1.0.0 (abc1234 2026-11-28)`, and `TOLLHOUSE_DATE` for the code.
fn state_version() -> Result<(), Box<dyn Error>> {
    let commit = commit()?;
    let name = std::env::var("CARGO_PKG_VERSION")?;
    let version = commit.as_ref().map_or(name.clone(), |commit| format!("{name} ({commit})"));
    let date = commit.and_then(|commit| commit.date).unwrap_or_default();
    println!("cargo::rustc-env=TOLLHOUSE_VERSION={version}");
    println!("cargo::rustc-env=TOLLHOUSE_DATE={date}");
    Ok(())
}

/// The commit, from `TOLLHOUSE_COMMIT` and `SOURCE_DATE_EPOCH`, or from Git. Only optimized builds read it from Git,
/// because each commit has to compile everything again then.
fn commit() -> Result<Option<Commit>, Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=TOLLHOUSE_COMMIT");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    if let Ok(hash) = std::env::var("TOLLHOUSE_COMMIT") {
        let seconds = std::env::var("SOURCE_DATE_EPOCH").ok();
        return Ok(Commit::from_variables(&hash, seconds.as_deref())?);
    }
    if std::env::var("PROFILE")? == "debug" {
        return Ok(None);
    }
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let commit = Commit::from_git(&root);
    if let Some(file) = commit.as_ref().and_then(|_| commit::file_of_head(&root)) {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    Ok(commit)
}

/// A file with its URL path.
struct Embedded {
    path: String,
    bytes: Vec<u8>,
    is_page: bool,
}

impl Embedded {
    /// Compresses the file, and adds it to the source of the table.
    fn add_to(&self, table: &mut String, out: &Path) -> Result<(), Box<dyn Error>> {
        let Self { path, bytes, is_page } = self;
        let tag = hash(bytes);
        let gzip = out.join(format!("{}.gz", path[1..].replace('/', "-")));
        let mut encoder = GzEncoder::new(fs::File::create(&gzip)?, Compression::best());
        encoder.write_all(bytes)?;
        encoder.finish()?;
        let kind = content_type(path, *is_page)?;
        let length = bytes.len();
        writeln!(
            table,
            "    File {{ path: {path:?}, kind: {kind:?}, tag: {tag:?}, is_page: {is_page}, length: {length}, gzip: \
             include_bytes!({gzip:?}) }},"
        )?;
        Ok(())
    }
}

/// Adds a file, or all files below a directory, with their paths relative to `root`.
fn read(root: &Path, path: &Path, files: &mut Files) -> Result<(), Box<dyn Error>> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            read(root, &entry?.path(), files)?;
        }
    } else {
        let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
        files.push((name, fs::read(path)?));
    }
    Ok(())
}

fn hash(value: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn content_type(path: &str, is_page: bool) -> Result<&'static str, String> {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        _ if is_page => Ok("text/html; charset=utf-8"),
        Some("js") => Ok("text/javascript; charset=utf-8"),
        Some("css") => Ok("text/css; charset=utf-8"),
        Some("svg") => Ok("image/svg+xml"),
        Some("json") => Ok("application/json"),
        Some("txt") => Ok("text/plain; charset=utf-8"),
        _ => Err(format!("{path}: no content type is known for this file extension")),
    }
}
