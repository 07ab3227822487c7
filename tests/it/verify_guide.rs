//! Each block of `docs/guides/verify-keys.md`, run as it is shown against the real program.

mod compiled;

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tollhouse::verify::secret::hash_secret;

use crate::support::{Answer, Binary, Client, free_address, guide, http_from};

const GUIDE: &str = "guides/verify-keys.md";

/// All blocks of the guide.
const BLOCKS: [&str; 8] = [
    "verify.sh",
    "report.sh",
    "verify.mjs",
    "server.mjs",
    "verify.py",
    "server.py",
    "introspect.mjs",
    "introspect.py",
];

/// Our own programs that call what is shown.
const ASKERS: [(&str, &str); 4] = [
    ("ask_verify.mjs", include_str!("../node/ask_verify.mjs")),
    ("ask_introspect.mjs", include_str!("../node/ask_introspect.mjs")),
    ("ask_verify.py", include_str!("../python/ask_verify.py")),
    ("ask_introspect.py", include_str!("../python/ask_introspect.py")),
];

/// A running Tollhouse, and a directory with the guide's programs and the key that they use.
struct Desk {
    tollhouse: Binary,
    dir: TempDir,
    verifier: String,
}

/// A key of our form whose checksum is wrong.
const MALFORMED: &str = "toll_00000000000000000000000000000000000000";

/// A key with this id that the client has.
const READER: &str = "key_reader";

impl Desk {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, code) in guide::blocks(GUIDE) {
            assert!(BLOCKS.contains(&name.as_str()), "no test runs the block {name:?}");
            std::fs::write(dir.path().join(name), code).unwrap();
        }
        for (name, code) in ASKERS {
            std::fs::write(dir.path().join(name), code).unwrap();
        }
        symlink(target("node/node_modules"), dir.path().join("node_modules")).unwrap();
        let tollhouse = Binary::serve(&dir.path().join("data"));
        let organization = json!({"id": "org_1", "name": "n", "email": "n@example.com"});
        assert_eq!(tollhouse.admin().post("/organizations", organization).await.status, 201);
        let mut desk = Self { tollhouse, dir, verifier: String::new() };
        desk.verifier = desk.key("key_verifier-1", json!({"scopes": ["keys:verify"]})).await;
        desk
    }

    /// The secret of a new key of the organization.
    async fn key(&self, id: &str, mut body: Value) -> String {
        body["id"] = json!(id);
        body["name"] = json!("n");
        body["organization_id"] = json!("org_1");
        let answer = self.tollhouse.admin().post("/api-keys", body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.data()["key"].as_str().unwrap().to_owned()
    }

    /// A good key that may read workflows.
    async fn reader(&self) -> String {
        self.key(READER, json!({"scopes": ["workflows:*"]})).await
    }

    async fn revoke(&self, id: &str) {
        assert_eq!(self.tollhouse.admin().delete(&format!("/api-keys/{id}")).await.status, 200);
    }

    /// A program in the directory that knows what the guide says it needs.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path());
        command.env("TOLLHOUSE_URL", &self.tollhouse.url).env("TOLLHOUSE_KEY", &self.verifier);
        command.env("TOLLHOUSE_KEY_ID", "key_verifier-1");
        command
    }

    /// One of [`ASKERS`] for Node, for these keys.
    fn node(&self, caller: &str, keys: &[&str]) -> Command {
        let mut command = self.command("node");
        command.arg(caller).args(keys);
        command
    }

    fn python(&self, caller: &str, keys: &[&str]) -> Command {
        let mut command = self.command(target("python/bin/python").to_str().unwrap());
        command.arg(caller).args(keys);
        command
    }
}

fn target(path: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target").join(path);
    assert!(path.exists(), "no {}; scripts/test fetches it", path.display());
    path
}

fn run(mut command: Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()))
}

