//! `import` of files as spreadsheets, SQL databases and other programs write them.

use serde_json::json;

use super::{result, run, stderr, stdout, write_lines};
use crate::support::Binary;

const ORGANIZATION: &str = r#"{"type":"organization","id":"org_a","name":"A","email":"a@example.com"}"#;

#[tokio::test]
async fn a_byte_order_mark_and_rows_of_empty_cells_are_skipped() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let ndjson = temp.path().join("organizations.ndjson");
    std::fs::write(&ndjson, format!("\u{feff}{ORGANIZATION}\n")).unwrap();
    let report = result(&dir, &["import", ndjson.to_str().unwrap()]);
    assert_eq!((&report["imported"], &report["refused"]), (&json!({"organization": 1}), &json!(0)));

    let csv = temp.path().join("users.csv");
    let rows = [
        "type,id,name,email",
        "user,user_1,One,one@example.com",
        ",,,",
        " , ,\t,",
        ",,,,,,",
        "\"\",,,",
        "",
        "user,user_2,Two,two@example.com",
        ",,,",
    ];
    std::fs::write(&csv, format!("\u{feff}{}\r\n", rows.join("\r\n"))).unwrap();
    let report = result(&dir, &["import", csv.to_str().unwrap()]);
    assert_eq!((&report["imported"], &report["refused"]), (&json!({"user": 2}), &json!(0)));

    // Only the first line can have a mark, and a file with nothing else has no records.
    std::fs::write(&ndjson, format!("{ORGANIZATION}\n\u{feff}{ORGANIZATION}\n")).unwrap();
    let output = run(&dir, &["import", ndjson.to_str().unwrap()]);
    assert!(stdout(&output).contains("line 2: The line is not valid JSON"), "{output:?}");
    std::fs::write(&ndjson, "\u{feff}").unwrap();
    assert_eq!(result(&dir, &["import", ndjson.to_str().unwrap()])["imported"], json!({}));
}

#[tokio::test]
async fn times_may_be_written_as_in_sql_and_revisions_are_bounded() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let file = temp.path().join("users.ndjson");
    let user = |id: &str, field: &str, value: serde_json::Value| json!({"type": "user", "id": id, "name": id, "email": format!("{id}@example.com"), field: value});
    write_lines(
        &file,
        &[
            user("user_1", "created_at", json!("2024-02-03 04:05:06")),
            user("user_2", "created_at", json!("2024-02-03 05:05:06.7+01")),
            user("user_3", "created_at", json!("2024-02-03")),
            user("user_4", "revision", json!((1_i64 << 53) - 1)),
        ],
    );
    let report = result(&dir, &["import", file.to_str().unwrap()]);
    assert_eq!(report["imported"], json!({"user": 4}), "{report}");
    let server = Binary::serve(&dir);
    for (id, expected) in [
        ("user_1", "2024-02-03T04:05:06.000Z"),
        ("user_2", "2024-02-03T04:05:06.700Z"),
        ("user_3", "2024-02-03T00:00:00.000Z"),
    ] {
        assert_eq!(server.admin().get(&format!("/users/{id}")).await.data()["created_at"], expected);
    }
    // The highest revision leaves room for changes.
    let changed = server.admin().patch("/users/user_4", json!({"name": "changed"})).await;
    assert_eq!(changed.status, 200, "{changed:?}");

    write_lines(
        &file,
        &[
            user("user_5", "created_at", json!("03.02.2024")),
            user("user_6", "revision", json!(1_i64 << 53)),
            user("user_7", "revision", json!(i64::MAX)),
            user("user_8", "revision", json!(0)),
        ],
    );
    let output = run(&dir, &["import", file.to_str().unwrap()]);
    assert!(stdout(&output).contains("refused: 4"), "{output:?}");
}

/// A failure in the middle of an import: the file can't be read to its end.
#[tokio::test]
async fn a_failed_import_says_what_was_stored() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    // A directory opens like a file, but can't be read.
    let unreadable = temp.path().join("records.ndjson");
    std::fs::create_dir(&unreadable).unwrap();
    let output = run(&dir, &["import", unreadable.to_str().unwrap()]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""));
    let message = stderr(&output);
    assert!(
        message.contains("note: stored before the failure: nothing; run the same import again"),
        "{message}"
    );
}
