//! Invariant 6: a secret that a client puts anywhere into a request is stored, logged and exported nowhere.
//!
//! The requests are built from the route table and the OpenAPI document, so that new routes, parameters and
//! fields are covered without a change here.

mod requests;
mod search;

use std::collections::BTreeSet;
use std::fs;

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::http::routes::ROUTES;
use tollhouse::verify::secret::hash_secret;

use crate::support::{ADMIN_KEY, Binary, Client, Server};
use requests::{Api, Field, PLACEHOLDER, send_all};
use search::Traces;

/// Headers that the server reads, or that proxies and browsers send. All of them together are harmless, so one
/// request carries them all.
const PASSIVE_HEADERS: &[&str] = &[
    "user-agent",
    "x-request-id",
    "traceparent",
    "tracestate",
    "referer",
    "origin",
    "cookie",
    "forwarded",
    "x-forwarded-uri",
    "x-forwarded-method",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-original-url",
    "x-original-uri",
    "x-envoy-original-path",
    "x-something-unknown",
];

/// Headers that change how the server answers, so each request carries one of them.
const ACTIVE_HEADERS: &[&str] = &[
    "idempotency-key",
    "if-match",
    "if-none-match",
    "accept",
    "accept-encoding",
    "content-type",
    "content-encoding",
    "x-api-key",
    "x-forwarded-for",
    "host",
];

/// Text that is one digit shorter than a secret, so that the server records and logs it as it is.
const MARKER: &str = "toll_ThisTextIsNoSecretAndIsFoundEverywher";

/// A secret, and a client that puts it into requests.
struct Case {
    client: Client,
    secret: String,
}

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

/// The secret as it is, encoded, and within other text.
fn forms(secret: &str) -> [String; 5] {
    let within = format!("x{secret}y");
    [secret.to_owned(), percent_encoded(secret), partly_encoded(secret), json_escaped(secret), within]
}

/// The forms in a URL, which can't hold a backslash.
fn url_forms(secret: &str) -> [String; 5] {
    forms(secret).map(|form| form.replace('\\', "%5C"))
}

/// The forms as the text between quotes of a JSON document: an escape is undone by the server's parser, except
/// in the last one, where the string itself has the backslashes.
fn json_forms(secret: &str) -> Vec<String> {
    forms(secret).into_iter().chain([json_escaped(secret).replace('\\', "\\\\")]).collect()
}

