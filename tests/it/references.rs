//! The pages of `docs/reference/` are complete: each error, audit event, command, option and readiness code of the
//! program is there, and nothing else.

use std::collections::BTreeSet;
use std::fs;

use reqwest::Method;
use serde_json::{Value, json};
use strum::VariantArray;
use tollhouse::domain::action::{Access, Action};
use tollhouse::error::Code;

use crate::support::{Binary, assert_same_items, files_below, guide};

/// Actions of requests that are in no audit log.
const NOT_RECORDED: [Action; 7] = [
    Action::ReadRoot,
    Action::CheckLiveness,
    Action::CheckReadiness,
    Action::ReadOpenapi,
    Action::ReadPage,
    Action::VerifyKey,
    Action::ReadOwnKey,
];

/// Codes of details that are named after an error code.
const DETAILS_NAMED_AFTER_ERRORS: [Code; 2] = [Code::SecretInField, Code::UnknownMeter];

fn page(path: &str) -> String {
    fs::read_to_string(guide::root().join("docs").join(path)).unwrap()
}

/// The sections of a page whose heading is a code, with their paragraphs.
fn sections(text: &str) -> Vec<(String, Vec<String>)> {
    let sections = text.split("\n### `").skip(1).map(|section| {
        let (code, rest) = section.split_once("`\n").unwrap();
        let rest = rest.split("\n## ").next().unwrap();
        let paragraphs = rest.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty());
        (code.to_owned(), paragraphs.map(str::to_owned).collect())
    });
    sections.collect()
}

/// Each code has a section that begins with its status and says when it is sent, and then what to do.
#[test]
fn every_error_code_is_explained_with_its_status() {
    let sections = sections(&page("reference/errors.md"));
    let documented: Vec<_> =
        sections.iter().map(|(code, paragraphs)| (code.clone(), paragraphs[0][..3].to_owned())).collect();
    let real = Code::VARIANTS.iter().map(|code| (code.name().to_owned(), code.status().to_string()));
    assert_same_items("errors of the reference", documented.clone(), real);
    assert_eq!(documented.len(), Code::VARIANTS.len(), "a code is listed twice");
    for (code, paragraphs) in sections {
        assert!(paragraphs.len() >= 2, "{code}: what should the reader do?");
    }
}

/// True if the code before a text literal makes it the code of an error's detail. Both are without white space.
fn is_detail_code(before: &str) -> bool {
    if ["add(", "code:", "&str="].iter().any(|end| before.ends_with(end)) {
        return true;
    }
    // The second argument of a function.
    ["add_fault(", "field_error("].iter().any(|call| {
        let argument = before.rsplit_once(call).map(|(_, rest)| rest);
        argument.is_some_and(|rest| rest.ends_with(',') && rest.matches(',').count() == 1)
    })
}

/// The codes of details in the code of a file, without its tests.
fn detail_codes(text: &str) -> BTreeSet<String> {
    let code: String = text.split("#[cfg(test)]").next().unwrap().split_whitespace().collect();
    let mut found = BTreeSet::new();
    let mut start = 0;
    while let Some(length) = code[start..].find('"') {
        let (before, rest) = code.split_at(start + length);
        let literal: &str = rest[1..].split('"').next().unwrap();
        let is_name =
            literal.len() > 4 && literal.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
        if is_name && is_detail_code(before) {
            found.insert(literal.to_owned());
        }
        start += length + 1;
    }
    found
}

