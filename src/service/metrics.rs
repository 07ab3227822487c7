//! The metrics of `/metrics` that are not about HTTP. A scrape reads them from the counters of the other
//! modules.

use std::path::Path;

use strum::VariantArray;

use crate::app::App;
use crate::domain::verification::Outcome;
use crate::store;
use crate::store::backup::with_suffix;
use crate::telemetry::families::{Labels, MetricFamilies, integer_to_float, unlabeled_sample};
use crate::telemetry::{log_output, machine};

/// One nanosecond, in seconds. Duration histograms record nanoseconds, and their metrics are in seconds.
pub(crate) const NANOSECOND: f64 = 1e-9;

/// Adds all metrics that are not about HTTP.
pub(crate) async fn add(app: &App, families: &mut MetricFamilies) {
    let build = vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("sqlite", store::db::sqlite_version().to_owned()),
    ];
    families.add_gauge(
        "tollhouse_build_info",
        "Always 1; the labels name the running version and its SQLite version.",
        [(build, 1.0)],
    );
    add_verification_metrics(app, families);
    add_request_memory_metrics(app, families);
    add_writer_metrics(app, families);
    add_disk_metrics(app, families);
    // The time of the last backup is omitted if it can't be read or if there never was a backup.
    if let Ok(Some(at)) = app.db.look_up(store::schema::last_backup_at).await {
        let at = integer_to_float(u64::try_from(at.as_millis()).unwrap_or(0)) / 1000.0;
        families.add_gauge(
            "tollhouse_last_backup_timestamp_seconds",
            "Unix time of the last verified backup.",
            unlabeled_sample(at),
        );
    }
    families.add_counter(
        "tollhouse_log_lines_dropped_total",
        "Log lines dropped because standard error was not read in time.",
        unlabeled_sample(integer_to_float(log_output::dropped_line_count())),
    );
    add_clock_metrics(app, families);
    add_fault_metrics(app, families);
    machine::add_process_metrics(families);
}

fn add_clock_metrics(app: &App, families: &mut MetricFamilies) {
    families.add_gauge(
        "tollhouse_clock_unsettled",
        "1 while the clock is unsettled: it jumped, and nothing is deleted because of its age.",
        unlabeled_sample(if app.clock.is_settled() { 0.0 } else { 1.0 }),
    );
}

fn add_fault_metrics(app: &App, families: &mut MetricFamilies) {
    let (damage, io) = app.db.faults().counts();
    let kind = |name: &str| -> Labels { vec![("kind", name.to_owned())] };
    families.add_counter(
        "tollhouse_database_faults_total",
        "Reads and changes that failed because the database is damaged or its disk failed, by kind.",
        [(kind("damage"), integer_to_float(damage)), (kind("disk"), integer_to_float(io))],
    );
    families.add_gauge(
        "tollhouse_revocations_not_stored",
        "Changes that take access away and could not be stored; their access is blocked until the restart.",
        unlabeled_sample(integer_to_float(app.access_blocks.len() as u64)),
    );
}

fn add_verification_metrics(app: &App, families: &mut MetricFamilies) {
    let counts = app.verifier.outcome_counts();
    let by_code = Outcome::VARIANTS.iter().map(|outcome| {
        (vec![("code", outcome.name().to_owned())], integer_to_float(counts[*outcome as usize]))
    });
    families.add_counter("tollhouse_verifications_total", "Key verifications, by outcome.", by_code);
    let (hits, misses) = app.keys.lookup_counts();
    families.add_counter(
        "tollhouse_key_cache_hits_total",
        "Key lookups answered from memory, including unknown keys.",
        unlabeled_sample(integer_to_float(hits)),
    );
    families.add_counter(
        "tollhouse_key_cache_misses_total",
        "Key lookups that read the database.",
        unlabeled_sample(integer_to_float(misses)),
    );
    let (known, unknown) = app.keys.len();
    let kind = |name: &str| -> Labels { vec![("kind", name.to_owned())] };
    families.add_gauge(
        "tollhouse_key_cache_entries",
        "Keys in memory: existing keys, and hashes known to belong to no key.",
        [(kind("known"), integer_to_float(known)), (kind("unknown"), integer_to_float(unknown))],
    );
}

