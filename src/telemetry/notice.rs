//! Lines for the person who starts the server, such as its address. They are written at any log level: as plain
//! text, or as a JSON object if the log is JSON.

use std::borrow::Cow;

use serde::Serializer as _;
use serde::ser::SerializeMap as _;
use tracing::Level;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use super::log_output;
use crate::domain::redaction::Redactor;

/// The `target` of notices in JSON.
const TARGET: &str = "tollhouse";

/// A line that isn't a log event. `docs/operate/logs.md` lists the messages and their fields.
#[must_use]
pub(crate) struct Notice<'a> {
    level: Level,
    message: Cow<'a, str>,
    fields: Vec<(&'static str, &'a str)>,
    text: Option<Cow<'a, str>>,
    shows_secrets: bool,
}

impl<'a> Notice<'a> {
    pub(crate) fn info(message: impl Into<Cow<'a, str>>) -> Self {
        let message = message.into();
        Self { level: Level::INFO, message, fields: Vec::new(), text: None, shows_secrets: false }
    }

    pub(crate) fn error(message: impl Into<Cow<'a, str>>) -> Self {
        Self { level: Level::ERROR, ..Self::info(message) }
    }

    /// Adds a field of the JSON object.
    pub(crate) fn field(mut self, name: &'static str, value: &'a str) -> Self {
        self.fields.push((name, value));
        self
    }

    /// Sets the plain text, which is otherwise the message.
    pub(crate) fn text(mut self, text: impl Into<Cow<'a, str>>) -> Self {
        self.text = Some(text.into());
        self
    }

    /// Declares that secrets in the notice are there on purpose. Otherwise they are cut.
    pub(crate) fn showing_secrets(mut self) -> Self {
        self.shows_secrets = true;
        self
    }

    pub(crate) fn print(self) {
        if log_output::writes_json() {
            if let Ok(line) = self.to_json() {
                log_output::print_line(&format!("{line}\n"));
            }
        } else {
            log_output::print_text(&self.shown(self.text.as_ref().unwrap_or(&self.message)));
        }
    }

    /// A text of the notice as it is printed. Text from outside, such as the name of a file, may hold a secret that was
    /// typed in the wrong place.
    fn shown<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.shows_secrets { Cow::Borrowed(text) } else { Redactor::default().cut_all(text) }
    }

    /// The notice in the form of a log event.
    fn to_json(&self) -> serde_json::Result<String> {
        let mut timestamp = String::new();
        let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
        let mut json = Vec::new();
        let mut serializer = serde_json::Serializer::new(&mut json);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &timestamp)?;
        map.serialize_entry("level", self.level.as_str())?;
        map.serialize_entry("message", &self.shown(&self.message))?;
        for (name, value) in &self.fields {
            map.serialize_entry(name, &self.shown(value))?;
        }
        map.serialize_entry("target", TARGET)?;
        map.end()?;
        Ok(String::from_utf8_lossy(&json).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn i6_a_notice_shows_secrets_only_on_purpose() {
        let mistyped = format!("toll_4sZg{}", "x".repeat(34));
        let notice = || Notice::error("failed").field("error", &mistyped).text(format!("error: {mistyped}"));
        assert_eq!(notice().shown(&mistyped), "toll_4sZg…");
        assert!(!notice().to_json().unwrap().contains("xx"));
        assert!(notice().showing_secrets().to_json().unwrap().contains(&mistyped));
    }

    #[test]
    fn a_notice_has_the_form_of_a_log_event() {
        let notice =
            Notice::error("failed").field("error", "line\nbreak \"quoted\" \u{1b}[1m").text("error: …");
        let json = notice.to_json().unwrap();
        assert!(!json.contains(['\n', '\u{1b}']), "{json}");
        let names = ["timestamp", "level", "message", "error", "target"];
        let positions: Vec<_> = names.map(|name| json.find(&format!("\"{name}\":")).unwrap()).into();
        assert!(positions.is_sorted(), "{json}");
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["level"], &json["message"]), (&"ERROR".into(), &"failed".into()));
        assert_eq!(json["error"], "line\nbreak \"quoted\" \u{1b}[1m");
        assert!(json["timestamp"].as_str().unwrap().ends_with('Z'), "{json}");
    }
}
