//! Invariant 6: a secret that a client puts anywhere into a request is stored, logged and exported nowhere.

mod anywhere;
mod requests;
mod search;

use std::fs;

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::verify::secret::hash_secret;

use crate::support::{ADMIN_KEY, Binary, Client, Server};
use search::Traces;

fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

fn json_escaped(text: &str) -> String {
    text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect()
}

/// Every other character encoded, once with upper-case and once with lower-case digits.
fn partly_encoded(text: &str) -> String {
    let encode = |(index, c): (usize, char)| match index % 4 {
        0 => format!("%{:02X}", u32::from(c)),
        2 => format!("%{:02x}", u32::from(c)),
        _ => c.to_string(),
    };
    text.chars().enumerate().map(encode).collect()
}

async fn create_key(client: &Client, body: Value) -> (String, String) {
    let answer = client.post("/api-keys", body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let text = |field: &str| answer.data()[field].as_str().unwrap().to_owned();
    (text("id"), text("key"))
}

fn serve(dir: &std::path::Path) -> Binary {
    Binary::serve_with(dir, |command| {
        command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY).env("TOLLHOUSE_LOG__LEVEL", "debug");
        command.env("TOLLHOUSE_METRICS__LISTEN", "127.0.0.1:0");
        command.env("TOLLHOUSE_HTTP__TRUSTED_PROXIES", "127.0.0.0/8");
        for limit in ["ADMIN_PER_MINUTE", "BATCH_PER_MINUTE", "FAILED_AUTH_PER_MINUTE"] {
            command.env(format!("TOLLHOUSE_RATE_LIMITS__{limit}"), "0");
        }
    })
}

/// What remains of a secret in a record: its start, in its place.
#[tokio::test]
async fn i6_a_secret_in_a_recorded_string_is_cut_to_its_start() {
    let server = Server::start().await;
    let admin = server.admin();
    let (_, secret) = create_key(&admin, json!({"name": "n", "scopes": ["workflows:read"]})).await;
    let start = format!("{}…", &secret[.."toll_".len() + 4]);
    let path = format!("/api-keys/{}/x", percent_encoded(&secret));
    let request = admin.request(Method::GET, &format!("/api-keys/{secret}"));
    admin.send(request.header("user-agent", format!("curl {secret} {ADMIN_KEY}"))).await;
    let operation = json!({"method": "GET", "path": path.replace("/x", "")});
    admin.post("/batch", json!({"atomic": false, "operations": [operation]})).await;
    admin.get(&format!("/organizations?status=active&org_id={secret}")).await;
    admin.get(&format!("/audit-logs?org_id={secret}")).await;
    admin.get(&path).await;
    tollhouse::service::housekeeping::write_aggregated_events(&server.app, true).await.unwrap();

    let listed = admin.get("/audit-logs?limit=100&order=asc").await;
    let events = listed.data().as_array().unwrap().clone();
    let with_action = |action: &'static str| events.iter().filter(move |event| event["action"] == action);
    let reads: Vec<_> = with_action("api_key.read").collect();
    let expected_path = json!(format!("/admin/v1/api-keys/{start}"));
    assert_eq!(reads.len(), 2, "{events:#?}");
    for read in reads {
        assert_eq!(
            (&read["target"]["id"], &read["context"]["path"]),
            (&json!(start), &expected_path),
            "{read}"
        );
        if read["context"]["batch_id"].is_null() {
            assert_eq!(read["context"]["user_agent"], format!("curl {start} {}…", &ADMIN_KEY[..4]), "{read}");
        }
    }
    let listed = with_action("audit_log.list").next().unwrap();
    assert_eq!(listed["organization_id"], json!(start), "{listed}");
    let unknown = with_action("request.refused").find(|event| event["code"] == "NOT_FOUND").unwrap();
    assert_eq!(unknown["context"]["path"], json!(format!("/admin/v1/api-keys/{start}/x")), "{unknown}");
    assert_eq!(admin.get("/audit-logs/verify").await.data()["valid"], true);
}

