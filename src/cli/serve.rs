//! `tollhouse serve`: open, make the first key, serve, and at a signal stop without losing anything.

use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::task::TaskTracker;

use super::dev;
use crate::app::App;
use crate::clock::Clock;
use crate::config::Effective;
use crate::error::{Code, Error, Result};
use crate::http::tls::Tls;
use crate::http::workers::Workers;
use crate::http::{metrics, routes, server};
use crate::service::settings::ShadowedSetting;
use crate::service::{api_keys, housekeeping, retention, settings, usage};
use crate::store::db;
use crate::verify::secret::{self, Secret};

/// The environment's first key, and the file that holds it.
const KEY_VARIABLE: &str = "TOLLHOUSE_ADMIN_KEY";
const KEY_FILE_VARIABLE: &str = "TOLLHOUSE_ADMIN_KEY_FILE";

/// What an empty database begins with.
pub(crate) enum Start {
    /// Nothing but the first key, which goes into this file.
    Kept(Option<PathBuf>),
    /// Sample data.
    Sample,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run(effective: Effective, start: Start) -> Result<()> {
    let Effective { config, origins } = effective;
    // Heard from now on, so that a signal during the start is not lost.
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::internal)?;
    let hangup = signal(SignalKind::hangup()).map_err(Error::internal)?;
    let tls = Tls::load(&config.tls)?;
    let dir = config.database.dir.clone();
    let _lock = db::lock(&dir)?;
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
    let limits = server::Limits {
        max_connections: config.http.max_connections,
        header_timeout: config.http.header_timeout,
        write_timeout: config.http.write_timeout,
        drain_timeout: config.http.drain_timeout,
    };
    let drain_timeout = config.http.drain_timeout;
    let app = App::open(config, Clock::system()).await?;
    for ShadowedSetting { setting, origin, named, stored } in settings::shadowed(&app, &origins).await? {
        tracing::warn!(
            setting,
            origin,
            named,
            stored,
            "this is a first value, and the database has another one, which is in force; PATCH /admin/v1/config \
             changes it"
        );
    }
    let first_key = match start {
        Start::Kept(file) => first_key(&app, &file.unwrap_or_else(|| dir.join("admin.key"))).await?,
        Start::Sample => Some(dev::seed(&app, address).await?),
    };
    housekeeping::log_head(&app, "start").await;

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
        stopping.drain();
    };
    if let Some(address) = metrics.as_ref().and_then(|metrics| metrics.local_addr().ok()) {
        eprintln!("metrics on http://{address}/metrics");
    }
    // Of a certificate for a name, curl would complain at an address.
    let (scheme, trust) = if tls.is_some() { ("https", "-k ") } else { ("http", "") };
    eprintln!("listening on {scheme}://{address}");
    if let Some(shown) = first_key {
        eprintln!(
            "try:\n  curl {trust}-H \"Authorization: Bearer {shown}\" {scheme}://{address}/admin/v1/whoami"
        );
    }
    // Only systemd listens to this; without it there is nothing to do.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let cut = tokio::select! {
        cut = server::serve(listener, tls.clone(), routes, &limits, &workers, shutdown) => cut,
        () = metrics::serve(&app, metrics, &workers) => 0,
        () = reload_at(hangup, tls.as_deref()) => 0,
        () = housekeeping::run(&app) => 0,
        () = usage::run(&app) => 0,
        () = retention::run(&app) => 0,
    };
    if cut > 0 {
        tracing::warn!(cut, "connections that did not end in time were cut");
    }
    tasks.close();
    if tokio::time::timeout(drain_timeout, tasks.wait()).await.is_err() {
        tracing::warn!("calls that did not end in time were given up");
    }
    let closed = app.close().await;
    let stats = app.db.stats();
    tracing::info!(mutations = stats.mutations, commits = stats.commits, "stopped");
    closed
}

