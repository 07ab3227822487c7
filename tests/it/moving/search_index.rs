//! The search index matches the rows, which `check` compares, whatever they contain and however they came.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::{data, result, run, stdout, write_lines};
use crate::support::{Binary, Client};

/// Names that words are hard to find in.
const NAMES: [&str; 14] = [
    "🎉",
    "%_*\"\\",
    "Cafe\u{301} Zu\u{308}rich",
    "Café Zürich",
    "שלום עולם",
    "हिन्दी नाम",
    "東京支店",
    "ŉß ﬁn İstanbul ΣΊΣΥΦΟΣ",
    "12 34.5 -6",
    "a b c d e f g h",
    "e\u{301}\u{302}\u{303}\u{304}\u{305} o\u{334}",
    "same same SAME Same",
    "𐐀𐐁𐐂 word𐐀word",
    "x' OR 1=1 --",
];

#[track_caller]
fn assert_matching(dir: &Path) {
    let output = run(dir, &["check"]);
    assert!(output.status.success(), "{}", stdout(&output));
}

async fn found(client: &Client, list: &str, query: &str) -> Vec<String> {
    let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
    let rows = data(client.get(&format!("/{list}?limit=100&q={query}")).await);
    let ids = rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned());
    // Sorted, because rows that are created at once have any order.
    ids.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The names in full, repeated and as many letters as fit.
fn hostile_names() -> Vec<String> {
    let emoji = "👩‍👩‍👧‍👦".chars().cycle().take(200).collect();
    let long_word = "w".repeat(200);
    let many_words = (0..66).map(|number| format!("{number:02}")).collect::<Vec<_>>().join(" ");
    let combining = format!("o{}", "\u{301}".repeat(199));
    NAMES.iter().map(|name| (*name).to_owned()).chain([emoji, long_word, many_words, combining]).collect()
}

#[tokio::test]
async fn the_index_follows_changes_of_any_names() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let backup = temp.path().join("backup.db");
    let mut server = Binary::serve(&dir);
    let admin = server.admin();
    let names = hostile_names();
    data(
        admin.post("/organizations", json!({"id": "org_1", "name": "One", "email": "one@example.com"})).await,
    );
    // At once, so that the writer stores several in a group.
    let creations = names.iter().enumerate().map(|(index, name)| {
        let admin = admin.clone();
        async move {
            let email = format!("mail{index}@bücher.example");
            let organization = json!({"id": format!("org_n{index}"), "name": name, "email": email});
            data(admin.post("/organizations", organization).await);
            let user = json!({"id": format!("user_n{index}"), "name": name, "email": email, "external_id": name});
            data(admin.post("/users", user).await);
            let member = json!({"user_id": format!("user_n{index}"), "role": "member"});
            data(admin.post("/organizations/org_1/members", member).await);
            let key = json!({"id": format!("key_n{index}"), "organization_id": "org_1", "name": name, "scopes": []});
            data(admin.post("/api-keys", key).await);
        }
    });
    futures_util::future::join_all(creations).await;
    assert_eq!(found(&admin, "users", "cafe\u{301} zü").await, ["user_n2", "user_n3"]);
    assert_eq!(found(&admin, "api-keys", "σίσυφος").await, ["key_n7"]);

    assert!(run(&dir, &["backup", backup.to_str().unwrap()]).status.success());
    for index in 0..names.len() {
        let name = names[(index + 5) % names.len()].clone();
        let path = format!("/users/user_n{index}");
        match index % 4 {
            0 => data(admin.patch(&path, json!({"name": name, "external_id": null})).await),
            1 => data(
                admin.patch(&path, json!({"name": "🎉", "email": format!("other{index}@example.com")})).await,
            ),
            2 => data(admin.delete(&format!("/organizations/org_1/members/user_n{index}")).await),
            _ => data(admin.delete(&path).await),
        };
        data(admin.patch(&format!("/api-keys/key_n{index}"), json!({"name": "🎉"})).await);
        data(admin.post(&format!("/api-keys/key_n{index}/rotate"), json!({})).await);
    }
    // One kept the name, another one was given it.
    assert_eq!(found(&admin, "users", "cafe\u{301}").await, ["user_n16", "user_n2"]);
    assert_eq!(found(&admin, "api-keys", "cafe\u{301}").await, [""; 0]);
    assert_matching(&dir);
    data(admin.delete("/organizations/org_1").await);
    assert_eq!(server.terminate(), Some(0));
    assert_matching(&dir);

    result(&dir, &["restore", backup.to_str().unwrap(), "--force"]);
    assert_matching(&dir);
}

#[tokio::test]
async fn the_index_contains_imported_rows() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("records.ndjson");
    let [dir, copy] = ["data", "copy"].map(|name| temp.path().join(name));
    let mut records = vec![
        json!({"type": "organization", "id": "org_1", "name": "One", "email": "one@example.com"}),
        json!({"type": "organization", "id": "org_gone", "name": "Gone", "email": "gone@example.com",
            "deleted_at": "2026-01-01T00:00:00Z"}),
    ];
    for (index, name) in hostile_names().into_iter().enumerate() {
        let id = format!("user_n{index}");
        let deleted_at = (index % 3 == 0).then_some("2026-01-01T00:00:00Z");
        records
            .push(json!({"type": "user", "id": id, "name": name, "email": format!("m{index}@example.com"),
            "deleted_at": deleted_at}));
        if deleted_at.is_none() {
            records.push(
                json!({"type": "membership", "organization_id": "org_1", "user_id": id, "role": "member"}),
            );
        }
        let start = ["", "sk_live_ab12", "🎉", "a.b.c", "ÄÖ_ß"][index % 5];
        let times = [
            json!(null),
            json!("1970-01-01T00:00:00Z"),
            json!("2026-05-05T05:05:05Z"),
            json!("9999-01-01T00:00:00Z"),
        ];
        let mut key = json!({"type": "api_key", "organization_id": "org_1", "name": name, "scopes": [],
            "hash": format!("{index:064x}"), "hash_encoding": "hex", "expires_at": times[index % 4]});
        if !start.is_empty() {
            key["start"] = json!(start);
        }
        if index % 2 == 0 {
            key["last_used_at"] = times[(index + 1) % 3].clone();
        }
        records.push(key);
    }
    write_lines(&file, &records);
    let output = run(&dir, &["import", file.to_str().unwrap(), "--json"]);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&report["refused"], &report["imported"]["api_key"]), (&json!(0), &json!(18)), "{report}");
    assert_matching(&dir);
    // Again, and what an export of it contains.
    result(&dir, &["import", file.to_str().unwrap()]);
    assert_matching(&dir);
    let exported = temp.path().join("exported.ndjson");
    assert!(run(&dir, &["export", "--output", exported.to_str().unwrap()]).status.success());
    result(&copy, &["import", exported.to_str().unwrap()]);
    assert_matching(&copy);
}
