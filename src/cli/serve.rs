//! `tollhouse serve`: opens the database, creates the first key, serves requests, and stops without data loss
//! on SIGTERM or SIGINT.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;

use tokio_util::task::TaskTracker;

use super::reload::ConfigReloader;
use super::service_manager::ServiceManager;
use super::stop_signals::{StopRequest, reload_signal};
use super::{first_key, listeners, sample_data};
use crate::clock::Clock;
use crate::config::listen::reachable_address;
use crate::config::{Config, EffectiveConfig};
use crate::error::{Error, Result};
use crate::http::conn::limits::ConnectionLimits;
use crate::http::conn::server;
use crate::http::conn::tls::Tls;
use crate::http::conn::workers::Workers;
use crate::http::dispatch::Dispatcher;
use crate::http::metrics;
use crate::service::settings::ShadowedSetting;
use crate::service::{clock, housekeeping, lifecycle, retention, settings, usage, windows};
use crate::store::db;
use crate::telemetry::machine;
use crate::telemetry::notice::Notice;

/// The file descriptors that the server needs besides those of connections, cores and database readers: 15, those of
/// the metrics listener, and some in reserve.
const OTHER_OPEN_FILES: usize = 64;
/// The file descriptors of a worker thread's runtime.
const OPEN_FILES_PER_CORE: usize = 4;
/// The database file and its write-ahead log.
const OPEN_FILES_PER_READER: usize = 2;

/// The data with which the server fills an empty database.
pub(crate) enum InitialData {
    /// Only the first admin key, which is written to this file.
    FirstKey(Option<PathBuf>),
    /// A month of sample data.
    Sample,
}

