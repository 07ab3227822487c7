//! The memory that the bodies of requests, their parsed JSON and long responses may take in all.
//!
//! Memory is reserved before it is needed, so that no number of callers makes the process run out of it. One
//! organization gets a quarter at most, which leaves room for the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::config::HttpConfig;
use crate::error::{Error, Result};

/// After how many seconds a refused client should try again.
const RETRY_AFTER_SECONDS: u64 = 1;

/// A budget of memory, and the reservations from it.
pub struct RequestMemory {
    max_bytes: usize,
    reserved: Mutex<ReservedBytes>,
}

#[derive(Default)]
struct ReservedBytes {
    total: usize,
    /// The reservations of each organization that has any.
    by_organization: HashMap<String, usize>,
}

impl RequestMemory {
    pub(crate) fn new(max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { max_bytes, reserved: Mutex::default() })
    }

    /// Reserves `bytes` for a caller until the reservation is dropped. `organization_id` is `None` for platform keys,
    /// whose reservations are only limited by the whole budget.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the budget, or the organization's share of it, would be exceeded.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        organization_id: Option<&str>,
        bytes: usize,
    ) -> Result<MemoryReservation> {
        let organization_id = organization_id.map(str::to_owned);
        let reservation =
            MemoryReservation { memory: self.clone(), organization_id, bytes: AtomicUsize::new(0) };
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// Number of bytes that are reserved now.
    pub fn reserved_bytes(&self) -> usize {
        self.reserved.lock().total
    }
}

/// Memory reserved for one request. Dropping it releases the memory.
pub(crate) struct MemoryReservation {
    memory: Arc<RequestMemory>,
    organization_id: Option<String>,
    /// Changed only while the budget is locked.
    bytes: AtomicUsize,
}

impl MemoryReservation {
    /// The organization whose share the memory counts towards; `None` for platform keys.
    pub(crate) fn organization_id(&self) -> Option<&str> {
        self.organization_id.as_deref()
    }

    /// Reserves `bytes` more. After an error the reservation is as before.
    ///
    /// # Errors
    /// Those of [`RequestMemory::reserve`].
    pub(crate) fn grow(&self, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let max_bytes = self.memory.max_bytes;
        let mut reserved = self.memory.reserved.lock();
        if reserved.total.saturating_add(bytes) > max_bytes {
            let message = "The requests in progress take all memory set aside for them; nothing was changed. Try again.";
            return Err(Error::unavailable(message, RETRY_AFTER_SECONDS));
        }
        if let Some(id) = &self.organization_id {
            let of_organization = reserved.by_organization.get(id).copied().unwrap_or(0) + bytes;
            if of_organization > max_bytes / HttpConfig::ORGANIZATION_SHARE {
                let message = "The requests of this organization in progress take all memory set aside for one \
                    organization; nothing was changed. Send fewer or smaller requests at the same time.";
                return Err(Error::unavailable(message, RETRY_AFTER_SECONDS));
            }
            reserved.by_organization.insert(id.clone(), of_organization);
        }
        reserved.total += bytes;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Releases what exceeds `max_bytes`.
    pub(crate) fn shrink_to(&self, max_bytes: usize) {
        let mut reserved = self.memory.reserved.lock();
        let bytes = self.bytes.load(Ordering::Relaxed).saturating_sub(max_bytes);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        reserved.total -= bytes;
        if let Some(id) = &self.organization_id
            && let Some(of_organization) = reserved.by_organization.get_mut(id)
        {
            *of_organization -= bytes;
            if *of_organization == 0 {
                reserved.by_organization.remove(id);
            }
        }
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        if *self.bytes.get_mut() > 0 {
            self.shrink_to(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn an_organization_gets_a_quarter_and_all_callers_together_the_whole() {
        let memory = RequestMemory::new(400);
        let first = memory.reserve(Some("org_a"), 60).unwrap();
        let second = memory.reserve(Some("org_a"), 40).unwrap();
        let refused = first.grow(1).unwrap_err();
        assert_eq!((refused.code, refused.retry_after), (Code::Unavailable, Some(1)));
        assert!(refused.message.contains("of this organization"), "{}", refused.message);
        assert!(memory.reserve(Some("org_a"), 1).is_err());

        let others: Vec<_> = ["org_b", "org_c"].map(|id| memory.reserve(Some(id), 100).unwrap()).into();
        let platform = memory.reserve(None, 100).unwrap();
        let refused = memory.reserve(None, 1).map(drop).unwrap_err();
        assert!(refused.message.contains("all memory"), "{}", refused.message);
        assert_eq!(memory.reserved_bytes(), 400);

        drop((second, platform));
        first.grow(40).unwrap();
        first.shrink_to(30);
        first.shrink_to(90);
        assert_eq!(memory.reserved_bytes(), 230);
        first.grow(70).unwrap();
        assert!(first.grow(1).is_err());
        drop((first, others));
        assert_eq!(memory.reserved_bytes(), 0);
        assert!(memory.reserved.lock().by_organization.is_empty());
    }

    #[test]
    fn concurrent_reservations_never_exceed_the_budget() {
        let memory = RequestMemory::new(1000);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let memory = &memory;
                scope.spawn(move || {
                    let organization_id = (thread % 2 == 0).then_some("org_a");
                    for size in 0..5000 {
                        let Ok(reservation) = memory.reserve(organization_id, size % 300) else { continue };
                        let _ = reservation.grow(size % 7);
                        let reserved = memory.reserved.lock();
                        assert!(reserved.total <= 1000);
                        assert!(reserved.by_organization.get("org_a").is_none_or(|bytes| *bytes <= 250));
                    }
                });
            }
        });
        assert_eq!(memory.reserved_bytes(), 0);
    }
}
