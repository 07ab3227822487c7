//! Keeps secrets out of everything that is stored or logged: recognizes them in text, cuts them out of recorded
//! strings, and makes stored fields refuse them.
//!
//! Generated secrets are recognized by their [format](super::secret_format). A secret in another format, which
//! was imported, is recognized only if the same request presents it as its credential.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use memchr::memchr2;
use memchr::memmem;

use super::json::Json;
use super::secret_format::{DIGITS, MIN_SECRET_BYTES, START_DIGITS, find_secrets, visible_start};

/// How many encodings around a secret are undone. Each one is percent-encoding, JSON escaping or a mixture.
const MAX_DECODINGS: usize = 3;

/// The maximum number of credentials that are recognized, in `Authorization` and in other headers. A request that is
/// served presents at most two, and each one costs a search, which anyone can cause.
const MAX_PRESENTED: usize = 4;

/// A presented credential that is shorter isn't recognized: it is no secret that anyone has to guess, and ordinary text
/// would contain it.
const MIN_PRESENTED_BYTES: usize = 16;

/// Recorded strings are truncated to this many characters.
const MAX_RECORDED_CHARS: usize = 256;

/// Recognizes secrets in text: generated ones, and those that a request presents as its credential.
#[derive(Clone, Default)]
pub(crate) struct Redactor {
    /// The credentials in `Authorization`, which authenticates the caller.
    presented: Arc<[String]>,
    /// Those in headers that the route may not read.
    unused: Arc<[String]>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor(…)") // Contains secrets.
    }
}

/// A secret to cut out of a text, and its first characters, which stay.
struct Cut {
    range: Range<usize>,
    start: String,
}

impl Redactor {
    /// Creates a redactor that also recognizes the credentials that a request presents, whatever their format:
    /// those in `Authorization`, and those in headers that the route may not read.
    pub(crate) fn new(presented: impl Iterator<Item = String>, unused: impl Iterator<Item = String>) -> Self {
        let is_long = |secret: &String| secret.len() >= MIN_PRESENTED_BYTES;
        Self {
            presented: presented.filter(is_long).take(MAX_PRESENTED).collect(),
            unused: unused.filter(is_long).take(MAX_PRESENTED).collect(),
        }
    }

    /// The redactor for values that the server stored before the request, such as the id of the changed resource.
    /// A header that authenticates nobody can have any content, so it must not hide these values.
    pub(crate) fn for_stored_values(&self) -> Self {
        Self { presented: self.presented.clone(), unused: Arc::default() }
    }

    fn all_presented(&self) -> impl Iterator<Item = &String> {
        self.presented.iter().chain(self.unused.iter())
    }

    /// True if the text holds a secret, as it is or encoded.
    pub(crate) fn contains_secret(&self, text: &str) -> bool {
        if self.is_too_short(text) {
            return false;
        }
        let mut layer = Cow::Borrowed(text.as_bytes());
        for _ in 0..=MAX_DECODINGS {
            if self.find_unencoded(&layer).next().is_some() {
                return true;
            }
            let Some(decoded) = decode(&layer) else { return false };
            layer = Cow::Owned(decoded);
        }
        false
    }

    /// True if the text is shorter than any secret. Encodings only lengthen a secret.
    fn is_too_short(&self, text: &str) -> bool {
        text.len() < MIN_SECRET_BYTES && self.all_presented().all(|secret| text.len() < secret.len())
    }

