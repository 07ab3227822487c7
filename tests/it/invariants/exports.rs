//! Exports of the audit log are complete, in order, verifiable as files and safe in a spreadsheet.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::domain::audit::Event;
use tollhouse::store;

use super::anonymous_event;
use crate::support::{Answer, Binary, Client, Server};

/// A server with one organization and audit events of several actions.
async fn server_with_events() -> Server {
    let server = Server::start().await;
    server.organization("org_1").await;
    for index in 0..6 {
        let body = json!({"name": format!("renamed {index}")});
        assert_eq!(server.admin().patch("/organizations/org_1", body).await.status, 200);
        assert_eq!(server.admin().get("/organizations/org_1").await.status, 200);
    }
    server
}

async fn export(client: &Client, query: &str) -> Answer {
    let answer = client.get(&format!("/audit-logs/export?{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

fn verify(file: &Path, args: &[&str]) -> (Option<i32>, Value) {
    let output = Binary::run(&[&["audit", "verify", "--json", file.to_str().unwrap()], args].concat());
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default())
}

#[tokio::test]
async fn i2_a_complete_export_verifies_as_a_file_and_edits_are_detected() {
    let server = server_with_events().await;
    let complete = export(&server.admin(), "format=ndjson").await;
    assert_eq!(complete.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<&str> = complete.text.lines().collect();
    let file = server.dir.path().join("export.ndjson");
    let verify_text = |text: &str, args: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let (status, report) = verify(&file, args);
        (status, report["broken_at"].as_i64())
    };
    let join = |lines: &[&str]| lines.iter().flat_map(|line| [*line, "\n"]).collect::<String>();
    assert_eq!(verify_text(&complete.text, &[]), (Some(0), None));
    let without = |index: usize| join(&[&lines[..index], &lines[index + 1..]].concat());
    let changed = |index: usize, from: &str, to: &str| {
        let line = lines[index].replacen(from, to, 1);
        assert_ne!(line, lines[index]);
        let mut lines = lines.clone();
        lines[index] = &line;
        join(&lines)
    };
    let mut swapped = lines.clone();
    swapped.swap(4, 5);
    for (broken_at, text) in [
        (5, changed(4, "\"count\":1", "\"count\":2")),
        (5, changed(4, "\"outcome\":\"success\"", "\"outcome\":\"denied\"")),
        (5, changed(4, "\"seq\":5", "\"seq\": 5")),
        (5, without(4)),
        (1, without(0)),
        (5, join(&swapped)),
        (5, changed(4, "{", "")),
        (5, join(&[&lines[..4], &[""], &lines[4..]].concat())),
        // The last line is truncated.
        (i64::try_from(lines.len()).unwrap(), complete.text[..complete.text.len() - 30].to_owned()),
    ] {
        assert_eq!(verify_text(&text, &[]), (Some(1), Some(broken_at)), "{text}");
    }
    // A log without its last line is consistent in itself; only a head stored elsewhere reveals the missing line.
    let head: Value = serde_json::from_str(lines[lines.len() - 1]).unwrap();
    let anchor = format!("{}:{}", head["seq"], head["hash"].as_str().unwrap());
    assert_eq!(verify_text(&complete.text, &["--anchor", &anchor]).0, Some(0));
    let truncated = without(lines.len() - 1);
    assert_eq!(verify_text(&truncated, &[]), (Some(0), None));
    assert_eq!(verify_text(&truncated, &["--anchor", &anchor]), (Some(1), head["seq"].as_i64()));
}

#[tokio::test]
async fn i2_a_filtered_export_verifies_event_by_event() {
    let server = server_with_events().await;
    let selection = export(&server.admin(), "action=organization.update&org_id=org_1").await;
    assert_eq!(selection.text.lines().count(), 6);
    let file = server.dir.path().join("selection.ndjson");
    std::fs::write(&file, &selection.text).unwrap();
    let (status, report) = verify(&file, &["--filtered"]);
    assert_eq!((status, &report["checked"]), (Some(0), &json!(6)));
    assert_eq!(verify(&file, &[]).0, Some(1), "without --filtered, gaps are errors");
    let seq = serde_json::from_str::<Value>(selection.text.lines().nth(2).unwrap()).unwrap()["seq"].clone();
    std::fs::write(&file, selection.text.replace("renamed 2\"}],", "renamed 9\"}],")).unwrap();
    let (status, report) = verify(&file, &["--filtered"]);
    assert_eq!((status, &report["broken_at"]), (Some(1), &seq), "{report}");
}

#[tokio::test]
async fn an_export_by_the_command_line_verifies() {
    let server = server_with_events().await;
    let dir = server.stop().await;
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let file = dir.path().join("log.ndjson");
    let name = file.to_str().unwrap();
    let output = Binary::run(&["audit", "export", "--data", data, "--output", name]);
    assert!(output.status.success(), "{output:?}");
    let (status, report) = verify(&file, &[]);
    assert_eq!(status, Some(0), "{report}");
    // The export itself is recorded in the log, with the operator as the actor.
    let printed = Binary::run(&["audit", "export", "--data", data]);
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.starts_with(&std::fs::read_to_string(&file).unwrap()));
    let last: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    assert_eq!((&last["action"], &last["actor"]["type"]), (&json!("audit_log.export"), &json!("cli")));
    let again = Binary::run(&["audit", "export", "--data", data, "--output", name]);
    assert_eq!(again.status.code(), Some(1), "an existing file is not overwritten");
}

const HEADER: &str = "seq,id,occurred_at,organization_id,actor_type,actor_id,actor_name,actor_user_id,action,access,\
                      target_type,target_id,target_name,outcome,code,count,changes,request_id,method,path,status,ip,\
                      user_agent,batch_id,prev_hash,hash";

fn records(text: &str) -> Vec<csv::StringRecord> {
    csv::Reader::from_reader(text.as_bytes()).into_records().collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn no_cell_of_a_csv_export_is_a_formula() {
    let server = Server::start().await;
    let formulas = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1:A9)", "=HYPERLINK(\"http://x\",\"y\"),z"];
    // Some spreadsheets skip leading blanks, and take full-width characters for their ASCII forms. Such values can't
    // be sent in a header.
    let formulas_in_names = ["＝1+1", "＋1", "－1", "＠SUM(A1)", " =1+1", "\u{a0}-1", "\u{3000}＝1"];
    for (index, formula) in formulas_in_names.iter().enumerate() {
        let body = json!({"id": format!("org_name-{index}"), "name": formula, "email": "a@example.com"});
        assert_eq!(server.admin().post("/organizations", body).await.status, 201);
    }
    for (index, formula) in formulas.iter().enumerate() {
        let body = json!({"id": format!("org_{index}"), "name": formula, "email": "a@example.com"});
        assert_eq!(server.admin().post("/organizations", body).await.status, 201);
        let (client, _) = server.key_with(json!({"name": formula, "scopes": ["admin:orgs"]})).await;
        let request = client
            .request(
                Method::GET,
                &format!("/organizations/{}", formula.replace('/', "%2F").replace('|', "%7C")),
            )
            .header("user-agent", *formula)
            .header("x-request-id", "-1");
        assert_eq!(client.send(request).await.status, 404);
    }
    let operation = json!({"method": "PATCH", "path": "/organizations/org_0", "body": {"name": "n"}});
    assert_eq!(server.admin().post("/batch", json!({"operations": [operation]})).await.status, 200);
    let answer = export(&server.admin(), "format=csv").await;
    assert_eq!(answer.text.lines().next(), Some(HEADER));
    assert!(answer.header("content-type").unwrap().starts_with("text/csv"));
    let rows = records(&answer.text);
    let column = |name: &str| HEADER.split(',').position(|column| column == name).unwrap();
    for row in &rows {
        assert_eq!(row.len(), HEADER.split(',').count());
        for (cell, name) in row.iter().zip(HEADER.split(',')) {
            let start = cell.trim_start();
            assert!(!start.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠']), "{name}: {cell}");
            assert!(!cell.starts_with(['\t', '\r', '\n']), "{name}: {cell}");
        }
    }
    for formula in formulas_in_names {
        let escaped = format!("'{formula}");
        assert!(rows.iter().any(|row| row[column("target_name")] == escaped), "{formula}");
    }
    for formula in formulas {
        let escaped = format!("'{formula}");
        for name in ["actor_name", "target_name", "user_agent"] {
            assert!(rows.iter().any(|row| row[column(name)] == escaped), "{name} {formula}");
        }
    }
    // Apart from the apostrophe, the CSV has the same values as the events.
    let events = export(&server.admin(), "format=ndjson&access=write").await;
    for (index, line) in events.text.lines().enumerate() {
        let event: Value = serde_json::from_str(line).unwrap();
        let row = rows.iter().filter(|row| &row[column("access")] == "write").nth(index).unwrap();
        assert_eq!(row[column("seq")], event["seq"].to_string());
        assert_eq!(row[column("id")], *event["id"].as_str().unwrap());
        assert_eq!(serde_json::from_str::<Value>(&row[column("changes")]).unwrap(), event["changes"]);
        assert_eq!(row[column("hash")], *event["hash"].as_str().unwrap());
        assert_eq!(row[column("batch_id")], *event["context"]["batch_id"].as_str().unwrap_or_default());
    }
}

#[tokio::test]
async fn an_empty_export_is_valid() {
    let server = server_with_events().await;
    let admin = server.admin();
    let csv = export(&admin, "format=csv&actor_id=key_nobody").await;
    assert_eq!(csv.text, format!("{HEADER}\n"));
    assert_eq!(export(&admin, "format=ndjson&actor_id=key_nobody").await.text, "");
    let answer = admin.get("/audit-logs/export?format=xml").await;
    assert_eq!((answer.status, answer.code()), (400, "INVALID_REQUEST"));
}

/// An export of many chunks during concurrent writes contains each event once and in order, at least up to the
/// last event before the export began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_export_contains_each_event_once_and_in_order() {
    const EVENTS: u128 = 3000;
    let server = Server::start().await;
    let now = server.clock.now();
    server
        .app
        .db
        .write(move |tx| {
            (0..EVENTS).try_for_each(|index| {
                let organization_id = (index % 3 == 0).then(|| "org_1".to_owned());
                let event = anonymous_event(now, index, "test.many".to_owned());
                let event = Event { organization_id, ..event };
                store::audit::append(tx, event)
            })
        })
        .await
        .unwrap();
    let last = server.admin().get("/audit-logs?limit=1").await.data()[0]["seq"].as_i64().unwrap();
    let admin = server.admin();
    let writer = tokio::spawn(async move {
        for _ in 0..100 {
            admin.get("/organizations").await;
        }
    });
    let text = export(&server.admin(), "format=ndjson").await.text;
    let seqs: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_i64().unwrap())
        .collect();
    let exported = i64::try_from(seqs.len()).unwrap();
    assert!(exported >= last, "{exported} of {last}");
    assert!(seqs.iter().copied().eq(1..=exported));
    writer.await.unwrap();
    let file = server.dir.path().join("long.ndjson");
    std::fs::write(&file, &text).unwrap();
    assert_eq!(verify(&file, &[]).0, Some(0));
    let filtered = export(&server.admin(), "format=csv&org_id=org_1&action=test.many").await.text;
    assert_eq!(records(&filtered).len(), usize::try_from(EVENTS / 3).unwrap());
}

/// Without the mark, spreadsheets take the file for one in a local encoding.
#[tokio::test]
async fn a_csv_export_may_start_with_a_byte_order_mark() {
    let server = Server::start().await;
    let admin = server.admin();
    server.organization("org_1").await;
    let query = "format=csv&org_id=org_1&access=write";
    let plain = export(&admin, query).await.text;
    assert_eq!(export(&admin, &format!("{query}&bom=false")).await.text, plain);
    // The client of these tests would decode the mark away.
    let request = admin.request(Method::GET, &format!("/audit-logs/export?{query}&bom=true"));
    let bytes = request.send().await.unwrap().bytes().await.unwrap();
    assert_eq!(String::from_utf8(bytes.to_vec()).unwrap(), format!("\u{feff}{plain}"));
    for refused in ["bom=true", "bom=true&format=ndjson", "format=csv&bom=1"] {
        let answer = admin.get(&format!("/audit-logs/export?{refused}")).await;
        assert_eq!(answer.details(), [("bom".to_owned(), "INVALID_VALUE".to_owned())], "{refused}");
    }
}
