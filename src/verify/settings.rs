//! The platform's settings in memory: what every call is decided by, read without a lock.

use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::cache::{Shard, VersionClock, shard};
use crate::domain::settings::{Current, SETTINGS_ID};
use crate::error::Result;

/// A load under way.
pub(crate) type Loading = Pin<Box<dyn Future<Output = Result<Arc<Current>>> + Send>>;

/// The settings, loaded again when they may have changed.
pub(crate) struct SettingsCache {
    read: ArcSwap<Read>,
    shard: Shard,
    version_clock: Arc<VersionClock>,
    load: Box<dyn Fn() -> Loading + Send + Sync>,
    /// Held by who loads: the others wait for what it brings.
    loading: tokio::sync::Mutex<()>,
}

/// What a load brought, and when it began: as with records of keys, one that began before the last change is
/// not believed, whenever it ended.
struct Read {
    began: u64,
    current: Arc<Current>,
}

/// The settings, held for as long as a call needs them. They stay as they are meanwhile.
pub(crate) struct SettingsGuard(Guard<Arc<Read>>);

impl Deref for SettingsGuard {
    type Target = Current;

    fn deref(&self) -> &Current {
        &self.0.current
    }
}

impl SettingsGuard {
    /// To be kept beyond the call.
    pub(crate) fn shared(&self) -> Arc<Current> {
        self.0.current.clone()
    }
}

impl SettingsCache {
    /// Settings that were read by a load that began then, and are loaded by this when they change.
    pub(crate) fn new(
        version_clock: Arc<VersionClock>,
        began: u64,
        first: Arc<Current>,
        load: impl Fn() -> Loading + Send + Sync + 'static,
    ) -> Self {
        let read = ArcSwap::from_pointee(Read { began, current: first });
        Self {
            read,
            shard: shard(SETTINGS_ID),
            version_clock,
            load: Box::new(load),
            loading: tokio::sync::Mutex::default(),
        }
    }

    /// The settings as of no earlier than this call.
    ///
    /// # Errors
    /// What the loader answers.
    pub(crate) async fn get(&self) -> Result<SettingsGuard> {
        if let Some(held) = self.fresh() {
            return Ok(held);
        }
        let _one_at_a_time = self.loading.lock().await;
        if let Some(held) = self.fresh() {
            return Ok(held);
        }
        let began = self.version_clock.now();
        let read = Arc::new(Read { began, current: (self.load)().await? });
        self.read.store(read.clone());
        Ok(SettingsGuard(Guard::from_inner(read)))
    }

    fn fresh(&self) -> Option<SettingsGuard> {
        let read = self.read.load();
        self.version_clock.is_fresh_at(read.began, [self.shard]).then_some(SettingsGuard(read))
    }
}