/// What it printed, one JSON value a line; it must have succeeded.
#[track_caller]
fn lines(command: Command) -> Vec<Value> {
    let output = run(command);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Each way of verifying, asked for the same keys, gives the same answers.
#[tokio::test]
async fn curl_node_and_python_verify() {
    let desk = Desk::new().await;
    let good = desk.reader().await;
    // The guide asks from this address.
    let near = desk.key("key_near", json!({"scopes": ["*"], "allowed_ips": ["203.0.113.0/24"]})).await;
    let far = desk.key("key_far", json!({"scopes": ["*"], "allowed_ips": ["192.0.2.0/24"]})).await;
    let narrow = desk.key("key_narrow", json!({"scopes": ["workflows:write"]})).await;
    let ended = desk.key("key_ended", json!({"scopes": ["*"]})).await;
    desk.revoke("key_ended").await;
    let asked = [&good, &near, &far, &narrow, &ended, "toll_nonsense", MALFORMED];
    let expected = [
        json!(["VALID", READER]),
        json!(["VALID", "key_near"]),
        json!(["IP_NOT_ALLOWED", "key_far"]),
        json!(["INSUFFICIENT_SCOPE", "key_narrow"]),
        json!(["REVOKED", "key_ended"]),
        json!(["NOT_FOUND", null]),
        json!(["MALFORMED", null]),
    ];
    let told = |answer: &Value| {
        assert_eq!(answer["valid"], json!(answer["code"] == "VALID"), "{answer}");
        json!([answer["code"], answer["key_id"]])
    };

    let by_curl = asked.map(|key| {
        let mut curl = desk.command("sh");
        curl.arg("verify.sh").env("CLIENT_KEY", key);
        told(&lines(curl)[0]["data"])
    });
    assert_eq!(by_curl, expected);

    let by_node: Vec<_> = lines(desk.node("ask_verify.mjs", &asked)).iter().map(told).collect();
    assert_eq!(by_node, expected);

    let by_python: Vec<_> = lines(desk.python("ask_verify.py", &asked)).iter().map(told).collect();
    assert_eq!(by_python, expected);
}

#[tokio::test]
async fn a_report_that_curl_repeats_counts_once() {
    let desk = Desk::new().await;
    desk.reader().await;
    let admin = desk.tollhouse.admin();
    let settings = admin.request(Method::PATCH, "/config").header("if-match", "*");
    let declared = admin.send(settings.json(&json!({"meters": ["requests", "tokens"]}))).await;
    assert_eq!(declared.status, 200, "{declared:?}");
    let counted = ["first", "first", "second"].map(|id| {
        let mut curl = desk.command("sh");
        curl.arg("report.sh").env("KEY_ID", READER).env("REQUEST_ID", id);
        lines(curl)[0]["data"]["counted"].clone()
    });
    assert_eq!(json!(counted), json!([true, false, true]));
    let usage = admin.get(&format!("/analytics/usage?key_id={READER}&meter=tokens&period=1h")).await;
    assert_eq!(usage.data()["totals"]["cost"], 2400, "{usage:?}");
}

/// RFC 7662 as other people read it: their clients authenticate by Basic and understand the answers.
#[tokio::test]
async fn introspection_clients_accept_the_active_and_refuse_the_rest() {
    let desk = Desk::new().await;
    let good = desk.reader().await;
    let narrow = desk.key("key_narrow", json!({"scopes": ["workflows:write"]})).await;
    let ended = desk.key("key_ended", json!({"scopes": ["*"]})).await;
    desk.revoke("key_ended").await;
    let far = desk.key("key_far", json!({"scopes": ["*"], "allowed_ips": ["203.0.113.0/24"]})).await;
    let asked = [good.as_str(), &narrow, &ended, &far, "toll_nonsense"];

    let answers = lines(desk.node("ask_introspect.mjs", &asked));
    let [active, narrow, inactive @ ..] = answers.as_slice() else { panic!("{answers:#?}") };
    let fields = ["active", "scope", "client_id", "sub", "token_type"].map(|field| active[field].clone());
    assert_eq!(json!(fields), json!([true, "workflows:read workflows:write", READER, "org_1", "Bearer"]));
    assert_eq!(narrow["scope"], "workflows:write");
    assert_eq!(inactive, [json!({"active": false}), json!({"active": false}), json!({"active": false})]);

    // Authlib decides by itself, with the scope that the resource needs.
    let told = json!(lines(desk.python("ask_introspect.py", &asked)));
    let refused = "InvalidTokenError";
    assert_eq!(told, json!(["accepted", "InsufficientScopeError", refused, refused, refused]));

    // A service that isn't who it says is told nothing.
    let mut stranger = desk.node("ask_introspect.mjs", &asked);
    stranger.env("TOLLHOUSE_KEY_ID", READER);
    let refused = run(stranger);
    let complaint = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && complaint.contains("WWWAuthenticateChallengeError"), "{complaint}");
    let mut stranger = desk.python("ask_introspect.py", &asked[..1]);
    stranger.env("TOLLHOUSE_KEY_ID", READER);
    assert_eq!(json!(lines(stranger)), json!(["HTTPStatusError"]));
}

