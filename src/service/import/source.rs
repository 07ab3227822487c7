//! Sources of records: NDJSON, CSV, or a SQLite database of better-auth.

mod csv;

use std::collections::VecDeque;
use std::io::{BufRead, Read};
use std::path::Path;

use serde_json::Value;

use self::csv::Csv;
use crate::domain::audit::cut;
use crate::domain::better_auth;
use crate::domain::fields::Json;
use crate::domain::id::Kind;
use crate::error::{Code, Error, Result};
use crate::store;
use crate::store::reader::Reader;

/// The longest line, in bytes: longer than any record. It bounds memory.
const MAX_LINE_BYTES: u64 = 4 << 20;

/// One record, or the reason why it can't be read.
pub(crate) struct Item {
    /// The record's position: `line 7`, or a table and a row's id.
    pub(crate) at: String,
    /// The record, or the reason.
    pub(crate) json: Result<Json, String>,
}

/// A source of records.
pub(crate) enum Source<'a> {
    /// One JSON object per line.
    Ndjson(Ndjson<'a>),
    /// A table with a header line.
    Csv(Box<Csv<'a>>),
    /// The tables of better-auth.
    BetterAuth(Box<BetterAuth>),
}

impl<'a> Source<'a> {
    pub(crate) fn ndjson(input: Box<dyn BufRead + 'a>) -> Self {
        Self::Ndjson(Ndjson { input, line: 0, read: 0 })
    }

    /// Reads the header line; an unknown column is an error before anything is imported.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with the name of the column.
    pub(crate) fn csv(input: Box<dyn BufRead + 'a>) -> Result<Self> {
        Ok(Self::Csv(Box::new(Csv::new(input)?)))
    }

    /// Opens better-auth's SQLite file. Keys of users who aren't in exactly one organization are assigned to
    /// `organization`, and their users become members there.
    ///
    /// # Errors
    /// `CONFLICT` when the file is not a database of better-auth.
    pub(crate) fn better_auth(file: &Path, organization: Option<&str>) -> Result<Self> {
        let mut reader = store::better_auth::open(file)?;
        let total = reader.read(store::better_auth::total)?;
        let organization = organization.map(str::to_owned);
        let tables = ["organization", "user", "member", "apikey"].into();
        let after = i64::MIN;
        Ok(Self::BetterAuth(Box::new(BetterAuth {
            reader,
            organization,
            tables,
            after,
            queue: VecDeque::new(),
            read: 0,
            total,
        })))
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// When reading the source fails.
    pub(crate) fn take_next(&mut self) -> Result<Option<Item>> {
        match self {
            Self::Ndjson(source) => source.next(),
            Self::Csv(source) => source.next(),
            Self::BetterAuth(source) => source.next(),
        }
    }

    /// The amount read so far: bytes, or rows for a database.
    pub(crate) fn read(&self) -> u64 {
        match self {
            Self::Ndjson(source) => source.read,
            Self::Csv(source) => source.read(),
            Self::BetterAuth(source) => source.read,
        }
    }

    /// The total amount in the unit of [`read`](Self::read), if the source knows it.
    pub(crate) fn total(&self) -> Option<u64> {
        match self {
            Self::BetterAuth(source) => Some(source.total),
            _ => None,
        }
    }
}

fn invalid(message: String) -> Error {
    Error::new(Code::InvalidRequest, message)
}

/// Reads NDJSON.
pub(crate) struct Ndjson<'a> {
    input: Box<dyn BufRead + 'a>,
    line: u64,
    read: u64,
}

impl Ndjson<'_> {
    fn next(&mut self) -> Result<Option<Item>> {
        loop {
            let mut text = Vec::new();
            self.line += 1;
            let max = &mut (&mut self.input).take(MAX_LINE_BYTES);
            self.read += max.read_until(b'\n', &mut text).map_err(Error::internal)? as u64;
            let at = format!("line {}", self.line);
            if text.len() as u64 == MAX_LINE_BYTES && !text.ends_with(b"\n") {
                self.skip_line()?;
                let reason = format!("The line is longer than {MAX_LINE_BYTES} bytes.");
                return Ok(Some(Item { at, json: Err(reason) }));
            }
            if text.is_empty() {
                return Ok(None);
            }
            if !text.trim_ascii().is_empty() {
                // serde_json's message also names the line, which is always 1 here.
                let json = serde_json::from_slice(&text);
                let json = json.map_err(|error: serde_json::Error| match error.classify() {
                    serde_json::error::Category::Data => format!("{error}."),
                    _ => format!("The line is not valid JSON (column {}).", error.column()),
                });
                return Ok(Some(Item { at, json }));
            }
        }
    }

    fn skip_line(&mut self) -> Result<()> {
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

/// Reads better-auth's tables, organizations and users first.
pub(crate) struct BetterAuth {
    reader: Reader,
    organization: Option<String>,
    /// The tables still to be read.
    tables: VecDeque<&'static str>,
    after: i64,
    queue: VecDeque<Item>,
    read: u64,
    total: u64,
}

impl BetterAuth {
    fn next(&mut self) -> Result<Option<Item>> {
        while self.queue.is_empty() {
            let Some(&table) = self.tables.front() else { return Ok(None) };
            let after = self.after;
            let default_organization = self.organization.as_deref();
            let page = self.reader.read(|tx| {
                let rows = store::better_auth::rows(tx, table, after)?;
                let rows = rows.into_iter().map(|(rowid, row)| {
                    let owner = match &row {
                        Some(row) if table == "apikey" => Some(store::better_auth::owner(tx, row)?),
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
            for (rowid, row, owner) in page {
                let Some(row) = row else {
                    let reason = "The row, or a value of it, is too long.".to_owned();
                    self.queue.push_back(Item { at: format!("{table} at rowid {rowid}"), json: Err(reason) });
                    continue;
                };
                let id = row.get("id").and_then(Value::as_str).unwrap_or("-");
                let at = format!("{table} {}", cut(id));
                let Some(owner) = owner else {
                    let record = match table {
                        "organization" => better_auth::organization(&row),
                        "user" => better_auth::user(&row),
                        _ => better_auth::member(&row),
                    };
                    self.queue.push_back(Item { at, json: json(record) });
                    continue;
                };
                let record = better_auth::api_key(&row, &owner, default_organization);
                // A user becomes a member of its key's organization unless it is one already.
                let is_member = |record: &better_auth::Row, organizations: &[String]| {
                    let id = record.get("organization_id").and_then(Value::as_str).unwrap_or_default();
                    let organization = Kind::Organization.adopt(id);
                    organizations.iter().any(|id| Kind::Organization.adopt(id) == organization)
                };
                if let (Ok(record), better_auth::Owner::User(_, organizations)) = (&record, &owner)
                    && !is_member(record, organizations)
                {
                    let membership = better_auth::membership(record);
                    self.queue.push_back(Item { at: at.clone(), json: json(membership) });
                }
                self.queue.push_back(Item { at, json: record.and_then(json) });
            }
        }
        self.read += 1;
        Ok(self.queue.pop_front())
    }
}

fn json(record: better_auth::Row) -> Result<Json, String> {
    serde_json::from_value(Value::Object(record)).map_err(|error| error.to_string())
}
