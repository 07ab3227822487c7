//! The sources from which records are imported: NDJSON, CSV, or a SQLite database of better-auth.

mod csv;
mod record;

use std::collections::VecDeque;
use std::io::{BufRead, Read};
use std::path::Path;

use serde_json::Value;
use strum::VariantArray as _;

use self::csv::CsvSource;
use self::record::MAX_LINE_BYTES;
pub(crate) use self::record::SourceRecord;
use crate::domain::better_auth::{self, Table};
use crate::domain::fields::Json;
use crate::domain::id::Kind;
use crate::domain::redaction::Redactor;
use crate::error::{Error, Result};
use crate::store;
use crate::store::reader::Reader;

/// The UTF-8 byte order mark, which some programs write at the start of a file.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A source of the records to import.
pub(crate) enum ImportSource<'a> {
    /// A text with one JSON object per line.
    Ndjson(NdjsonSource<'a>),
    /// A CSV table with a header line.
    Csv(Box<CsvSource<'a>>),
    /// A SQLite database of better-auth.
    BetterAuth(Box<BetterAuthSource>),
}

impl<'a> ImportSource<'a> {
    pub(crate) fn ndjson(input: Box<dyn BufRead + 'a>) -> Self {
        Self::Ndjson(NdjsonSource { input, line: 0, read: 0 })
    }

    /// Opens a CSV source and reads the header line, so that an unknown column is reported before any record
    /// is imported.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with the name of the unknown column.
    pub(crate) fn csv(input: Box<dyn BufRead + 'a>) -> Result<Self> {
        Ok(Self::Csv(Box::new(CsvSource::new(input)?)))
    }

    /// Opens a SQLite database of better-auth. API keys of users who are not in exactly one organization are
    /// assigned to `organization`, and these users become members of `organization`.
    ///
    /// # Errors
    /// `CONFLICT` when `file` is not a database of better-auth.
    pub(crate) fn better_auth(file: &Path, organization: Option<&str>) -> Result<Self> {
        let mut reader = store::better_auth::open(file)?;
        let total = reader.read(store::better_auth::total)?;
        let organization = organization.map(str::to_owned);
        let tables = Table::VARIANTS.iter().copied().collect();
        let after = i64::MIN;
        Ok(Self::BetterAuth(Box::new(BetterAuthSource {
            reader,
            organization,
            tables,
            after,
            queue: VecDeque::new(),
            read: 0,
            total,
        })))
    }

    /// Reads the next record; `None` at the end of the source.
    ///
    /// # Errors
    /// Errors of reading the source.
    pub(crate) fn take_next(&mut self) -> Result<Option<SourceRecord>> {
        match self {
            Self::Ndjson(source) => source.next(),
            Self::Csv(source) => source.next(),
            Self::BetterAuth(source) => source.next(),
        }
    }

    /// The amount read so far: the number of rows for a database, otherwise the number of bytes.
    pub(crate) fn amount_read(&self) -> u64 {
        match self {
            Self::Ndjson(source) => source.read,
            Self::Csv(source) => source.bytes_read(),
            Self::BetterAuth(source) => source.read,
        }
    }

    /// The total amount to read, in the unit of [`amount_read`](Self::amount_read); `None` if the amount is
    /// unknown.
    pub(crate) fn total_amount(&self) -> Option<u64> {
        match self {
            Self::BetterAuth(source) => Some(source.total),
            _ => None,
        }
    }
}

/// Reads records from NDJSON.
pub(crate) struct NdjsonSource<'a> {
    input: Box<dyn BufRead + 'a>,
    line: u64,
    read: u64,
}

