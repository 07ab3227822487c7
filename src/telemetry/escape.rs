//! Escapes control characters in text for a terminal. Stored, imported and received text may contain escape sequences,
//! with which it could change what a terminal shows.

use std::borrow::Cow;

/// True for characters that change what a terminal shows instead of being shown: control characters, among
/// them the beginning of every escape sequence, and marks that reverse the direction of text.
fn is_control(character: char) -> bool {
    (character.is_control() && !matches!(character, '\n' | '\t'))
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Escapes control characters except line breaks and tabs, as `\u{1b}`.
pub(crate) fn escape_controls(text: &str) -> Cow<'_, str> {
    escape_with(text, |character| character.escape_unicode().to_string())
}

/// Escapes control characters and line breaks, so that a text from elsewhere can't look like further lines of output.
pub(crate) fn escape_line(text: &str) -> String {
    escape_controls(text).replace('\n', "\\n")
}

/// Escapes the control characters in JSON text, as `\u001b`. They occur only within its strings, so the values
/// are unchanged.
pub(crate) fn escape_json(text: &str) -> Cow<'_, str> {
    escape_with(text, |character| format!("\\u{:04x}", u32::from(character)))
}

/// Escapes a formatted log event, which ends with a line break, but keeps its colors.
pub(super) fn escape_event(event: &str) -> Cow<'_, str> {
    let (line, end) = event.strip_suffix('\n').map_or((event, ""), |line| (line, "\n"));
    if is_printable_ascii(line) {
        return Cow::Borrowed(event);
    }
    let mut escaped = String::with_capacity(event.len());
    for (index, part) in line.split("\x1b[").enumerate() {
        let color =
            part.find('m').filter(|end| part[..*end].bytes().all(|b| b.is_ascii_digit() || b == b';'));
        let part = match (index, color) {
            (0, _) => part,
            (_, Some(end)) => {
                escaped.push_str("\x1b[");
                escaped.push_str(&part[..end]);
                &part[end..]
            }
            (_, None) => {
                escaped.push_str("\\u{1b}[");
                part
            }
        };
        escaped.push_str(&escape_line(part));
    }
    escaped.push_str(end);
    Cow::Owned(escaped)
}

/// True for most texts. This check is much faster than [`is_control`] of each character.
fn is_printable_ascii(text: &str) -> bool {
    text.bytes().fold(true, |is_printable, byte| is_printable & (0x20..0x7f).contains(&byte))
}

fn escape_with(text: &str, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if is_printable_ascii(text) || !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            control if is_control(control) => escaped.push_str(&escape(control)),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_text_is_kept() {
        for plain in ["", "plain, Grüße 日本語 🔑", "two\nlines\tand a tab"] {
            assert_eq!(escape_controls(plain), plain);
        }
        assert_eq!(escape_controls("a\x1b[2Jb\u{9b}c\u{7f}\r"), "a\\u{1b}[2Jb\\u{9b}c\\u{7f}\\u{d}");
        assert_eq!(escape_controls("\u{202e}txt"), "\\u{202e}txt");
        assert_eq!(escape_line("a\nok: 0"), "a\\nok: 0");
    }

    /// Colors are harmless, and those of the format can't be told from those of a field.
    #[test]
    fn a_log_event_stays_one_line_and_keeps_its_colors() {
        let event = "\x1b[2m12:00\x1b[0m INFO opened file=/a\x1b[2J\x1b]0;t\x07\x1b[1;31mb\nERROR forged\n";
        let expected =
            "\x1b[2m12:00\x1b[0m INFO opened file=/a\\u{1b}[2J\\u{1b}]0;t\\u{7}\x1b[1;31mb\\nERROR forged\n";
        assert_eq!(escape_event(event), expected);
        for plain in ["", "\n", "plain\n", "no break"] {
            assert_eq!(escape_event(plain), plain);
        }
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        let value = serde_json::json!({"name": "a\u{9b}31m\x1b]0;b\u{7f}\u{202e}c\nd"});
        let text = value.to_string();
        let escaped = escape_json(&text);
        assert!(!escaped.contains(is_control), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}