/// Serves requests until a signal stops the process ([`StopRequest`]).
pub(crate) async fn run(
    effective: EffectiveConfig,
    initial_data: InitialData,
    reloader: ConfigReloader,
) -> Result<()> {
    let EffectiveConfig { config, setting_sources, .. } = effective;
    // Signal handlers are registered first, so that a signal during startup isn't lost.
    let stop = StopRequest::on_signals()?;
    let hangup = reload_signal()?;
    let service_manager = ServiceManager::from_environment();
    let tls = Tls::load(&config.tls)?;
    raise_open_file_limit(&config);
    let dir = config.database.dir.clone();
    // Checked before the lock creates the directory.
    if config.database.must_exist {
        db::ensure_exists(&config.database.file())?;
    }
    let _lock = db::lock_data_dir(&dir)?;
    let listener = listeners::bind("http.listen", config.http.listen).await?;
    let address = listener.local_addr().map_err(Error::internal)?;
    let metrics = match config.metrics.listen {
        None => None,
        Some(address) => Some(listeners::bind("metrics.listen", address).await?),
    };
    let limits = ConnectionLimits::from(&config.http);
    let drain_timeout = config.http.drain_timeout;
    if let Some(memory_limit_bytes) = machine::memory_limit_bytes() {
        let max_cache_bytes = config.cache.effective_max_bytes(Some(memory_limit_bytes));
        let request_memory_bytes = config.http.effective_request_memory_bytes(Some(memory_limit_bytes));
        tracing::info!(memory_limit_bytes, max_cache_bytes, request_memory_bytes, "memory is limited");
    }
    let app = lifecycle::open(config, Clock::system()).await?;
    let ignored = settings::find_ignored_initial_values(&app, &setting_sources).await?;
    for (plan, origin) in ignored.plans {
        tracing::warn!(
            plan,
            origin,
            "configured plan ignored: the database has no such plan; add it with PATCH /admin/v1/config"
        );
    }
    for ShadowedSetting { setting, origin, named, stored } in ignored.settings {
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
            first_key::create(&app, &file.unwrap_or_else(|| dir.join("admin.key"))).await?
        }
        InitialData::Sample => Some(sample_data::seed(&app, address).await?),
    };
    housekeeping::log_audit_head(&app, "start").await;

    let tasks = TaskTracker::new();
    let workers = Workers::start()?;
    let dispatcher = Dispatcher::new(app.clone(), tasks.clone())?;
    // Nothing after this fails before the server runs, so what is taken over is stored again at the stop.
    windows::resume(&app).await;
    let stopping = app.clone();
    let requested = stop.clone();
    let notified = service_manager.clone();
    let shutdown = async move {
        requested.requested().await;
        stopping.start_draining();
        notified.report_stopping(drain_timeout).await;
    };
    if tls.is_none() && !address.ip().to_canonical().is_loopback() {
        tracing::warn!(
            %address,
            "TLS is off, and other machines can connect: unless a proxy terminates TLS, keys are sent unencrypted"
        );
    }
    if let Some(address) = metrics.as_ref().and_then(|metrics| metrics.local_addr().ok()) {
        let url = format!("http://{address}/metrics");
        Notice::info(format!("metrics on {url}")).field("url", &url).print();
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{address}");
    Notice::info(format!("listening on {url}")).field("url", &url).print();
    if names_pages {
        print_pages(scheme, address);
    }
    if let Some(shown) = first_key {
        // curl rejects a certificate that was issued for a name if the URL has an address.
        let trust = if tls.is_some() { "-k " } else { "" };
        let command = format!("curl {trust}-H \"Authorization: Bearer {shown}\" {url}/admin/v1/whoami");
        let text = format!("try:\n  {command}");
        Notice::info("try").field("command", &command).text(text).showing_secrets().print();
    }
    let status = format!("Listening on {url}");
    service_manager.report_ready(&status).await;
    let cut = tokio::select! {
        cut = server::serve(
            listener, tls.clone(), dispatcher, limits, &app.traffic.http_connections, &workers, shutdown,
        ) => cut,
        () = stop.forced() => 0,
        () = metrics::serve(&app, metrics, &workers) => 0,
        () = reloader.run(&app, hangup, tls.clone(), &service_manager) => 0,
        () = service_manager.run_watchdog(&app, &workers) => 0,
        () = service_manager.report_status(&app, &status) => 0,
        () = housekeeping::run(&app) => 0,
        () = usage::run(&app) => 0,
        () = retention::run(&app) => 0,
    };
    if cut > 0 {
        tracing::warn!(cut, "closed connections that did not end within the drain timeout");
    }
    tasks.close();
    tokio::select! {
        finished = tokio::time::timeout(drain_timeout, tasks.wait()) => if finished.is_err() {
            tracing::warn!("abandoned calls that did not end within the drain timeout");
        },
        () = stop.forced() => {}
    }
    if let Err(error) = clock::store_settled_time(&app).await {
        tracing::warn!(%error, "could not store the time of the stop");
    }
    let closed = lifecycle::close(&app).await;
    let stats = app.db.writer_totals();
    tracing::info!(mutations = stats.mutations, commits = stats.commits, "stopped");
    closed
}

/// Raises the limit on open files to the hard limit, and warns if that is too low for the configuration.
fn raise_open_file_limit(config: &Config) {
    let max_connections = config.http.max_connections;
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let readers = config.database.readers as usize;
    let needed =
        max_connections + OTHER_OPEN_FILES + OPEN_FILES_PER_CORE * cores + OPEN_FILES_PER_READER * readers;
    if let Some(limit) = machine::raise_open_file_limit()
        && limit < needed as u64
    {
        tracing::warn!(
            limit,
            needed,
            max_connections,
            "the limit on open files is too low for http.max_connections; raise the hard limit (ulimit -Hn, or \
             LimitNOFILE in systemd), or lower http.max_connections"
        );
    }
}

/// Prints the addresses of the web pages.
fn print_pages(scheme: &str, address: SocketAddr) {
    let local = reachable_address(address);
    let console = format!("{scheme}://{local}/console/");
    let docs = format!("{scheme}://{local}/docs/");
    Notice::info("web pages")
        .field("console", &console)
        .field("docs", &docs)
        .text(format!("  console  {console}\n  docs     {docs}"))
        .print();
}
