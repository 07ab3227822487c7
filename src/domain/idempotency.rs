//! Limits on the space that the responses stored for `Idempotency-Key` take.

use crate::error::{Error, Result};

/// The bytes that a stored response counts in addition to its body: the other columns and the indexes.
const ROW_BYTES: u64 = 256;

/// After this number of seconds, expired responses have been deleted, and a refused request may succeed.
const RETRY_AFTER_SECONDS: u64 = 60;

/// The bytes that a response with a body of this length counts.
pub(crate) fn counted_bytes(body_length: usize) -> u64 {
    body_length as u64 + ROW_BYTES
}

/// The largest number of bytes that stored responses may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StorageLimits {
    /// Largest body of a single response.
    pub(crate) response: u64,
    /// All responses of an API key.
    pub(crate) key: u64,
    /// All responses of an organization's API keys.
    pub(crate) organization: u64,
    /// All responses.
    pub(crate) total: u64,
}

/// The bytes that stored responses take.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StoredBytes {
    /// All responses of the API key.
    pub(crate) key: u64,
    /// All responses of the API keys of the key's organization; for a platform key, of all platform keys.
    pub(crate) organization: u64,
    /// All responses.
    pub(crate) total: u64,
}

impl StorageLimits {
    /// Checks a response's body before it is encrypted and stored.
    ///
    /// # Errors
    /// `UNAVAILABLE` if the body is too long.
    pub(crate) fn check_length(&self, body_length: usize) -> Result<()> {
        if body_length as u64 <= self.response {
            return Ok(());
        }
        let message = format!(
            "Nothing was done: the response has {body_length} bytes, and at most {} can be stored for an \
             Idempotency-Key. Send fewer operations, or send the request without Idempotency-Key.",
            self.response
        );
        Err(Error::unavailable(message, RETRY_AFTER_SECONDS))
    }

    /// Checks that there is room for a response that counts `added` bytes. Platform keys share no limit of an
    /// organization.
    ///
    /// # Errors
    /// `UNAVAILABLE` if there is no room.
    pub(crate) fn check_room(&self, added: u64, stored: &StoredBytes, is_platform_key: bool) -> Result<()> {
        let owner = if stored.key + added > self.key {
            "this API key"
        } else if !is_platform_key && stored.organization + added > self.organization {
            "this organization"
        } else if stored.total + added > self.total {
            "all API keys"
        } else {
            return Ok(());
        };
        let message = format!(
            "Nothing was done: the responses stored for the Idempotency-Keys of {owner} take as much space as \
             they may. Each is deleted after 24 hours. Try again later, or send the request without \
             Idempotency-Key."
        );
        Err(Error::unavailable(message, RETRY_AFTER_SECONDS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: StorageLimits = StorageLimits { response: 10, key: 100, organization: 200, total: 300 };

    #[test]
    fn each_limit_admits_what_reaches_it_and_refuses_what_exceeds_it() {
        assert!(LIMITS.check_length(10).is_ok());
        assert!(LIMITS.check_length(11).is_err());
        for (key, organization, total, is_platform_key, refused) in [
            (99, 0, 0, false, None),
            (100, 0, 0, false, Some("this API key")),
            (0, 199, 0, false, None),
            (0, 200, 0, false, Some("this organization")),
            (0, 200, 0, true, None),
            (0, 0, 299, false, None),
            (0, 0, 300, false, Some("all API keys")),
            (0, 0, 300, true, Some("all API keys")),
        ] {
            let checked = LIMITS.check_room(1, &StoredBytes { key, organization, total }, is_platform_key);
            let message = checked.err().map(|error| error.message);
            let expected = match (&message, refused) {
                (None, None) => true,
                (Some(message), Some(owner)) => message.contains(&format!("of {owner} take")),
                _ => false,
            };
            assert!(expected, "{key} {organization} {total} {is_platform_key}: {message:?}");
        }
    }
}
