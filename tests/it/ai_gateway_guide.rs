//! The gateway of `docs/guides/ai-gateway.md` and its commands, run as they are shown, between real clients, the real
//! program and a model whose events the tests send one by one.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{ADMIN_KEY, Answer, Binary, DEADLINE, free_address, guide};

const GUIDE: &str = "guides/ai-gateway.md";
const GATEWAY: &str = "gateway.mjs";
/// The result that is shown for `usage.sh`.
const USAGE: &str = "usage.json";
/// The commands of the guide, in order.
const COMMANDS: [&str; 5] = ["setup.sh", "keys.sh", "start.sh", "ask.sh", "usage.sh"];
/// The address of the gateway that the guide shows.
const SHOWN: &str = "127.0.0.1:3000";
const MODEL_KEY: &str = "the key of the model";
/// The quota of the guide's organization.
const MONTH: u64 = 1_000_000;

/// Waits for a result, so that a test fails instead of hanging.
async fn soon<T>(description: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("timed out: {description}"))
}

/// A model with an OpenAI-compatible API.
struct Model(TcpListener);

/// A request to the model, and the response to it.
struct ModelCall {
    head: String,
    body: Value,
    connection: TcpStream,
}

impl Model {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }

    /// Waits for a request and begins the response.
    async fn accept(&self) -> ModelCall {
        soon("a request to the model", async {
            let (mut connection, _) = self.0.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(connection.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let lower = head.to_ascii_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            connection.read_exact(&mut body).await.unwrap();
            let response =
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            connection.write_all(response.as_bytes()).await.unwrap();
            ModelCall { head, body: serde_json::from_slice(&body).unwrap(), connection }
        })
        .await
    }
}

impl ModelCall {
    async fn send(&mut self, text: &str) {
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        soon("the gateway reads", self.connection.write_all(chunk.as_bytes())).await.unwrap();
    }

    /// Sends an event with a piece of the model's text.
    async fn say(&mut self, text: &str) {
        let event = json!({"choices": [{"delta": {"content": text}}], "usage": null});
        self.send(&format!("data: {event}\n\n")).await;
    }

    /// Sends the number of tokens, in two pieces, and ends the response.
    async fn end(mut self, tokens: u64) {
        let event = json!({"choices": [], "usage": {"prompt_tokens": 1, "total_tokens": tokens}});
        let text = format!("data: {event}\n\ndata: [DONE]\n\n");
        let (first, second) = text.split_at(text.len() / 2);
        self.send(first).await;
        self.send(second).await;
        self.send("").await;
    }
}

/// A running Tollhouse with the plan and the keys of the guide, and a directory with its programs.
struct Desk {
    dir: TempDir,
    address: SocketAddr,
    tollhouse: Binary,
    model: Model,
    client_key: String,
    gateway_key: String,
}

/// The guide's text with this address in place of the one that it shows.
fn at(address: SocketAddr, shown: &str, text: &str) -> String {
    let replaced = text.replace(shown, &address.to_string());
    assert_ne!(replaced, text, "{shown} is shown");
    replaced
}

/// The program of the guide, listening on this address.
fn program(address: SocketAddr) -> String {
    let code = guide::block(GUIDE, GATEWAY);
    let listen = format!("app.listen({}, '{}')", address.port(), address.ip());
    let here = code.replace("app.listen(3000, '127.0.0.1')", &listen);
    assert_ne!(here, code);
    here
}

fn serve(dir: &TempDir, address: SocketAddr) -> Binary {
    let data = dir.path().join("data");
    let mut command = Binary::command(&["--listen", &address.to_string(), "--data", data.to_str().unwrap()]);
    command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY);
    Binary::start(command)
}

