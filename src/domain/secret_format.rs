//! The format of generated secrets: `<prefix>_<32 random base62 digits><6 digits of checksum>`. The checksum
//! covers the prefix, so that a secret is recognized inside other text, whatever its prefix.

use std::ops::Range;

use memchr::memchr_iter;

pub(crate) const BASE62_DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Number of random digits of a secret. 32 digits in base 62 have 190 random bits, so that a plain SHA-256
/// hash in the database can't be reversed by guessing.
pub(crate) const RANDOM_DIGITS: usize = 32;
pub(crate) const CHECKSUM_DIGITS: usize = 6;
/// Number of digits after the prefix.
pub(super) const DIGITS: usize = RANDOM_DIGITS + CHECKSUM_DIGITS;
/// Number of digits after the prefix that stay visible.
pub(super) const START_DIGITS: usize = 4;
/// Number of characters that stay visible of a secret in another format.
const FOREIGN_START_CHARS: usize = 4;
/// Length of the shortest generated secret: a prefix of one letter, `_` and the digits.
pub(crate) const MIN_SECRET_BYTES: usize = 2 + DIGITS;
/// Maximum length of a prefix that [`find_secrets`] recognizes, in bytes.
const MAX_PREFIX_BYTES: usize = 64;

/// Prefixes that secrets can't have, because ids have them. An id that a caller chooses can have a matching
/// checksum, and must not be taken for a secret.
const RESERVED_PREFIXES: &[&str] = &["org", "user", "key", "evt", "req", "wh", "whsec"];

/// True if ids have this prefix, so that secrets can't.
pub(crate) fn is_reserved_prefix(prefix: &str) -> bool {
    RESERVED_PREFIXES.contains(&prefix)
}

/// CRC-32/ISO-HDLC in six base62 digits, zero-padded.
pub(crate) fn checksum_digits(text: &str) -> [u8; CHECKSUM_DIGITS] {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut digits = [b'0'; CHECKSUM_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62_DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// The prefix of a text in the format of secrets, whether its checksum is right or not; `None` for a text in another
/// format. A prefix can contain `_`, but the digits can't, so a text has at most one prefix.
pub(crate) fn prefix_of(text: &str) -> Option<&str> {
    let (prefix, digits) = text.rsplit_once('_')?;
    let is_generated = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_generated.then_some(prefix)
}

/// The first characters of a secret, which stay visible so that people recognize it: prefix, `_` and 4
/// characters; without a prefix, for a secret in another format, its first 4 characters.
pub(crate) fn visible_start(prefix: Option<&str>, secret: &str) -> String {
    let shown = prefix.map_or(FOREIGN_START_CHARS, |prefix| prefix.len() + 1 + START_DIGITS);
    secret.chars().take(shown).collect()
}

/// The position of a generated secret in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecretPosition {
    pub(crate) range: Range<usize>,
    pub(crate) prefix_length: usize,
}

/// Finds all generated secrets in a text, whatever their prefix and the text around them. Takes linear time.
pub(crate) fn find_secrets(text: &[u8]) -> impl Iterator<Item = SecretPosition> {
    memchr_iter(b'_', text).filter_map(|separator| {
        let end = separator + 1 + DIGITS;
        let digits = text.get(separator + 1..end)?;
        if !digits.iter().all(u8::is_ascii_alphanumeric) {
            return None;
        }
        let checksum = parse_checksum(&digits[RANDOM_DIGITS..])?;
        let start = find_prefix(&text[..end - CHECKSUM_DIGITS], separator, checksum)?;
        Some(SecretPosition { range: start..end, prefix_length: separator - start })
    })
}

/// The checksum with these digits; `None` if the number has more than 32 bits.
fn parse_checksum(digits: &[u8]) -> Option<u32> {
    let value = digits.iter().try_fold(0_u64, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'A'..=b'Z' => digit - b'A' + 10,
            b'a'..=b'z' => digit - b'a' + 36,
            _ => return None,
        };
        Some(value * 62 + u64::from(digit))
    });
    u32::try_from(value?).ok()
}

/// The index at which the prefix before `separator` must start so that the text from there to its end has this
/// checksum. Undoes the checksum byte by byte from the end, so that all prefixes are tried in one pass.
fn find_prefix(text: &[u8], separator: usize, checksum: u32) -> Option<usize> {
    let mut state = text[separator..].iter().rev().fold(!checksum, |state, byte| undo_crc_step(state, *byte));
    let first = separator.saturating_sub(MAX_PREFIX_BYTES);
    for start in (first..separator).rev() {
        let byte = text[start];
        if !(byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
            return None;
        }
        state = undo_crc_step(state, byte);
        if state == CRC_INITIAL_STATE && byte.is_ascii_lowercase() {
            let prefix = std::str::from_utf8(&text[start..separator]).ok()?;
            // An id is no secret either if the checksum matches from a later letter of its prefix on, which is one word.
            let is_in_word = start > first && text[start - 1].is_ascii_lowercase() && !prefix.contains('_');
            let is_id = is_reserved_prefix(prefix) || is_in_word && ends_with_id_prefix(&text[..separator]);
            return (!is_id).then_some(start);
        }
    }
    None
}

