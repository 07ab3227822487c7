//! The code that stands in the documentation. A block has a name behind its language: ` ```lua tollhouse.lua `.

use std::fs;

/// The named blocks of a file of `docs/`: their names and what stands in them, in order.
pub(crate) fn blocks(file: &str) -> Vec<(String, String)> {
    let path = format!("{}/docs/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let (mut found, mut open) = (Vec::new(), None);
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                let name = info.split_once(' ').map_or("", |(_, name)| name.trim());
                open = Some((name.to_owned(), String::new()));
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (None, Some((_, code))) => {
                code.push_str(line);
                code.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{path}: a block that never ends");
    found
}

/// The block of this name.
pub(crate) fn block(file: &str, name: &str) -> String {
    let found = blocks(file).into_iter().find(|(found, _)| found == name);
    found.unwrap_or_else(|| panic!("docs/{file} has no block {name:?}")).1
}
