//! The code blocks of the documentation. A block may have a name behind its language: ` ```lua tollhouse.lua `. Commands
//! that no test runs are marked in the line before: `<!-- not run: the reason -->`.

use std::fs;
use std::path::{Path, PathBuf};

/// A fenced block.
pub(crate) struct Block {
    pub language: String,
    /// Empty where it has none.
    pub name: String,
    pub code: String,
    /// Why no test runs it.
    pub not_run: Option<String>,
}

impl Block {
    /// True if a reader would type it into a shell.
    pub(crate) fn is_shell(&self) -> bool {
        ["sh", "bash", "shell", "console"].contains(&self.language.as_str())
    }
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
    let mut not_run = None;
    for line in text.lines() {
        assert!(!line.starts_with(' ') || !line.trim_start().starts_with("```"), "{file}: indented: {line}");
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                let (language, name) = info.split_once(' ').unwrap_or((info, ""));
                let (language, name) = (language.to_owned(), name.trim().to_owned());
                open = Some(Block { language, name, code: String::new(), not_run: not_run.take() });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (None, Some(block)) => {
                block.code.push_str(line);
                block.code.push('\n');
            }
            (None, None) => {
                let reason = line.strip_prefix("<!-- not run:").and_then(|rest| rest.strip_suffix("-->"));
                not_run = reason.map(|reason| reason.trim().to_owned());
            }
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

/// The rows of the first table with this header of its first column: the cells of each.
pub(crate) fn table(text: &str, first: &str) -> Vec<Vec<String>> {
    let rows = text.lines().skip_while(|line| !line.starts_with(&format!("| {first} |"))).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.map(cells).collect()
}

/// The texts between backticks.
pub(crate) fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
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
