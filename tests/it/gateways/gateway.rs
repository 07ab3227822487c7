//! The real gateways, started with what `docs/guides/gateways.md` says.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::GUIDE;
use crate::support::{free_address, guide};

/// How one is started. In all texts `{gateway}` is where it is to listen, `{ip}` and `{port}` the parts of that,
/// and `{dir}` its directory.
pub(super) struct Recipe {
    /// Below `target/`, where `scripts/test` puts it.
    program: &'static str,
    arguments: &'static [&'static str],
    /// The blocks of the guide that it reads.
    pub blocks: &'static [&'static str],
    /// The addresses and paths in these blocks that are others here.
    replaced: &'static [(&'static str, &'static str)],
    /// A file of the test's own: what keeps several of them, and a service that is installed, apart.
    around: Option<(&'static str, &'static str)>,
}

pub(super) const NGINX: Recipe = Recipe {
    program: "debian/usr/sbin/nginx",
    arguments: &["-p", "{dir}", "-e", "stderr", "-c", "{dir}/around.conf"],
    blocks: &["nginx.conf"],
    replaced: &[("listen 80", "listen {gateway}"), TOLLHOUSE, APPLICATION],
    around: Some((
        "around.conf",
        "daemon off; master_process off; pid {dir}/pid; error_log stderr;
        events {}
        http {
            access_log off;
            client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;
            uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
            include {dir}/nginx.conf;
        }",
    )),
};

/// Tollhouse below a path of a host whose other paths are another application's.
pub(super) const NGINX_PATH: Recipe = Recipe {
    blocks: &[],
    replaced: &[],
    around: Some((
        "around.conf",
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

pub(super) const CADDY: Recipe = Recipe {
    program: "debian/usr/bin/caddy",
    arguments: &["run", "--adapter", "caddyfile", "--config", "{dir}/around"],
    blocks: &["Caddyfile"],
    replaced: &[("api.example.com {", "http://{gateway} {\n\tbind {ip}"), TOLLHOUSE, APPLICATION],
    around: Some(("around", "{\n\tadmin off\n}\nimport {dir}/Caddyfile\n")),
};

pub(super) const HAPROXY: Recipe = Recipe {
    program: "debian/usr/sbin/haproxy",
    arguments: &["-db", "-f", "{dir}/haproxy.cfg"],
    blocks: &["haproxy.cfg", "tollhouse.lua"],
    replaced: &[("bind :80", "bind {gateway}"), ("/etc/haproxy", "{dir}"), TOLLHOUSE, APPLICATION],
    around: None,
};

pub(super) const TRAEFIK: Recipe = Recipe {
    program: "python/bin/traefik",
    arguments: &["--configFile={dir}/traefik.yml"],
    blocks: &["traefik.yml", "dynamic.yml"],
    replaced: &[
        ("\":80\"", "\"{gateway}\""),
        ("/etc/traefik", "{dir}"),
        ("api.example.com", "{ip}"),
        TOLLHOUSE,
        APPLICATION,
    ],
    around: None,
};

pub(super) const ENVOY: Recipe = Recipe {
    program: "python/bin/envoy",
    arguments: &["--disable-hot-restart", "--concurrency", "1", "-c", "{dir}/envoy.yaml"],
    blocks: &["envoy.yaml"],
    replaced: &[
        ("address: 0.0.0.0, port_value: 80 }", "address: {ip}, port_value: {port} }"),
        ("port_value: 8080", "port_value: {tollhouse port}"),
        ("port_value: 3000", "port_value: {application port}"),
    ],
    around: None,
};

const TOLLHOUSE: (&str, &str) = ("127.0.0.1:8080", "{tollhouse}");
const APPLICATION: (&str, &str) = ("127.0.0.1:3000", "{application}");

/// A gateway at work; it ends when this is dropped.
pub(super) struct Gateway {
    child: Child,
    pub url: String,
    dir: TempDir,
}

impl Gateway {
    /// Starts it; it may not listen yet.
    pub(super) fn start(recipe: &Recipe, tollhouse: SocketAddr, application: SocketAddr) -> Self {
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
        let mut texts: Vec<_> = recipe.blocks.iter().map(|name| guide::block(GUIDE, name)).collect();
        for (from, to) in recipe.replaced {
            assert!(
                texts.iter().any(|text| text.contains(from)),
                "docs/guides/gateways.md no longer says {from:?}"
            );
            texts.iter_mut().for_each(|text| *text = text.replace(from, &fill(to)));
        }
        for (name, text) in recipe.blocks.iter().zip(texts) {
            fs::write(dir.path().join(name), text).unwrap();
        }
        if let Some((name, text)) = recipe.around {
            fs::write(dir.path().join(name), fill(text)).unwrap();
        }
        let target = format!("{}/target", env!("CARGO_MANIFEST_DIR"));
        let program = format!("{target}/{}", recipe.program);
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(&program);
        command.args(recipe.arguments.iter().map(|argument| fill(argument)));
        command.current_dir(dir.path()).env("HOME", dir.path()).env_remove("XDG_CONFIG_HOME");
        // Debian's programs come without being installed, and so do their libraries.
        let libraries = format!("{target}/debian/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        command.env("LD_LIBRARY_PATH", libraries);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("{program}: {error}; scripts/test fetches it"));
        Self { child, url: format!("http://{gateway}"), dir }
    }

    /// Fails, with what it said, when it has ended.
    pub(super) fn assert_runs(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the gateway ended, {status}: {}", self.log());
        }
    }

    /// What it said.
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
