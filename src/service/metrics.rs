//! What `/metrics` tells of the house: read where it is counted anyway, when somebody scrapes.

use std::path::Path;

use crate::app::App;
use crate::domain::verification::Outcome;
use crate::store;
use crate::telemetry::families::{Families, Labels, float, one};
use crate::telemetry::machine;

/// Histograms of time are counted in nanoseconds.
pub(crate) const NANOSECOND: f64 = 1e-9;

/// Adds all that doesn't depend on how questions come in.
pub(crate) async fn add(app: &App, families: &mut Families) {
    let build = vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("sqlite", store::db::sqlite_version().to_owned()),
    ];
    families.gauge("tollhouse_build_info", "Always 1; the labels say what is running.", [(build, 1.0)]);
    add_verifications(app, families);
    add_writer(app, families);
    add_files(app, families);
    // What can't be read is left out, as when there never was a backup.
    if let Ok(Some(at)) = app.db.look_up(store::schema::last_backup_at).await {
        let at = float(u64::try_from(at.as_millis()).unwrap_or(0)) / 1000.0;
        families.gauge(
            "tollhouse_last_backup_timestamp_seconds",
            "When the last backup that was proven good was made, in Unix time.",
            one(at),
        );
    }
    machine::add_process(families);
}

fn add_verifications(app: &App, families: &mut Families) {
    let decided = app.verifier.outcomes();
    let by_code = Outcome::NAMES
        .iter()
        .map(|(name, outcome)| (vec![("code", (*name).to_owned())], float(decided[*outcome as usize])));
    families.counter(
        "tollhouse_verifications_total",
        "Decisions whether a key is good, by what was decided.",
        by_code,
    );
    let (hits, misses) = app.keys.lookup_counts();
    families.counter(
        "tollhouse_key_cache_hits_total",
        "Keys that were found in memory, unknown ones included.",
        one(float(hits)),
    );
    families.counter(
        "tollhouse_key_cache_misses_total",
        "Keys that were looked up in the database.",
        one(float(misses)),
    );
    let (known, unknown) = app.keys.len();
    let kind = |name: &str| -> Labels { vec![("kind", name.to_owned())] };
    families.gauge(
        "tollhouse_key_cache_entries",
        "Keys in memory: those that exist, and those that are nobody's.",
        [(kind("known"), float(known)), (kind("unknown"), float(unknown))],
    );
}

fn add_writer(app: &App, families: &mut Families) {
    let (stats, work) = (app.db.stats(), app.db.work());
    families.counter(
        "tollhouse_writer_mutations_total",
        "Changes that were stored, those that the server makes by itself included.",
        one(float(stats.mutations)),
    );
    families.counter(
        "tollhouse_writer_refused_total",
        "Changes that were answered 503 because too many waited.",
        one(float(stats.refused)),
    );
    families.gauge(
        "tollhouse_writer_queue_length",
        "Changes that wait for the writer.",
        one(float(work.waiting)),
    );
    let max = app.config.database.writer_queue as u64;
    families.gauge("tollhouse_writer_queue_limit", "Changes that may wait for the writer.", one(float(max)));
    families.histogram("tollhouse_writer_group_size", "Changes that shared a commit.", 1.0, one(work.groups));
    families.histogram(
        "tollhouse_writer_commit_duration_seconds",
        "How long the commit of a group took: mostly the wait for the disk.",
        NANOSECOND,
        one(work.commits),
    );
}

fn add_files(app: &App, families: &mut Families) {
    let dir = &app.config.database.dir;
    // A WAL that isn't there is empty.
    let size = |name: &str| file_size(&dir.join(name)).map_or(0.0, float);
    families.gauge("tollhouse_database_bytes", "Size of the database file.", one(size("tollhouse.db")));
    families.gauge(
        "tollhouse_wal_bytes",
        "Size of the write-ahead log beside it.",
        one(size("tollhouse.db-wal")),
    );
    families.gauge(
        "tollhouse_disk_free_bytes",
        "Room that is left on the disk of the database.",
        machine::free_bytes(dir).map(|free| (Labels::new(), float(free))),
    );
}

fn file_size(file: &Path) -> Option<u64> {
    file.metadata().ok().map(|file| file.len())
}