    /// Replaces each secret by its first characters and an ellipsis.
    pub(crate) fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let cuts = self.find_cuts(text);
        if cuts.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut redacted = String::with_capacity(text.len());
        let mut at = 0;
        for Cut { range, start } in cuts {
            // A cut that overlaps the one before continues it.
            if range.start >= at {
                redacted.push_str(text.get(at..range.start).unwrap_or_default());
                redacted.push_str(&start);
                redacted.push('…');
            }
            at = at.max(range.end);
        }
        redacted.push_str(text.get(at..).unwrap_or_default());
        Cow::Owned(redacted)
    }

    /// Returns a string from a client as it is recorded: without secrets, and truncated. Truncating first could
    /// leave most of a secret, which is then no longer recognized.
    pub(crate) fn recorded_text(&self, text: &str) -> String {
        let mut recorded = self.redact(text).into_owned();
        truncate_text(&mut recorded);
        recorded
    }

    /// Returns a string from a client as it is logged: like [`recorded_text`](Self::recorded_text), and without
    /// what may be a secret with a typing error or without its prefix. A text in which a secret could not be recognized,
    /// because it is encoded too often, is left out.
    pub(crate) fn logged_text(&self, text: &str) -> String {
        if is_encoded_too_often(text) {
            return "…".to_owned();
        }
        let mut logged = self.cut_all(text).into_owned();
        truncate_text(&mut logged);
        logged
    }

    /// Cuts all secrets, and what may be a secret with a typing error or without its prefix.
    pub(crate) fn cut_all<'t>(&self, text: &'t str) -> Cow<'t, str> {
        cut_mistyped_secrets(self.redact(text))
    }

    /// Replaces a string by its [`recorded_text`](Self::recorded_text). Most strings stay as they are.
    pub(crate) fn record(&self, text: &mut String) {
        if let Cow::Owned(redacted) = self.redact(text) {
            *text = redacted;
        }
        truncate_text(text);
    }

    /// Replaces every string of a request body that holds a secret, and the value of every field whose name
    /// does, by [`Json::Secret`], which no parser of a stored field accepts.
    pub(crate) fn flag_secrets(&self, json: &mut Json) {
        match json {
            Json::String(text) if self.contains_secret(text) => *json = Json::Secret(std::mem::take(text)),
            Json::Array(items) => Arc::make_mut(items).iter_mut().for_each(|item| self.flag_secrets(item)),
            Json::Object(fields) => {
                for (name, value) in Arc::make_mut(fields) {
                    if self.contains_secret(name) {
                        *value = Json::Secret(String::new());
                    } else {
                        self.flag_secrets(value);
                    }
                }
            }
            _ => {}
        }
    }

    /// All secrets in a text, in order.
    fn find_cuts(&self, text: &str) -> Vec<Cut> {
        if self.is_too_short(text) {
            return Vec::new();
        }
        let mut cuts: Vec<Cut> = self.find_unencoded(text.as_bytes()).collect();
        let mut layers = vec![Cow::Borrowed(text.as_bytes())];
        while layers.len() <= MAX_DECODINGS {
            let Some(decoded) = layers.last().and_then(|layer| decode(layer)) else { break };
            let mut found: Vec<Cut> = self.find_unencoded(&decoded).collect();
            for layer in layers.iter().rev() {
                map_to_encoded(layer, &mut found);
            }
            cuts.extend(found);
            layers.push(Cow::Owned(decoded));
        }
        cuts.sort_by_key(|cut| (cut.range.start, Reverse(cut.range.end)));
        cuts
    }

    fn find_unencoded(&self, text: &[u8]) -> impl Iterator<Item = Cut> {
        let generated = find_secrets(text).map(|position| {
            let range = position.range;
            let secret = String::from_utf8_lossy(&text[range.clone()]);
            let start = visible_start(Some(&secret[..position.prefix_length]), &secret);
            Cut { range, start }
        });
        let presented = self.all_presented().flat_map(|secret| {
            let start = visible_start(None, secret);
            let finder = (secret.len() <= text.len()).then(|| memmem::find_iter(text, secret));
            finder
                .into_iter()
                .flatten()
                .map(move |at| Cut { range: at..at + secret.len(), start: start.clone() })
        });
        generated.chain(presented)
    }
}

