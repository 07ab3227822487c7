//! JSON of bounded depth and size.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{Code, Error, Result};

/// Maximum number of arrays and objects around a value.
pub(crate) const MAX_DEPTH: usize = 32;

/// Maximum number of values in one text. Each array, object, string, number, boolean and `null` is a value, and
/// so is each field name.
pub(crate) const MAX_VALUES: usize = 50_000;

/// Maximum number of fields of an object. Finding duplicates takes quadratic time.
const MAX_FIELDS: usize = 1000;

/// Upper bound of the memory for one value beside the text of strings, in bytes. An object in an array takes
/// most: its place there, the object itself, and the allocations for a field and for its name.
const VALUE_BYTES: usize = 96;

/// Upper bound of the memory for all values beside the text of strings, in bytes.
pub(crate) const MAX_TREE_BYTES: usize = MAX_VALUES * VALUE_BYTES;

/// A JSON value. Its objects keep all fields in the order sent, including fields with duplicate names. A clone
/// shares arrays and objects with its original.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Json {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    String(String),
    Array(Arc<Vec<Json>>),
    Object(Arc<Vec<(String, Json)>>),
    /// A string that holds a secret, or the value of a field whose name does: see
    /// [`Redactor::flag_secrets`](super::redaction::Redactor::flag_secrets).
    Secret(String),
}

impl Json {
    /// Parses a request body.
    ///
    /// # Errors
    /// `INVALID_JSON` with line and column if the body is not valid JSON, is nested more than [`MAX_DEPTH`]
    /// levels deep, or has more than [`MAX_VALUES`] values.
    pub fn parse(body: &[u8]) -> Result<Json> {
        if body.is_empty() {
            return Err(Error::new(Code::InvalidJson, "The body is empty; send a JSON object."));
        }
        let bounds = Bounds::default();
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let parsed = BoundedJson { bounds: &bounds, depth: 0 }.deserialize(&mut deserializer);
        parsed.and_then(|json| deserializer.end().map(|()| json)).map_err(|fault| {
            let what =
                if bounds.exceeded.get() { "The body is too complex" } else { "The body is not valid JSON" };
            Error::new(Code::InvalidJson, format!("{what}: {fault}."))
        })
    }

    /// True if a string or a field's name was flagged as holding a secret.
    pub(crate) fn holds_secret(&self) -> bool {
        match self {
            Json::Secret(_) => true,
            Json::Array(items) => items.iter().any(Self::holds_secret),
            Json::Object(fields) => fields.iter().any(|(_, value)| value.holds_secret()),
            _ => false,
        }
    }

    /// Upper bound of the memory that the tree of a body takes, in bytes, without parsing the body.
    pub(crate) fn max_tree_bytes(body: &[u8]) -> usize {
        // Each value but the first follows one of these characters, which may also occur in strings.
        let is_separator = |byte: &&u8| matches!(byte, b',' | b':' | b'[' | b'{');
        let values = 1 + body.iter().filter(is_separator).count();
        values.min(MAX_VALUES) * VALUE_BYTES + body.len()
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BoundedJson { bounds: &Bounds::default(), depth: 0 }.deserialize(deserializer)
    }
}

/// What was parsed so far of a body, compared with the bounds.
#[derive(Default)]
struct Bounds {
    values: Cell<usize>,
    exceeded: Cell<bool>,
}

impl Bounds {
    fn exceed<E: serde::de::Error>(&self, message: String) -> E {
        self.exceeded.set(true);
        E::custom(message)
    }

    fn count_value<E: serde::de::Error>(&self) -> Result<(), E> {
        self.values.set(self.values.get() + 1);
        if self.values.get() > MAX_VALUES {
            return Err(self.exceed(format!("more than {MAX_VALUES} values")));
        }
        Ok(())
    }
}

/// Parses a value at a depth.
struct BoundedJson<'a> {
    bounds: &'a Bounds,
    depth: usize,
}

impl BoundedJson<'_> {
    /// The parser of the values inside an array or object.
    fn inner<E: serde::de::Error>(&self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(self.bounds.exceed(format!("nested more than {MAX_DEPTH} levels deep")));
        }
        Ok(Self { bounds: self.bounds, depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for BoundedJson<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        self.bounds.count_value()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for BoundedJson<'_> {
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

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self.inner()?)? {
            items.push(item);
        }
        items.shrink_to_fit();
        Ok(Json::Array(Arc::new(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut fields: Vec<(String, Json)> = Vec::new();
        while let Some(name) = map.next_key()? {
            if fields.len() == MAX_FIELDS {
                return Err(self.bounds.exceed(format!("an object with more than {MAX_FIELDS} fields")));
            }
            self.bounds.count_value::<A::Error>()?;
            fields.push((name, map.next_value_seed(self.inner()?)?));
        }
        fields.shrink_to_fit();
        Ok(Json::Object(Arc::new(fields)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> String {
        let error = Json::parse(body.as_bytes()).unwrap_err();
        assert_eq!(error.code, Code::InvalidJson);
        error.message.into_owned()
    }

    fn nested(depth: usize) -> String {
        format!("{}1{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn refuses_invalid_json() {
        for body in ["", "{", "{\"name\":\"\u{0}\"}", "{'name':1}", "{\"name\":1e999}", "{} {}", "[1,]"] {
            assert_eq!(Json::parse(body.as_bytes()).unwrap_err().code, Code::InvalidJson, "{body:.40}");
        }
        assert_eq!(Json::parse(b"{\"name\":\"\xff\"}").unwrap_err().code, Code::InvalidJson);
        assert!(message("{").starts_with("The body is not valid JSON: "));
    }

    #[test]
    fn refuses_json_beyond_a_bound_and_names_the_bound() {
        assert!(Json::parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        let expected = "The body is too complex: nested more than 32 levels deep at line 1 column 33.";
        assert_eq!(message(&nested(MAX_DEPTH + 1)), expected);
        assert_eq!(message(&nested(100_000)), expected);
        assert!(message(&"{\"a\":".repeat(1000)).contains("nested more than 32 levels deep"));

        // The array is a value too.
        let array = |values: usize| format!("[0{}]", ",0".repeat(values - 1));
        assert!(Json::parse(array(MAX_VALUES - 1).as_bytes()).is_ok());
        assert!(message(&array(MAX_VALUES)).contains("more than 50000 values"));
        let objects = format!("[{{\"a\":0}}{}]", ",{\"a\":0}".repeat(MAX_VALUES / 3));
        assert!(message(&objects).contains("more than 50000 values"));

        let object = |fields: usize| {
            let fields: Vec<_> = (0..fields).map(|index| format!("\"{index}\":0")).collect();
            format!("{{{}}}", fields.join(","))
        };
        assert!(Json::parse(object(MAX_FIELDS).as_bytes()).is_ok());
        assert!(message(&object(MAX_FIELDS + 1)).contains("an object with more than 1000 fields"));
    }

    #[test]
    fn a_clone_shares_what_it_contains() {
        let Json::Object(fields) = Json::parse(br#"{"a":[1,2]}"#).unwrap() else { panic!("not an object") };
        let (Json::Array(items), Json::Array(cloned)) = (&fields[0].1, fields[0].1.clone()) else {
            panic!("not arrays")
        };
        assert!(Arc::ptr_eq(items, &cloned));
    }
}
