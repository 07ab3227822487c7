//! Conversion of columns into domain types. A value that isn't in the stored format (the file was edited)
//! makes the read fail with the column's number; nothing panics.

use rusqlite::Row;
use rusqlite::types::Type;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::time::Timestamp;
use crate::error::{Error, Result};

type RowResult<T> = rusqlite::Result<T>;

fn conversion_error(column: usize, cause: impl std::fmt::Display) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, cause.to_string().into())
}

pub(crate) fn timestamp_column(row: &Row<'_>, column: usize) -> RowResult<Timestamp> {
    row.get(column).map(Timestamp::from_millis)
}

/// A timestamp column that may be NULL.
pub(crate) fn optional_timestamp_column(row: &Row<'_>, column: usize) -> RowResult<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_millis))
}

/// A column that stores an enum value by its name.
pub(crate) fn enum_column<T: Copy>(row: &Row<'_>, column: usize, names: &[(&str, T)]) -> RowResult<T> {
    let text = row.get_ref(column)?.as_str()?;
    let value = names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    value.ok_or_else(|| conversion_error(column, format!("unknown name {text:?}")))
}

pub(crate) fn json_column<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> RowResult<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| conversion_error(column, error))
}

/// A JSON column that may be NULL.
pub(crate) fn optional_json_column<T: DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> RowResult<Option<T>> {
    match row.get_ref(column)?.as_str_or_null()? {
        None => Ok(None),
        Some(text) => serde_json::from_str(text).map(Some).map_err(|error| conversion_error(column, error)),
    }
}

/// Serializes a value for a JSON column.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(Error::internal)
}
