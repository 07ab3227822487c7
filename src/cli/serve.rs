//! `tollhouse serve`: opens the database, creates the first key, serves requests, and stops without data loss
//! on SIGTERM or SIGINT.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::task::TaskTracker;

use super::dev;
use crate::app::App;
use crate::clock::Clock;
use crate::config::EffectiveConfig;
use crate::error::{Code, Error, Result};
use crate::http::tls::Tls;
use crate::http::workers::Workers;
use crate::http::{metrics, routes, server};
use crate::service::settings::ShadowedSetting;
use crate::service::{api_keys, housekeeping, retention, settings, usage};
use crate::store::db;
use crate::telemetry::{log_output, machine};
use crate::verify::secret::{self, Secret};

/// The environment variable that contains the first admin key.
const ADMIN_KEY_VARIABLE: &str = "TOLLHOUSE_ADMIN_KEY";
/// The environment variable that names a file containing the first admin key.
const ADMIN_KEY_FILE_VARIABLE: &str = "TOLLHOUSE_ADMIN_KEY_FILE";

/// The data with which the server fills an empty database.
pub(crate) enum InitialData {
    /// Only the first admin key, which is written to this file.
    FirstKey(Option<PathBuf>),
    /// A month of sample data.
    Sample,
}

/// Serves requests until the process receives SIGTERM or SIGINT.
pub(crate) async fn run(effective: EffectiveConfig, initial_data: InitialData) -> Result<()> {
    let EffectiveConfig { config, setting_sources, .. } = effective;
    // Signal handlers are registered first, so that a signal during startup isn't lost.
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::internal)?;
    let hangup = signal(SignalKind::hangup()).map_err(Error::internal)?;
    let tls = Tls::load(&config.tls)?;
    let dir = config.database.dir.clone();
    let _lock = db::lock_data_dir(&dir)?;
    let listener = TcpListener::bind(config.http.listen).await;
    let listener = listener.map_err(|error| Error::internal(format!("{}: {error}", config.http.listen)))?;
    let address = listener.local_addr().map_err(Error::internal)?;
    let metrics = match config.metrics.listen {
        None => None,
        Some(address) => {
            let listener = TcpListener::bind(address).await;
            Some(listener.map_err(|error| Error::internal(format!("metrics.listen: {address}: {error}")))?)
        }
    };
    let limits = server::ConnectionLimits {
        max_connections: config.http.max_connections,
        header_timeout: config.http.header_timeout,
        write_timeout: config.http.write_timeout,
        drain_timeout: config.http.drain_timeout,
    };
    let drain_timeout = config.http.drain_timeout;
    if let Some(memory_limit_bytes) = machine::memory_limit_bytes() {
        let max_cache_bytes = config.cache.effective_max_bytes(Some(memory_limit_bytes));
        let request_memory_bytes = config.http.effective_request_memory_bytes(Some(memory_limit_bytes));
        tracing::info!(memory_limit_bytes, max_cache_bytes, request_memory_bytes, "memory is limited");
    }
    let app = App::open(config, Clock::system()).await?;
    for ShadowedSetting { setting, origin, named, stored } in
        settings::find_shadowed_settings(&app, &setting_sources).await?
    {
        tracing::warn!(
            setting,
            origin,
            named,
            stored,
            "configured initial value ignored: the database has another value; use PATCH /admin/v1/config to \
             change it"
        );
    }
    // `--dev` prints the addresses of console and docs itself.
    let names_pages = matches!(initial_data, InitialData::FirstKey(_)) && std::io::stderr().is_terminal();
    let first_key = match initial_data {
        InitialData::FirstKey(file) => {
            create_first_key(&app, &file.unwrap_or_else(|| dir.join("admin.key"))).await?
        }
        InitialData::Sample => Some(dev::seed(&app, address).await?),
    };
    housekeeping::log_audit_head(&app, "start").await;

    let tasks = TaskTracker::new();
    let workers = Workers::start()?;
    let routes = routes::filter(app.clone(), tasks.clone())?;
    let stopping = app.clone();
    let shutdown = async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        stopping.start_draining();
    };
    if let Some(address) = metrics.as_ref().and_then(|metrics| metrics.local_addr().ok()) {
        log_output::print_text(&format!("metrics on http://{address}/metrics"));
    }
    // curl rejects a certificate that was issued for a name if the URL has an address.
    let (scheme, trust) = if tls.is_some() { ("https", "-k ") } else { ("http", "") };
    log_output::print_text(&format!("listening on {scheme}://{address}"));
    if names_pages {
        let local = reachable_address(address);
        log_output::print_text(&format!(
            "  console  {scheme}://{local}/console/\n  docs     {scheme}://{local}/docs/"
        ));
    }
    if let Some(shown) = first_key {
        log_output::print_text(&format!(
            "try:\n  curl {trust}-H \"Authorization: Bearer {shown}\" {scheme}://{address}/admin/v1/whoami"
        ));
    }
    // Notifies systemd that the server is ready. Without systemd, the call has no effect.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let cut = tokio::select! {
        cut = server::serve(listener, tls.clone(), routes, &limits, &workers, shutdown) => cut,
        () = metrics::serve(&app, metrics, &workers) => 0,
        () = reload_certificate_on_sighup(hangup, tls.as_deref()) => 0,
        () = housekeeping::run(&app) => 0,
        () = usage::run(&app) => 0,
        () = retention::run(&app) => 0,
    };
    if cut > 0 {
        tracing::warn!(cut, "closed connections that did not end within the drain timeout");
    }
    tasks.close();
    if tokio::time::timeout(drain_timeout, tasks.wait()).await.is_err() {
        tracing::warn!("abandoned calls that did not end within the drain timeout");
    }
    let closed = app.close().await;
    let stats = app.db.writer_totals();
    tracing::info!(mutations = stats.mutations, commits = stats.commits, "stopped");
    closed
}

