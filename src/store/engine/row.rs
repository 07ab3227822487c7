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

#[cfg(test)]
mod tests {
    use super::super::{open_in_memory, params};
    use super::*;

    #[test]
    fn values_come_back_as_they_were_stored() {
        let conn = open_in_memory().unwrap();
        let text = "ä".to_owned();
        let mut echo = conn.statement("SELECT ?1, ?2, ?3, ?4, ?5").unwrap();
        let read = echo.query_first(params![text, i64::MIN, true, [1_u8, 0], None::<u32>], |row| {
            assert_eq!(row.get::<&str>(0)?, "ä");
            assert_eq!(row.get::<Option<u32>>(4)?, None);
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        });
        let read: (String, i64, bool, [u8; 2]) = read.unwrap().unwrap();
        assert_eq!(read, (text, i64::MIN, true, [1, 0]));
    }

    #[test]
    fn a_value_of_another_type_or_out_of_range_is_an_error_that_names_its_column() {
        let conn = open_in_memory().unwrap();
        let sql = "SELECT NULL AS a, -1 AS b, 1.5 AS c, 'x' AS d, x'ff' AS e, CAST(x'ff' AS TEXT) AS f";
        let errors = conn.statement(sql).unwrap().query_first(&[], |row| {
            let results = [
                row.get::<String>(0).map(drop),
                row.get::<u64>(1).map(drop),
                row.get::<i64>(2).map(drop),
                row.get::<i64>(3).map(drop),
                row.get::<[u8; 2]>(4).map(drop),
                row.get::<&str>(5).map(drop),
            ];
            Ok(results.map(|result| result.unwrap_err().to_string()))
        });
        let expected = ["0 (a)", "1 (b)", "2 (c)", "3 (d)", "4 (e)", "5 (f)"];
        assert_eq!(errors.unwrap().unwrap(), expected.map(|column| format!("column {column} is not valid")));
    }
}
