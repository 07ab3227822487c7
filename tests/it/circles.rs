//! Files of one part of the tree don't use each other in circles, so that each can be read and moved alone.
//! Counted by `use` declarations, not by `mod`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, ItemUse, UseTree, Visibility};

use crate::support::files_below;

/// The path of a module, such as `["domain", "audit"]`.
type ModulePath = Vec<String>;

/// The modules that each file uses. A key is the module of a file.
struct Uses(BTreeMap<ModulePath, BTreeSet<ModulePath>>);

impl Uses {
    fn of_the_tree() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut paths = BTreeMap::new();
        for path in files_below(&root) {
            let name = path.file_name().unwrap().to_str().unwrap();
            // Tests may use whatever they test.
            if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                let module = path.strip_prefix(&root).unwrap().with_extension("");
                let mut module: ModulePath =
                    module.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
                module.pop_if(|name| name == "mod");
                paths.insert(module, path);
            }
        }
        let uses = paths.iter().map(|(module, path)| {
            let file = syn::parse_file(&fs::read_to_string(path).unwrap()).unwrap();
            let mut visitor = UseVisitor { module, used: Vec::new() };
            visitor.visit_file(&file);
            // The longest part of a path that is a file; the rest names an item.
            let file_of = |path: ModulePath| {
                let lengths = (1..=path.len()).rev();
                lengths.map(|length| path[..length].to_vec()).find(|module| paths.contains_key(module))
            };
            let used = visitor.used.into_iter().filter_map(file_of).filter(|used| used != module).collect();
            (module.clone(), used)
        });
        Self(uses.collect())
    }

    /// The files of the part that `from` uses, directly or through others of the part.
    fn reachable(&self, from: &ModulePath) -> BTreeSet<ModulePath> {
        let mut reached = BTreeSet::new();
        let mut waiting = vec![from];
        while let Some(module) = waiting.pop() {
            for used in self.0[module].iter().filter(|used| used[0] == from[0]) {
                if reached.insert(used.clone()) {
                    waiting.push(used);
                }
            }
        }
        reached
    }

    /// The files that use themselves through others of their part, by part.
    fn circles(&self) -> BTreeMap<&str, Vec<String>> {
        let mut circles: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for module in self.0.keys().filter(|module| self.reachable(module).contains(*module)) {
            circles.entry(&module[0]).or_default().push(module.join("::"));
        }
        circles
    }
}

/// Collects the paths of `use` declarations outside of tests, as paths from the crate's root.
struct UseVisitor<'a> {
    module: &'a ModulePath,
    used: Vec<ModulePath>,
}

impl UseVisitor<'_> {
    /// Adds the paths of a tree. `before` is the path that leads to it; `None` at the beginning of a declaration.
    fn add(&mut self, tree: &UseTree, before: Option<&[String]>) {
        // Without a prefix, a path starts at a child of this module or at a crate; no crate has the name of a file.
        let joined = |name: &str| [before.unwrap_or(self.module), &[name.to_owned()]].concat();
        match tree {
            UseTree::Path(path) => {
                let name = path.ident.to_string();
                let base = match name.as_str() {
                    "crate" => Vec::new(),
                    "self" => self.module.clone(),
                    "super" => {
                        let from = before.unwrap_or(self.module);
                        from[..from.len() - 1].to_vec()
                    }
                    name => joined(name),
                };
                self.add(&path.tree, Some(&base));
            }
            UseTree::Name(item) => self.used.push(joined(&item.ident.to_string())),
            UseTree::Rename(item) => self.used.push(joined(&item.ident.to_string())),
            UseTree::Glob(_) => self.used.push(before.unwrap_or(self.module).to_vec()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add(tree, before)),
        }
    }
}

/// True if a declaration doesn't start at a child of its module.
fn has_prefix(tree: &UseTree) -> bool {
    matches!(tree, UseTree::Path(path) if ["crate", "self", "super"].iter().any(|prefix| path.ident == prefix))
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    let test = |attribute: &Attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    };
    attributes.iter().any(test)
}

impl<'ast> Visit<'ast> for UseVisitor<'_> {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        // A re-export of a child's item only says where the item can be found, as `mod` does.
        let is_reexport = !matches!(item.vis, Visibility::Inherited) && !has_prefix(&item.tree);
        if !is_for_tests(&item.attrs) && !is_reexport {
            self.add(&item.tree, None);
        }
    }
}

#[test]
fn no_part_has_a_circle() {
    let uses = Uses::of_the_tree();
    let count: usize = uses.0.values().map(BTreeSet::len).sum();
    assert!(count > 500, "only {count} uses found");
    let circles = uses.circles();
    assert!(circles.is_empty(), "files in circles: {circles:#?}");
}

#[test]
fn circles_are_found() {
    let module = |name: &str| -> ModulePath { name.split("::").map(str::to_owned).collect() };
    let file = |name: &str, code: &str| {
        let path = module(name);
        let mut visitor = UseVisitor { module: &path, used: Vec::new() };
        visitor.visit_file(&syn::parse_file(code).unwrap());
        (path.clone(), visitor.used)
    };
    let (_, used) = file("a::b", "use super::c; use crate::a::{d, e::F}; use g::H; use super::super::i::*;");
    let expected = ["a::c", "a::d", "a::e::F", "a::b::g::H", "i"].map(module);
    assert_eq!(used, expected);
    let (_, used) =
        file("a::b", "#[cfg(test)] mod tests { use super::c; } #[cfg(test)] use super::d; pub use e::F;");
    assert!(used.is_empty(), "{used:?}");

    let uses = [("a::b", "a::c"), ("a::c", "a::d"), ("a::d", "a::b"), ("a::e", "a::b"), ("f::g", "a::e")];
    let uses = uses.map(|(from, to)| (module(from), BTreeSet::from([module(to)])));
    let uses = Uses(uses.into());
    let circles: Vec<_> = uses.circles().into_iter().collect();
    assert_eq!(circles, [("a", ["a::b", "a::c", "a::d"].map(str::to_owned).to_vec())]);
}
