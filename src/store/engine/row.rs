//! Rows that a query returns.

use std::borrow::Cow;
use std::str;

use rusqlite::types::ValueRef;
use serde_json::{Map, Value as Json};

use super::error::{EngineError, Result};
use super::value::{FromValue, Value};

/// A row, valid until the next one is read. Columns are numbered from 0.
pub(in crate::store) struct Row<'r>(pub(super) &'r rusqlite::Row<'r>);

impl Row<'_> {
    /// Reads a column.
    ///
    /// # Errors
    /// [`EngineError::InvalidValue`] if its value has another type or is out of range.
    pub(in crate::store) fn get<'v, T: FromValue<'v>>(&'v self, column: usize) -> Result<T> {
        let value = match self.0.get_ref(column)? {
            ValueRef::Null => Some(Value::Null),
            ValueRef::Integer(number) => Some(Value::Integer(number)),
            ValueRef::Real(_) => None,
            ValueRef::Text(text) => str::from_utf8(text).ok().map(|text| Value::Text(Cow::Borrowed(text))),
            ValueRef::Blob(bytes) => Some(Value::Bytes(bytes)),
        };
        value.and_then(T::from_value).ok_or_else(|| self.invalid_value(column))
    }

    /// The error of a column whose value isn't in the stored format.
    pub(in crate::store) fn invalid_value(&self, column: usize) -> EngineError {
        let name = self.0.as_ref().column_name(column).unwrap_or_default().to_owned();
        EngineError::InvalidValue { column, name }
    }

    /// The columns by name, of a foreign database, whose columns have any type. Bytes become null.
    pub(in crate::store) fn to_json(&self) -> Result<Map<String, Json>> {
        let columns = self.0.as_ref().column_names().into_iter().map(str::to_owned).enumerate();
        let value = |(column, name)| {
            let value = match self.0.get_ref(column)? {
                ValueRef::Null | ValueRef::Blob(_) => Json::Null,
                ValueRef::Integer(number) => number.into(),
                ValueRef::Real(number) => number.into(),
                ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
            };
            Ok((name, value))
        };
        columns.map(value).collect()
    }
}
