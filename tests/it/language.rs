//! Names and comments use the field's standard terms: no item, field, parameter or module has a name that was
//! retired, and no comment is a question. `docs/contribute/style.md` says why.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

use crate::support::files_below;

/// Retired names, wherever they stand.
const RETIRED: &[&str] = &[
    "Way",
    "Gate",
    "Handling",
    "Found",
    "place",
    "Passage",
    "gates",
    "Asked",
    "LastAsker",
    "asker",
    "house",
    "look",
    "Stale",
    "stale",
    "mark",
    "Stamps",
    "Remembered",
    "hand_out",
    "over",
    "keeps_the_platform",
    "furnish",
    "diary",
    "Deed",
    "Taken",
    "tell",
    "Timeline",
    "disorder",
    "Spread",
    "Folded",
    "folded",
    "Kept",
    "Once",
    "Claim",
    "culprit",
    "agree",
    "carry",
    "Overruled",
    "room_for_key",
    "shapes",
    "ranges",
    "within",
    "Seat",
    "SameCaller",
    "told",
];

/// Function names that one part of the tree may not use. A parameter of that name is right.
const RETIRED_FUNCTIONS_IN: &[(&str, &str)] = &[
    ("src/service/", "change"), // `mutate`
];

/// Names that one part of the tree may not use, though they are right elsewhere.
const RETIRED_IN: &[(&str, &str)] = &[
    ("src/telemetry/", "Line"), // `CachePadded`
    ("src/", "Filter"),         // named after what it filters, as the next three
    ("src/", "Hash"),
    ("src/", "Held"),
    ("src/", "Progress"),
];

/// Words that no comment uses.
const RETIRED_WORDS: &[&str] = &["seat", "asker", "diary", "culprit", "house", "furnish"];

/// A file of the tree.
struct Source {
    /// Relative to the top of the repository, with `/`.
    path: String,
    text: String,
}

fn sources(extensions: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> =
        ["build.rs", "schema.sql", "config.toml"].map(|name| root.join(name)).into();
    files.extend(["build", "src", "tests", "scripts"].iter().flat_map(|name| files_below(&root.join(name))));
    let extension = |path: &Path| path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_owned();
    files.retain(|path| extensions.contains(&extension(path).as_str()));
    let source = |path: &PathBuf| Source {
        path: path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/"),
        text: fs::read_to_string(path).unwrap(),
    };
    files.iter().map(source).collect()
}

/// Collects the names of items, fields, variants, parameters and modules.
#[derive(Default)]
struct Names {
    all: BTreeSet<String>,
    functions: BTreeSet<String>,
}

impl Names {
    fn of(source: &Source) -> Self {
        let file = syn::parse_file(&source.text).unwrap_or_else(|error| panic!("{}: {error}", source.path));
        let mut names = Self::default();
        names.visit_file(&file);
        let stem = Path::new(&source.path).file_stem().unwrap().to_str().unwrap();
        names.all.insert(stem.to_owned()); // The module that the file is.
        names
    }

    fn add(&mut self, ident: &syn::Ident) {
        self.all.insert(ident.to_string());
    }

    fn add_pattern(&mut self, pattern: &syn::Pat) {
        struct Bindings<'a>(&'a mut Names);
        impl Visit<'_> for Bindings<'_> {
            fn visit_pat_ident(&mut self, binding: &syn::PatIdent) {
                self.0.add(&binding.ident);
                visit::visit_pat_ident(self, binding);
            }
        }
        Bindings(self).visit_pat(pattern);
    }
}

