//! Where records come from: lines of JSON, lines of CSV, or a database that better-auth made.

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

/// The longest line: more than any record is. It bounds memory.
const LONGEST_LINE: u64 = 4 << 20;

/// Rows that are read at once.
const PAGE: usize = 500;

/// One record, or why it can't be read, with its place for people.
pub(crate) struct Item {
    /// `line 7`, or a table and a row's id.
    pub(crate) at: String,
    /// What stands there.
    pub(crate) json: Result<Json, String>,
}

/// Records, one after the other.
pub(crate) enum Source<'a> {
    /// A JSON object a line.
    Ndjson(Ndjson<'a>),
    /// A table with a header line.
    Csv(Box<Csv<'a>>),
    /// Rows of better-auth's tables.
    BetterAuth(Box<BetterAuth>),
}

impl<'a> Source<'a> {
    /// Lines of JSON.
    pub(crate) fn ndjson(input: Box<dyn BufRead + 'a>) -> Self {
        Self::Ndjson(Ndjson { input, line: 0, read: 0 })
    }

    /// Lines of CSV; a column that no record has is an error before anything is done.
    ///
    /// # Errors
    /// `INVALID_REQUEST` naming the column.
    pub(crate) fn csv(input: Box<dyn BufRead + 'a>) -> Result<Self> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input);
        let header = reader.headers().map_err(|fault| invalid(format!("The header line: {fault}.")))?;
        let columns: Vec<_> = header.iter().map(str::to_owned).collect();
        // Of "\r\n" the library leaves the second half, by which it counts lines, to the next row.
        let behind = u64::from(reader.position().line() == 1);
        for column in &columns {
            if !COLUMNS.contains(&column.as_str()) && !column.starts_with(METADATA) {
                let known = COLUMNS.join(", ");
                let message = format!("There is no column {column:?}; known are: {known}, metadata.NAME.");
                return Err(invalid(message));
            }
        }
        Ok(Self::Csv(Box::new(Csv { rows: reader.into_records(), columns, behind })))
    }

    /// better-auth's SQLite file. Keys of users who aren't in exactly one organization go to this one, and
    /// their users become members there.
    ///
    /// # Errors
    /// `CONFLICT` when it isn't better-auth's.
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
            waiting: VecDeque::new(),
            read: 0,
            total,
        })))
    }

    /// The next record.
    ///
    /// # Errors
    /// When the source can't be read on.
    pub(crate) fn take_next(&mut self) -> Result<Option<Item>> {
        match self {
            Self::Ndjson(source) => source.next(),
            Self::Csv(source) => Ok(source.next()),
            Self::BetterAuth(source) => source.next(),
        }
    }

    /// How much of it was read: bytes, or rows.
    pub(crate) fn read(&self) -> u64 {
        match self {
            Self::Ndjson(source) => source.read,
            Self::Csv(source) => source.rows.reader().position().byte(),
            Self::BetterAuth(source) => source.read,
        }
    }

    /// How much of it there is, where the source itself knows.
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

/// Lines of JSON.
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
            let max = &mut (&mut self.input).take(LONGEST_LINE);
            self.read += max.read_until(b'\n', &mut text).map_err(Error::internal)? as u64;
            let at = format!("line {}", self.line);
            if text.len() as u64 == LONGEST_LINE && !text.ends_with(b"\n") {
                self.skip_line()?;
                let why = format!("The line is longer than {LONGEST_LINE} bytes.");
                return Ok(Some(Item { at, json: Err(why) }));
            }
            if text.is_empty() {
                return Ok(None);
            }
            if !text.trim_ascii().is_empty() {
                // The message names line and column within the text, which is one line: the column is enough.
                let json = serde_json::from_slice(&text);
                let json = json.map_err(|fault: serde_json::Error| match fault.classify() {
                    serde_json::error::Category::Data => format!("{fault}."),
                    _ => format!("The line is not valid JSON (column {}).", fault.column()),
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

/// Columns of CSV; what a record has inside stands behind a dot.
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

/// Lines of CSV.
pub(crate) struct Csv<'a> {
    rows: csv::StringRecordsIntoIter<Box<dyn BufRead + 'a>>,
    columns: Vec<String>,
    /// By how many lines the library is behind.
    behind: u64,
}

impl Csv<'_> {
    fn next(&mut self) -> Option<Item> {
        let row = self.rows.next()?;
        let line = match &row {
            Ok(row) => row.position().map(csv::Position::line),
            Err(fault) => fault.position().map(csv::Position::line),
        };
        let at = format!("line {}", line.unwrap_or(0) + self.behind);
        // The library's own message would show what stands in the row.
        let json = row.map(|row| self.record(&row)).map_err(|fault| match fault.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!("The line has {len} cells, the header {expected_len}.")
            }
            _ => "The line can't be read as CSV in UTF-8.".to_owned(),
        });
        Some(Item { at, json })
    }

    /// A row as the object that a line of JSON would be. An empty cell is not given.
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
                    let place = pairs.iter().position(|(name, _)| name == outer).unwrap_or_else(|| {
                        pairs.push((outer.to_owned(), Json::Object(Vec::new())));
                        pairs.len() - 1
                    });
                    if let Json::Object(inside) = &mut pairs[place].1 {
                        inside.push((inner.to_owned(), value));
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

/// Rows of better-auth's tables, users and organizations first.
pub(crate) struct BetterAuth {
    reader: Reader,
    organization: Option<String>,
    /// Those that are still to be read.
    tables: VecDeque<&'static str>,
    after: i64,
    waiting: VecDeque<Item>,
    read: u64,
    total: u64,
}

impl BetterAuth {
    fn next(&mut self) -> Result<Option<Item>> {
        while self.waiting.is_empty() {
            let Some(&table) = self.tables.front() else { return Ok(None) };
            let (after, organization) = (self.after, self.organization.as_deref());
            let page = self.reader.read(|tx| {
                let rows = store::better_auth::rows(tx, table, after, PAGE)?;
                let rows = rows.into_iter().map(|(place, row)| {
                    let owner = match table {
                        "apikey" => Some(store::better_auth::owner(tx, &row)?),
                        _ => None,
                    };
                    Ok((place, row, owner))
                });
                rows.collect::<Result<Vec<_>>>()
            })?;
            if page.len() < PAGE {
                self.tables.pop_front();
                self.after = i64::MIN;
            } else {
                self.after = page.last().map_or(after, |(place, ..)| *place);
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
                    self.waiting.push_back(Item { at, json: json(record) });
                    continue;
                };
                let record = better_auth::api_key(&row, &owner, organization);
                // Where its key goes, the user becomes a member, unless it is one.
                let is_member = |record: &better_auth::Row, organizations: &[String]| {
                    let goes = record.get("organization_id").and_then(Value::as_str).unwrap_or_default();
                    let goes = Kind::Organization.adopt(goes);
                    organizations.iter().any(|id| Kind::Organization.adopt(id) == goes)
                };
                if let (Ok(record), better_auth::Owner::User(_, organizations)) = (&record, &owner)
                    && !is_member(record, organizations)
                {
                    let membership = better_auth::membership(record);
                    self.waiting.push_back(Item { at: at.clone(), json: json(membership) });
                }
                self.waiting.push_back(Item { at, json: record.and_then(json) });
            }
        }
        self.read += 1;
        Ok(self.waiting.pop_front())
    }
}

fn json(record: better_auth::Row) -> Result<Json, String> {
    serde_json::from_value(Value::Object(record)).map_err(|fault| fault.to_string())
}
