//! Reports at the end of the process what was counted in memory and could not be stored.

use crate::app::App;
use crate::error::Error;

/// Everything that is lost when the process ends now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct UnstoredCounts {
    /// Number of verifications missing in usage reports.
    verifications: u64,
    /// Number of denials missing in the verification log.
    denials: u64,
    /// Number of refused and read requests missing in the audit log.
    aggregated_requests: u64,
    /// Number of API keys whose `last_used_at` is too early.
    last_uses: u64,
    /// Number of leased quota units that count as used, at most.
    quota_units: u64,
}

impl UnstoredCounts {
    /// Takes what is left after the last attempt to store it.
    fn take(app: &App) -> Self {
        let usage = app.verifier.recorder().take();
        let requests = app.aggregated.take(app.clock.now(), true, usize::MAX);
        Self {
            verifications: usage.hourly_counts.iter().map(|row| row.counts.requests()).sum(),
            denials: usage.denials.iter().map(|denial| denial.count).sum(),
            aggregated_requests: requests.iter().map(|event| event.count).sum(),
            last_uses: app.unstored_last_uses.len() as u64,
            quota_units: app.verifier.quotas().forfeitable_units(),
        }
    }
}

/// Logs what could not be stored because of `error`, when the server stops. Nothing that a client was told to be
/// stored is among it.
pub(crate) fn log_unstored(app: &App, error: &Error) {
    let UnstoredCounts { verifications, denials, aggregated_requests, last_uses, quota_units } =
        UnstoredCounts::take(app);
    tracing::error!(
        %error,
        verifications,
        denials,
        aggregated_requests,
        last_uses,
        quota_units,
        "stopping without storing everything that was counted in memory"
    );
}