/// Cuts whatever may be a mistyped secret to its first digits: as many letters and digits in a row as a secret has, after
/// a `_` or, if the prefix is missing, anywhere. Hashes in hexadecimal digits stay.
fn cut_mistyped_secrets(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.len() < DIGITS {
        return text;
    }
    let mut cut = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphanumeric()) {
        let (before, run) = rest.split_at(at);
        let length = run.bytes().take_while(u8::is_ascii_alphanumeric).count();
        let (digits, after) = run.split_at(length);
        let is_hash =
            !before.ends_with('_') && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        cut.push_str(before);
        if digits.len() >= DIGITS && !is_hash {
            cut.push_str(&digits[..START_DIGITS]);
            cut.push('…');
        } else {
            cut.push_str(digits);
        }
        rest = after;
    }
    cut.push_str(rest);
    Cow::Owned(cut)
}

/// True if a part of the text has the form of a secret, with the right checksum or not.
pub(crate) fn has_mistyped_secret(text: &str) -> bool {
    let mut parts = text.split('_').skip(1);
    parts.any(|part| part.bytes().take_while(u8::is_ascii_alphanumeric).count() >= DIGITS)
}

/// True if the text is encoded more often than is undone, so that a secret in it could not be recognized.
fn is_encoded_too_often(text: &str) -> bool {
    let mut layer = Cow::Borrowed(text.as_bytes());
    for _ in 0..=MAX_DECODINGS {
        let Some(decoded) = decode(&layer) else { return false };
        layer = Cow::Owned(decoded);
    }
    true
}

/// Truncates a text that is too long to be recorded, and marks that with an ellipsis.
pub(super) fn truncate_text(text: &mut String) {
    if text.len() > MAX_RECORDED_CHARS
        && let Some((end, _)) = text.char_indices().nth(MAX_RECORDED_CHARS)
    {
        text.truncate(end);
        text.push('…');
    }
}

/// Undoes one level of percent-encoding and JSON escapes; `None` if there is nothing to undo.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let first = memchr2(b'%', b'\\', text)?;
    let mut decoded = Vec::with_capacity(text.len());
    decoded.extend_from_slice(&text[..first]);
    let mut at = first;
    while at < text.len() {
        let (byte, length) = decode_byte(&text[at..]);
        decoded.push(byte);
        at += length;
    }
    (decoded.len() < text.len()).then_some(decoded)
}

/// The first byte of an encoded text that isn't empty, and the number of bytes that encode it. Only ASCII is
/// decoded from `\u…`, because secrets consist of it.
fn decode_byte(text: &[u8]) -> (u8, usize) {
    let hex = |range: Range<usize>| {
        let digits = text.get(range)?.iter().map(|byte| char::from(*byte).to_digit(16));
        digits.into_iter().try_fold(0, |value, digit| Some(value * 16 + digit?))
    };
    let encoded = match text {
        [b'%', ..] => hex(1..3).map(|value| (value, 3)),
        [b'\\', b'u', ..] => hex(2..6).filter(|value| *value < 0x80).map(|value| (value, 6)),
        [b'\\', byte @ (b'"' | b'\\' | b'/'), ..] => Some((u32::from(*byte), 2)),
        _ => None,
    };
    let decoded = encoded.and_then(|(value, length)| Some((u8::try_from(value).ok()?, length)));
    decoded.unwrap_or((text[0], 1))
}

/// Converts positions in the decoded text into positions in the encoded text.
fn map_to_encoded(encoded: &[u8], cuts: &mut [Cut]) {
    let mut boundaries: Vec<usize> = cuts.iter().flat_map(|cut| [cut.range.start, cut.range.end]).collect();
    boundaries.sort_unstable();
    boundaries.dedup();
    let mut positions = Vec::with_capacity(boundaries.len());
    let mut at = 0;
    let mut decoded_at = 0;
    for boundary in &boundaries {
        while decoded_at < *boundary && at < encoded.len() {
            at += decode_byte(&encoded[at..]).1;
            decoded_at += 1;
        }
        positions.push(at);
    }
    let position_of =
        |boundary: usize| boundaries.binary_search(&boundary).map_or(0, |index| positions[index]);
    for cut in cuts {
        cut.range = position_of(cut.range.start)..position_of(cut.range.end);
    }
}

#[cfg(test)]
#[path = "redaction_tests.rs"]
mod tests;
