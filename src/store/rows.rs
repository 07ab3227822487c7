//! Reading columns into domain types. What we wrote ourselves is trusted to have its form; where it
//! hasn't (somebody edited the file), the read fails with the column's name and nothing panics.

use rusqlite::Row;
use rusqlite::types::Type;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::time::Timestamp;
use crate::error::{Error, Result};

type RowResult<T> = rusqlite::Result<T>;

fn unreadable(column: usize, what: impl std::fmt::Display) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, what.to_string().into())
}

/// A time.
pub(crate) fn time(row: &Row<'_>, column: usize) -> RowResult<Timestamp> {
    row.get(column).map(Timestamp::from_millis)
}

/// A time that may be missing.
pub(crate) fn time_option(row: &Row<'_>, column: usize) -> RowResult<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_millis))
}

/// One of the names in a table.
pub(crate) fn named<T: Copy>(row: &Row<'_>, column: usize, names: &[(&str, T)]) -> RowResult<T> {
    let text = row.get_ref(column)?.as_str()?;
    let found = names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    found.ok_or_else(|| unreadable(column, format!("unknown name {text:?}")))
}

/// JSON.
pub(crate) fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> RowResult<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|fault| unreadable(column, fault))
}

/// JSON that may be missing.
pub(crate) fn json_option<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> RowResult<Option<T>> {
    match row.get_ref(column)?.as_str_or_null()? {
        None => Ok(None),
        Some(text) => serde_json::from_str(text).map(Some).map_err(|fault| unreadable(column, fault)),
    }
}

/// What a JSON column keeps.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(Error::internal)
}
