//! The services of the guides for Go and Rust, compiled as they are shown.

use std::path::Path;

use toml_edit::{DocumentMut, Item};

use super::{Desk, Service, only_good_keys_pass, run, target};
use crate::support::{free_address, guide};

const GO_GUIDE: &str = "guides/verify-keys-go.md";
const RUST_GUIDE: &str = "guides/verify-keys-rust.md";

#[tokio::test]
async fn the_middleware_for_axum_admits_valid_keys() {
    assert_eq!(guide::block(RUST_GUIDE, "main.rs"), include_str!("../../services/axum.rs"));
    let desk = Desk::new().await;
    let address = free_address();
    let program = Path::new(env!("CARGO_BIN_EXE_tollhouse")).with_file_name("examples").join("axum_service");
    assert!(program.exists(), "no {}; cargo build --example axum_service", program.display());
    let mut service = desk.command(program.to_str().unwrap());
    service.env("LISTEN", address.to_string());
    let service = Service::start(service, address).await;
    only_good_keys_pass(desk, service).await;
}

/// The versions that the guide names are those that the program is compiled with.
#[test]
fn the_guide_for_rust_names_the_versions_of_its_libraries() {
    let shown: DocumentMut = guide::block(RUST_GUIDE, "Cargo.toml").parse().unwrap();
    let own: DocumentMut = include_str!("../../../Cargo.toml").parse().unwrap();
    let version = |dependency: &Item| {
        let version = dependency.as_str().or_else(|| dependency.get("version")?.as_str());
        version.unwrap().to_owned()
    };
    let shown = shown["dependencies"].as_table().unwrap();
    assert!(shown.len() > 3, "{shown}");
    for (name, dependency) in shown {
        let used = own["dev-dependencies"].get(name).or_else(|| own["dependencies"].get(name)).expect(name);
        assert_eq!(version(dependency), version(used), "{name}");
    }
}

#[tokio::test]
async fn the_middleware_for_go_admits_valid_keys() {
    let desk = Desk::new().await;
    let address = free_address();
    let shown = guide::block(GO_GUIDE, "server.go");
    let here = shown.replace("\"127.0.0.1:3000\"", &format!("\"{address}\""));
    assert_ne!(here, shown);
    std::fs::write(desk.dir.path().join("server.go"), here).unwrap();
    let go = target("python/bin/go");
    let mut build = desk.command(go.to_str().unwrap());
    // What was compiled once is used again. Nothing is downloaded: the program uses the standard library.
    build.args(["build", "-o", "service", "server.go"]);
    build.env("GOCACHE", target("python").join("go-cache")).env("GOTOOLCHAIN", "local").env("GOPROXY", "off");
    let built = run(build);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let service = desk.command(desk.dir.path().join("service").to_str().unwrap());
    let service = Service::start(service, address).await;
    only_good_keys_pass(desk, service).await;
}