/// True if the last word of a text is a prefix of ids.
fn ends_with_id_prefix(text: &[u8]) -> bool {
    let start = text.iter().rposition(|byte| !byte.is_ascii_alphanumeric()).map_or(0, |index| index + 1);
    std::str::from_utf8(&text[start..]).is_ok_and(is_reserved_prefix)
}

/// The state of CRC-32/ISO-HDLC before the first byte.
const CRC_INITIAL_STATE: u32 = u32::MAX;

/// For each byte, what one step of the checksum adds to the shifted state.
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xEDB8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

/// The index of each entry of [`CRC_TABLE`], by the entry's highest byte, which differs for all entries.
const CRC_TABLE_INDEX: [u8; 256] = {
    let mut indexes = [0; 256];
    let mut index = 0;
    while index < indexes.len() {
        indexes[(CRC_TABLE[index] >> 24) as usize] = index as u8;
        index += 1;
    }
    indexes
};

/// The state of the checksum before `byte` was added, from the state after it.
fn undo_crc_step(state: u32, byte: u8) -> u32 {
    let index = CRC_TABLE_INDEX[(state >> 24) as usize];
    ((state ^ CRC_TABLE[usize::from(index)]) << 8) | u32::from(index ^ byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(prefix: &str) -> String {
        let body = format!("{prefix}_0123456789abcdefghijABCDEFGHIJxy");
        format!("{body}{}", std::str::from_utf8(&checksum_digits(&body)).unwrap())
    }

    fn find(text: &str) -> Vec<(&str, usize)> {
        find_secrets(text.as_bytes())
            .map(|position| (&text[position.range], position.prefix_length))
            .collect()
    }

    #[test]
    fn a_secret_is_found_with_any_prefix_in_any_text() {
        for prefix in ["toll", "a", "acme_live", "a1_b2_c3", "x".repeat(64).as_str()] {
            let secret = secret(prefix);
            for (before, after) in [
                ("", ""),
                ("/api-keys/", "/rotate"),
                ("x", "9"),
                ("_", "_"),
                ("a_toll_", "_toll_"),
                ("é", "é"),
            ] {
                let text = format!("{before}{secret}{after}");
                assert_eq!(find(&text), [(secret.as_str(), prefix.len())], "{text}");
            }
            assert_eq!(find(&secret.repeat(3)).len(), 3);
        }
    }

    /// A prefix that begins like another one, or ends like it.
    #[test]
    fn the_last_underscore_ends_the_prefix() {
        for prefix in ["acme", "acme_live", "live", "acme_live_eu", "acme__1"] {
            let secret = secret(prefix);
            assert_eq!(prefix_of(&secret), Some(prefix));
            assert_eq!(find(&secret), [(secret.as_str(), prefix.len())]);
        }
        for other in
            ["", "acme", "acme_", "acme_live_", &secret("acme")[1..], &format!("{}x", secret("acme"))]
        {
            assert_ne!(prefix_of(other), Some("acme"), "{other}");
        }
        assert_eq!(prefix_of(&format!("acme_live_{}", "é".repeat(19))), None);
    }

    #[test]
    fn other_text_is_no_secret() {
        let secret = secret("toll");
        for index in 0..secret.len() {
            let mut wrong = secret.clone().into_bytes();
            wrong[index] = if wrong[index] == b'0' { b'1' } else { b'0' };
            assert_eq!(find(std::str::from_utf8(&wrong).unwrap()), [], "{index}");
        }
        assert_eq!(find(&secret[..secret.len() - 1]), []);
        assert_eq!(find(&secret[1..]), []);
        assert_eq!(find("toll_"), []);
        assert_eq!(find(&"_".repeat(100)), []);
        assert_eq!(find(&format!("toll_{}", "z".repeat(38))), []);
    }

    #[test]
    fn an_id_is_no_secret_even_if_its_checksum_matches() {
        for prefix in RESERVED_PREFIXES {
            for start in 0..prefix.len() {
                let id = format!("{}{}", &prefix[..start], secret(&prefix[start..]));
                assert_eq!(find(&id), [], "{id}");
                assert_eq!(find(&format!("/users/{id}")), [], "{id}");
            }
        }
        for prefix in ["my_key", "a_whsec"] {
            let secret = secret(prefix);
            for before in ["", "x", "/", "_"] {
                assert_eq!(find(&format!("{before}{secret}")), [(secret.as_str(), prefix.len())], "{before}");
            }
        }
    }

    #[test]
    fn undoing_a_crc_step_is_the_inverse_of_the_checksum() {
        // The check value of CRC-32/ISO-HDLC is 0xCBF43926.
        let state = b"123456789".iter().rev().fold(!0xCBF4_3926, |state, byte| undo_crc_step(state, *byte));
        assert_eq!(state, CRC_INITIAL_STATE);
    }
}
