//! Conversion of columns into domain types. A value that isn't in the stored format (the file was edited)
//! makes the read fail with the column's number; nothing panics.

use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::engine::{self, Row};
use crate::domain::meter::Meter;
use crate::domain::time::Timestamp;
use crate::error::{Error, Result};

pub(crate) fn timestamp_column(row: &Row<'_>, column: usize) -> engine::Result<Timestamp> {
    row.get(column).map(Timestamp::from_millis)
}

/// A timestamp column that may be NULL.
pub(crate) fn optional_timestamp_column(row: &Row<'_>, column: usize) -> engine::Result<Option<Timestamp>> {
    Ok(row.get::<Option<i64>>(column)?.map(Timestamp::from_millis))
}

/// A column that stores an enum value by its name.
pub(crate) fn enum_column<T: FromStr>(row: &Row<'_>, column: usize) -> engine::Result<T> {
    row.get::<&str>(column)?.parse().map_err(|_| row.invalid_value(column))
}

/// A column that stores the name of a meter.
pub(crate) fn meter_column(row: &Row<'_>, column: usize) -> engine::Result<Meter> {
    Meter::parse(row.get(column)?).ok_or_else(|| row.invalid_value(column))
}

pub(crate) fn json_column<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> engine::Result<T> {
    serde_json::from_str(row.get(column)?).map_err(|_| row.invalid_value(column))
}

/// A JSON column that may be NULL.
pub(crate) fn optional_json_column<T: DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> engine::Result<Option<T>> {
    let text: Option<&str> = row.get(column)?;
    text.map(serde_json::from_str).transpose().map_err(|_| row.invalid_value(column))
}

/// Serializes a value for a JSON column.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(Error::internal)
}
