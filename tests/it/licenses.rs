//! `THIRD-PARTY-LICENSES.txt` has the license of everything that the program contains.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Crates that are linked, as `name version`.
fn linked_crates() -> Vec<String> {
    let args = ["tree", "--edges", "normal,no-proc-macro", "--prefix", "none", "--locked", "--offline"];
    let output =
        Command::new(env!("CARGO")).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let crates = tree.lines().filter_map(|line| {
        let (name, version) = line.split_once(" v")?;
        Some(format!("{name} {}", version.split(' ').next()?))
    });
    crates.filter(|name| !name.starts_with("tollhouse ")).collect()
}

#[test]
fn the_licenses_of_all_linked_crates_and_embedded_libraries_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let licenses = fs::read_to_string(root.join("THIRD-PARTY-LICENSES.txt")).unwrap();
    let crates = linked_crates();
    assert!(crates.len() > 100, "{crates:?}");
    let listed = |name: &String| licenses.lines().any(|line| line.strip_prefix("  ") == Some(name));
    let missing: Vec<_> = crates.iter().filter(|name| !listed(name)).collect();
    assert!(missing.is_empty(), "Run scripts/dependencies, which adds the licenses of {missing:?}.");

    assert!(licenses.contains("\nThe Rust standard library\n"));
    assert!(licenses.contains("\nhashbrown-"), "a crate of the standard library");

    let mut embedded = 0;
    for file in fs::read_dir(root.join("src/console/vendor")).unwrap() {
        let file = file.unwrap().path();
        if file.to_str().unwrap().ends_with(".LICENSE.txt") {
            embedded += 1;
            assert!(licenses.contains(&fs::read_to_string(&file).unwrap()), "{}", file.display());
        }
    }
    assert!(embedded >= 2);
}
