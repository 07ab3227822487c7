//! Sources of records: NDJSON, CSV, or a SQLite database of better-auth.

use std::collections::VecDeque;
use std::io::{BufRead, Read};
use std::path::Path;

use serde_json::Value;

use crate::domain::better_auth;
use crate::domain::fields::Json;
use crate::domain::id::Kind;
use crate::error::{Code, Error, Result};
use crate::store;
use crate::store::reader::Reader;

/// The longest line, in bytes: longer than any record. It bounds memory.
const MAX_LINE_BYTES: u64 = 4 << 20;

/// Rows read at a time.
const PAGE_SIZE: usize = 500;

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
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input);
        let header =
            reader.headers().map_err(|error| invalid(format!("The header line is invalid: {error}.")))?;
        let columns: Vec<_> = header.iter().map(str::to_owned).collect();
        // After a "\r\n", the library leaves the "\n", by which it counts lines, to the next row.
        let behind = u64::from(reader.position().line() == 1);
        for column in &columns {
            if !COLUMNS.contains(&column.as_str()) && !column.starts_with(METADATA) {
                let known = COLUMNS.join(", ");
                let message = format!("Unknown column {column:?}. Known columns: {known}, metadata.NAME.");
                return Err(invalid(message));
            }
        }
        Ok(Self::Csv(Box::new(Csv { rows: reader.into_records(), columns, behind })))
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
            Self::Csv(source) => Ok(source.next()),
            Self::BetterAuth(source) => source.next(),
        }
    }

    /// The amount read so far: bytes, or rows for a database.
    pub(crate) fn read(&self) -> u64 {
        match self {
            Self::Ndjson(source) => source.read,
            Self::Csv(source) => source.rows.reader().position().byte(),
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

/// The known columns; a dot leads to a field of a nested object.
const COLUMNS: &[&str] = &[
    "type",
    "id",
    "name",
    "email",
    "plan",
    "status",
    "external_id",
    "organization_id",
    "user_id",
    "role",
    "scope",
    "description",
    "hash",
    "hash_encoding",
    "start",
    "scopes",
    "expires_at",
    "allowed_ips",
    "rate_limit.limit",
    "rate_limit.window_seconds",
    "quota.limit",
    "quota.period",
    "created_at",
    "updated_at",
    "last_used_at",
    "revoked_at",
    "revoked_reason",
];

const METADATA: &str = "metadata.";

/// Reads CSV.
pub(crate) struct Csv<'a> {
    rows: csv::StringRecordsIntoIter<Box<dyn BufRead + 'a>>,
    columns: Vec<String>,
    /// The number of lines by which the library's count is too low.
    behind: u64,
}

impl Csv<'_> {
    fn next(&mut self) -> Option<Item> {
        let row = self.rows.next()?;
        let line = match &row {
            Ok(row) => row.position().map(csv::Position::line),
            Err(error) => error.position().map(csv::Position::line),
        };
        let at = format!("line {}", line.unwrap_or(0) + self.behind);
        // The library's own message would show the row's content.
        let json = row.map(|row| self.record(&row)).map_err(|error| match error.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!("The line has {len} cells, the header has {expected_len}.")
            }
            _ => "The line is not valid CSV in UTF-8.".to_owned(),
        });
        Some(Item { at, json })
    }

    /// Converts a row to the equivalent JSON object. Empty cells are left out.
    fn record(&self, row: &csv::StringRecord) -> Json {
        let mut pairs: Vec<(String, Json)> = Vec::new();
        for (column, cell) in self.columns.iter().zip(row).filter(|(_, cell)| !cell.is_empty()) {
            let value = match column.as_str() {
                "scopes" | "allowed_ips" => {
                    let items = cell.split(|c: char| c.is_whitespace() || c == ',' || c == ';');
                    let items = items.filter(|item| !item.is_empty());
                    Json::Array(items.map(|item| Json::String(item.to_owned())).collect())
                }
                "rate_limit.limit" | "rate_limit.window_seconds" | "quota.limit" => match cell.parse::<u64>()
                {
                    Ok(number) => Json::Number(number.into()),
                    Err(_) => Json::String(cell.to_owned()),
                },
                _ => Json::String(cell.to_owned()),
            };
            match column.split_once('.') {
                None => pairs.push((column.clone(), value)),
                Some((outer, inner)) => {
                    let index = pairs.iter().position(|(name, _)| name == outer).unwrap_or_else(|| {
                        pairs.push((outer.to_owned(), Json::Object(Vec::new())));
                        pairs.len() - 1
                    });
                    if let Json::Object(fields) = &mut pairs[index].1 {
                        fields.push((inner.to_owned(), value));
                    }
                }
            }
        }
        let is_key = pairs.iter().any(|(name, _)| name == "hash");
        if is_key && !pairs.iter().any(|(name, _)| name == "scopes") {
            pairs.push(("scopes".to_owned(), Json::Array(Vec::new())));
        }
        Json::Object(pairs)
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
                let rows = store::better_auth::rows(tx, table, after, PAGE_SIZE)?;
                let rows = rows.into_iter().map(|(rowid, row)| {
                    let owner = match table {
                        "apikey" => Some(store::better_auth::owner(tx, &row)?),
                        _ => None,
                    };
                    Ok((rowid, row, owner))
                });
                rows.collect::<Result<Vec<_>>>()
            })?;
            if page.len() < PAGE_SIZE {
                self.tables.pop_front();
                self.after = i64::MIN;
            } else {
                self.after = page.last().map_or(after, |(rowid, ..)| *rowid);
            }
            for (_, mut row, owner) in page {
                row.remove("source_rowid");
                let id = row.get("id").and_then(Value::as_str).unwrap_or("-");
                let at = format!("{table} {id}");
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
