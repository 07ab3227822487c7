//! Third-party TLS clients: curl and Node.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::TlsServer;
use crate::support::{ADMIN_KEY, Binary};

/// Runs curl; returns the answer's JSON body, and the HTTP version and status.
fn curl(server: &TlsServer, args: &[&str], path: &str, body: &str) -> (Value, String) {
    let mut curl = Command::new("curl");
    curl.args([
        "-sS",
        "--cacert",
        server.cert_file.to_str().unwrap(),
        "-w",
        "\n%{http_version} %{http_code}",
    ])
    .args(["-H", &format!("Authorization: Bearer {ADMIN_KEY}"), "-H", "Content-Type: application/json"])
    .args(args)
    .arg(format!("{}{path}", server.binary.url))
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .stderr(Stdio::piped());
    let mut curl = curl.spawn().expect("curl; scripts/test installs it");
    // A curl that reads no body closes its standard input, so this write may fail.
    let _ = curl.stdin.take().unwrap().write_all(body.as_bytes());
    let output = curl.wait_with_output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args:?} {path}: {}", String::from_utf8_lossy(&output.stderr));
    let (json, status) = stdout.rsplit_once('\n').unwrap();
    (serde_json::from_str(json).unwrap_or_default(), status.to_owned())
}

#[test]
fn curl_speaks_both_versions() {
    let server = TlsServer::start(&[]);
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let call =
            |args: &[&str], path: &str, body: &str| curl(&server, &[&[flag], args].concat(), path, body);
        assert_eq!(call(&[], "/healthz", "").1, format!("{version} 200"));
        assert_eq!(call(&["-I"], "/healthz", "").1, format!("{version} 200"));
        assert_eq!(call(&[], "/nowhere", "").1, format!("{version} 404"));
        let body = json!({"key": ADMIN_KEY}).to_string();
        let (answer, status) = call(&["-d", &body], "/v1/keys/verify", "");
        assert_eq!((status.as_str(), &answer["data"]["code"]), (&*format!("{version} 200"), &json!("VALID")));
        // A body without a Content-Length.
        let (answer, status) = call(&["-X", "POST", "-T", "-"], "/v1/keys/verify", &body);
        assert_eq!((status.as_str(), &answer["data"]["code"]), (&*format!("{version} 200"), &json!("VALID")));

        let created = call(&["-d", r#"{"name": "n", "scopes": []}"#], "/admin/v1/api-keys", "");
        assert_eq!(created.1, format!("{version} 201"), "{}", created.0);
        let path = format!("/admin/v1/api-keys/{}/revoke", created.0["data"]["id"].as_str().unwrap());
        let (revoked, _) = call(&["-X", "POST", "-T", "-"], &path, r#"{"reason": "leaked"}"#);
        assert_eq!(
            revoked["data"]["revoked_reason"], "leaked",
            "an optional body without a Content-Length is read: {revoked}"
        );
        let (export, status) =
            call(&[], "/admin/v1/audit-logs/export?format=ndjson&action=api_key.revoke", "");
        assert!(status == format!("{version} 200") && export != json!("x"), "{status}");
    }
}

/// The curl command that the server prints at startup works as printed.
#[test]
fn the_printed_curl_command_works() {
    let server = TlsServer::start(&[]);
    let line = server.binary.line_with("curl ");
    assert!(line.contains(&server.binary.url), "{line}");
    let mut shell = Command::new("sh");
    let line: Value = serde_json::from_str(&line).unwrap();
    let command = line["command"].as_str().unwrap();
    shell.args(["-c", &format!("{command} -sS")]).env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY);
    let output = shell.output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["data"]["api_key"]["scopes"], json!(["*"]), "{output:?}");
}

/// Node sends requests over both HTTP versions, and many concurrently over one HTTP/2 connection, with the keys of
/// two organizations. Each caller sees only its own organization's key.
#[tokio::test]
async fn i5_node_speaks_both_versions_and_callers_on_one_connection_are_distinguished() {
    let server = TlsServer::start(&[]);
    let call = |path: &str, body: Value| {
        curl(&server, &["-d", &body.to_string()], &format!("/admin/v1{path}"), "").0["data"].clone()
    };
    let mut keys = Vec::new();
    for id in ["org_1", "org_2"] {
        call("/organizations", json!({"id": id, "name": id, "email": format!("{id}@example.com")}));
        let caller =
            call("/api-keys", json!({"organization_id": id, "name": "a", "scopes": ["keys:verify"]}));
        let limit = json!({"limit": 100_000, "window_seconds": 60});
        let key =
            json!({"organization_id": id, "name": "k", "scopes": ["workflows:read"], "limits": [limit]});
        keys.push((caller["key"].clone(), call("/api-keys", key)["key"].clone()));
    }
    let script = format!("{}/tests/node/tls_ask.mjs", env!("CARGO_MANIFEST_DIR"));
    let node = Command::new("node")
        .arg(script)
        .env("TOLLHOUSE_URL", &server.binary.url)
        .env("TOLLHOUSE_CA", &server.cert_file)
        .env("TOLLHOUSE_KEYS", json!(keys).to_string())
        .output()
        .expect("node; scripts/test installs it");
    assert!(node.status.success(), "{}", String::from_utf8_lossy(&node.stderr));
    let report: Value = serde_json::from_slice(&node.stdout).unwrap();
    assert_eq!(report["http1"], json!(["1.1", 200, "VALID"]), "{report}");
    assert_eq!(report["wrong"], json!(0), "{report}");
    assert_eq!(report["answers"], json!(400), "{report}");
}

#[test]
fn without_certificate_files_the_server_speaks_plain_http() {
    let dir = tempfile::tempdir().unwrap();
    let server = Binary::serve(dir.path());
    assert!(server.url.starts_with("http://"), "{}", server.url);
    server.signal("HUP");
    assert!(!server.line_with("configuration reloaded").contains("certificate"));
    let output = Command::new("curl").args(["-sSf", &format!("{}/healthz", server.url)]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
