//! The real gateways, started with the configurations in `docs/guides/gateways.md`.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::GUIDE;
use crate::support::{free_address, guide};

/// How a gateway is started. In all texts `{gateway}` stands for its listen address, `{ip}` and `{port}` for the
/// parts of that address, and `{dir}` for its directory.
pub(super) struct GatewayConfig {
    /// Path below `target/`, where `scripts/test` installs it.
    program: &'static str,
    arguments: &'static [&'static str],
    /// The guide's configuration blocks that it reads.
    pub blocks: &'static [&'static str],
    /// Replacements for addresses and paths in these blocks: `(from, to)`.
    replacements: &'static [(&'static str, &'static str)],
    /// An extra configuration file of the test, `(name, text)`: keeps it separate from other instances and from an
    /// installed service.
    wrapper: Option<(&'static str, &'static str)>,
    /// True if responses of the application reach the client with the limits of its key.
    pub passes_limits: bool,
}

pub(super) const NGINX: GatewayConfig = GatewayConfig {
    program: "debian/usr/sbin/nginx",
    arguments: &["-p", "{dir}", "-e", "stderr", "-c", "{dir}/wrapper.conf"],
    blocks: &["nginx.conf"],
    replacements: &[("listen 80", "listen {gateway}"), TOLLHOUSE, APPLICATION],
    wrapper: Some((
        "wrapper.conf",
        "daemon off; master_process off; pid {dir}/pid; error_log stderr;
        events {}
        http {
            access_log off;
            client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
            uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
            include {dir}/nginx.conf;
        }",
    )),
    passes_limits: true,
};