async fn create_key(client: &Client, body: Value) -> (String, String) {
    let answer = client.post("/api-keys", body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let text = |field: &str| answer.data()[field].as_str().unwrap().to_owned();
    (text("id"), text("key"))
}

/// The caller's own secret, that of another key, a revoked one, and one in a foreign format, which is recognized
/// only as the caller's own.
async fn cases(server: &Binary) -> Vec<Case> {
    let admin = server.admin();
    let body = json!({"id": "org_123", "name": "Acme", "email": "a@acme.com"});
    assert_eq!(admin.post("/organizations", body).await.status, 201);
    let (_, own) = create_key(&admin, json!({"name": "own", "scopes": ["*"]})).await;
    let organization_key =
        json!({"id": "key_123", "organization_id": "org_123", "name": "o", "scopes": ["*"]});
    let (_, other) = create_key(&admin, organization_key).await;
    let (id, revoked) = create_key(&admin, json!({"name": "revoked", "scopes": ["*"]})).await;
    assert_eq!(admin.delete(&format!("/api-keys/{id}")).await.status, 200);
    let client = server.client(&own);
    let case = |client: &Client, secret: &str| Case { client: client.clone(), secret: secret.to_owned() };
    vec![
        case(&client, &own),
        case(&client, &other),
        case(&server.client(&other), &other),
        case(&client, &revoked),
        case(&server.client(&revoked), &revoked),
        case(&admin, ADMIN_KEY),
    ]
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

/// Sends the secret in the path, in each parameter, in each header and as the method of each route.
async fn send_outside_of_bodies(api: &Api, case: &Case) {
    let mut requests = Vec::new();
    for form in url_forms(&case.secret) {
        for operation in &api.operations {
            let paths = operation.paths_with(&form);
            // Each parameter alone only once, because it is decoded in the same way everywhere.
            let queries = if form == case.secret { operation.queries_with(&form) } else { Vec::new() };
            for path in paths.iter().chain(&queries) {
                requests.push(case.client.request_at_root(operation.method.clone(), path));
            }
            requests.push(case.client.request_at_root(Method::PUT, &operation.path_of_examples()));
        }
        for path in ["/", "/admin/v1/", "/admin/v1/api-keys/", "/v1/", "/docs/", "/v1/forward-auth/scope="] {
            let anonymous = Client::new(&case.client.url, None);
            for path in [format!("{path}{form}"), format!("{path}x?{form}={form}")] {
                requests.push(case.client.request_at_root(Method::GET, &path));
                requests.push(case.client.request_at_root(Method::POST, &path));
                requests.push(anonymous.request_at_root(Method::GET, &path));
            }
        }
    }
    let method = Method::from_bytes(case.secret.as_bytes()).unwrap();
    for operation in &api.operations {
        let path = operation.path_of_examples();
        requests.push(case.client.request_at_root(method.clone(), &path));
        let request = || case.client.request_at_root(operation.method.clone(), &path);
        for form in forms(&case.secret) {
            let with_header = |request: reqwest::RequestBuilder, name: &&str| request.header(*name, &form);
            requests.push(PASSIVE_HEADERS.iter().fold(request(), with_header));
        }
        let headers = ACTIVE_HEADERS.iter().copied().chain(operation.headers.iter().map(String::as_str));
        for name in headers {
            requests.push(request().header(name, &case.secret).json(&json!({"name": "x"})));
        }
    }
    for answer in send_all(requests).await {
        assert!(answer.status < 500, "{answer:?}");
        let echoed = answer.header("x-request-id").unwrap_or_default();
        assert!(!echoed.contains(&case.secret), "{answer:?}");
    }
}

/// Sends the secret in each field of each request body, alone and in a batch. Each one is refused, naming the
/// field.
async fn send_in_bodies(api: &Api, case: &Case) -> usize {
    let mut sent = Vec::new();
    for operation in api.operations.iter().filter(|operation| operation.is_admin()) {
        for field in operation.fields.iter().filter(|field| !field.is_recorded_only()) {
            for form in json_forms(&case.secret) {
                let body = field.body.to_string().replace(PLACEHOLDER, &form);
                sent.push((operation, field, form.clone(), body, false));
                if operation.route.is_in_batch() {
                    let path = operation.path_of_examples();
                    let inner = field.body.to_string().replace(PLACEHOLDER, &form);
                    let method = operation.method.as_str();
                    let body = format!(
                        r#"{{"atomic": false, "operations": [{{"method": "{method}", "path": "{path}", "body": {inner}}}]}}"#
                    );
                    sent.push((operation, field, form, body, true));
                }
            }
        }
    }
    let requests = sent.iter().enumerate().map(|(index, (operation, _, _, body, in_batch))| {
        let request = if *in_batch {
            let key = format!("{index}-{}", fastrand::u64(..));
            case.client.request(Method::POST, "/batch").header("idempotency-key", key)
        } else {
            operation.request(&case.client)
        };
        request.header("content-type", "application/json").body(body.clone())
    });
    let answers = send_all(requests.collect()).await;
    for ((operation, field, form, _, in_batch), answer) in sent.iter().zip(&answers) {
        let what =
            format!("{} {} {form} in a batch: {in_batch}: {answer:?}", operation.name(), field.pointer);
        let error = if *in_batch {
            assert_eq!(answer.status, 200, "{what}");
            let result = &answer.data()["results"][0];
            assert_eq!(result["status"], 400, "{what}");
            &result["body"]["error"]
        } else {
            assert_eq!(answer.status, 400, "{what}");
            &answer.json["error"]
        };
        let details = error["details"].as_array().unwrap();
        let decoded: Value = serde_json::from_str(&format!("\"{form}\"")).unwrap();
        let name = decoded.as_str().unwrap();
        let pointer = field.pointer.replace(PLACEHOLDER, name);
        // Of a long name the pointer shows only a part.
        let is_long = name.len() > 64 && pointer != field.pointer;
        let parent = field.pointer.split(PLACEHOLDER).next().unwrap();
        let is_refused = |detail: &Value| {
            let at = detail["pointer"].as_str().unwrap_or_default();
            let is_here = if is_long { at.starts_with(parent) } else { at == pointer };
            is_here && (!field.is_text || detail["code"] == "SECRET_IN_FIELD")
        };
        assert!(details.iter().any(is_refused), "no detail about {pointer}: {what}");
        assert!(!field.is_text || error["code"] == "SECRET_IN_FIELD", "{what}");
    }
    sent.len()
}

/// Sends the secret where it isn't refused: as the path of a batch operation, in stored answers, and in the
/// bodies of the data plane.
async fn send_in_other_bodies(api: &Api, case: &Case) {
    let client = &case.client;
    let mut batches = Vec::new();
    let mut requests = Vec::new();
    for form in json_forms(&case.secret) {
        for (path, field) in [(format!("/api-keys/{form}"), "x"), ("/users".to_owned(), form.as_str())] {
            for (method, atomic) in
                [("GET", true), ("GET", false), ("DELETE", true), ("POST", true), ("POST", false)]
            {
                let body = format!(
                    r#"{{"atomic": {atomic}, "operations": [{{"method": "{method}", "path": "{path}",
                        "body": {{"{field}": "{form}", "name": "x"}}}}]}}"#
                );
                let request =
                    client.request(Method::POST, "/batch").header("content-type", "application/json");
                batches.push(request.header("idempotency-key", fastrand::u64(..)).body(body));
            }
        }
        for operation in api.operations.iter().filter(|operation| !operation.is_admin()) {
            for field in &operation.fields {
                let body = field.body.to_string().replace(PLACEHOLDER, &form);
                let request = operation.request(client).header("content-type", "application/json");
                requests.push(request.body(body));
            }
        }
        for body in
            [format!("token={form}"), format!("token=x&{form}={form}"), format!("client_secret={form}")]
        {
            let anonymous = Client::new(&client.url, None);
            let basic = anonymous.request_at_root(Method::POST, "/v1/introspect").header("user-agent", &form);
            let basic = basic.basic_auth("key_123", Some(&form));
            for request in [client.request_at_root(Method::POST, "/v1/introspect"), basic] {
                let media_type = "application/x-www-form-urlencoded";
                requests.push(request.header("content-type", media_type).body(body.clone()));
            }
        }
    }
    let replays = batches.iter().map(|request| request.try_clone().unwrap()).collect();
    for sent in [requests, batches, replays] {
        for answer in send_all(sent).await {
            assert!(answer.status < 500, "{answer:?}");
        }
    }
}