/// Secrets of imported keys that form encoding changes, or that look like encoded ones.
const IMPORTED_SECRETS: [&str; 5] = [
    "imported+secret/with=signs+0123456789",
    "imported%2Bsecret%25that+looks+encoded",
    "imported 100% +20%zz secret, half encoded",
    "imported:secret:with:colons&and=more?",
    "%69mported",
];

/// OAuth clients disagree on the encoding of HTTP Basic: `oauth4webapi` form-encodes the secret, Authlib and curl
/// send it as it is. All of them are accepted, also with `client_secret_post`.
#[tokio::test]
async fn introspection_clients_may_send_an_imported_secret_encoded_or_not() {
    let desk = Desk::new().await;
    let reader = desk.reader().await;
    let file = desk.dir.path().join("keys.ndjson");
    let records: String = IMPORTED_SECRETS
        .iter()
        .enumerate()
        .map(|(index, secret)| {
            let hash: String = hash_secret(secret).iter().map(|byte| format!("{byte:02x}")).collect();
            let key = json!({"id": format!("key_imported-{index}"), "name": "n", "scopes": ["keys:verify"],
                "organization_id": "org_1", "hash": hash, "hash_encoding": "hex"});
            format!("{key}\n")
        })
        .collect();
    std::fs::write(&file, records).unwrap();
    let data = desk.dir.path().join("data");
    let import = Binary::run(&["import", file.to_str().unwrap(), "--data", data.to_str().unwrap()]);
    assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));

    let asked = [reader.as_str()];
    for (index, secret) in IMPORTED_SECRETS.into_iter().enumerate() {
        let id = format!("key_imported-{index}");
        let with_credentials = |mut command: Command| {
            command.env("TOLLHOUSE_KEY_ID", &id).env("TOLLHOUSE_KEY", secret);
            command
        };
        let node = lines(with_credentials(desk.node("ask_introspect.mjs", &asked)));
        assert_eq!(node[0]["client_id"], READER, "{secret}");
        for method in ["client_secret_basic", "client_secret_post"] {
            let mut authlib = with_credentials(desk.python("ask_introspect.py", &asked));
            authlib.env("TOKEN_ENDPOINT_AUTH_METHOD", method);
            assert_eq!(json!(lines(authlib)), json!(["accepted"]), "{secret} {method}");
        }
        let mut curl = desk.command("curl");
        curl.args(["-sS", "-u", &format!("{id}:{secret}"), "-d", &format!("token={reader}")]);
        curl.arg(format!("{}/v1/introspect", desk.tollhouse.url));
        assert_eq!(lines(curl)[0]["client_id"], READER, "{secret}");
    }
}

/// One of the guide's servers at work; it ends when this is dropped.
struct Service {
    child: Child,
    url: String,
}

impl Service {
    async fn start(mut command: Command, address: SocketAddr) -> Self {
        let child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut service = Self { child, url: format!("http://{address}") };
        let answers = async {
            while service.call("/workflows", None, [127, 0, 0, 1]).await.is_err() {
                assert_eq!(service.child.try_wait().unwrap(), None, "it ended");
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), answers).await.expect("it never answered");
        service
    }