/// A secret in a foreign format can't be recognized in general, only as the caller's own.
#[tokio::test]
async fn a_foreign_secret_is_recognized_as_the_callers_own() {
    let server = Server::start().await;
    let (other, _) = server.key(None, &["*"]).await;
    let body = json!({"name": format!("my key is {ADMIN_KEY}"), "email": "a@example.com"});
    let own = server.admin().post("/users", body.clone()).await;
    assert_eq!((own.status, own.code()), (400, "SECRET_IN_FIELD"));
    assert_eq!(own.details(), [("/name".to_owned(), "SECRET_IN_FIELD".to_owned())]);
    assert_eq!(other.post("/users", body).await.status, 201);
}

/// Ids that callers choose have the shape of secrets, but no secret has their prefix.
#[tokio::test]
async fn an_id_with_a_matching_checksum_is_no_secret() {
    const ID: &str = "org_0123456789abcdefghijABCDEFGHIJxy";
    let server = Server::start().await;
    let admin = server.admin();
    let mut rest = crc(ID.as_bytes());
    let mut digits = Vec::new();
    for _ in 0..6 {
        digits
            .insert(0, b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[rest as usize % 62]);
        rest /= 62;
    }
    let id = format!("{ID}{}", String::from_utf8(digits).unwrap());
    server.organization(&id).await;
    let listed = admin.get(&format!("/audit-logs?target_id={id}")).await;
    assert_eq!(listed.data()[0]["target"]["id"], json!(id), "{listed:?}");
    // The same digits after a prefix that a secret can have.
    let answer = server.configure(json!({"keys": {"prefixes": ["org"]}})).await;
    assert_eq!(answer.details(), [("/keys/prefixes/0".to_owned(), "RESERVED".to_owned())], "{answer:?}");
}

/// CRC-32/ISO-HDLC, bit by bit.
fn crc(text: &[u8]) -> u32 {
    let step = |value: u32, _| if value & 1 == 1 { (value >> 1) ^ 0xEDB8_8320 } else { value >> 1 };
    !text.iter().fold(u32::MAX, |state, byte| (0..8).fold(state ^ u32::from(*byte), step))
}

/// Files are refused record by record, naming the line and the field, and not the secret.
#[tokio::test]
async fn i6_a_secret_in_an_import_is_refused_and_not_repeated() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let server = serve(&dir);
    let (_, secret) = create_key(&server.admin(), json!({"name": "n", "scopes": ["workflows:read"]})).await;
    drop(server);
    let hash = hex::encode(hash_secret("another"));
    let mut files = vec![(
        "keys.csv",
        format!(
            "name,hash_encoding,hash,scopes,metadata.team\n{secret},hex,{hash},,x\nn,hex,{hash},,{secret}\n"
        ),
        vec!["line 2: name: ", "line 3: metadata/team: "],
    )];
    let escaped = json_escaped(&secret);
    let line = format!(r#"{{"type": "user", "email": "a@b", "name": "{escaped}", "{secret}": 1}}"#);
    let settings = format!(r#"{{"type": "settings", "maintenance": {{"message": "{secret}"}}}}"#);
    let broken = format!(r#"{{"type": "{secret}"}}"#);
    let text = format!("{line}\n{settings}\n{broken}\n");
    files.push(("records.ndjson", text, vec!["line 1: ", "line 2: maintenance/message: ", "line 3: type: "]));
    for (name, text, expected) in files {
        let file = temp.path().join(name);
        fs::write(&file, text).unwrap();
        let args =
            ["import", file.to_str().unwrap(), "--organization", "org_1", "--data", dir.to_str().unwrap()];
        let output = Binary::run(&args);
        let report = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{report}");
        assert!(report.contains(&format!("refused: {}", expected.len())), "{report}");
        for part in expected {
            assert!(report.contains(part), "no {part:?}: {report}");
        }
        assert!(report.contains("Must not contain the secret of an API key"), "{report}");
        let mut traces = Traces::default();
        traces.add("report", report.into_bytes());
        traces.add_files("data", &dir);
        traces.assert_nowhere(&[&secret]);
    }
    let create = ["admin-key", "create", "--name", &secret, "--data", dir.to_str().unwrap()];
    let output = Binary::run(&create);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let mut command = Binary::command(&["config", "check"]);
    let output = command.env("TOLLHOUSE_MAINTENANCE__MESSAGE", &secret).output().unwrap();
    let report = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!output.status.success() && !report.contains(&secret), "{report}");
}
