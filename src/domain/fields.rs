//! Parses JSON request bodies. Reports all faults of a body at once, and refuses unknown and duplicate
//! fields.
//!
//! serde's derive stops at the first fault, and `serde_json::Value` drops duplicate names. Therefore a body
//! is first parsed into [`Json`], which keeps duplicates, and then field by field.

pub use super::json::Json;
use super::patch::Patch;
use super::redaction::Redactor;
use crate::error::{Code, Error, ErrorDetail, Result};

/// The faults found so far in a request body, and the JSON pointer of the value being parsed.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    details: Vec<ErrorDetail>,
    pointer: String,
}

/// The maximum number of faults in an error response, so that the response stays small for any request.
const MAX_FAULTS: usize = 100;

/// Field names in JSON pointers are truncated to this many characters.
const MAX_POINTER_NAME_CHARS: usize = 64;

impl Faults {
    /// Records a fault of the value being parsed.
    pub(crate) fn add(&mut self, code: &'static str, message: impl Into<String>) {
        if self.details.len() < MAX_FAULTS {
            let pointer = Some(self.pointer.clone());
            self.details.push(ErrorDetail {
                pointer,
                parameter: None,
                code: code.into(),
                message: message.into(),
            });
        }
    }

    /// Calls `read` with the JSON pointer extended by `child`, the name of an object's field or the index of
    /// an array's item.
    pub(crate) fn at_child<T>(&mut self, child: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.pointer.len();
        self.pointer.push('/');
        // A field name from a client may be a megabyte long, so the pointer contains only its first
        // characters. A secret in it is cut out before, because part of one would not be recognized later.
        let is_long = child.len() > MAX_POINTER_NAME_CHARS;
        let name = if is_long { Redactor::default().redact(child) } else { child.into() };
        let short: String = name.chars().take(MAX_POINTER_NAME_CHARS).collect();
        self.pointer.push_str(&short.replace('~', "~0").replace('/', "~1"));
        let value = read(self);
        self.pointer.truncate(length);
        value
    }

    /// Returns the value if there are no faults, otherwise an error with all faults.
    pub(crate) fn finish<T>(self, value: T) -> Result<T> {
        if self.details.is_empty() { Ok(value) } else { Err(Error::invalid_request(self.details)) }
    }

    /// Returns the value as a string. Records a fault if the value has another type.
    pub(crate) fn expect_string<'j>(&mut self, json: &'j Json) -> Option<&'j str> {
        match json {
            Json::String(text) => Some(text),
            _ => {
                self.add_wrong_type(json, "Must be a string.");
                None
            }
        }
    }

    /// Like [`expect_string`](Self::expect_string), for a text that is not stored and may hold a secret.
    pub(crate) fn expect_unstored_string<'j>(&mut self, json: &'j Json) -> Option<&'j str> {
        match json {
            Json::Secret(text) => Some(text),
            _ => self.expect_string(json),
        }
    }

    /// Records that the value has the wrong type, or holds a secret, which no stored field may.
    fn add_wrong_type(&mut self, json: &Json, message: &'static str) {
        match json {
            Json::Secret(_) => self.add(
                Code::SecretInField.name(),
                "Must not contain the secret of an API key. Remove it, and rotate the key if others may have \
                 seen it.",
            ),
            _ => self.add("INVALID_TYPE", message),
        }
    }

    /// Returns the fields of an object. Records a fault if the value has another type, and one per duplicate
    /// name.
    pub(crate) fn expect_object<'j>(&mut self, json: &'j Json) -> Option<&'j [(String, Json)]> {
        let Json::Object(entries) = json else {
            self.add_wrong_type(json, "Must be an object.");
            return None;
        };
        for (index, (name, _)) in entries.iter().enumerate() {
            if entries[..index].iter().any(|(earlier, _)| earlier == name) {
                self.at_child(name, |faults| faults.add("DUPLICATE_FIELD", "Given more than once."));
            }
        }
        Some(entries)
    }

    /// Returns the items of an array. Records a fault if the value has another type.
    pub(crate) fn expect_array<'j>(&mut self, json: &'j Json) -> Option<&'j [Json]> {
        match json {
            Json::Array(items) => Some(items),
            _ => {
                self.add_wrong_type(json, "Must be an array.");
                None
            }
        }
    }
}

/// Parses the fields of a JSON object. A faulty field yields a default value that is never used, because
/// [`Fields::finish`] returns an error if there are faults.
pub(crate) struct Fields<'j> {
    entries: &'j [(String, Json)],
    known_names: Vec<&'static str>,
    read_only_names: Vec<&'static str>,
    faults: Faults,
}

impl<'j> Fields<'j> {
    /// Starts parsing a request body. A body that isn't an object is a fault.
    pub(crate) fn of(body: &'j Json) -> Self {
        let mut faults = Faults::default();
        let entries = faults.expect_object(body).unwrap_or_default();
        Self { entries, known_names: Vec::new(), read_only_names: Vec::new(), faults }
    }

    /// Starts parsing an object inside a body. [`finish_nested`](Self::finish_nested) adds the object's
    /// faults to those of the body.
    pub(crate) fn of_nested_object(json: &'j Json, faults: &mut Faults) -> Self {
        let mut inner = Faults { details: Vec::new(), pointer: faults.pointer.clone() };
        let entries = inner.expect_object(json).unwrap_or_default();
        Self { entries, known_names: Vec::new(), read_only_names: Vec::new(), faults: inner }
    }