#[test]
fn every_code_of_details_is_explained() {
    let text = page("reference/errors.md");
    let (_, details) = text.split_once("\n## Details\n").unwrap();
    let rows = guide::table(details, "code");
    let documented = rows.iter().flat_map(|row| guide::code_spans(&row[0])).map(str::to_owned);
    let mut real: BTreeSet<_> =
        DETAILS_NAMED_AFTER_ERRORS.iter().map(|code| code.name().to_owned()).collect();
    for part in ["domain", "http", "service"] {
        for path in files_below(&guide::root().join("src").join(part)) {
            let name = path.to_str().unwrap();
            // Readiness codes have a table of their own.
            if name.ends_with(".rs") && !name.ends_with("tests.rs") && !name.ends_with("/readiness.rs") {
                real.extend(detail_codes(&fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(real.len() > 30, "{real:?}");
    assert_same_items("codes of details", documented, real);
}

#[test]
fn codes_of_details_are_found_in_code() {
    let code = r#"
        faults.add("TOO_MANY", "At most \"8\".");
        query.add_fault(
            "limit",
            "INVALID_VALUE",
            "BOUNDS_MESSAGE",
        );
        Detail { code: "EXCEEDS_CALLER".into(), message: "NOT_A_CODE".into() }
        const UNKNOWN: &str = "UNKNOWN_PLAN";
        let method = "PATCH";
        #[cfg(test)] mod tests { faults.add("ONLY_IN_TESTS", "") }
    "#;
    assert_same_items(
        "found codes",
        detail_codes(code),
        ["TOO_MANY", "INVALID_VALUE", "EXCEEDS_CALLER", "UNKNOWN_PLAN"].map(str::to_owned),
    );
}

/// Each recorded action is in a table, with its access. Refused requests have the access of the request.
#[test]
fn every_recorded_action_is_listed_with_its_access() {
    let text = page("reference/audit-events.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let mut documented = Vec::new();
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let is_action = cells[0].split('`').nth(1).is_some_and(|name| name.contains('.'));
        if is_action {
            let names = guide::code_spans(cells[0]);
            documented.extend(names.map(|name| (name.to_owned(), cells[1].to_owned())));
        }
    }
    let access = |action: Action| match (action, action.access()) {
        (Action::RequestRefused, _) => "of the request",
        (_, Access::Read) => "read",
        (_, Access::Write) => "write",
    };
    let recorded = Action::VARIANTS.iter().filter(|action| !NOT_RECORDED.contains(action));
    let real = recorded.map(|action| (action.name().to_owned(), access(*action).to_owned()));
    assert_same_items("audit events of the reference", documented, real);
}

/// The names of all fields, also those of objects within.
fn field_names(value: &Value) -> BTreeSet<String> {
    let Value::Object(fields) = value else { return BTreeSet::new() };
    let names = fields.iter().flat_map(|(name, value)| {
        let nested = field_names(value).into_iter().map(move |inner| format!("{name}.{inner}"));
        std::iter::once(name.clone()).chain(nested)
    });
    names.collect()
}

/// What the reference shows is an event as it is, and requests for what isn't recorded leave none.
#[tokio::test]
async fn the_reference_shows_an_audit_event_as_it_is() {
    let place = tempfile::tempdir().unwrap();
    let server = Binary::serve(place.path());
    let admin = server.admin();
    let created = admin.post("/api-keys", json!({"name": "n", "scopes": ["keys:verify"]})).await;
    let secret = created.data()["key"].as_str().unwrap();
    let id = created.data()["id"].as_str().unwrap();
    let disabled = admin.patch(&format!("/api-keys/{id}"), json!({"status": "disabled"})).await;
    assert_eq!(disabled.status, 200, "{disabled:?}");

    let own = server.client(secret);
    for path in ["/", "/healthz", "/readyz", "/openapi.json", "/docs/", "/v1/forward-auth", "/v1/keys/self"] {
        own.send(own.request_at_root(Method::GET, path)).await;
    }
    let events = admin.get("/audit-logs?access=write").await;
    let event = &events.data()[0];
    let shown: Value = serde_json::from_str(&guide::block("reference/audit-events.md", "event")).unwrap();
    for pointer in ["/action", "/access", "/outcome", "/changes", "/context/method", "/context/status"] {
        assert_eq!(event.pointer(pointer), shown.pointer(pointer), "{pointer}");
    }
    assert_same_items("fields of the event", field_names(&shown), field_names(event));

    let all = admin.get("/audit-logs?limit=100").await;
    let actions: Vec<_> =
        all.data().as_array().unwrap().iter().map(|event| event["action"].as_str().unwrap()).collect();
    let unexpected: Vec<_> = NOT_RECORDED.iter().filter(|action| actions.contains(&action.name())).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}

/// The subcommands that the help of a command lists.
fn subcommands(help: &str) -> Vec<String> {
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    let commands = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    commands.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

/// The options that the help of a command lists, without those that every command has.
fn options(help: &str) -> BTreeSet<String> {
    let names = help.lines().filter_map(|line| line.strip_prefix("      --"));
    let names = names.map(|rest| rest.split([' ', '=']).next().unwrap().to_owned());
    names.filter(|name| !["config", "data"].contains(&name.as_str())).collect()
}

fn help(command: &[&str]) -> String {
    let arguments = [command, &["-h"]].concat();
    let output = Binary::run(&arguments);
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Each command and subcommand has a row with all of its options.
#[test]
fn the_reference_lists_all_commands_with_their_options() {
    let rows = guide::table(&page("reference/command-line.md"), "command");
    let mut listed = 0;
    let mut unread: Vec<Vec<String>> = subcommands(&help(&[])).into_iter().map(|name| vec![name]).collect();
    assert!(unread.len() > 8, "{unread:?}");
    while let Some(command) = unread.pop() {
        let words: Vec<_> = command.iter().map(String::as_str).collect();
        // `help` and `version` take no `-h`.
        let text = if ["help", "version"].contains(&words[0]) { String::new() } else { help(&words) };
        let below = subcommands(&text);
        if !below.is_empty() {
            let below = below.into_iter().filter(|name| name != "help");
            unread.extend(below.map(|name| [command.clone(), vec![name]].concat()));
            continue;
        }
        let name = format!("tollhouse {}", words.join(" "));
        let is_named = |cell: &str| {
            let code = cell.trim_matches('`');
            code == name || code.starts_with(&format!("{name} "))
        };
        let row = rows.iter().find(|row| is_named(&row[0])).unwrap_or_else(|| panic!("{name} is not listed"));
        let documented = guide::code_spans(&row[1]);
        let documented =
            documented.map(|span| span.trim_start_matches("--").split(' ').next().unwrap().to_owned());
        assert_same_items(&format!("options of {name}"), documented, options(&text));
        listed += 1;
    }
    assert_eq!(listed, rows.len(), "the reference lists a command that doesn't exist");
}

/// The reasons of the readiness check are listed where health checks are explained.
#[test]
fn every_readiness_code_is_listed() {
    let header = "| code | `verify` | `write` | meaning |";
    let pages = guide::documents().into_iter().map(|path| fs::read_to_string(path).unwrap());
    let page = pages.into_iter().find(|text| text.contains(header)).expect(header);
    let rows = guide::table(&page, "code");
    let documented = rows.iter().flat_map(|row| guide::code_spans(&row[0])).map(str::to_owned);
    let code = fs::read_to_string(guide::root().join("src/service/readiness.rs")).unwrap();
    let literals = code.split('"').skip(1).step_by(2);
    let is_code =
        |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    let real: BTreeSet<_> = literals.filter(is_code).map(str::to_owned).collect();
    assert!(real.len() > 8, "{real:?}");
    assert_same_items("readiness codes", documented, real);
}
