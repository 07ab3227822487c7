//! A secret anywhere in a request. The requests are built from the route table and the OpenAPI document, so that new
//! routes, parameters and fields are covered without a change here.

use std::fs;

use reqwest::Method;
use serde_json::{Value, json};
use tollhouse::http::routes::ROUTES;

use super::requests::{Api, Field, Operation, PLACEHOLDER, send_all};
use super::search::Traces;
use super::{create_key, json_escaped, partly_encoded, percent_encoded, serve};
use crate::support::{ADMIN_KEY, Binary, Client, assert_same_items};

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

/// Sends the secret in the path, in each parameter, in each header and as the method of each route.
async fn send_outside_of_bodies(api: &Api, case: &Case) {
    let mut requests = Vec::new();
    for form in url_forms(&case.secret) {
        for operation in &api.operations {
            let paths = operation.paths_with(&form);
            // Each parameter alone only once, because it is decoded in the same way everywhere.
            let queries = if form == case.secret { operation.queries_with(&form) } else { Vec::new() };
            for path in paths.iter().chain(&queries) {
                requests.push(operation.request_at(&case.client, path));
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
        let request = || operation.request_at(&case.client, &path);
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

/// Every field of the document that accepts text is tested, and every route has at least one request.
#[test]
fn all_fields_and_routes_are_known() {
    let api = Api::load();
    let covered = api.operations.iter().map(Operation::name);
    assert_same_items(
        "routes",
        covered,
        ROUTES.iter().map(|route| format!("{} {}", route.method, route.path)),
    );
    let texts: Vec<&Field> = api.operations.iter().flat_map(|operation| &operation.fields).collect();
    for pointer in
        ["/metadata/a", &format!("/metadata/{PLACEHOLDER}"), "/scopes/0", "/operations/0/path", "/reason"]
    {
        assert!(texts.iter().any(|field| field.pointer == pointer && field.is_text), "{pointer}");
    }
    let recorded_only: Vec<_> = texts.iter().filter(|field| field.is_recorded_only()).collect();
    assert_eq!(recorded_only.len(), 2, "{recorded_only:#?}");
}
