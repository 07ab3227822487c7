//! Cursors: encrypted positions at which paginated lists continue.
//!
//! A cursor is bound to its list, filters and order: it is encrypted with an AEAD that has these as the
//! associated data. A cursor is therefore invalid for other lists, and reveals nothing about the number of
//! rows of other organizations.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use crate::domain::page;
use crate::error::{Error, Result};

/// Encrypts and decrypts cursors with a key that is stored in the database.
pub(crate) struct Cursors(LessSafeKey);

impl Cursors {
    /// Creates the cipher for cursors from a 32-byte key, which is stored in the database.
    pub(crate) fn new(key: &[u8]) -> Result<Self> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key)
            .map_err(|_| Error::internal("the cursor key is not 32 bytes"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Encrypts a cursor at which the list continues after the row with this `seq`. `binding` identifies the
    /// list, its filters and its order.
    pub(crate) fn seal(&self, random: &SystemRandom, binding: &str, seq: i64) -> Result<String> {
        let mut nonce = [0; NONCE_LEN];
        random.fill(&mut nonce).map_err(|_| Error::internal("no randomness"))?;
        let mut text = seq.to_be_bytes().to_vec();
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(binding), &mut text)
            .map_err(|_| Error::internal("could not seal a cursor"))?;
        Ok(URL_SAFE_NO_PAD.encode([nonce.as_slice(), &text].concat()))
    }

    /// Decrypts a cursor and returns its `seq`. `INVALID_CURSOR` when the cursor was not created with
    /// this key, or was created for another `binding`: another list, other filters or another order.
    pub(crate) fn open(&self, binding: &str, cursor: Option<&str>) -> Result<Option<i64>> {
        let Some(cursor) = cursor else { return Ok(None) };
        let decrypt = || {
            let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
            let (nonce, text) = bytes.split_at_checked(NONCE_LEN)?;
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut text = text.to_vec();
            let seq = self.0.open_in_place(nonce, Aad::from(binding), &mut text).ok()?;
            Some(i64::from_be_bytes(<[u8; 8]>::try_from(seq).ok()?))
        };
        decrypt().map(Some).ok_or_else(page::invalid_cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn a_cursor_can_be_opened_only_for_the_list_it_was_created_for() {
        let cursors = Cursors::new(&[7; 32]).unwrap();
        let cursor = cursors.seal(&SystemRandom::new(), "users|asc", 42).unwrap();
        assert_eq!(cursors.open("users|asc", Some(&cursor)).unwrap(), Some(42));
        assert_eq!(cursors.open("users|asc", None).unwrap(), None);
        let mut tampered = URL_SAFE_NO_PAD.decode(&cursor).unwrap();
        tampered[13] ^= 1;
        let tampered = URL_SAFE_NO_PAD.encode(tampered);
        for (binding, cursor) in [
            ("users|desc", cursor.as_str()),
            ("users|asc", &tampered),
            ("users|asc", ""),
            ("users|asc", "AAAA"),
        ] {
            assert_eq!(
                cursors.open(binding, Some(cursor)).unwrap_err().code,
                Code::InvalidCursor,
                "{cursor}"
            );
        }
        let other = Cursors::new(&[8; 32]).unwrap();
        assert!(other.open("users|asc", Some(&cursor)).is_err());
    }
}
