//! The layering of the modules, checked by reading the paths that each file of `src/` names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use strum::VariantArray;
use tollhouse::domain::action::Action;

use crate::support::files_below;

/// Each top-level module and the modules that it may name. A module that is missing here fails the test, so
/// that every new module is assigned to a layer.
const ALLOWED: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("lib", &[]),
    (
        "cli",
        &["app", "clock", "config", "domain", "error", "http", "service", "store", "telemetry", "verify"],
    ),
    ("http", &["app", "clock", "config", "domain", "error", "service", "telemetry", "verify"]),
    ("service", &["app", "clock", "config", "domain", "error", "store", "telemetry", "verify"]),
    ("app", &["clock", "config", "domain", "error", "store", "telemetry", "verify"]),
    ("store", &["clock", "config", "domain", "error", "telemetry"]),
    ("verify", &["clock", "config", "domain", "error", "telemetry"]),
    ("telemetry", &["config", "domain", "error"]),
    ("config", &["domain", "error"]),
    ("clock", &["domain"]),
    ("domain", &["error"]),
    ("error", &[]),
];

/// Crates that only the files in one directory may name. Tests in files of their own may use them, to look at what is
/// stored.
const CRATE_OWNERS: &[(&str, &str)] = &[
    ("rusqlite", "store/engine"),
    ("r2d2", "store/engine"),
    ("r2d2_sqlite", "store/engine"),
    ("warp", "http"),
    ("hyper", "http"),
    ("tokio_rustls", "http"),
    ("prometheus", "telemetry"),
];

/// A longer file should be split.
const MAX_LINES: usize = 450;

/// A file of `src/`.
struct Source {
    /// Relative to `src/`.
    path: PathBuf,
    text: String,
}

impl Source {
    fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let is_rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
        let read = |path: PathBuf| Self {
            path: path.strip_prefix(&root).unwrap().to_owned(),
            text: fs::read_to_string(&path).unwrap(),
        };
        let sources: Vec<_> = files_below(&root).into_iter().filter(is_rust).map(read).collect();
        assert!(sources.len() > 50, "only {} source files found", sources.len());
        sources
    }

    /// The top-level module that the file belongs to: its directory, or the name of the file.
    fn module(&self) -> &str {
        let first = self.path.components().next().unwrap().as_os_str().to_str().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// True if `super` in this file means the crate root, for files at depth 1 or named `mod.rs`.
    fn is_top_of_its_module(&self) -> bool {
        self.path.components().count() == 1 || self.path.ends_with("mod.rs")
    }

    /// True if the file only holds tests.
    fn is_test(&self) -> bool {
        self.path.file_stem().unwrap().to_str().unwrap().ends_with("_tests")
    }

    fn names_crate(&self, name: &str) -> bool {
        !first_segments_after(&without_comments(&self.text), &format!("{name}::")).is_empty()
    }

    /// The top-level modules that the file names, also through `super`.
    fn used_modules(&self) -> BTreeSet<String> {
        let code = without_comments(&self.text);
        // The program is a separate crate that uses the library.
        let root = if self.module() == "main" { "tollhouse::" } else { "crate::" };
        let mut used = first_segments_after(&code, root);
        // Inside `mod tests`, `super` means the file itself; names that are not top-level modules are ignored.
        let parent = if self.is_top_of_its_module() { "super::" } else { "super::super::" };
        used.extend(first_segments_after(&code, parent).into_iter().filter(|name| allowed(name).is_some()));
        used
    }
}

fn allowed(module: &str) -> Option<&'static [&'static str]> {
    ALLOWED.iter().find(|(name, _)| *name == module).map(|(_, allowed)| *allowed)
}

fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The first segment of each path after `root`, also of the paths in one group of braces.
fn first_segments_after(code: &str, root: &str) -> BTreeSet<String> {
    let is_identifier = |c: char| c.is_alphanumeric() || c == '_';
    let first_segment =
        |path: &str| path.trim_start().chars().take_while(|c| is_identifier(*c)).collect::<String>();
    let mut segments = BTreeSet::new();
    for (start, _) in code.match_indices(root) {
        let before = &code[..start];
        if before.ends_with(|c| is_identifier(c) || c == ':') {
            continue; // `root` is only the end of a longer path.
        }
        match code[start + root.len()..].strip_prefix('{') {
            None => drop(segments.insert(first_segment(&code[start + root.len()..]))),
            Some(group) => {
                let mut depth = 0;
                let end = group.find(|c| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    depth < 0
                });
                let group = &group[..end.expect("a closing brace")];
                let mut depth = 0;
                let items = group.split(|c| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    c == ',' && depth == 0
                });
                segments.extend(items.map(first_segment));
            }
        }
    }
    segments.remove("");
    segments
}

#[test]
fn first_segments_are_found_in_all_forms_of_paths() {
    let code = "use crate::{app::App, store::{self, db}, http};\nuse crate::error::Error;\n\
                // use crate::comment;\nlet x = crate::clock::Clock; pub(in crate::verify) mycrate::no::x();";
    let segments = first_segments_after(&without_comments(code), "crate::");
    let expected = ["app", "clock", "error", "http", "store", "verify"];
    assert_eq!(segments.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn each_module_names_only_modules_of_lower_layers() {
    let mut violations = Vec::new();
    for source in Source::all() {
        let module = source.module();
        let path = source.path.display();
        let Some(allowed) = allowed(module) else {
            violations.push(format!("{path}: add the module {module} to ALLOWED"));
            continue;
        };
        let used = source.used_modules();
        let forbidden = used.iter().filter(|name| *name != module && !allowed.contains(&name.as_str()));
        violations.extend(forbidden.map(|name| format!("{path} names {name}")));
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn each_crate_is_named_only_by_its_owner() {
    let mut violations = Vec::new();
    for source in Source::all().iter().filter(|source| !source.is_test()) {
        for (name, owner) in CRATE_OWNERS {
            if !source.path.starts_with(owner) && source.names_crate(name) {
                violations.push(format!("{} names {name}", source.path.display()));
            }
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

/// The test above can only fail if the owners use their crates under these names.
#[test]
fn each_owner_names_its_crate() {
    let sources = Source::all();
    for (name, owner) in CRATE_OWNERS {
        let mut of_owner = sources.iter().filter(|source| source.path.starts_with(owner));
        assert!(of_owner.any(|source| source.names_crate(name)), "{owner} does not name {name}");
    }
}

/// A decision by the name of an action would change when the action is renamed.
#[test]
fn no_code_knows_the_name_of_an_action() {
    let mut violations = Vec::new();
    for source in Source::all().iter().filter(|source| !source.path.ends_with("domain/action.rs")) {
        let code = without_comments(&source.text);
        // The tests of a file, and examples in the OpenAPI document, may name actions.
        let code = code.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| !line.contains("example =")) {
            let known = |action: &&Action| line.contains(&format!("\"{}\"", action.name()));
            violations.extend(
                Action::VARIANTS
                    .iter()
                    .find(known)
                    .map(|_| format!("{}: {}", source.path.display(), line.trim())),
            );
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn no_file_is_too_long() {
    let lines = |source: &Source| source.text.lines().count();
    let sources = Source::all();
    let long: Vec<_> = sources.iter().filter(|source| lines(source) > MAX_LINES).collect();
    let long: Vec<_> =
        long.iter().map(|source| format!("{}: {}", source.path.display(), lines(source))).collect();
    assert!(long.is_empty(), "{long:#?}");
}