/// Returns an address at which this machine reaches the listener: the loopback address if the listener is
/// bound to the unspecified address (`0.0.0.0`), which browsers reject.
fn reachable_address(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

/// Reloads the TLS certificate on each SIGHUP, until this future is dropped.
async fn reload_certificate_on_sighup(mut hangup: Signal, tls: Option<&Tls>) {
    while hangup.recv().await.is_some() {
        match tls.map(Tls::reload) {
            None => tracing::info!(signal = "SIGHUP", "nothing to reload: TLS is off"),
            Some(Ok(())) => {
                tracing::info!(signal = "SIGHUP", "certificate reloaded");
            }
            Some(Err(error)) => {
                let problem = &*error.message;
                tracing::error!(signal = "SIGHUP", problem, "keeping the previous certificate");
            }
        }
    }
    std::future::pending().await
}

/// Creates the first admin key of an empty database. Returns a shell expression for that key, which the
/// server prints in a sample `curl` command, or `None` if a key existed already.
async fn create_first_key(app: &App, file: &Path) -> Result<Option<String>> {
    if api_keys::any_key_exists(app).await? {
        return Ok(None);
    }
    if let Some((secret, shown)) = key_from_environment(&app.settings.get().await?.checked_prefixes)? {
        api_keys::create_first_key(app, secret).await?;
        return Ok(Some(shown));
    }
    let prefix = app.settings.get().await?.settings.keys.prefix.clone();
    let secret = Secret::generate(app.system_random(), &prefix)?;
    let shown = if std::io::stderr().is_terminal() {
        None
    } else {
        // The file is written before the database: if the key were stored but its secret lost, nobody could
        // authenticate.
        write_private_file(file, secret.reveal())?;
        Some(file)
    };
    if api_keys::create_first_key(app, secret.clone()).await?.is_none() {
        return Ok(None);
    }
    match shown {
        Some(file) => {
            let path = file.display().to_string();
            tracing::info!(path, "first admin key written to file; store it safely and delete the file");
            Ok(Some(format!("$(cat '{path}')")))
        }
        None => {
            log_output::print_text(&format!("first admin key, shown only once:\n  {}", secret.reveal()));
            Ok(Some(secret.reveal().to_owned()))
        }
    }
}

/// Reads the first admin key from the environment. Returns the secret and a shell expression for it.
pub(super) fn key_from_environment(checked_prefixes: &[String]) -> Result<Option<(Secret, String)>> {
    let given = match (std::env::var(ADMIN_KEY_VARIABLE), std::env::var(ADMIN_KEY_FILE_VARIABLE)) {
        (Ok(key), _) => Some((key, ADMIN_KEY_VARIABLE, format!("${ADMIN_KEY_VARIABLE}"))),
        (Err(_), Ok(path)) => {
            let text = std::fs::read_to_string(&path);
            let text =
                text.map_err(|error| invalid_request(format!("{ADMIN_KEY_FILE_VARIABLE}: {path}: {error}")))?;
            Some((text.trim_end().to_owned(), ADMIN_KEY_FILE_VARIABLE, format!("$(cat '{path}')")))
        }
        (Err(_), Err(_)) => None,
    };
    let Some((key, source, shown)) = given else { return Ok(None) };
    if !(32..=secret::MAX_SECRET_BYTES).contains(&key.len())
        || !key.bytes().all(|byte| byte.is_ascii_graphic())
    {
        let max = secret::MAX_SECRET_BYTES;
        return Err(invalid_request(format!(
            "{source}: the key must have 32 to {max} printable ASCII characters and no spaces."
        )));
    }
    if !secret::is_plausible(checked_prefixes, &key) {
        let prefixes = checked_prefixes.join("_… or ");
        return Err(invalid_request(format!(
            "{source}: the key has the form {prefixes}_… but a wrong checksum; check that it is complete."
        )));
    }
    Ok(Some((Secret::from_plain_text(key), shown)))
}

fn invalid_request(message: String) -> Error {
    Error::new(Code::InvalidRequest, message)
}

/// Writes a text to a new file that only its owner can read. Replaces an existing regular file.
fn write_private_file(file: &Path, text: &str) -> Result<()> {
    let write = || {
        // An existing regular file was left by a failed start and contains a key that was never stored. Any
        // other kind of file is kept, because it could be /dev/stdout.
        match file.symlink_metadata() {
            Ok(existing) if !existing.is_file() => return Err(std::io::Error::other("not a regular file")),
            Ok(_) => std::fs::remove_file(file)?,
            Err(_) => {}
        }
        let mut open = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        writeln!(open, "{text}")?;
        open.sync_all()
    };
    write().map_err(|error| Error::internal(format!("{}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_key_replaces_only_a_regular_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("admin.key");
        let link = dir.path().join("link");
        write_private_file(&file, "one").unwrap();
        write_private_file(&file, "two").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let refused = write_private_file(&link, "three").unwrap_err();
        assert!(refused.to_string().contains("link: not a regular file"), "{refused}");
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "two\n");
    }
}
