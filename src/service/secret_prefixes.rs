//! Prefixes of the secrets of API keys: which one a new key gets, and which ones are known.

use std::collections::BTreeSet;

use crate::app::App;
use crate::domain::api_key::NewApiKey;
use crate::domain::fields::Json;
use crate::domain::import::NewSettings;
use crate::domain::invalidation::Invalidation;
use crate::domain::secret_prefix::{
    KnownPrefixes, MAX_KNOWN_PREFIXES, MAX_PREFIXES, UNKNOWN_PREFIX, unknown_prefix_message,
};
use crate::domain::settings::{KeySettings, SETTINGS_ID, StoredSettings};
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, ErrorDetail, Result};
use crate::store::{self, db::Tx};

/// Reads the body that creates an API key. Whether its scopes and its prefix exist is decided in the transaction: an
/// earlier operation of a batch may add them. Only if the body has other faults, unknown ones are reported together
/// with these.
pub(super) async fn read_new_key(app: &App, body: &Json, now: Timestamp) -> Result<NewApiKey> {
    match NewApiKey::read(body, None, now) {
        Err(_) => {
            let catalogue = app.catalogue().await?;
            let current = app.settings.get().await?;
            NewApiKey::read(body, Some((&catalogue, &current.settings.keys.prefixes)), now)
        }
        input => input,
    }
}

/// Returns `INVALID_REQUEST` unless this prefix is configured in the transaction that creates the key.
pub(super) fn ensure_prefix_configured(keys: &KeySettings, prefix: Option<&str>) -> Result<()> {
    let Some(message) = prefix.and_then(|prefix| unknown_prefix_message(&keys.prefixes, prefix)) else {
        return Ok(());
    };
    Err(Error::invalid_request(vec![ErrorDetail {
        pointer: Some("/prefix".to_owned()),
        parameter: None,
        code: UNKNOWN_PREFIX.into(),
        message,
    }]))
}

/// The known prefixes after these prefixes were configured. A wrong checksum is refused under a new prefix unless a
/// secret that starts like it was imported and may be valid.
///
/// # Errors
/// `CONFLICT` if there would be too many known prefixes.
pub(super) fn add_configured(
    tx: &Tx<'_>,
    before: &StoredSettings,
    configured: &[String],
    now: Timestamp,
) -> Result<KnownPrefixes> {
    let keys = &before.settings.keys;
    let is_new =
        |prefix: &&String| !keys.prefixes.contains(prefix) && !before.known_prefixes.is_checked(prefix);
    let new: Vec<&str> = configured.iter().filter(is_new).map(String::as_str).collect();
    add(tx, &before.known_prefixes, &new, now)
}

/// Adds prefixes to the known ones.
///
/// # Errors
/// `CONFLICT` if there would be too many.
fn add(tx: &Tx<'_>, known: &KnownPrefixes, new: &[&str], now: Timestamp) -> Result<KnownPrefixes> {
    let mut known = known.clone();
    ensure_few(&known, new)?;
    for chunk in new.chunks(MAX_PREFIXES) {
        let used = store::api_keys::are_prefixes_used(tx, chunk, now)?;
        chunk.iter().zip(used).for_each(|(prefix, is_used)| known.add(prefix, !is_used));
    }
    Ok(known)
}

/// Adds the prefixes that are known in the database that a restore replaces, which is a later state of the restored one.
pub(super) fn add_replaced(tx: &Tx<'_>, replaced: &KnownPrefixes, now: Timestamp) -> Result<()> {
    let before = store::settings::get(tx)?;
    let new: Vec<&str> = replaced.iter().filter(|prefix| !before.known_prefixes.contains(prefix)).collect();
    if new.is_empty() {
        return Ok(());
    }
    let known_prefixes = add(tx, &before.known_prefixes, &new, now)?;
    store::settings::update(tx, StoredSettings { known_prefixes, ..(*before).clone() })?;
    tx.invalidate(Invalidation::Id(SETTINGS_ID.to_owned()));
    Ok(())
}

/// The known prefixes after an import of settings. The checksums of exported prefixes are relied on if the exporting
/// server did, because the exported keys follow. Those of other prefixes are not: keys that are imported after the settings
/// may begin with them.
///
/// # Errors
/// `CONFLICT` if there would be too many known prefixes.
pub(super) fn add_imported(
    tx: &Tx<'_>,
    before: &StoredSettings,
    new: &NewSettings,
    keys: &KeySettings,
    now: Timestamp,
) -> Result<KnownPrefixes> {
    let is_new = |prefix: &&str| !before.known_prefixes.contains(prefix);
    let (checked, unchecked): (Vec<&str>, Vec<&str>) =
        new.known_prefixes.iter().filter(is_new).partition(|prefix| new.known_prefixes.is_checked(prefix));
    let mut known = add(tx, &before.known_prefixes, &checked, now)?;
    let configured = keys.prefixes.iter().map(String::as_str);
    let unchecked: Vec<&str> = unchecked.into_iter().chain(configured).collect();
    ensure_few(&known, &unchecked)?;
    unchecked.iter().for_each(|prefix| known.add(prefix, false));
    Ok(known)
}

fn ensure_few(known: &KnownPrefixes, new: &[&str]) -> Result<()> {
    let added = new.iter().filter(|prefix| !known.contains(prefix)).collect::<BTreeSet<_>>().len();
    if known.len() + added <= MAX_KNOWN_PREFIXES {
        return Ok(());
    }
    let message = format!(
        "At most {MAX_KNOWN_PREFIXES} different prefixes can ever be used, because removed ones stay known. {} have \
         been used, and {added} of these are new. Choose from the earlier ones.",
        known.len()
    );
    Err(Error::new(Code::Conflict, message))
}
