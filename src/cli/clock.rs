//! `tollhouse clock accept`: accepts the time of the system clock after it jumped. The command works while a
//! server is running.

use super::output;
use crate::config::Config;
use crate::error::Result;
use crate::service::{clock, lifecycle};

/// Accepts the time of the system clock.
pub(crate) async fn accept(config: Config) -> Result<()> {
    let app = super::open_existing_database(config).await?;
    let accepted = clock::accept(&app).await;
    lifecycle::close(&app).await?;
    let accepted = accepted?;
    output::message(&format!(
        "accepted {}; the latest time known before was {}; a running server follows within a second",
        accepted.time, accepted.settled_time
    ));
    Ok(())
}