    /// Ends the parsing of a nested object and adds the object's faults to those of the body.
    pub(crate) fn finish_nested(mut self, faults: &mut Faults) {
        self.report_unknown_fields();
        let remaining = MAX_FAULTS.saturating_sub(faults.details.len());
        faults.details.extend(self.faults.details.into_iter().take(remaining));
    }

    /// Returns the value of a field and remembers the field as a known one.
    fn find_known(&mut self, name: &'static str) -> Option<&'j Json> {
        if !self.known_names.contains(&name) {
            self.known_names.push(name);
        }
        self.value_of(name)
    }

    fn value_of(&self, name: &str) -> Option<&'j Json> {
        self.entries.iter().find(|(given, _)| given == name).map(|(_, value)| value)
    }

    /// Parses a required field with `read`. A missing field is a fault.
    pub(crate) fn required<T: Default>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Json, &mut Faults) -> Option<T>,
    ) -> T {
        let value = self.find_known(name);
        self.faults
            .at_child(name, |faults| match value {
                Some(value) => read(value, faults),
                None => {
                    faults.add("REQUIRED", "Required.");
                    None
                }
            })
            .unwrap_or_default()
    }

    /// Parses a field that may be omitted with `read`. The value `null` is a fault.
    pub(crate) fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Json, &mut Faults) -> Option<T>,
    ) -> Option<T> {
        let value = self.find_known(name)?;
        self.faults.at_child(name, |faults| match value {
            Json::Null => {
                faults.add("NOT_NULLABLE", "Must not be null; omit the field instead.");
                None
            }
            value => read(value, faults),
        })
    }

    /// Parses a field that may be omitted or `null` with `read`.
    pub(crate) fn nullable<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Json, &mut Faults) -> Option<T>,
    ) -> Patch<T> {
        match self.find_known(name) {
            None => Patch::Keep,
            Some(Json::Null) => Patch::Clear,
            Some(value) => match self.faults.at_child(name, |faults| read(value, faults)) {
                Some(value) => Patch::Set(value),
                None => Patch::Keep,
            },
        }
    }

    /// True if the body contains this field.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.value_of(name).is_some()
    }

    /// Returns a field's JSON, for parsing later; arrays and objects are shared, not copied. The value may have
    /// any type.
    pub(crate) fn shared_value(&mut self, name: &'static str) -> Option<Json> {
        self.find_known(name).cloned()
    }

    /// Records a fault for each of the named fields that the body contains. These fields exist in responses
    /// but can't be set, so the message is clearer than that for unknown fields.
    pub(crate) fn refuse_read_only(&mut self, names: &[&'static str]) {
        for &name in names {
            self.read_only_names.push(name);
            if self.value_of(name).is_some() {
                self.faults.at_child(name, |faults| faults.add("READ_ONLY", "Read-only; omit this field."));
            }
        }
    }

    /// Records a fault of the named field. Used for rules that involve several fields.
    pub(crate) fn add_fault(&mut self, name: &str, code: &'static str, message: &'static str) {
        self.faults.at_child(name, |faults| faults.add(code, message));
    }

    /// Returns the value if there are no faults, otherwise an error with all faults. Each field that no
    /// method asked for is unknown, which is a fault.
    pub(crate) fn finish<T>(mut self, value: T) -> Result<T> {
        self.report_unknown_fields();
        self.faults.finish(value)
    }

    /// Records a fault for each field that is neither known nor read-only.
    fn report_unknown_fields(&mut self) {
        for (name, _) in self.entries {
            if !self.known_names.contains(&name.as_str()) && !self.read_only_names.contains(&name.as_str()) {
                let known = self.known_names.join(", ");
                self.faults.at_child(name, |faults| {
                    faults.add("UNKNOWN_FIELD", format!("Unknown field; supported fields are: {known}."));
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::rules;

    fn parse_name_and_email(body: &str) -> Result<(String, Option<String>)> {
        let json = Json::parse(body.as_bytes())?;
        let mut fields = Fields::of(&json);
        fields.refuse_read_only(&["created_at"]);
        let value =
            (fields.required("name", rules::parse_name), fields.optional("email", rules::parse_email));
        fields.finish(value)
    }

    fn pointers_and_codes(body: &str) -> Vec<(String, String)> {
        let details = parse_name_and_email(body).unwrap_err().details;
        details.into_iter().map(|d| (d.pointer.unwrap_or_default(), d.code.into_owned())).collect()
    }

    #[test]
    fn an_object_reports_all_faults_at_once() {
        assert_eq!(
            pointers_and_codes(r#"{"email":7,"created_at":"x","a/b~":1,"email":"b@c"}"#),
            [
                ("/email", "DUPLICATE_FIELD"),
                ("/created_at", "READ_ONLY"),
                ("/name", "REQUIRED"),
                ("/email", "INVALID_TYPE"),
                ("/a~1b~0", "UNKNOWN_FIELD")
            ]
            .map(|(pointer, code)| (pointer.to_owned(), code.to_owned()))
        );
        assert_eq!(pointers_and_codes("[]")[0], (String::new(), "INVALID_TYPE".to_owned()));
        assert_eq!(parse_name_and_email(r#"{"name":"n"}"#).unwrap(), ("n".to_owned(), None));
    }

    #[test]
    fn an_unknown_field_lists_the_supported_ones() {
        let message = &parse_name_and_email(r#"{"name":"n","nmae":"n"}"#).unwrap_err().details[0].message;
        assert_eq!(message, "Unknown field; supported fields are: name, email.");
    }
}
