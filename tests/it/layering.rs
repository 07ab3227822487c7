//! The layers of the house, kept by reading what each file of `src/` names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each part of the house and the parts that it may name. A part that isn't here is a fault, so that a
/// new one finds its place.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("lib", &[]),
    (
        "cli",
        &["app", "clock", "config", "domain", "error", "http", "service", "store", "telemetry", "verify"],
    ),
    ("http", &["app", "clock", "config", "domain", "error", "service", "telemetry", "verify"]),
    ("service", &["app", "clock", "config", "domain", "error", "store", "telemetry", "verify"]),
    ("app", &["clock", "config", "domain", "error", "service", "store", "telemetry", "verify"]),
    ("store", &["clock", "config", "domain", "error", "telemetry"]),
    ("verify", &["clock", "config", "domain", "error", "telemetry"]),
    ("telemetry", &["config", "domain", "error"]),
    ("config", &["domain", "error"]),
    ("clock", &["domain"]),
    ("domain", &["error"]),
    ("error", &[]),
];

/// Crates that one part alone may name.
const AT_HOME: &[(&str, &str)] = &[
    ("rusqlite", "store"),
    ("r2d2", "store"),
    ("r2d2_sqlite", "store"),
    ("warp", "http"),
    ("hyper", "http"),
    ("tokio_rustls", "http"),
    ("prometheus", "telemetry"),
];

/// More than this is two things in one file.
const MAX_LINES: usize = 450;

/// A file of `src/`.
struct Source {
    /// Below `src/`.
    path: PathBuf,
    text: String,
}

impl Source {
    fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let (mut found, mut directories) = (Vec::new(), vec![root.clone()]);
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    found.push(Self { path: path.strip_prefix(&root).unwrap().to_owned(), text });
                }
            }
        }
        assert!(found.len() > 50, "the sources are not where they were");
        found
    }

    /// The part of the house that the file belongs to: its directory, or its own name.
    fn part(&self) -> &str {
        let first = self.path.components().next().unwrap().as_os_str().to_str().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Does `super` in it mean the top of the crate?
    fn is_top_of_its_part(&self) -> bool {
        self.path.components().count() == 1 || self.path.ends_with("mod.rs")
    }

    /// The parts that it names, also behind `super`.
    fn named(&self) -> BTreeSet<String> {
        let code = without_comments(&self.text);
        // The program itself is a crate of its own, beside the library.
        let root = if self.part() == "main" { "tollhouse::" } else { "crate::" };
        let mut named = named_after(&code, root);
        // Within `mod tests` it means the file itself: what isn't the name of a part is no matter.
        let above = if self.is_top_of_its_part() { "super::" } else { "super::super::" };
        named.extend(named_after(&code, above).into_iter().filter(|name| rule(name).is_some()));
        named
    }
}

fn rule(part: &str) -> Option<&'static [&'static str]> {
    MAY_NAME.iter().find(|(name, _)| *name == part).map(|(_, allowed)| *allowed)
}

fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The first name of each path that begins with `root`, through one pair of braces.
fn named_after(code: &str, root: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let first_name = |path: &str| path.trim_start().chars().take_while(|c| is_name(*c)).collect::<String>();
    let mut named = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        let before = &code[..at];
        if before.ends_with(|c| is_name(c) || c == ':') {
            continue; // The end of another name.
        }
        match code[at + root.len()..].strip_prefix('{') {
            None => drop(named.insert(first_name(&code[at + root.len()..]))),
            Some(group) => {
                let mut depth = 0;
                let end = group.find(|c| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    depth < 0
                });
                let group = &group[..end.expect("a group that ends")];
                let mut depth = 0;
                let items = group.split(|c| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    c == ',' && depth == 0
                });
                named.extend(items.map(first_name));
            }
        }
    }
    named.remove("");
    named
}

#[test]
fn paths_are_read_as_they_are_written() {
    let code = "use crate::{app::App, store::{self, db}, http};\nuse crate::error::Error;\n\
                // use crate::comment;\nlet x = crate::clock::Clock; pub(in crate::verify) mycrate::no::x();";
    let named = named_after(&without_comments(code), "crate::");
    let expected = ["app", "clock", "error", "http", "store", "verify"];
    assert_eq!(named.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn each_part_names_only_what_lies_below_it() {
    let mut faults = Vec::new();
    for source in Source::all() {
        let (part, path) = (source.part(), source.path.display());
        let Some(allowed) = rule(part) else {
            faults.push(format!("{path}: {part} has no place in the house yet"));
            continue;
        };
        let named = source.named();
        let strangers = named.iter().filter(|name| *name != part && !allowed.contains(&name.as_str()));
        faults.extend(strangers.map(|name| format!("{path} names {name}")));
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn each_engine_stays_in_its_part() {
    let mut faults = Vec::new();
    for source in Source::all() {
        let code = without_comments(&source.text);
        for (engine, home) in AT_HOME {
            if source.part() != *home && !named_after(&code, &format!("{engine}::")).is_empty() {
                faults.push(format!("{} names {engine}", source.path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// A rule that nothing would break keeps nothing: the engines are used where they are at home.
#[test]
fn the_engines_are_found_at_home() {
    let sources = Source::all();
    for (engine, home) in AT_HOME.iter().filter(|(engine, _)| *engine != "r2d2_sqlite") {
        let mut at_home = sources.iter().filter(|source| source.part() == *home);
        let used = at_home
            .any(|source| !named_after(&without_comments(&source.text), &format!("{engine}::")).is_empty());
        assert!(used, "{engine} is not seen in {home}");
    }
}

#[test]
fn no_file_outgrows_its_room() {
    let lines = |source: &Source| source.text.lines().count();
    let sources = Source::all();
    let long: Vec<_> = sources.iter().filter(|source| lines(source) > MAX_LINES).collect();
    let long: Vec<_> = long.iter().map(|long| format!("{}: {}", long.path.display(), lines(long))).collect();
    assert!(long.is_empty(), "{long:#?}");
}
