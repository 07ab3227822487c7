//! The sample data of `serve --dev`.

use std::net::SocketAddr;
use std::sync::Arc;

use super::first_key;
use crate::app::App;
use crate::error::Result;
use crate::service::sample;
use crate::telemetry::notice::Notice;
use crate::verify::secret::Secret;

/// Fills the database with sample data and prints the keys. Returns the admin key, which the caller prints in
/// a sample `curl` command.
pub(crate) async fn seed(app: &Arc<App>, address: SocketAddr) -> Result<String> {
    let current = app.settings.get().await?;
    let (secret, admin_key) = match first_key::secret_from_environment(&current.known_prefixes)? {
        Some(given) => given,
        None => {
            let secret = Secret::generate(&app.random, current.settings.keys.default_prefix())?;
            let admin_key = secret.reveal().to_owned();
            (secret, admin_key)
        }
    };
    let dir = app.config.database.dir.display().to_string();
    let text = format!("creating a month of sample data in {dir} …");
    Notice::info("creating a month of sample data").field("dir", &dir).text(text).print();
    let client_key = sample::create(app, secret).await?;
    let console = format!("http://{address}/console/");
    let docs = format!("http://{address}/docs/");
    let text = format!(
        "sample data, discarded when the server stops:\n  console    {console}\n  reference  {docs}\n  admin key  {admin_key}\n  a key of org_123 to \
         verify: {client_key}"
    );
    Notice::info("sample data, discarded when the server stops")
        .field("console", &console)
        .field("docs", &docs)
        .field("admin_key", &admin_key)
        .field("client_key", &client_key)
        .showing_secrets()
        .text(text)
        .print();
    Ok(admin_key)
}