/// Puts [`MARKER`] into requests in the same ways, so that it is in everything that is searched.
async fn send_marker(client: &Client) {
    let body = json!({"name": MARKER, "email": format!("{MARKER}@example.com")});
    assert_eq!(client.post("/users", body).await.status, 201);
    let request = client.request(Method::GET, &format!("/api-keys/{MARKER}"));
    let answer = client.send(request.header("user-agent", MARKER).header("x-request-id", MARKER)).await;
    assert_eq!((answer.status, answer.header("x-request-id")), (404, Some(MARKER)));
    let operation = json!({"id": MARKER, "method": "GET", "path": format!("/users/{MARKER}")});
    let body = json!({"atomic": false, "operations": [operation]});
    let request = client.request(Method::POST, "/batch").header("idempotency-key", "marker");
    assert_eq!(client.send(request.json(&body)).await.status, 200);
}

#[tokio::test]
async fn i6_a_secret_anywhere_in_a_request_is_found_nowhere() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("data");
    let mut server = serve(&dir);
    let api = Api::load();
    let admin = server.admin();
    let cases = cases(&server).await;
    let mut fields = 0;
    for case in &cases {
        send_outside_of_bodies(&api, case).await;
        send_in_other_bodies(&api, case).await;
        // A revoked key is refused before its body is read, and an organization's key by some routes.
        if case.client.get("/config").await.status == 200 {
            fields += send_in_bodies(&api, case).await;
        }
    }
    assert!(fields > 1000, "{fields}");
    send_marker(&admin).await;

    let mut traces = Traces::default();
    traces.add_files("data directory of the running server", &dir);
    for path in ["/audit-logs/export", "/audit-logs/export?format=csv", "/users?limit=100"] {
        traces.add(path, admin.get(path).await.text.into_bytes());
    }
    traces.add_without_marker(
        "/analytics/logs",
        admin.get("/analytics/logs?limit=100").await.text.into_bytes(),
    );
    let metrics = server.metrics_url();
    let metrics = Client::new(metrics.strip_suffix("/metrics").unwrap(), None).get_at_root("/metrics").await;
    assert_eq!(metrics.status, 200);
    traces.add_without_marker("/metrics", metrics.text.into_bytes());
    assert_eq!(server.terminate(), Some(0));
    let log: Vec<String> = server.start.drain(..).chain(server.log.iter()).collect();
    traces.add("log", log.join("\n").into_bytes());
    traces.add_files("data directory of the stopped server", &dir);
    let backup = temp.path().join("backup.db");
    for (name, args) in [
        ("export", &["export"][..]),
        ("audit export", &["audit", "export"]),
        ("audit export as CSV", &["audit", "export", "--format", "csv"]),
        ("backup", &["backup", backup.to_str().unwrap()]),
    ] {
        let output = Binary::command(args).arg("--data").arg(&dir).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        match name {
            "backup" => traces.add(name, fs::read(&backup).unwrap()),
            _ => traces.add(name, output.stdout),
        }
        traces.add_without_marker(name, output.stderr);
    }
    traces.assert_everywhere(MARKER);
    let secrets: Vec<&str> = cases.iter().map(|case| case.secret.as_str()).collect();
    traces.assert_nowhere(&secrets);
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
    let answer = server.configure(json!({"keys": {"prefix": "org"}})).await;
    assert_eq!(answer.details(), [("/keys/prefix".to_owned(), "RESERVED".to_owned())], "{answer:?}");
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

/// Every field of the document that accepts text is tested, and every route has at least one request.
#[test]
fn all_fields_and_routes_are_known() {
    let api = Api::load();
    let covered: BTreeSet<_> = api.operations.iter().map(requests::Operation::name).collect();
    let all: BTreeSet<_> = ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    assert_eq!(covered, all);
    let texts: Vec<&Field> = api.operations.iter().flat_map(|operation| &operation.fields).collect();
    for pointer in
        ["/metadata/a", &format!("/metadata/{PLACEHOLDER}"), "/scopes/0", "/operations/0/path", "/reason"]
    {
        assert!(texts.iter().any(|field| field.pointer == pointer && field.is_text), "{pointer}");
    }
    let recorded_only: Vec<_> = texts.iter().filter(|field| field.is_recorded_only()).collect();
    assert_eq!(recorded_only.len(), 2, "{recorded_only:#?}");
}
