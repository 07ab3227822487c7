//! Reading a JSON body: all faults at once, unknown and duplicate fields refused.
//!
//! serde's derive stops at the first fault and `serde_json::Value` swallows duplicate names, so a body
//! is first parsed into [`Json`], which keeps both of a pair, and then read field by field.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::patch::Patch;
use crate::error::{Code, Detail, Error, Result};

/// A JSON value whose objects keep every name, in the order sent.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Json {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    String(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Parses a body. `INVALID_JSON` names line and column; nesting deeper than 128 is refused.
    pub fn parse(body: &[u8]) -> Result<Json> {
        if body.is_empty() {
            return Err(Error::new(Code::InvalidJson, "The body is empty; send a JSON object."));
        }
        serde_json::from_slice(body)
            .map_err(|fault| Error::new(Code::InvalidJson, format!("The body is not valid JSON: {fault}.")))
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Json, E> {
        serde_json::Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut entries: Vec<(String, Json)> = Vec::new();
        while let Some(entry) = map.next_entry()? {
            // No resource of ours has that many fields; without a bound, finding duplicates is quadratic.
            if entries.len() == 1000 {
                return Err(A::Error::custom("an object with more than 1000 names"));
            }
            entries.push(entry);
        }
        Ok(Json::Object(entries))
    }
}

/// The faults found so far, and the place that is being read.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    list: Vec<Detail>,
    at: String,
}

/// More than these are counted as one: an answer stays small whatever was sent.
const MAX_FAULTS: usize = 100;

impl Faults {
    /// Notes a fault at the place that is being read.
    pub(crate) fn add(&mut self, code: &'static str, message: impl Into<String>) {
        if self.list.len() < MAX_FAULTS {
            let pointer = Some(self.at.clone());
            self.list.push(Detail { pointer, parameter: None, code: code.into(), message: message.into() });
        }
    }

    /// Reads something that lies one step deeper: an object's field, an array's index.
    pub(crate) fn nested<T>(&mut self, step: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.at.len();
        self.at.push('/');
        // A client's own name may be a megabyte long; a pointer to it need not be.
        let short: String = step.chars().take(64).collect();
        self.at.push_str(&short.replace('~', "~0").replace('/', "~1"));
        let value = read(self);
        self.at.truncate(length);
        value
    }

    /// Refuses when there were faults.
    pub(crate) fn finish<T>(self, value: T) -> Result<T> {
        if self.list.is_empty() { Ok(value) } else { Err(Error::invalid(self.list)) }
    }

    /// A text, else a fault.
    pub(crate) fn text<'j>(&mut self, json: &'j Json) -> Option<&'j str> {
        match json {
            Json::String(text) => Some(text),
            _ => {
                self.add("INVALID_TYPE", "Must be a string.");
                None
            }
        }
    }

    /// The pairs of an object, each name once, else faults.
    pub(crate) fn object<'j>(&mut self, json: &'j Json) -> Option<&'j [(String, Json)]> {
        let Json::Object(entries) = json else {
            self.add("INVALID_TYPE", "Must be an object.");
            return None;
        };
        for (index, (name, _)) in entries.iter().enumerate() {
            if entries[..index].iter().any(|(earlier, _)| earlier == name) {
                self.nested(name, |faults| faults.add("DUPLICATE_FIELD", "Given more than once."));
            }
        }
        Some(entries)
    }

    /// The items of an array, else a fault.
    pub(crate) fn array<'j>(&mut self, json: &'j Json) -> Option<&'j [Json]> {
        match json {
            Json::Array(items) => Some(items),
            _ => {
                self.add("INVALID_TYPE", "Must be an array.");
                None
            }
        }
    }
}

/// Reads the fields of a body's object. Where a field is at fault its default stands in, and
/// [`Fields::finish`] refuses the whole, so that nobody ever sees it.
pub(crate) struct Fields<'j> {
    entries: &'j [(String, Json)],
    known: Vec<&'static str>,
    read_only: Vec<&'static str>,
    faults: Faults,
}

impl<'j> Fields<'j> {
    /// Begins with a body; one that isn't an object is a fault.
    pub(crate) fn of(body: &'j Json) -> Self {
        let mut faults = Faults::default();
        let entries = faults.object(body).unwrap_or_default();
        Self { entries, known: Vec::new(), read_only: Vec::new(), faults }
    }

    /// Begins with an object inside of a body. What is wrong with it goes to `faults`, the reader of the
    /// whole, at [`finish_nested`](Self::finish_nested).
    pub(crate) fn nested(json: &'j Json, faults: &mut Faults) -> Self {
        let mut inner = Faults { list: Vec::new(), at: faults.at.clone() };
        let entries = inner.object(json).unwrap_or_default();
        Self { entries, known: Vec::new(), read_only: Vec::new(), faults: inner }
    }

    /// Hands the faults of an inner object to the reader of the whole.
    pub(crate) fn finish_nested(mut self, faults: &mut Faults) {
        self.refuse_unknown();
        let room = MAX_FAULTS.saturating_sub(faults.list.len());
        faults.list.extend(self.faults.list.into_iter().take(room));
    }