fn add_request_memory_metrics(app: &App, families: &mut MetricFamilies) {
    let surfaces = [("admin", &app.memory.control_plane), ("data_plane", &app.memory.data_plane)];
    families.add_gauge(
        "tollhouse_request_memory_bytes",
        "Memory reserved for requests in progress, by surface.",
        surfaces.map(|(surface, memory)| -> (Labels, f64) {
            (vec![("surface", surface.to_owned())], integer_to_float(memory.reserved_bytes() as u64))
        }),
    );
}

fn add_writer_metrics(app: &App, families: &mut MetricFamilies) {
    let stats = app.db.writer_totals();
    let work = app.db.writer_metrics();
    families.add_counter(
        "tollhouse_writer_mutations_total",
        "Committed changes, including those of background tasks.",
        unlabeled_sample(integer_to_float(stats.mutations)),
    );
    families.add_counter(
        "tollhouse_writer_refused_total",
        "Changes refused with 503 because the writer's queue was full.",
        unlabeled_sample(integer_to_float(stats.refused_mutations)),
    );
    families.add_gauge(
        "tollhouse_writer_queue_length",
        "Changes waiting for the writer.",
        unlabeled_sample(integer_to_float(work.queued_mutations)),
    );
    let max = app.config.database.writer_queue as u64;
    families.add_gauge(
        "tollhouse_writer_queue_limit",
        "The largest number of changes that can wait for the writer.",
        unlabeled_sample(integer_to_float(max)),
    );
    families.add_histogram(
        "tollhouse_writer_group_size",
        "Changes per commit.",
        1.0,
        unlabeled_sample(work.mutations_per_commit),
    );
    families.add_histogram(
        "tollhouse_writer_commit_duration_seconds",
        "Duration of a group commit; mostly the wait for the disk.",
        NANOSECOND,
        unlabeled_sample(work.commit_nanos),
    );
}

fn add_disk_metrics(app: &App, families: &mut MetricFamilies) {
    let file = app.config.database.file();
    // A missing WAL file counts as an empty one.
    let size = |file: &Path| file_size_bytes(file).map_or(0.0, integer_to_float);
    families.add_gauge(
        "tollhouse_database_bytes",
        "Size of the database file.",
        unlabeled_sample(size(&file)),
    );
    families.add_gauge(
        "tollhouse_wal_bytes",
        "Size of the database's write-ahead log.",
        unlabeled_sample(size(&with_suffix(&file, "-wal"))),
    );
    add_checkpoint_metrics(app, families);
    let reserve = app.db.file().reserve();
    families.add_gauge(
        "tollhouse_storage_reserve_bytes",
        "Unused part of the storage reserve for changes that take access away.",
        unlabeled_sample(integer_to_float(reserve.available_bytes)),
    );
    families.add_gauge(
        "tollhouse_storage_reserve_in_use",
        "1 while storage is full and only changes that take access away are stored, otherwise 0.",
        unlabeled_sample(integer_to_float(reserve.in_use.into())),
    );
    families.add_gauge(
        "tollhouse_disk_free_bytes",
        "Free disk space available to the database, in bytes.",
        machine::free_disk_bytes(&app.config.database.dir)
            .map(|free| (Labels::new(), integer_to_float(free))),
    );
}

fn add_checkpoint_metrics(app: &App, families: &mut MetricFamilies) {
    let status = app.db.file().checkpoints();
    let result = |name: &str, count| (vec![("result", name.to_owned())], integer_to_float(count));
    families.add_counter(
        "tollhouse_checkpoints_total",
        "Checkpoints of the write-ahead log, by result.",
        [
            result("complete", status.complete),
            result("incomplete", status.incomplete),
            result("failed", status.failed),
        ],
    );
    families.add_gauge(
        "tollhouse_checkpoint_failing",
        "1 since a checkpoint failed, until one succeeds; otherwise 0. A full disk doesn't count.",
        unlabeled_sample(integer_to_float(status.is_failing.into())),
    );
    families.add_gauge(
        "tollhouse_wal_pending_bytes",
        "Size of the part of the write-ahead log that is not in the database file yet.",
        unlabeled_sample(integer_to_float(status.pending_bytes)),
    );
}

fn file_size_bytes(file: &Path) -> Option<u64> {
    file.metadata().ok().map(|file| file.len())
}
