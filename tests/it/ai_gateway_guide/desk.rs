//! What the tests run: the real program, a model and the gateway of the guide.

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

use crate::support::{ADMIN_KEY, Binary, DEADLINE, free_address, guide};

pub(super) const GUIDE: &str = "guides/ai-gateway.md";
pub(super) const GATEWAY: &str = "gateway.mjs";
pub(super) const MODEL_KEY: &str = "the key of the model";
/// The quota of the guide's organization.
pub(super) const MONTH: u64 = 1_000_000;

/// Waits for a result, so that a test fails instead of hanging.
pub(super) async fn soon<T>(description: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("timed out: {description}"))
}

/// A model with an OpenAI-compatible API.
pub(super) struct Model(TcpListener);

/// A request to the model, and the response to it.
pub(super) struct ModelCall {
    pub(super) head: String,
    pub(super) body: Value,
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
    pub(super) async fn accept(&self) -> ModelCall {
        self.accept_with(200).await
    }

    /// Waits for a request and begins a response with this status.
    pub(super) async fn accept_with(&self, status: u16) -> ModelCall {
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
            let response = format!(
                "HTTP/1.1 {status} \r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            );
            connection.write_all(response.as_bytes()).await.unwrap();
            ModelCall { head, body: serde_json::from_slice(&body).unwrap(), connection }
        })
        .await
    }
}

impl ModelCall {
    pub(super) async fn send(&mut self, text: &str) {
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        soon("the gateway reads", self.connection.write_all(chunk.as_bytes())).await.unwrap();
    }

    /// Sends an event with a piece of the model's text.
    pub(super) async fn say(&mut self, text: &str) {
        let event = json!({"choices": [{"delta": {"content": text}}], "usage": null});
        self.send(&format!("data: {event}\n\n")).await;
    }

    /// Sends the number of tokens, in two pieces, and ends the response.
    pub(super) async fn end(mut self, tokens: u64) {
        let event = json!({"choices": [], "usage": {"prompt_tokens": 1, "total_tokens": tokens}});
        let text = format!("data: {event}\n\ndata: [DONE]\n\n");
        let (first, second) = text.split_at(text.len() / 2);
        self.send(first).await;
        self.send(second).await;
        self.finish().await;
    }

    /// Ends the response and the connection.
    pub(super) async fn finish(mut self) {
        self.send("").await;
    }
}

/// A running Tollhouse with the plan and the keys of the guide, and a directory with its programs.
pub(super) struct Desk {
    pub(super) dir: TempDir,
    pub(super) address: SocketAddr,
    pub(super) tollhouse: Binary,
    pub(super) model: Model,
    pub(super) client_key: String,
    pub(super) gateway_key: String,
}

/// The program of the guide, listening on this address.
pub(super) fn program(address: SocketAddr) -> String {
    let code = guide::block(GUIDE, GATEWAY);
    let listen = format!("app.listen({}, '{}')", address.port(), address.ip());
    let here = code.replace("app.listen(3000, '127.0.0.1')", &listen);
    assert_ne!(here, code);
    here
}

pub(super) fn serve(dir: &TempDir, address: SocketAddr) -> Binary {
    let data = dir.path().join("data");
    let mut command = Binary::command(&["--listen", &address.to_string(), "--data", data.to_str().unwrap()]);
    command.env("TOLLHOUSE_ADMIN_KEY", ADMIN_KEY);
    Binary::start(command)
}

impl Desk {
    /// Starts everything but the gateway.
    pub(super) async fn new() -> Self {
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
    pub(super) async fn run(&self, script: &str) -> String {
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

    pub(super) async fn start_gateway(&self) -> Gateway {
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
    pub(super) async fn month(&self) -> (String, u64) {
        let admin = self.tollhouse.admin();
        let body = json!({"key_id": "key_assistant", "costs": {"tokens": 0}});
        let answer = admin.send(admin.request_at_root(Method::POST, "/v1/keys/verify").json(&body)).await;
        let limits = answer.data()["limits"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
        let month = limits.iter().find(|limit| limit["period"] == "month").unwrap();
        (answer.data()["code"].as_str().unwrap().to_owned(), month["remaining"].as_u64().unwrap())
    }

    /// Waits until this number of tokens is charged. Fails if more are.
    pub(super) async fn wait_until_charged(&self, tokens: u64) {
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
pub(super) struct Gateway {
    pub(super) child: Child,
    log: mpsc::Receiver<String>,
    pub(super) url: String,
}

impl Gateway {
    pub(super) async fn ask(&self, key: Option<&str>) -> Response {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "Say hello."}]});
        let request = reqwest::Client::new().post(&self.url).json(&body);
        let request = match key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        soon("the gateway answers", request.send()).await.unwrap()
    }

    /// Asks, and returns the status, the code and `Retry-After` of a refusal.
    pub(super) async fn refusal(&self, key: Option<&str>) -> (u16, String, Option<u64>) {
        let response = self.ask(key).await;
        let status = response.status().as_u16();
        let retry_after = response.headers().get("retry-after").map(|value| value.to_str().unwrap());
        let retry_after = retry_after.map(|seconds| seconds.parse().unwrap());
        let body: Value = response.json().await.unwrap();
        (status, body["error"]["code"].as_str().unwrap().to_owned(), retry_after)
    }

    pub(super) fn wait_for_line(&self, part: &str) {
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
pub(super) async fn read_until(response: &mut Response, text: &str) {
    let mut read = String::new();
    while !read.contains(text) {
        let chunk = soon("the client reads", response.chunk()).await.unwrap();
        read.push_str(std::str::from_utf8(&chunk.unwrap_or_else(|| panic!("it ended: {read}"))).unwrap());
    }
}
