//! The scope catalogue in memory. Every verification reads it, without a lock.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::domain::scope::{CATALOGUE_ID, Catalogue};
use crate::error::Result;
use crate::store::{self, db::Db};
use crate::verify::version_clock::{ShardIndex, VersionClock, shard};

/// The cache of the scope catalogue, which is loaded when it is first needed and when it has changed.
pub(crate) struct CatalogueCache {
    loaded: ArcSwap<LoadedCatalogue>,
    shard: ShardIndex,
    /// Locked during a load, so that concurrent callers wait for its result.
    loading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct LoadedCatalogue {
    /// The version at which the load began; `None` before the first load.
    loaded_at: Option<u64>,
    catalogue: Catalogue,
}

/// Access to the catalogue without a count that all threads share. The catalogue doesn't change while the guard exists.
pub struct CatalogueGuard(Guard<Arc<LoadedCatalogue>>);

impl Deref for CatalogueGuard {
    type Target = Catalogue;

    fn deref(&self) -> &Catalogue {
        &self.0.catalogue
    }
}

impl Default for CatalogueCache {
    fn default() -> Self {
        Self {
            loaded: ArcSwap::default(),
            shard: shard(CATALOGUE_ID),
            loading: tokio::sync::Mutex::default(),
        }
    }
}

impl CatalogueCache {
    /// Returns the catalogue with all changes committed before this call: from memory, or from the database if it
    /// has changed. The lookups thread loads it, which doesn't queue behind long reads.
    ///
    /// # Errors
    /// Errors of reading the database.
    pub(super) async fn get(&self, db: &Db, version_clock: &VersionClock) -> Result<CatalogueGuard> {
        match self.get_if_fresh(version_clock) {
            Some(catalogue) => Ok(catalogue),
            // Boxed, so that the futures of all requests don't reserve space for it.
            None => Box::pin(self.load(db, version_clock)).await,
        }
    }

    async fn load(&self, db: &Db, version_clock: &VersionClock) -> Result<CatalogueGuard> {
        let _one_at_a_time = self.loading.lock().await;
        if let Some(catalogue) = self.get_if_fresh(version_clock) {
            return Ok(catalogue);
        }
        let loaded_at = version_clock.now();
        let catalogue = db.look_up(store::scopes::load_catalogue).await?;
        let loaded = Arc::new(LoadedCatalogue { loaded_at: Some(loaded_at), catalogue });
        self.loaded.store(loaded.clone());
        Ok(CatalogueGuard(Guard::from_inner(loaded)))
    }

    fn get_if_fresh(&self, version_clock: &VersionClock) -> Option<CatalogueGuard> {
        let loaded = self.loaded.load();
        let loaded_at = loaded.loaded_at?;
        version_clock.is_fresh(loaded_at, [self.shard]).then_some(CatalogueGuard(loaded))
    }
}
