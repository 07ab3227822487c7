//! A record of a source.

use crate::domain::fields::Json;

/// The largest length of an NDJSON line or a CSV row, in bytes. The limit bounds memory use, and exceeds the
/// size of any valid record.
pub(super) const MAX_LINE_BYTES: u64 = 4 << 20;

/// One record of a source with its position, or the reason why the record can't be read.
pub(crate) struct SourceRecord {
    /// The record's position in the source: `line 7`, or the name of a table with the id of a row.
    pub(crate) at: String,
    /// The record as JSON, or the reason why the record can't be read.
    pub(crate) json: Result<Json, String>,
}
