//! The platform's settings in memory. Every request reads them, without a lock.

use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::version_clock::{ShardIndex, VersionClock, shard};
use crate::domain::settings::{SETTINGS_ID, StoredSettings};
use crate::error::Result;

/// The future of a function that loads the settings from the database.
pub(crate) type LoadFuture = Pin<Box<dyn Future<Output = Result<Arc<StoredSettings>>> + Send>>;

/// The cache of the platform's settings, which are reloaded when they may have changed.
pub(crate) struct SettingsCache {
    loaded: ArcSwap<LoadedSettings>,
    shard: ShardIndex,
    version_clock: Arc<VersionClock>,
    load: Box<dyn Fn() -> LoadFuture + Send + Sync>,
    /// Locked during a load, so that concurrent callers wait for the result of the load.
    loading: tokio::sync::Mutex<()>,
}

/// The result of a load, with the version at which the load began. If the load began before the last change,
/// its result is not used, whenever the load ended.
struct LoadedSettings {
    loaded_at: u64,
    current: Arc<StoredSettings>,
}

/// Access to the settings for the duration of a request. The settings don't change while the guard exists.
pub(crate) struct SettingsGuard(Guard<Arc<LoadedSettings>>);

impl Deref for SettingsGuard {
    type Target = StoredSettings;

    fn deref(&self) -> &StoredSettings {
        &self.0.current
    }
}

impl SettingsGuard {
    /// The version at which the load of the settings began.
    pub(super) fn loaded_at(&self) -> u64 {
        self.0.loaded_at
    }

    /// The settings as an `Arc` that can outlive the guard.
    pub(crate) fn to_arc(&self) -> Arc<StoredSettings> {
        self.0.current.clone()
    }
}

impl SettingsCache {
    /// Creates a cache that begins with `current`, loaded at the version `loaded_at`, and reloads with
    /// `load`.
    pub(crate) fn new(
        version_clock: Arc<VersionClock>,
        loaded_at: u64,
        current: Arc<StoredSettings>,
        load: impl Fn() -> LoadFuture + Send + Sync + 'static,
    ) -> Self {
        Self {
            loaded: ArcSwap::from_pointee(LoadedSettings { loaded_at, current }),
            shard: shard(SETTINGS_ID),
            version_clock,
            load: Box::new(load),
            loading: tokio::sync::Mutex::default(),
        }
    }

    /// Returns the settings, including every change published before this call.
    ///
    /// # Errors
    /// The errors of the loader.
    pub(crate) async fn get(&self) -> Result<SettingsGuard> {
        match self.get_if_fresh() {
            Some(settings) => Ok(settings),
            // Boxed, so that the futures of all requests don't reserve space for it.
            None => Box::pin(self.reload()).await,
        }
    }

    async fn reload(&self) -> Result<SettingsGuard> {
        let _one_at_a_time = self.loading.lock().await;
        if let Some(settings) = self.get_if_fresh() {
            return Ok(settings);
        }
        let loaded_at = self.version_clock.now();
        let loaded = Arc::new(LoadedSettings { loaded_at, current: (self.load)().await? });
        self.loaded.store(loaded.clone());
        Ok(SettingsGuard(Guard::from_inner(loaded)))
    }

    fn get_if_fresh(&self) -> Option<SettingsGuard> {
        let loaded = self.loaded.load();
        self.version_clock.is_fresh(loaded.loaded_at, [self.shard]).then_some(SettingsGuard(loaded))
    }
}
