//! The platform's settings in memory, which every call reads, without a lock.

use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::cache::{Shard, VersionClock, shard};
use crate::domain::settings::{Current, SETTINGS_ID};
use crate::error::Result;

/// The future of a loader.
pub(crate) type LoadFuture = Pin<Box<dyn Future<Output = Result<Arc<Current>>> + Send>>;

/// The settings, reloaded when they may have changed.
pub(crate) struct SettingsCache {
    loaded: ArcSwap<Loaded>,
    shard: Shard,
    version_clock: Arc<VersionClock>,
    load: Box<dyn Fn() -> LoadFuture + Send + Sync>,
    /// Held during a load, so that concurrent callers wait for its result.
    loading: tokio::sync::Mutex<()>,
}

/// The result of a load, with the version at which it began. As with credentials, a load that began before
/// the last change is not used, whenever it ended.
struct Loaded {
    loaded_at: u64,
    current: Arc<Current>,
}

/// The settings for the duration of a call, during which they don't change.
pub(crate) struct SettingsGuard(Guard<Arc<Loaded>>);

impl Deref for SettingsGuard {
    type Target = Current;

    fn deref(&self) -> &Current {
        &self.0.current
    }
}

impl SettingsGuard {
    /// The settings as an `Arc` that can outlive the guard.
    pub(crate) fn shared(&self) -> Arc<Current> {
        self.0.current.clone()
    }
}

impl SettingsCache {
    /// A cache that begins with `current`, loaded at the version `loaded_at`, and reloads with `load`.
    pub(crate) fn new(
        version_clock: Arc<VersionClock>,
        loaded_at: u64,
        current: Arc<Current>,
        load: impl Fn() -> LoadFuture + Send + Sync + 'static,
    ) -> Self {
        Self {
            loaded: ArcSwap::from_pointee(Loaded { loaded_at, current }),
            shard: shard(SETTINGS_ID),
            version_clock,
            load: Box::new(load),
            loading: tokio::sync::Mutex::default(),
        }
    }

    /// The settings, including every change published before this call.
    ///
    /// # Errors
    /// Those of the loader.
    pub(crate) async fn get(&self) -> Result<SettingsGuard> {
        if let Some(settings) = self.fresh() {
            return Ok(settings);
        }
        let _one_at_a_time = self.loading.lock().await;
        if let Some(settings) = self.fresh() {
            return Ok(settings);
        }
        let loaded_at = self.version_clock.now();
        let loaded = Arc::new(Loaded { loaded_at, current: (self.load)().await? });
        self.loaded.store(loaded.clone());
        Ok(SettingsGuard(Guard::from_inner(loaded)))
    }

    fn fresh(&self) -> Option<SettingsGuard> {
        let loaded = self.loaded.load();
        self.version_clock.is_fresh_at(loaded.loaded_at, [self.shard]).then_some(SettingsGuard(loaded))
    }
}