/// Reads the certificate again at each SIGHUP, until it is dropped.
async fn reload_at(mut hangup: Signal, tls: Option<&Tls>) {
    while hangup.recv().await.is_some() {
        match tls.map(Tls::reload) {
            None => tracing::info!(signal = "SIGHUP", "nothing to read again: there is no TLS"),
            Some(Ok(())) => {
                tracing::info!(signal = "SIGHUP", "new connections get the certificate as it is now");
            }
            Some(Err(error)) => {
                let problem = &*error.message;
                tracing::error!(signal = "SIGHUP", problem, "the certificate of before stays in force");
            }
        }
    }
    std::future::pending().await
}

/// Makes the first key of an empty database. Returns how a shell gets at it for the line to try.
async fn first_key(app: &App, file: &Path) -> Result<Option<String>> {
    if api_keys::any(app).await? {
        return Ok(None);
    }
    if let Some((secret, shown)) = given_key(&app.settings.get().await?.checked_prefixes)? {
        api_keys::bootstrap(app, secret).await?;
        return Ok(Some(shown));
    }
    let prefix = app.settings.get().await?.settings.keys.prefix.clone();
    let secret = Secret::generate(app.system_random(), &prefix)?;
    let shown = if std::io::stderr().is_terminal() {
        None
    } else {
        // The file first: a key that nobody knows would lock everybody out.
        write_private(file, secret.reveal())?;
        Some(file)
    };
    if api_keys::bootstrap(app, secret.clone()).await?.is_none() {
        return Ok(None);
    }
    match shown {
        Some(file) => {
            let path = file.display().to_string();
            tracing::info!(path, "the first admin key is in this file; keep it safe and remove the file");
            Ok(Some(format!("$(cat '{path}')")))
        }
        None => {
            eprintln!("first admin key, shown this once:\n  {}", secret.reveal());
            Ok(Some(secret.reveal().to_owned()))
        }
    }
}

/// The key that the environment gives, and how a shell finds it there.
pub(super) fn given_key(checked_prefixes: &[String]) -> Result<Option<(Secret, String)>> {
    let given = match (std::env::var(KEY_VARIABLE), std::env::var(KEY_FILE_VARIABLE)) {
        (Ok(key), _) => Some((key, KEY_VARIABLE, format!("${KEY_VARIABLE}"))),
        (Err(_), Ok(path)) => {
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|error| refuse(format!("{KEY_FILE_VARIABLE}: {path}: {error}")))?;
            Some((text.trim_end().to_owned(), KEY_FILE_VARIABLE, format!("$(cat '{path}')")))
        }
        (Err(_), Err(_)) => None,
    };
    let Some((key, source, shown)) = given else { return Ok(None) };
    if !(32..=secret::MAX_LENGTH).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let max = secret::MAX_LENGTH;
        return Err(refuse(format!(
            "{source}: the key must have 32 to {max} printable ASCII characters, without spaces."
        )));
    }
    if !secret::is_plausible(checked_prefixes, &key) {
        let prefixes = checked_prefixes.join("_… or ");
        return Err(refuse(format!(
            "{source}: the key has the form {prefixes}_… with a wrong checksum; was it cut or mistyped?"
        )));
    }
    Ok(Some((Secret::from_outside(key), shown)))
}

fn refuse(message: String) -> Error {
    Error::new(Code::InvalidRequest, message)
}

fn write_private(file: &Path, text: &str) -> Result<()> {
    let write = || {
        // One that a failed start left behind holds a key that never was. What isn't a plain file stays: it
        // could be /dev/stdout.
        match file.symlink_metadata() {
            Ok(there) if !there.is_file() => return Err(std::io::Error::other("it is not a plain file")),
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
    fn the_key_takes_the_place_of_a_plain_file_alone() {
        let place = tempfile::tempdir().unwrap();
        let (file, link) = (place.path().join("admin.key"), place.path().join("link"));
        write_private(&file, "one").unwrap();
        write_private(&file, "two").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let refused = write_private(&link, "three").unwrap_err();
        assert!(refused.to_string().contains("link: it is not a plain file"), "{refused}");
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "two\n");
    }
}