    /// Its answer to a client at this address.
    async fn call(&self, path: &str, key: Option<&str>, from: [u8; 4]) -> reqwest::Result<Answer> {
        let request = http_from(from).get(format!("{}{path}", self.url));
        Client::try_send(match key {
            Some(key) => request.bearer_auth(key),
            None => request,
        })
        .await
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_middleware_for_express_lets_good_keys_pass() {
    let desk = Desk::new().await;
    let address = free_address();
    let shown = guide::block(GUIDE, "server.mjs");
    let listen = format!("app.listen({}, '{}');", address.port(), address.ip());
    let here = shown.replace("app.listen(3000, '127.0.0.1');", &listen);
    assert_ne!(here, shown);
    std::fs::write(desk.dir.path().join("server.mjs"), here).unwrap();
    let mut node = desk.command("node");
    node.arg("server.mjs");
    let service = Service::start(node, address).await;
    only_good_keys_pass(desk, service).await;
}

#[tokio::test]
async fn the_dependency_for_fastapi_lets_good_keys_pass() {
    let desk = Desk::new().await;
    let address = free_address();
    let mut uvicorn = desk.command(target("python/bin/uvicorn").to_str().unwrap());
    uvicorn.args(["server:app", "--log-level", "warning"]);
    uvicorn.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()]);
    let service = Service::start(uvicorn, address).await;
    only_good_keys_pass(desk, service).await;
}

async fn only_good_keys_pass(mut desk: Desk, service: Service) {
    let (here, there) = ([127, 0, 0, 9], [127, 0, 0, 8]);
    let good = desk.reader().await;
    let narrow = desk.key("key_narrow", json!({"scopes": ["workflows:write"]})).await;
    let near = desk.key("key_near", json!({"scopes": ["*"], "allowed_ips": ["127.0.0.9/32"]})).await;
    for (key, from, status, code) in [
        (None, here, 401, "UNAUTHENTICATED"),
        (Some(MALFORMED), here, 401, "MALFORMED"),
        (Some(narrow.as_str()), here, 403, "INSUFFICIENT_SCOPE"),
        (Some(&near), there, 403, "IP_NOT_ALLOWED"),
        (Some(&near), here, 200, ""),
        (Some(&good), here, 200, ""),
    ] {
        let answer = service.call("/workflows", key, from).await.unwrap();
        assert_eq!(answer.status, status, "{code}: {answer:?}");
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401, "{answer:?}");
        assert_eq!(answer.header("retry-after"), None, "{answer:?}");
        if status == 200 {
            assert_eq!(answer.json, json!({"organization": "org_1", "workflows": []}));
        } else {
            // Express answers {code}, FastAPI {detail}.
            assert!(answer.text.contains(&format!("\"{code}\"")), "{answer:?}");
        }
    }
    limits_are_passed_on(&desk, &service).await;
    desk.revoke(READER).await;
    assert_eq!(service.call("/workflows", Some(&good), here).await.unwrap().status, 401);
    desk.tollhouse.terminate();
    assert_eq!(service.call("/workflows", Some(&near), here).await.unwrap().status, 503, "it fails open");
}

/// A route is charged what it costs, and a client that has to wait learns for how long.
async fn limits_are_passed_on(desk: &Desk, service: &Service) {
    let key = async |id: &str, limit: Value| desk.key(id, json!({"scopes": ["*"], "limits": [limit]})).await;
    let window = key("key_window", json!({"limit": 12, "window_seconds": 86_400})).await;
    let total = key("key_total", json!({"limit": 11, "period": "total"})).await;
    let small = key("key_small", json!({"limit": 9, "window_seconds": 60})).await;
    let [list, export] = ["/workflows", "/workflows/export"];
    for (key, path, status, code, retry_after) in [
        (&window, export, 200, "", None),
        // 8 of 12 tokens are missing, which are refilled in 16 hours.
        (&window, export, 429, "RATE_LIMITED", Some(57_600)),
        (&window, list, 200, "", None),
        (&window, list, 200, "", None),
        (&window, list, 429, "RATE_LIMITED", Some(7_200)),
        // Waiting doesn't help.
        (&total, export, 200, "", None),
        (&total, export, 429, "QUOTA_EXCEEDED", None),
        (&total, list, 200, "", None),
        (&total, list, 429, "QUOTA_EXCEEDED", None),
        (&small, export, 429, "RATE_LIMITED", None),
    ] {
        let answer = service.call(path, Some(key), [127, 0, 0, 9]).await.unwrap();
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert!(answer.text.contains(code), "{answer:?}");
        let seconds = answer.header("retry-after").map(|seconds| seconds.parse::<u32>().unwrap());
        // The test takes some of the time.
        let is_close_to =
            |longest: u32| seconds.is_some_and(|seconds| (longest - 600..=longest).contains(&seconds));
        assert!(retry_after.map_or(seconds.is_none(), is_close_to), "{path}: {answer:?}");
    }
}
