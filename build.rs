//! Embeds the files of `src/console` and `src/docs` into the program, compressed at build time. A page is
//! served under the name of its directory. The files it loads are served below a version, a hash of all
//! files of the directory, so that they can be cached indefinitely.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Paths and contents.
type Files = Vec<(String, Vec<u8>)>;

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut table = "/// The files of all pages.\npub static FILES: &[File] = &[\n".to_owned();
    for name in ["console", "docs"] {
        let root = Path::new("src").join(name);
        println!("cargo::rerun-if-changed={}", root.display());
        let files = read(&root, &root)?;
        let version = hash(&files);
        for (path, mut bytes) in files {
            let is_page = path == "index.html";
            if is_page {
                bytes = String::from_utf8(bytes)?.replace("{version}", &version).into_bytes();
            }
            let tag = hash(&bytes);
            let gzip = out.join(format!("{name}-{}.gz", path.replace('/', "-")));
            let mut encoder = GzEncoder::new(fs::File::create(&gzip)?, Compression::best());
            encoder.write_all(&bytes)?;
            encoder.finish()?;
            let path = if is_page { format!("/{name}/") } else { format!("/{name}/{version}/{path}") };
            let kind = content_type(&path, is_page)?;
            let length = bytes.len();
            writeln!(
                table,
                "    File {{ path: {path:?}, kind: {kind:?}, tag: {tag:?}, is_page: {is_page}, length: {length}, \
                 gzip: include_bytes!({gzip:?}) }},"
            )?;
        }
    }
    table.push_str("];\n");
    fs::write(out.join("pages.rs"), table)?;
    Ok(())
}

/// All files below a directory, with their paths relative to `root`, sorted by path.
fn read(root: &Path, directory: &Path) -> Result<Files, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(read(root, &path)?);
        } else {
            let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
            files.push((name, fs::read(&path)?));
        }
    }
    files.sort();
    Ok(files)
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
        Some("txt") => Ok("text/plain; charset=utf-8"),
        _ => Err(format!("{path}: no content type is known for this file extension")),
    }
}