/// nginx that serves Tollhouse below a path; the host's other paths belong to the application.
pub(super) const NGINX_PATH: GatewayConfig = GatewayConfig {
    blocks: &[],
    replacements: &[],
    wrapper: Some((
        "wrapper.conf",
        "daemon off; master_process off; pid {dir}/pid; error_log stderr;
        events {}
        http {
            access_log off;
            client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
            uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
            server {
                listen {gateway};
                location /tollhouse/ { proxy_pass http://{tollhouse}/; }
                location / { proxy_pass http://{application}; }
            }
        }",
    )),
    ..NGINX
};

/// nginx that compresses responses of any size.
pub(super) const NGINX_GZIP: GatewayConfig = GatewayConfig {
    blocks: &[],
    replacements: &[],
    wrapper: Some((
        "wrapper.conf",
        "daemon off; master_process off; pid {dir}/pid; error_log stderr;
        events {}
        http {
            access_log off;
            client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
            uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
            gzip on; gzip_types *; gzip_min_length 1;
            server {
                listen {gateway};
                location / { proxy_pass http://{tollhouse}; }
            }
        }",
    )),
    ..NGINX
};

pub(super) const CADDY: GatewayConfig = GatewayConfig {
    program: "debian/usr/bin/caddy",
    arguments: &["run", "--adapter", "caddyfile", "--config", "{dir}/wrapper"],
    blocks: &["Caddyfile"],
    replacements: &[("api.example.com {", "http://{gateway} {\n\tbind {ip}"), TOLLHOUSE, APPLICATION],
    wrapper: Some(("wrapper", "{\n\tadmin off\n}\nimport {dir}/Caddyfile\n")),
    passes_limits: true,
};

pub(super) const HAPROXY: GatewayConfig = GatewayConfig {
    program: "debian/usr/sbin/haproxy",
    arguments: &["-db", "-f", "{dir}/haproxy.cfg"],
    blocks: &["haproxy.cfg", "tollhouse.lua"],
    replacements: &[("bind :80", "bind {gateway}"), ("/etc/haproxy", "{dir}"), TOLLHOUSE, APPLICATION],
    wrapper: None,
    passes_limits: true,
};

pub(super) const TRAEFIK: GatewayConfig = GatewayConfig {
    program: "python/bin/traefik",
    arguments: &["--configFile={dir}/traefik.yml"],
    blocks: &["traefik.yml", "dynamic.yml"],
    replacements: &[
        ("\":80\"", "\"{gateway}\""),
        ("/etc/traefik", "{dir}"),
        ("api.example.com", "{ip}"),
        TOLLHOUSE,
        APPLICATION,
    ],
    wrapper: None,
    passes_limits: false,
};

pub(super) const ENVOY: GatewayConfig = GatewayConfig {
    program: "python/bin/envoy",
    arguments: &["--disable-hot-restart", "--concurrency", "1", "-c", "{dir}/envoy.yaml"],
    blocks: &["envoy.yaml"],
    replacements: &[
        ("address: 0.0.0.0, port_value: 80 }", "address: {ip}, port_value: {port} }"),
        ("port_value: 8080", "port_value: {tollhouse port}"),
        ("port_value: 3000", "port_value: {application port}"),
    ],
    wrapper: None,
    passes_limits: true,
};

const TOLLHOUSE: (&str, &str) = ("127.0.0.1:8080", "{tollhouse}");
const APPLICATION: (&str, &str) = ("127.0.0.1:3000", "{application}");

/// A running gateway; dropping it kills the process.
pub(super) struct Gateway {
    child: Child,
    pub url: String,
    dir: TempDir,
}

impl Gateway {
    /// Starts the process, which may not listen yet when this returns.
    pub(super) fn start(config: &GatewayConfig, tollhouse: SocketAddr, application: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let gateway = free_address();
        let fill = |text: &str| {
            text.replace("{dir}", dir.path().to_str().unwrap())
                .replace("{gateway}", &gateway.to_string())
                .replace("{ip}", &gateway.ip().to_string())
                .replace("{port}", &gateway.port().to_string())
                .replace("{tollhouse}", &tollhouse.to_string())
                .replace("{tollhouse port}", &tollhouse.port().to_string())
                .replace("{application}", &application.to_string())
                .replace("{application port}", &application.port().to_string())
        };
        let mut texts: Vec<_> = config.blocks.iter().map(|name| guide::block(GUIDE, name)).collect();
        for (from, to) in config.replacements {
            assert!(
                texts.iter().any(|text| text.contains(from)),
                "docs/guides/gateways.md no longer contains {from:?}"
            );
            texts.iter_mut().for_each(|text| *text = text.replace(from, &fill(to)));
        }
        for (name, text) in config.blocks.iter().zip(texts) {
            fs::write(dir.path().join(name), text).unwrap();
        }
        if let Some((name, text)) = config.wrapper {
            fs::write(dir.path().join(name), fill(text)).unwrap();
        }
        let target = format!("{}/target", env!("CARGO_MANIFEST_DIR"));
        let program = format!("{target}/{}", config.program);
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(&program);
        command.args(config.arguments.iter().map(|argument| fill(argument)));
        command.current_dir(dir.path()).env("HOME", dir.path()).env_remove("XDG_CONFIG_HOME");
        // Debian's programs and their libraries are unpacked below `target/`, not installed.
        let libraries = format!("{target}/debian/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        command.env("LD_LIBRARY_PATH", libraries);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; scripts/test fetches it"));
        Self { child, url: format!("http://{gateway}"), dir }
    }

    /// Waits until a GET request for the path, which needs no key, is answered 200.
    pub(super) async fn wait_until_healthy(&mut self, path: &str) {
        let url = format!("{}{path}", self.url);
        let waiting = async {
            loop {
                self.assert_is_running();
                if reqwest::get(&url).await.is_ok_and(|answer| answer.status() == 200) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        assert!(waited.is_ok(), "the gateway did not answer: {}", self.log());
    }

    /// Fails with the gateway's log if the process has ended.
    pub(super) fn assert_is_running(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the gateway ended, {status}: {}", self.log());
        }
    }

    /// The output of the process.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
