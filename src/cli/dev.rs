//! `tollhouse serve --dev`: something to look at, thrown away at the stop.

use std::net::SocketAddr;
use std::sync::Arc;

use super::serve::{self, Start};
use crate::app::App;
use crate::config::{Effective, Tls};
use crate::error::{Code, Error, Result};
use crate::service::sample;
use crate::verify::secret::Secret;

/// Serves a month of sample data from a temporary directory, whatever directory is configured.
pub(crate) async fn run(mut effective: Effective) -> Result<()> {
    let config = &mut effective.config;
    if !config.http.listen.ip().is_loopback() {
        let message = format!("--dev listens on loopback alone; http.listen is {}.", config.http.listen);
        return Err(Error::new(Code::InvalidRequest, message));
    }
    let dir = tempfile::Builder::new().prefix("tollhouse-dev-").tempdir().map_err(Error::internal)?;
    // On loopback nobody listens in, and no certificate is for it.
    config.tls = Tls { cert: None, key: None };
    config.database.dir = dir.path().to_owned();
    let served = serve::run(effective, Start::Sample).await;
    let removed = dir.close().map_err(Error::internal);
    served.and(removed)
}

/// Fills the database and tells the keys. Returns the admin key, for the line to try.
pub(crate) async fn seed(app: &Arc<App>, address: SocketAddr) -> Result<String> {
    let current = app.settings.get().await?;
    let (secret, shown) = match serve::given_key(&current.checked_prefixes)? {
        Some(given) => given,
        None => {
            let secret = Secret::generate(app.system_random(), &current.settings.keys.prefix)?;
            let shown = secret.reveal().to_owned();
            (secret, shown)
        }
    };
    eprintln!("making a month of sample data in {} …", app.config.database.dir.display());
    let clients = sample::create(app, secret).await?;
    eprintln!(
        "a throw-away server, gone at the stop:\n  console    http://{address}/console/\n  reference  \
         http://{address}/docs/\n  admin key  {shown}\n  a key of org_123 to verify: {clients}"
    );
    Ok(shown)
}
