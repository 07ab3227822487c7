//! Conversion of columns into domain types. A value that isn't in the stored format (the file was edited)
//! makes the read fail with the column's number; nothing panics.

use rusqlite::Row;
use rusqlite::types::Type;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::time::Timestamp;
use crate::error::{Error, Result};

type RowResult<T> = rusqlite::Result<T>;

fn unreadable(column: usize, cause: impl std::fmt::Display) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, cause.to_string().into())
}

pub(crate) fn time(row: &Row<'_>, column: usize) -> RowResult<Timestamp> {
    row.get(column).map(Timestamp::from_millis)
}

/// A time that may be NULL.
pub(crate) fn time_option(row: &Row<'_>, column: usize) -> RowResult<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_millis))
}

/// An enum's value, stored by its name.
pub(crate) fn variant<T: Copy>(row: &Row<'_>, column: usize, names: &[(&str, T)]) -> RowResult<T> {
    let text = row.get_ref(column)?.as_str()?;
    let value = names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    value.ok_or_else(|| unreadable(column, format!("unknown name {text:?}")))
}

pub(crate) fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> RowResult<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|fault| unreadable(column, fault))
}

/// JSON that may be NULL.
pub(crate) fn json_option<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> RowResult<Option<T>> {
    match row.get_ref(column)?.as_str_or_null()? {
        None => Ok(None),
        Some(text) => serde_json::from_str(text).map(Some).map_err(|fault| unreadable(column, fault)),
    }
}

/// The text of a JSON column.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(Error::internal)
}
