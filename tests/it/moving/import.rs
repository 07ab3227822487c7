//! Imports of valid and invalid records in NDJSON and CSV.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tollhouse::verify::secret::hash_secret;

use super::{actions, assert_refused, code, result, run, stderr, stdout, verify, write_lines};
use crate::support::{Binary, peak_memory};

const ORGANIZATION: &str = r#"{"type":"organization","id":"org_a","name":"A","email":"a@example.com"}"#;

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// An import record for a key of `org_a` with this secret, and further fields.
fn key(secret: &str, fields: Value) -> Value {
    let mut key = json!({"hash": hex::encode(hash_secret(secret)), "hash_encoding": "hex", "organization_id": "org_a",
        "name": secret, "scopes": []});
    key.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    key
}

/// Runs an import that refuses some records; returns its report.
fn import_with_refusals(dir: &Path, file: &Path) -> Value {
    let output = run(dir, &["import", file.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

#[tokio::test]
async fn keys_imported_beside_a_server_verify_and_a_second_import_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let file = temp.path().join("keys.ndjson");
    let server = Binary::serve(&dir);
    let encoded = |secret: &str, encoding: &str, text: String| {
        key(secret, json!({"hash": text, "hash_encoding": encoding}))
    };
    let padded = |secret: &str| STANDARD.encode(hash_secret(secret));
    write_lines(
        &file,
        &[
            parse(ORGANIZATION),
            encoded("hex", "hex", hex::encode(hash_secret("hex")).to_uppercase()),
            encoded("base64", "base64", padded("base64")),
            encoded("unpadded", "base64", padded("unpadded").trim_end_matches('=').to_owned()),
            encoded("url", "base64url", URL_SAFE_NO_PAD.encode(hash_secret("url"))),
            // The format in Unkey's migration documentation.
            json!({"hash": {"value": padded("unkey"), "variant": "sha256_base64"}, "organization_id": "org_a",
                "name": "unkey", "scopes": []}),
            key("disabled", json!({"status": "disabled"})),
            key("expired", json!({"expires_at": "2020-01-01T00:00:00Z", "status": "expired"})),
            key("revoked", json!({"status": "revoked", "scopes": ["gone:scope"]})),
            key(
                "owned",
                json!({"id": "Abc-1", "created_at": "2024-05-06T07:08:09Z", "metadata": {"a": "b"},
                "allowed_ips": ["192.0.2.0/24"], "start": "ow",
                "limits": [{"limit": 5, "window_seconds": 60}, {"limit": 7, "period": "day"}]}),
            ),
        ],
    );
    let admin = server.admin();
    assert_eq!(code(&admin, "hex").await, "NOT_FOUND");
    let first = result(&dir, &["import", file.to_str().unwrap()]);
    assert_eq!(first["imported"], json!({"organization": 1, "api_key": 9}), "{first}");
    assert_eq!((&first["refused"], &first["has_platform_key"]), (&json!(0), &json!(true)));

    // The server has cached this key as unknown; it notices the import.
    while code(&admin, "hex").await == "NOT_FOUND" {
        tokio::task::yield_now().await;
    }
    for (secret, expected) in [
        ("hex", "VALID"),
        ("base64", "VALID"),
        ("unpadded", "VALID"),
        ("url", "VALID"),
        ("unkey", "VALID"),
        ("disabled", "DISABLED"),
        ("expired", "EXPIRED"),
        ("revoked", "REVOKED"),
        ("owned", "IP_NOT_ALLOWED"),
        ("nobody", "NOT_FOUND"),
    ] {
        assert_eq!(code(&admin, secret).await, expected, "{secret}");
    }
    let owned = admin.get("/api-keys/key_Abc-1").await;
    let fields = ["created_at", "metadata", "limits", "start"].map(|name| owned.data()[name].clone());
    assert_eq!(
        json!(fields),
        json!(["2024-05-06T07:08:09.000Z", {"a": "b"},
            [{"meter": "requests", "limit": 5, "window_seconds": 60}, {"meter": "requests", "limit": 7, "period": "day"}],
            "ow"])
    );

    let expected = [vec!["organization.import"], vec!["api_key.import"; 9]].concat();
    assert_eq!(actions(&admin, "cli").await, expected);
    let again = result(&dir, &["import", file.to_str().unwrap()]);
    assert_eq!((&again["imported"], &again["unchanged"]), (&json!({}), &first["imported"]));
    assert_eq!(actions(&admin, "cli").await, expected, "no change, so no event");
    assert!(run(&dir, &["check"]).status.success());
}

#[test]
fn each_invalid_record_is_refused_with_its_line_and_the_rest_is_imported() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let file = temp.path().join("keys.ndjson");
    let misplaced_secret = "acme_this-is-the-secret-itself";
    let cases = [
        (ORGANIZATION.to_owned(), None),
        (key("valid", json!({})).to_string(), None),
        (String::new(), None),
        ("{".to_owned(), Some("not valid JSON")),
        ("[1]".to_owned(), Some("Must be an object")),
        (json!({"name": "n"}).to_string(), Some("type")),
        (json!({"type": "plan"}).to_string(), Some("Must be one of")),
        (key("valid", json!({"name": "other"})).to_string(), Some("already exists and differs in: name")),
        (key("valid", json!({"id": "key_2"})).to_string(), Some("secret is, or was, used by key_")),
        (key("", json!({})).to_string(), Some("hash: Must not be the hash of an empty string")),
        (key("x", json!({"hash": misplaced_secret})).to_string(), Some("hash: Must be the SHA-256")),
        (
            key("x", json!({"hash_encoding": "bcrypt"})).to_string(),
            Some("hash_encoding: Must be one of: hex"),
        ),
        (key("acme_x", json!({"start": "acme_x"})).to_string(), Some("start: Must be the first few characters")),
        (
            key("x", json!({"scopes": ["invoices:read"]})).to_string(),
            Some(r#"scopes/0: Unknown scope \"invoices:read\"; GET /admin/v1/scopes lists all scopes. Use --create-scopes to add missing scopes."]"#),
        ),
        // Scopes that `--create-scopes` can't add.
        (
            key("x", json!({"scopes": ["admin:all"]})).to_string(),
            Some(r#"scopes/0: Unknown scope \"admin:all\"; GET /admin/v1/scopes lists all scopes."]"#),
        ),
        (
            json!({"type": "organization", "id": "org_b", "name": "B", "email": "b@example.com", "plan": "x"})
                .to_string(),
            Some(r#"plan: Must be one of the plans: enterprise, standard."]"#),
        ),
        (key("x", json!({"organization_id": "org_none"})).to_string(), Some("no organization org_none")),
        (key("x", json!({"user_id": "user_1"})).to_string(), Some("not a member")),
        (
            key("x", json!({"nmae": "n"})).to_string(),
            Some("nmae: Unknown field; supported fields are: type, created_at"),
        ),
        (key("x", json!({"allowed_ips": ["10.0.0.1/8"]})).to_string(), Some("allowed_ips/0: Has host bits")),
        (key("x", json!({"created_at": "2999-01-01T00:00:00Z"})).to_string(), Some("created_at")),
        (key("x", json!({"status": "expired"})).to_string(), Some("status: Requires an expires_at")),
        (
            json!({"hash": hex::encode(hash_secret("x")), "hash_encoding": "hex", "name": "n", "scopes": ["*"]})
                .to_string(),
            Some("organization_id: Required; null creates a platform key"),
        ),
        (key("last", json!({})).to_string(), None),
    ];
    let text: Vec<_> = cases.iter().map(|(line, _)| line.as_str()).collect();
    fs::write(&file, text.join("\n")).unwrap();
    let report = import_with_refusals(&dir, &file);
    assert_eq!(report["imported"], json!({"organization": 1, "api_key": 2}), "{report}");
    let mut refusals = report["refusals"].as_array().unwrap().iter();
    for (index, (line, reason)) in cases.iter().enumerate().filter(|(_, (_, reason))| reason.is_some()) {
        let refusal = refusals.next().unwrap();
        assert_eq!(refusal["at"], format!("line {}", index + 1), "{line}");
        let reason = reason.unwrap();
        assert!(refusal["reasons"].to_string().contains(reason), "no {reason:?} in {refusal}");
    }
    assert!(refusals.next().is_none());
    assert!(!report.to_string().contains(misplaced_secret), "the report must not contain the secret");
    let checked = run(&dir, &["check"]);
    assert!(checked.status.success(), "{}", stdout(&checked));
}

#[tokio::test]
async fn csv_is_imported_like_ndjson() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let file = temp.path().join("keys.csv");
    let organizations = temp.path().join("organizations.csv");
    fs::write(&organizations, "type,id,name,email\norganization,org_a,\"A, Inc.\",a@example.com\n").unwrap();
    result(&dir, &["import", organizations.to_str().unwrap()]);
    let header = "hash,hash_encoding,name,scopes,expires_at,limits,self_rotation,metadata.team";
    let row =
        |secret: &str, rest: &str| format!("{},hex,{secret},{rest}\n", hex::encode(hash_secret(secret)));
    let rows = [
        row("one", r#"invoices:read workflows:read,,"[{""limit"": 5, ""window_seconds"": 60}]",true,core"#),
        row("two", ",,,,"),
        row("three", r#",,"[{""limit"": ""five"", ""window_seconds"": 60}]",yes,"#),
        row("four", ""),
    ];
    fs::write(&file, format!("{header}\n{}", rows.concat())).unwrap();
    let args = ["import", file.to_str().unwrap(), "--organization", "org_a", "--create-scopes", "--json"];
    let output = run(&dir, &args);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&report["imported"], &report["refused"]), (&json!({"api_key": 2}), &json!(2)), "{report}");
    assert_eq!(report["refusals"][0]["at"], "line 4");
    assert!(report["refusals"][0]["reasons"].to_string().contains("limits/0/limit"), "{report}");
    assert!(report["refusals"][0]["reasons"].to_string().contains("self_rotation"), "{report}");
    assert!(report["refusals"][1]["reasons"].to_string().contains("4 cells, the header has 8"), "{report}");

    let created = run(&dir, &["admin-key", "create"]);
    let server = Binary::serve_with(&dir, |_| ());
    let admin = server.client(stdout(&created).trim_end());
    let (code, id) = verify(&admin, "one").await;
    assert_eq!(code, "VALID");
    let key = admin.get(&format!("/api-keys/{}", id.as_str().unwrap())).await;
    let fields = ["scopes", "limits", "self_rotation", "metadata"].map(|name| key.data()[name].clone());
    let limits = json!([{"meter": "requests", "limit": 5, "window_seconds": 60}]);
    assert_eq!(json!(fields), json!([["invoices:read", "workflows:read"], limits, true, {"team": "core"}]));
    assert_eq!(admin.get("/scopes?order=desc").await.data()[0]["scope"], "invoices:read");

    // Spreadsheet programs end lines with "\r\n".
    fs::write(&file, format!("{header}\n{}", rows.concat()).replace('\n', "\r\n")).unwrap();
    let output = run(&dir, &args);
    let again: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&again["unchanged"], &again["refusals"]), (&json!({"api_key": 2}), &report["refusals"]));

    fs::write(&file, "hash,nmae\n").unwrap();
    assert_refused(&dir, &["import", file.to_str().unwrap()], &["Unknown column \"nmae\"", "hash_encoding"]);
    assert_refused(&dir, &["import", temp.path().join("none.csv").to_str().unwrap()], &["none.csv"]);
    assert_refused(&dir, &["import", temp.path().join("keys.txt").to_str().unwrap()], &["--format"]);
}

#[tokio::test]
async fn users_are_matched_by_email_and_members_may_own_keys() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let file = temp.path().join("all.ndjson");
    write_lines(
        &file,
        &[
            parse(ORGANIZATION),
            json!({"type": "user", "email": "Ada@example.com", "name": "Ada", "status": "suspended"}),
            json!({"type": "user", "id": "u-1", "email": "grace@example.com", "name": "Grace"}),
            json!({"type": "user", "id": "u-2", "email": "GRACE@example.com", "name": "Grace"}),
            json!({"type": "membership", "organization_id": "org_a", "user_id": "u-1", "role": "owner"}),
            json!({"type": "membership", "organization_id": "org_a", "user_id": "u-9", "role": "owner"}),
            key("owned", json!({"user_id": "u-1"})),
        ],
    );
    let first = import_with_refusals(&dir, &file);
    assert_eq!(first["imported"], json!({"organization": 1, "user": 2, "membership": 1, "api_key": 1}));
    let refused_lines: Vec<_> =
        first["refusals"].as_array().unwrap().iter().map(|refusal| &refusal["at"]).collect();
    assert_eq!(refused_lines, ["line 4", "line 6"]);
    let again = import_with_refusals(&dir, &file);
    assert_eq!((&again["imported"], &again["unchanged"]), (&json!({}), &first["imported"]));
}

/// An open quote makes the rest of the file one record. The file is still being written when the memory is
/// measured.
#[cfg(target_os = "linux")]
#[test]
fn i10_an_open_quote_takes_bounded_memory() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let args = ["import", "/dev/stdin", "--format", "csv", "--json", "--data", dir.to_str().unwrap()];
    let mut command = Binary::command(&args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input
        .write_all(b"type,id,name,email\norganization,org_a,A,a@example.com\norganization,org_b,\"")
        .unwrap();
    for _ in 0..1 << 10 {
        input.write_all(&[b'x'; 1 << 16]).unwrap();
    }
    let peak = peak_memory(child.id());
    assert!(peak < 48 << 20, "{peak} bytes for a record of 64 MiB");
    input.write_all(b"\",b@example.com\norganization,org_c,\"C, \"\"3\"\"\",c@example.com\n").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        (&report["imported"], &report["refused"]),
        (&json!({"organization": 2}), &json!(1)),
        "{report}"
    );
    assert_eq!(report["refusals"][0]["at"], "line 3");
    assert!(report["refusals"][0]["reasons"].to_string().contains("closing quote"), "{report}");
}
