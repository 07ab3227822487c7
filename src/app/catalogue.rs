//! The scope catalogue in memory. Every verification reads it, without a lock.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::domain::scope::{CATALOGUE_ID, Catalogue};
use crate::error::Result;
use crate::store::{self, db::Db};
use crate::verify::version_clock::VersionClock;

/// The cache of the scope catalogue, which is loaded when it is first needed and when it has changed.
#[derive(Default)]
pub(crate) struct CatalogueCache {
    loaded: ArcSwapOption<LoadedCatalogue>,
    /// Locked during a load, so that concurrent callers wait for its result.
    loading: tokio::sync::Mutex<()>,
}

struct LoadedCatalogue {
    /// The version at which the load began.
    loaded_at: u64,
    catalogue: Arc<Catalogue>,
}

impl CatalogueCache {
    /// Returns the catalogue with all changes committed before this call: from memory, or from the database if it
    /// has changed. The lookups thread loads it, which doesn't queue behind long reads.
    ///
    /// # Errors
    /// Errors of reading the database.
    pub(super) async fn get(&self, db: &Db, version_clock: &VersionClock) -> Result<Arc<Catalogue>> {
        if let Some(catalogue) = self.get_if_fresh(version_clock) {
            return Ok(catalogue);
        }
        let _one_at_a_time = self.loading.lock().await;
        if let Some(catalogue) = self.get_if_fresh(version_clock) {
            return Ok(catalogue);
        }
        let loaded_at = version_clock.now();
        let catalogue = Arc::new(db.look_up(store::scopes::load_catalogue).await?);
        self.loaded.store(Some(Arc::new(LoadedCatalogue { loaded_at, catalogue: catalogue.clone() })));
        Ok(catalogue)
    }

    fn get_if_fresh(&self, version_clock: &VersionClock) -> Option<Arc<Catalogue>> {
        let loaded = self.loaded.load();
        let loaded = loaded.as_ref()?;
        version_clock.is_fresh(loaded.loaded_at, [CATALOGUE_ID]).then(|| loaded.catalogue.clone())
    }
}
