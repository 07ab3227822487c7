//! Secrets: generated, recognized by their checksum, and stored only as a hash.

use std::fmt;

use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};

use crate::domain::api_key::SecretHash;
use crate::error::{Error, Result};

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 32 of 62 digits: 190 random bits, so that a plain SHA-256 at rest is enough.
const RANDOM_DIGITS: usize = 32;
const CHECKSUM_DIGITS: usize = 6;
/// Maximum length of a bearer token, in bytes. Longer ones are refused before they are hashed.
pub(crate) const MAX_LENGTH: usize = 512;

/// A secret in plain text, on its way to the one response that shows it. `Debug` doesn't print it.
#[derive(Clone)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// Generates a secret: `<prefix>_<32 random base62 digits><6 digits of checksum>`. Fails when the
    /// operating system provides no random bytes.
    pub(crate) fn generate(random: &SystemRandom, prefix: &str) -> Result<Self> {
        let mut text = format!("{prefix}_");
        let end = text.len() + RANDOM_DIGITS;
        let mut bytes = [0; 64];
        while text.len() < end {
            random
                .fill(&mut bytes)
                .map_err(|_| Error::internal("could not get random bytes from the operating system"))?;
            // Rejection sampling: 248 = 4 · 62. Bytes from 248 on would make some digits more likely.
            let unbiased = bytes.iter().filter(|byte| **byte < 248).take(end - text.len());
            text.extend(unbiased.map(|byte| char::from(DIGITS[usize::from(byte % 62)])));
        }
        text.extend(checksum(&text).map(char::from));
        Ok(Self(text))
    }

    /// A secret that was not generated here.
    pub fn from_outside(text: String) -> Self {
        Self(text)
    }

    /// The plain text, for the one response that shows it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// The beginning by which the secret is recognized later: prefix, `_` and 4 characters; of a secret in
    /// another format its first 4 characters.
    pub(crate) fn start(&self, prefix: &str) -> String {
        let shown = if has_our_format(prefix, &self.0) { prefix.len() + 5 } else { 4 };
        self.0.chars().take(shown).collect()
    }

    /// The hash that is stored.
    pub fn hash(&self) -> SecretHash {
        hash(&self.0)
    }
}

/// SHA-256 of the whole text.
pub fn hash(text: &str) -> SecretHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    hash
}

/// CRC-32/ISO-HDLC in six base62 digits, zero-padded.
fn checksum(text: &str) -> [u8; CHECKSUM_DIGITS] {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut digits = [b'0'; CHECKSUM_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

fn has_our_format(prefix: &str, text: &str) -> bool {
    text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_')).is_some_and(|digits| {
        digits.len() == RANDOM_DIGITS + CHECKSUM_DIGITS
            && digits.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// False if the text is empty, too long, or has our format under one of these prefixes with a wrong
/// checksum: then it can't be a secret, which is known without a lookup. Any other text has to be looked up.
pub(crate) fn is_plausible(prefixes: &[String], text: &str) -> bool {
    if text.is_empty() || text.len() > MAX_LENGTH {
        return false;
    }
    if !prefixes.iter().any(|prefix| has_our_format(prefix, text)) {
        return true;
    }
    let (body, digits) = text.split_at(text.len() - CHECKSUM_DIGITS);
    checksum(body) == digits.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toll() -> [String; 1] {
        ["toll".to_owned()]
    }

    #[test]
    fn a_generated_secret_is_recognized() {
        let random = SystemRandom::new();
        let secret = Secret::generate(&random, "toll").unwrap();
        let text = secret.reveal();
        assert_eq!(text.len(), 5 + 38);
        assert!(is_plausible(&toll(), text));
        assert_eq!(secret.start("toll"), text[..9]);
        assert_ne!(text, Secret::generate(&random, "toll").unwrap().reveal());
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }

    #[test]
    fn any_single_wrong_digit_is_refused_without_a_lookup() {
        let secret = Secret::generate(&SystemRandom::new(), "toll").unwrap();
        for index in 5..secret.reveal().len() {
            let mut wrong = secret.reveal().as_bytes().to_vec();
            wrong[index] = if wrong[index] == b'0' { b'1' } else { b'0' };
            assert!(!is_plausible(&toll(), std::str::from_utf8(&wrong).unwrap()), "digit {index}");
        }
    }

    #[test]
    fn other_formats_have_to_be_looked_up() {
        assert!(is_plausible(&toll(), "sk_live_0123456789"));
        assert!(is_plausible(&toll(), "toll_short"));
        assert!(!is_plausible(&toll(), ""));
        assert!(!is_plausible(&toll(), &"x".repeat(MAX_LENGTH + 1)));
    }

    #[test]
    fn the_checksum_is_the_standard_one() {
        // The check value of CRC-32/ISO-HDLC is 0xCBF43926 = 3421780262.
        assert_eq!(crc32fast::hash(b"123456789"), 0xCBF4_3926);
        assert_eq!(&checksum("123456789"), b"3jZRME");
    }
}
