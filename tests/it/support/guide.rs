//! The code blocks of the documentation. A block may have a name behind its language: ` ```lua tollhouse.lua `.

use std::fs;
use std::path::{Path, PathBuf};

/// A fenced block.
pub(crate) struct Block {
    pub language: String,
    /// Empty where it has none.
    pub name: String,
    pub code: String,
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All blocks of a file, in order. The path starts at the root of the repository.
pub(crate) fn fenced(file: &str) -> Vec<Block> {
    let path = root().join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                let (language, name) = info.split_once(' ').unwrap_or((info, ""));
                let (language, name) = (language.to_owned(), name.trim().to_owned());
                open = Some(Block { language, name, code: String::new() });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (None, Some(block)) => {
                block.code.push_str(line);
                block.code.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{file}: unclosed code block");
    found
}

/// The blocks of a file below `docs/`: name and code of each, in order.
pub(crate) fn blocks(file: &str) -> Vec<(String, String)> {
    let found = fenced(&format!("docs/{file}")).into_iter();
    found.map(|block| (block.name, block.code)).collect()
}

/// The block with this name.
pub(crate) fn block(file: &str, name: &str) -> String {
    let found = blocks(file).into_iter().find(|(found, _)| found == name);
    found.unwrap_or_else(|| panic!("docs/{file} has no block {name:?}")).1
}

/// All Markdown files of the repository that people read: those at its root, and those below `docs/`.
pub(crate) fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root().join("docs")];
    let mut collect = |directory: &Path, directories: Option<&mut Vec<PathBuf>>| {
        let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let (below, files): (Vec<_>, Vec<_>) = paths.partition(|path| path.is_dir());
        found.extend(files.into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "md")));
        if let Some(directories) = directories {
            directories.extend(below);
        }
    };
    collect(&root(), None);
    while let Some(directory) = directories.pop() {
        collect(&directory, Some(&mut directories));
    }
    found.sort();
    found
}