impl Visit<'_> for Names {
    fn visit_item(&mut self, item: &syn::Item) {
        match item {
            syn::Item::Const(item) => self.add(&item.ident),
            syn::Item::Enum(item) => self.add(&item.ident),
            syn::Item::Mod(item) => self.add(&item.ident),
            syn::Item::Static(item) => self.add(&item.ident),
            syn::Item::Struct(item) => self.add(&item.ident),
            syn::Item::Trait(item) => self.add(&item.ident),
            syn::Item::Type(item) => self.add(&item.ident),
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_signature(&mut self, signature: &syn::Signature) {
        self.add(&signature.ident);
        self.functions.insert(signature.ident.to_string());
        for input in &signature.inputs {
            if let syn::FnArg::Typed(input) = input {
                self.add_pattern(&input.pat);
            }
        }
        visit::visit_signature(self, signature);
    }

    fn visit_expr_closure(&mut self, closure: &syn::ExprClosure) {
        for input in &closure.inputs {
            self.add_pattern(input);
        }
        visit::visit_expr_closure(self, closure);
    }

    fn visit_field(&mut self, field: &syn::Field) {
        field.ident.iter().for_each(|ident| self.add(ident));
        visit::visit_field(self, field);
    }

    fn visit_variant(&mut self, variant: &syn::Variant) {
        self.add(&variant.ident);
        visit::visit_variant(self, variant);
    }
}

fn retired_names(source: &Source) -> Vec<String> {
    let names = Names::of(source);
    let is_listed = |list: &[(&str, &str)], name: &str| {
        list.iter().any(|(part, retired)| source.path.starts_with(part) && *retired == name)
    };
    let is_retired = |name: &&String| {
        RETIRED.contains(&name.as_str())
            || is_listed(RETIRED_IN, name)
            || is_listed(RETIRED_FUNCTIONS_IN, name) && names.functions.contains(*name)
            || name.to_lowercase().starts_with("most_")
    };
    names.all.iter().filter(is_retired).map(|name| format!("{}: {name}", source.path)).collect()
}

/// The comments of a file, each with its line number. Comments stand on lines of their own or behind code; a marker
/// within a string is taken for one too, which is stricter than it must be.
fn comments(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    let marker = match source.path.rsplit('.').next().unwrap() {
        "sql" => "--",
        "toml" | "py" | "lua" | "sh" => "#",
        _ => "//",
    };
    source.text.lines().enumerate().filter_map(move |(index, line)| {
        let at = line.find(marker)?;
        let is_address = line[..at].ends_with(':'); // `https://…`
        (!is_address).then(|| (index + 1, &line[at + marker.len()..]))
    })
}

fn retired_words(source: &Source) -> Vec<String> {
    let is_retired = |comment: &str| {
        let lower = comment.to_lowercase();
        lower.split(|c: char| !c.is_alphanumeric()).any(|word| RETIRED_WORDS.contains(&word))
    };
    let found = comments(source).filter(|(_, comment)| is_retired(comment));
    found.map(|(line, comment)| format!("{}:{line}: {comment}", source.path)).collect()
}

fn questions(source: &Source) -> Vec<String> {
    let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
    let is_doc = |line: &str| line.starts_with("///") || line.starts_with("//!");
    let is_question = |line: &str| is_doc(line) && line.ends_with('?');
    let found = lines.iter().enumerate().filter(|(_, line)| is_question(line));
    found.map(|(index, line)| format!("{}:{}: {line}", source.path, index + 1)).collect()
}

#[test]
fn no_name_is_a_retired_one() {
    let faults: Vec<_> = sources(&["rs"]).iter().flat_map(retired_names).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn no_comment_uses_a_retired_word() {
    let all = sources(&["rs", "js", "mjs", "py", "lua", "sql", "toml"]);
    let this = |source: &&Source| source.path != "tests/it/language.rs";
    let faults: Vec<_> = all.iter().filter(this).flat_map(retired_words).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn no_doc_comment_is_a_question() {
    let faults: Vec<_> = sources(&["rs"]).iter().flat_map(questions).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The finders find: an item, a field, a variant, a parameter, a binding in a closure, a module, a word, a question.
#[test]
fn retired_names_and_words_are_found() {
    let source = |text: &str| Source { path: "src/service/a.rs".to_owned(), text: text.to_owned() };
    for code in [
        "struct Gate;",
        "struct A { place: u8 }",
        "enum A { Stale }",
        "fn look() {}",
        "fn f(asker: u8) {}",
        "fn f((tell, b): (u8, u8)) {}",
        "fn f() { g(|over| 1) }",
        "mod shapes {}",
        "impl A { fn carry(&self) {} }",
        "trait A { fn mark(&self); }",
        "const MOST_ROWS: u8 = 1;",
        "fn change() {}",
    ] {
        assert_eq!(retired_names(&source(code)).len(), 1, "{code}");
    }
    assert_eq!(retired_names(&source("fn f() { let replace = a.overlaps(gate_keeper); }")), [""; 0]);
    assert_eq!(retired_names(&source("fn f(change: u8) {}")), [""; 0]);
    assert_eq!(retired_words(&source("let a = 1; // the House\n/// lighthouse")).len(), 1);
    assert_eq!(questions(&source("/// Is it?\nlet a = b?;\n// why?\n//! Yes?")).len(), 2);
}