    fn find(&mut self, name: &'static str) -> Option<&'j Json> {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        self.given(name)
    }

    fn given(&self, name: &str) -> Option<&'j Json> {
        self.entries.iter().find(|(given, _)| given == name).map(|(_, value)| value)
    }

    /// A field that must be there.
    pub(crate) fn required<T: Default>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Json, &mut Faults) -> Option<T>,
    ) -> T {
        let value = self.find(name);
        self.faults
            .nested(name, |faults| match value {
                Some(value) => read(value, faults),
                None => {
                    faults.add("REQUIRED", "Must be given.");
                    None
                }
            })
            .unwrap_or_default()
    }

    /// A field that may be left out, but not be `null`.
    pub(crate) fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Json, &mut Faults) -> Option<T>,
    ) -> Option<T> {
        let value = self.find(name)?;
        self.faults.nested(name, |faults| match value {
            Json::Null => {
                faults.add("NOT_NULLABLE", "Must not be null; leave it out instead.");
                None
            }
            value => read(value, faults),
        })
    }

    /// A field that may be left out or `null`.
    pub(crate) fn nullable<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Json, &mut Faults) -> Option<T>,
    ) -> Patch<T> {
        match self.find(name) {
            None => Patch::Keep,
            Some(Json::Null) => Patch::Clear,
            Some(value) => match self.faults.nested(name, |faults| read(value, faults)) {
                Some(value) => Patch::Set(value),
                None => Patch::Keep,
            },
        }
    }

    /// A field that is read later, whatever it is.
    pub(crate) fn raw(&mut self, name: &'static str) -> Option<Json> {
        self.find(name).cloned()
    }

    /// Refuses fields that exist but are not the caller's to set, with a better word than "unknown".
    pub(crate) fn read_only(&mut self, names: &[&'static str]) {
        for &name in names {
            self.read_only.push(name);
            if self.given(name).is_some() {
                self.faults.nested(name, |faults| faults.add("READ_ONLY", "Can't be set; leave it out."));
            }
        }
    }

    /// Notes a fault of a field that only shows together with others.
    pub(crate) fn fault(&mut self, name: &str, code: &'static str, message: &'static str) {
        self.faults.nested(name, |faults| faults.add(code, message));
    }

    /// The value when there was no fault, else all of them. Names that nobody asked for are faults.
    pub(crate) fn finish<T>(mut self, value: T) -> Result<T> {
        self.refuse_unknown();
        self.faults.finish(value)
    }

    fn refuse_unknown(&mut self) {
        for (name, _) in self.entries {
            if !self.known.contains(&name.as_str()) && !self.read_only.contains(&name.as_str()) {
                let known = self.known.join(", ");
                self.faults.nested(name, |faults| {
                    faults.add("UNKNOWN_FIELD", format!("There is no such field here; known are: {known}."));
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::rules;

    fn read(body: &str) -> Result<(String, Option<String>)> {
        let json = Json::parse(body.as_bytes())?;
        let mut fields = Fields::of(&json);
        fields.read_only(&["created_at"]);
        let value = (fields.required("name", rules::name), fields.optional("email", rules::email));
        fields.finish(value)
    }

    fn faults(body: &str) -> Vec<(String, String)> {
        let details = read(body).unwrap_err().details;
        details.into_iter().map(|d| (d.pointer.unwrap_or_default(), d.code.into_owned())).collect()
    }

    #[test]
    fn reports_all_faults_at_once() {
        assert_eq!(
            faults(r#"{"email":7,"created_at":"x","a/b~":1,"email":"b@c"}"#),
            [
                ("/email", "DUPLICATE_FIELD"),
                ("/created_at", "READ_ONLY"),
                ("/name", "REQUIRED"),
                ("/email", "INVALID_TYPE"),
                ("/a~1b~0", "UNKNOWN_FIELD")
            ]
            .map(|(pointer, code)| (pointer.to_owned(), code.to_owned()))
        );
        assert_eq!(faults("[]")[0], (String::new(), "INVALID_TYPE".to_owned()));
        assert_eq!(read(r#"{"name":"n"}"#).unwrap(), ("n".to_owned(), None));
    }

    #[test]
    fn an_unknown_field_is_told_what_could_be_set() {
        let message = &read(r#"{"name":"n","nmae":"n"}"#).unwrap_err().details[0].message;
        assert_eq!(message, "There is no such field here; known are: name, email.");
    }

    #[test]
    fn refuses_what_is_no_json() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        for body in
            ["", "{", "{\"name\":\"\u{0}\"}", "{'name':1}", "{\"name\":1e999}", deep.as_str(), "{} {}"]
        {
            assert_eq!(read(body).unwrap_err().code, Code::InvalidJson, "{body:.40}");
        }
        assert_eq!(Json::parse(b"{\"name\":\"\xff\"}").unwrap_err().code, Code::InvalidJson);
    }
}
