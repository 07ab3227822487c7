//! Looks keys up for the data plane, other than by the secret that is being verified.

use std::sync::Arc;

use crate::app::App;
use crate::error::Result;
use crate::store;
use crate::verify::key_record::KeyRecord;
use crate::verify::secret;

/// Finds a key by its id, whatever its status.
///
/// # Errors
/// Errors of the database.
pub(crate) async fn find_by_id(app: &App, id: String) -> Result<Option<Arc<KeyRecord>>> {
    let found = app.db.look_up(move |tx| store::api_keys::find_credential_by_id(tx, &id)).await?;
    Ok(found.map(|mut credential| {
        app.access_blocks.apply(&mut credential);
        Arc::new(KeyRecord::uncached(credential))
    }))
}

/// Finds a key by a secret that it has or had, whatever its status.
///
/// # Errors
/// Errors of the database.
pub(crate) async fn find_by_secret(app: &App, text: &str) -> Result<Option<Arc<KeyRecord>>> {
    app.keys.get_record(&secret::hash_secret(text)).await
}

/// The key, if a caller of this organization can access it; without an organization, the caller can access every key.
pub(crate) fn visible_to(
    record: Option<Arc<KeyRecord>>,
    organization_id: Option<&str>,
) -> Option<Arc<KeyRecord>> {
    record.filter(|record| {
        organization_id.is_none() || record.credential.key.organization_id.as_deref() == organization_id
    })
}