impl NdjsonSource<'_> {
    fn next(&mut self) -> Result<Option<SourceRecord>> {
        loop {
            let mut text = Vec::new();
            self.line += 1;
            let max = &mut (&mut self.input).take(MAX_LINE_BYTES);
            self.read += max.read_until(b'\n', &mut text).map_err(Error::internal)? as u64;
            if self.line == 1 && text.starts_with(BYTE_ORDER_MARK) {
                text.drain(..BYTE_ORDER_MARK.len());
                if text.is_empty() {
                    return Ok(None);
                }
            }
            let at = format!("line {}", self.line);
            if text.len() as u64 == MAX_LINE_BYTES && !text.ends_with(b"\n") {
                self.skip_rest_of_line()?;
                let reason = format!("The line is longer than {MAX_LINE_BYTES} bytes.");
                return Ok(Some(SourceRecord { at, json: Err(reason) }));
            }
            if text.is_empty() {
                return Ok(None);
            }
            if !text.trim_ascii().is_empty() {
                // The message of serde_json is not shown for syntax errors, because it contains a line
                // number, which is always 1 here.
                let json = serde_json::from_slice(&text);
                let json = json.map_err(|error: serde_json::Error| match error.classify() {
                    serde_json::error::Category::Data => format!("{error}."),
                    _ => format!("The line is not valid JSON (column {}).", error.column()),
                });
                return Ok(Some(SourceRecord { at, json }));
            }
        }
    }

    fn skip_rest_of_line(&mut self) -> Result<()> {
        loop {
            let buffer = self.input.fill_buf().map_err(Error::internal)?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let skipped = end.map_or(buffer.len(), |end| end + 1);
            self.input.consume(skipped);
            self.read += skipped as u64;
            if end.is_some() || skipped == 0 {
                return Ok(());
            }
        }
    }
}

/// Reads records from the tables of better-auth: organizations and users first, then members and API keys.
pub(crate) struct BetterAuthSource {
    reader: Reader,
    organization: Option<String>,
    /// The tables that are not completely read yet, in the order of reading.
    tables: VecDeque<Table>,
    after: i64,
    queue: VecDeque<SourceRecord>,
    read: u64,
    total: u64,
}

impl BetterAuthSource {
    fn next(&mut self) -> Result<Option<SourceRecord>> {
        while self.queue.is_empty() {
            let Some(&table) = self.tables.front() else { return Ok(None) };
            let after = self.after;
            let default_organization = self.organization.as_deref();
            let page = self.reader.read(|tx| {
                let rows = store::better_auth::rows_after(tx, table, after)?;
                let rows = rows.into_iter().map(|(rowid, row)| {
                    let owner = match &row {
                        Some(row) if table == Table::ApiKey => {
                            Some(store::better_auth::find_key_owner(tx, row)?)
                        }
                        _ => None,
                    };
                    Ok((rowid, row, owner))
                });
                rows.collect::<Result<Vec<_>>>()
            })?;
            match page.last() {
                Some((rowid, ..)) => self.after = *rowid,
                None => {
                    self.tables.pop_front();
                    self.after = i64::MIN;
                }
            }
            let name = table.name();
            for (rowid, row, owner) in page {
                let Some(row) = row else {
                    let reason = "The row, or a value of it, is too long.".to_owned();
                    let at = format!("{name} at rowid {rowid}");
                    self.queue.push_back(SourceRecord { at, json: Err(reason) });
                    continue;
                };
                let id = row.get("id").and_then(Value::as_str).unwrap_or("-");
                let at = format!("{name} {}", Redactor::default().recorded_text(id));
                let Some(owner) = owner else {
                    let record = match table {
                        Table::Organization => better_auth::convert_organization(&row),
                        Table::User => better_auth::convert_user(&row),
                        Table::Member | Table::ApiKey => better_auth::convert_member(&row),
                    };
                    self.queue.push_back(SourceRecord { at, json: record_to_json(record) });
                    continue;
                };
                let record = better_auth::api_key(&row, &owner, default_organization);
                // The owner of an API key becomes a member of the key's organization, unless the owner is a
                // member already.
                let is_member = |record: &better_auth::Row, organizations: &[String]| {
                    let id = record.get("organization_id").and_then(Value::as_str).unwrap_or_default();
                    let organization = Kind::Organization.convert_foreign_id(id);
                    organizations.iter().any(|id| Kind::Organization.convert_foreign_id(id) == organization)
                };
                if let (Ok(record), better_auth::Owner::User(_, organizations)) = (&record, &owner)
                    && !is_member(record, organizations)
                {
                    let membership = better_auth::membership_for_key(record);
                    self.queue.push_back(SourceRecord { at: at.clone(), json: record_to_json(membership) });
                }
                self.queue.push_back(SourceRecord { at, json: record.and_then(record_to_json) });
            }
        }
        self.read += 1;
        Ok(self.queue.pop_front())
    }
}

fn record_to_json(record: better_auth::Row) -> Result<Json, String> {
    serde_json::from_value(Value::Object(record)).map_err(|error| error.to_string())
}