impl Desk {
    /// Starts everything but the gateway.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let modules = guide::root().join("target/node/node_modules");
        assert!(modules.exists(), "no {}; scripts/test fetches it", modules.display());
        symlink(modules, dir.path().join("node_modules")).unwrap();
        let address = free_address();
        let tollhouse = serve(&dir, address);
        let model = Model::start().await;
        let keys = String::new();
        let mut desk = Self { dir, address, tollhouse, model, client_key: keys.clone(), gateway_key: keys };
        let [setup, keys] = ["setup.sh", "keys.sh"].map(|name| guide::block(GUIDE, name));
        let printed = desk.run(&format!("{setup}{keys}echo $CLIENT_KEY $GATEWAY_KEY")).await;
        let (client_key, gateway_key) = printed.trim().split_once(' ').unwrap();
        desk.client_key = client_key.to_owned();
        desk.gateway_key = gateway_key.to_owned();
        desk
    }

    /// Runs commands in a shell that ends at the first failure, of which there must be none. Returns what they printed.
    async fn run(&self, script: &str) -> String {
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", script]).current_dir(self.dir.path());
        bash.env("URL", &self.tollhouse.url).env("ADMIN", format!("Authorization: Bearer {ADMIN_KEY}"));
        bash.env("JSON", "Content-Type: application/json");
        bash.env("MODEL_URL", self.model.url()).env("MODEL_KEY", MODEL_KEY);
        let output = tokio::task::spawn_blocking(move || bash.output().unwrap());
        let output = soon("the commands end", output).await.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && errors.is_empty(), "{printed}{errors}");
        printed
    }

    async fn start_gateway(&self) -> Gateway {
        let address = free_address();
        std::fs::write(self.dir.path().join(GATEWAY), program(address)).unwrap();
        let mut node = Command::new("node");
        node.arg(GATEWAY).current_dir(self.dir.path()).stderr(Stdio::piped());
        node.env("TOLLHOUSE_URL", &self.tollhouse.url).env("TOLLHOUSE_KEY", &self.gateway_key);
        node.env("MODEL_URL", self.model.url()).env("MODEL_KEY", MODEL_KEY);
        let mut child = node.spawn().unwrap();
        let (sender, log) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let gateway = Gateway { child, log, url: format!("http://{address}/v1/chat/completions") };
        let answers = async {
            while reqwest::get(&gateway.url).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        soon("the gateway starts", answers).await;
        gateway
    }

    /// The units that are left of the month, as the code of the verification tells.
    async fn month(&self) -> (String, u64) {
        let admin = self.tollhouse.admin();
        let body = json!({"key_id": "key_assistant", "costs": {"tokens": 0}});
        let answer = admin.send(admin.request_at_root(Method::POST, "/v1/keys/verify").json(&body)).await;
        let limits = answer.data()["limits"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
        let month = limits.iter().find(|limit| limit["period"] == "month").unwrap();
        (answer.data()["code"].as_str().unwrap().to_owned(), month["remaining"].as_u64().unwrap())
    }

    /// Waits until this number of tokens is charged. Fails if more are.
    async fn wait_until_charged(&self, tokens: u64) {
        soon("the report is counted", async {
            loop {
                let charged = MONTH - self.month().await.1;
                assert!(charged <= tokens, "{charged} tokens are charged, not {tokens}");
                if charged == tokens {
                    return;
                }
            }
        })
        .await;
    }
}

/// The guide's gateway; it ends when this is dropped.
struct Gateway {
    child: Child,
    log: mpsc::Receiver<String>,
    url: String,
}

impl Gateway {
    async fn ask(&self, key: Option<&str>) -> Response {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "Say hello."}]});
        let request = reqwest::Client::new().post(&self.url).json(&body);
        let request = match key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        soon("the gateway answers", request.send()).await.unwrap()
    }

    /// Asks, and returns the status, the code and `Retry-After` of a refusal.
    async fn refusal(&self, key: Option<&str>) -> (u16, String, Option<u64>) {
        let response = self.ask(key).await;
        let status = response.status().as_u16();
        let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap());
        let retry_after = retry_after.map(|seconds| seconds.parse().unwrap());
        let body: Value = response.json().await.unwrap();
        (status, body["error"]["code"].as_str().unwrap().to_owned(), retry_after)
    }

    fn wait_for_line(&self, part: &str) {
        loop {
            let line = self.log.recv_timeout(DEADLINE);
            if line.unwrap_or_else(|_| panic!("no line has {part:?}")).contains(part) {
                return;
            }
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads from a response until it contains this text.
async fn read_until(response: &mut Response, text: &str) {
    let mut read = String::new();
    while !read.contains(text) {
        let chunk = soon("the client reads", response.chunk()).await.unwrap();
        read.push_str(std::str::from_utf8(&chunk.unwrap_or_else(|| panic!("it ended: {read}"))).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_guide_show_what_was_spent() {
    let desk = Desk::new().await;
    for (name, _) in guide::blocks(GUIDE) {
        let has_test =
            name.is_empty() || COMMANDS.contains(&name.as_str()) || [GATEWAY, USAGE].contains(&name.as_str());
        assert!(has_test, "no test runs the block {name:?}");
    }
    let address = free_address();
    std::fs::write(desk.dir.path().join(GATEWAY), program(address)).unwrap();
    let keys = format!("CLIENT_KEY={} GATEWAY_KEY={}\n", desk.client_key, desk.gateway_key);
    let start = format!("trap 'kill $!' EXIT\n{}", guide::block(GUIDE, "start.sh"));
    let ask = at(address, SHOWN, &guide::block(GUIDE, "ask.sh"));
    let usage = guide::block(GUIDE, "usage.sh");
    // The client's response ends just before the report is sent.
    let recorded = format!("$({{ {usage} }} | tail -n 1)");
    let counted = format!("until [ \"{recorded}\" != \"$before\" ]; do :; done\n");
    let script = format!(
        "{keys}before={recorded}\n{start}{ask}printf '\\n=== end of events ===\\n'\n{counted}{usage}"
    );
    let model = async {
        let mut call = desk.model.accept().await;
        assert_eq!(call.body["stream_options"], json!({"include_usage": true}), "{}", call.body);
        assert_eq!(call.body["messages"][0]["content"], "Say hello.");
        let head = call.head.to_ascii_lowercase();
        assert!(head.contains(&format!("authorization: bearer {}", MODEL_KEY.to_lowercase())), "{head}");
        call.say("Hello").await;
        call.say(", world!").await;
        call.end(1250).await;
    };
    let (printed, ()) = tokio::join!(desk.run(&script), model);
    let (events, usage) = printed.split_once("\n=== end of events ===\n").unwrap();
    assert!(events.contains("\"Hello\"") && events.trim_end().ends_with("data: [DONE]"), "{events}");
    let values = |text: &str| -> Vec<Value> {
        serde_json::Deserializer::from_str(text).into_iter().map(Result::unwrap).collect()
    };
    assert_eq!(values(usage), values(&guide::block(GUIDE, USAGE)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_disconnects_is_charged_and_one_in_debt_waits() {
    let desk = Desk::new().await;
    let gateway = desk.start_gateway().await;
    let key = Some(desk.client_key.as_str());
    let (mut response, mut call) = tokio::join!(gateway.ask(key), desk.model.accept());
    call.say("Hello").await;
    read_until(&mut response, "Hello").await;
    drop(response);
    // More than fits into the buffers of a connection.
    for _ in 0..8 {
        call.say(&"more ".repeat(200_000)).await;
    }
    assert_eq!(desk.month().await.1, MONTH, "nothing is known of the tokens yet");
    call.end(50_000).await;
    desk.wait_until_charged(50_000).await;

    // The key's 20,000 tokens a minute are exceeded by 30,000, which are refilled in 90 seconds.
    let (status, code, retry_after) = gateway.refusal(key).await;
    assert_eq!((status, code.as_str()), (429, "RATE_LIMITED"));
    let retry_after = retry_after.unwrap();
    assert!((30..=90).contains(&retry_after), "{retry_after}");
    assert_eq!(desk.month().await.1, MONTH - 50_000, "a refused request is charged nothing");

    // Another key of the organization has no debt. What it spends beyond the month is owed by all keys.
    let body = json!({"organization_id": "org_initech", "name": "n", "scopes": ["chat:write"]});
    let created = desk.tollhouse.admin().post("/api-keys", body).await;
    let other = created.data()["key"].as_str().unwrap();
    let (response, call) = tokio::join!(gateway.ask(Some(other)), desk.model.accept());
    call.end(MONTH).await;
    assert!(soon("the response ends", response.text()).await.unwrap().contains("[DONE]"));
    desk.wait_until_charged(MONTH).await;
    for key in [key, Some(other)] {
        let (status, code, retry_after) = gateway.refusal(key).await;
        assert_eq!((status, code.as_str()), (429, "QUOTA_EXCEEDED"));
        assert!(retry_after.unwrap() > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_is_repeated_until_it_is_acknowledged_before_the_gateway_exits() {
    let mut desk = Desk::new().await;
    let mut gateway = desk.start_gateway().await;
    let key = Some(desk.client_key.as_str());
    let (mut response, mut call) = tokio::join!(gateway.ask(key), desk.model.accept());
    call.say("Hello").await;
    read_until(&mut response, "Hello").await;
    assert_eq!(desk.tollhouse.terminate(), Some(0));
    call.end(1250).await;
    read_until(&mut response, "[DONE]").await;
    gateway.wait_for_line("not acknowledged: report ");
    assert_eq!(gateway.refusal(key).await.0, 503, "nothing is let through unchecked");
    let id = gateway.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    gateway.wait_for_line("not acknowledged: report ");
    assert_eq!(gateway.child.try_wait().unwrap(), None);

    desk.tollhouse = serve(&desk.dir, desk.address);
    let exit = tokio::task::spawn_blocking(move || gateway.child.wait().unwrap().code());
    assert_eq!(soon("the gateway exits", exit).await.unwrap(), Some(0));
    assert_eq!(desk.month().await, ("VALID".to_owned(), MONTH - 1250));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_permission_and_failing_models_are_answered_as_such() {
    let desk = Desk::new().await;
    let gateway = desk.start_gateway().await;
    let admin = desk.tollhouse.admin();
    let create = async |scope: &str| -> Answer {
        let body = json!({"organization_id": "org_initech", "name": "n", "scopes": [scope]});
        admin.post("/api-keys", body).await
    };
    let reader = create("workflows:read").await;
    let revoked = create("chat:write").await;
    let path = format!("/api-keys/{}", revoked.data()["id"].as_str().unwrap());
    assert_eq!(admin.delete(&path).await.status, 200);
    for (key, status, code) in [
        (None, 401, "UNAUTHENTICATED"),
        (Some("toll_nonsense"), 401, "NOT_FOUND"),
        (revoked.data()["key"].as_str(), 401, "REVOKED"),
        (reader.data()["key"].as_str(), 403, "INSUFFICIENT_SCOPE"),
    ] {
        assert_eq!(gateway.refusal(key).await, (status, code.to_owned(), None));
    }
    assert_eq!(desk.month().await.1, MONTH);

    // A response that breaks off: the events that arrived are charged.
    let key = Some(desk.client_key.as_str());
    let (mut response, mut call) = tokio::join!(gateway.ask(key), desk.model.accept());
    for text in ["one", "two", "three"] {
        call.say(text).await;
        read_until(&mut response, text).await;
    }
    drop(call);
    assert!(soon("the response ends", response.text()).await.is_err(), "the client notices");
    gateway.wait_for_line("the model's response broke off");
    desk.wait_until_charged(3).await;
    drop(desk.model);
    let refused = gateway.refusal(key).await;
    assert_eq!(refused, (502, "MODEL_UNAVAILABLE".to_owned(), None));
}
