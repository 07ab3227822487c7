//! `docs/operate/logs.md` lists exactly the events of the program, with their levels and fields.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::support::{assert_same_items, files_below, guide};

/// The fields of each event, by its level and message.
type Events = BTreeMap<(String, String), BTreeSet<String>>;

/// How the macros and functions that log begin, and the level that the documentation shows.
const STARTS: [(&str, &str); 5] = [
    ("tracing::error!(", "error"),
    ("tracing::warn!(", "warn"),
    ("tracing::info!(", "info"),
    ("Notice::info(", "notice"),
    ("Notice::error(", "notice"),
];

/// The end of the text within the parentheses that precede it, and the commas between their arguments.
fn split_arguments(code: &str) -> (Vec<&str>, usize) {
    let mut arguments = Vec::new();
    let mut depth = 0;
    let mut start = 0;
    let mut in_string = false;
    let mut is_escaped = false;
    for (at, character) in code.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if in_string => is_escaped = true,
            '"' => in_string = !in_string,
            _ if in_string => {}
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => {
                arguments.push(code[start..at].trim());
                return (arguments, at + 1);
            }
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(code[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    panic!("no closing parenthesis: {code}");
}

/// The text of a string literal, in which a placeholder is `{}`.
fn literal(code: &str) -> Option<String> {
    let code = code.strip_prefix("format!(").unwrap_or(code);
    let text = code.trim_end_matches(')').strip_prefix('"')?.strip_suffix('"')?;
    let lines = text.split("\\\n").map(str::trim_start);
    let text: String = lines.collect::<String>().replace("\\\"", "\"").replace('`', "");
    Some(without_names(&text))
}

/// Removes the names of placeholders.
fn without_names(text: &str) -> String {
    let mut parts = text.split('{');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + "{}" + part.split_once('}').map_or("", |(_, rest)| rest))
}

/// The name of a field: `name`, `%name` or `name = value`.
fn field_name(argument: &str) -> String {
    let name = argument.split('=').next().unwrap_or_default().trim().trim_start_matches(['%', '?']);
    assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "not a field: {argument}");
    name.to_owned()
}

/// The fields of a notice: the names in the calls of `field` that follow.
fn notice_fields(mut code: &str) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    loop {
        code = code.trim_start();
        let (method, rest) =
            code.strip_prefix('.').and_then(|code| code.split_once('(')).expect("a method call");
        let (arguments, end) = split_arguments(rest);
        match method {
            "print" => return fields,
            "field" => drop(fields.insert(arguments[0].trim_matches('"').to_owned())),
            _ => assert!(["text", "showing_secrets"].contains(&method), "{method}"),
        }
        code = &rest[end..];
    }
}

fn add_events(code: &str, events: &mut Events) {
    for (start, level) in STARTS {
        for (at, _) in code.match_indices(start) {
            let code = &code[at + start.len()..];
            let (arguments, end) = split_arguments(code);
            let message = arguments.iter().position(|argument| literal(argument).is_some());
            let message = message.unwrap_or_else(|| panic!("an event without a message: {arguments:?}"));
            let fields = match level {
                "notice" => notice_fields(&code[end..]),
                _ => arguments[..message].iter().map(|argument| field_name(argument)).collect(),
            };
            let event = (level.to_owned(), literal(arguments[message]).unwrap());
            events.entry(event).or_default().extend(fields);
        }
    }
}

/// The events in all files below a directory, without those of tests.
fn add_events_in(directory: &Path, events: &mut Events) {
    for path in files_below(directory) {
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).unwrap();
            add_events(text.split("#[cfg(test)]\nmod tests {").next().unwrap(), events);
        }
    }
}

/// The events in the tables of the page.
fn documented() -> Events {
    let page = fs::read_to_string(guide::root().join("docs/operate/logs.md")).unwrap();
    let mut events = Events::new();
    let code =
        |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let tables = page.split("\n| level | message | fields | |\n").skip(1);
    for row in tables.flat_map(|table| table.lines().skip(1).take_while(|line| line.starts_with('|'))) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [levels, message, fields, _] = cells.as_slice() else { panic!("{row}") };
        let message = without_names(message.trim_matches('`'));
        for level in levels.split(", ") {
            let event = (level.to_owned(), message.clone());
            let earlier = events.insert(event, code(fields).into_iter().collect());
            assert!(earlier.is_none(), "listed twice: {row}");
        }
    }
    events
}

#[test]
fn every_event_is_documented_with_its_fields() {
    let mut events = Events::new();
    add_events_in(&guide::root().join("src"), &mut events);
    assert!(events.len() > 60, "{events:#?}");
    let documented = documented();
    let missing: Vec<_> = events.iter().filter(|(event, _)| !documented.contains_key(event)).collect();
    let gone: Vec<_> = documented.keys().filter(|event| !events.contains_key(event)).collect();
    assert!(missing.is_empty() && gone.is_empty(), "missing: {missing:#?}\nno longer in src: {gone:#?}");
    for (event, fields) in &events {
        assert_same_items(&format!("documented fields of {event:?}"), &documented[event], fields);
    }
}

/// The reader of the source finds messages, fields and levels, however they are written.
#[test]
fn events_are_found_in_code() {
    let code = r#"
        tracing::warn!(%error, count = group.len() - 1, "could not; \
                       will `retry`");
        select! { () = a => tracing::info!("done, {n} times {}", f(x, ")")), }
        Notice::info(format!("on {url}")).field("url", &url).text(format!("({url})")).print();
        tracing::debug!(a, "not listed");
    "#;
    let mut events = Events::new();
    add_events(code, &mut events);
    let found: Vec<_> =
        events.iter().map(|((level, message), fields)| (&**level, &**message, fields.len())).collect();
    assert_eq!(
        found,
        [("info", "done, {} times {}", 0), ("notice", "on {}", 1), ("warn", "could not; will retry", 2)]
    );
}
