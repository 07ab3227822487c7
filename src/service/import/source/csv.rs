//! Reads CSV in bounded memory. An open quote turns the rest of a file into one record, so a record that is
//! too long is read to its end without being kept.

use std::io::BufRead;

use csv_core::{ReadRecordResult, Reader};

use super::{Item, MAX_LINE_BYTES, invalid};
use crate::domain::fields::Json;
use crate::error::{Error, Result};

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

/// The maximum number of columns: more than any record has fields.
const MAX_COLUMNS: usize = 200;

/// Reads CSV.
pub(crate) struct Csv<'a> {
    input: Box<dyn BufRead + 'a>,
    parser: Reader,
    columns: Vec<String>,
    /// The current line.
    line: u64,
    read: u64,
}

/// A row: its first line, and its cells or the reason why it can't be read.
struct Row {
    line: u64,
    cells: Result<Vec<String>, String>,
    /// The number of cells, also of those that are not kept because the header has fewer.
    len: usize,
}

impl<'a> Csv<'a> {
    /// Reads the header line; an unknown column is an error before anything is imported.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with the name of the column.
    pub(super) fn new(input: Box<dyn BufRead + 'a>) -> Result<Self> {
        let mut csv = Self { input, parser: Reader::new(), columns: Vec::new(), line: 1, read: 0 };
        let Some(Row { cells, len, .. }) = csv.next_row(MAX_COLUMNS)? else { return Ok(csv) };
        let columns = cells.map_err(|reason| invalid(format!("The header line is invalid: {reason}")))?;
        if len > MAX_COLUMNS {
            return Err(invalid(format!("The header has {len} columns; at most {MAX_COLUMNS} are allowed.")));
        }
        for column in &columns {
            if !COLUMNS.contains(&column.as_str()) && !column.starts_with(METADATA) {
                let known = COLUMNS.join(", ");
                let message = format!("Unknown column {column:?}. Known columns: {known}, metadata.NAME.");
                return Err(invalid(message));
            }
        }
        csv.columns = columns;
        Ok(csv)
    }

    /// The number of bytes read.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    pub(super) fn next(&mut self) -> Result<Option<Item>> {
        let expected = self.columns.len();
        let Some(Row { line, cells, len }) = self.next_row(expected)? else { return Ok(None) };
        let cells = match cells {
            Ok(_) if len != expected => Err(format!("The line has {len} cells, the header has {expected}.")),
            cells => cells,
        };
        Ok(Some(Item { at: format!("line {line}"), json: cells.map(|cells| self.record(&cells)) }))
    }

    /// Reads a row and keeps at most `max_cells` of its cells, and none if it is too long.
    fn next_row(&mut self, max_cells: usize) -> Result<Option<Row>> {
        self.skip_line_ends()?;
        let line = self.line;
        let start = self.read;
        let mut text = Vec::new();
        let mut ends = Vec::new();
        let mut len = 0;
        loop {
            let input = self.input.fill_buf().map_err(Error::internal)?;
            let mut some_text = [0; 4096];
            let mut some_ends = [0; 64];
            let (result, read, written, ended) =
                self.parser.read_record(input, &mut some_text, &mut some_ends);
            self.line += newlines(&input[..read]);
            self.input.consume(read);
            self.read += read as u64;
            len += ended;
            if self.read - start <= MAX_LINE_BYTES {
                text.extend_from_slice(&some_text[..written]);
                let kept = ended.min(max_cells.saturating_sub(ends.len()));
                ends.extend_from_slice(&some_ends[..kept]);
            } else {
                text = Vec::new();
            }
            match result {
                ReadRecordResult::End => return Ok(None),
                ReadRecordResult::Record => break,
                _ => {}
            }
        }
        let cells = if self.read - start <= MAX_LINE_BYTES {
            // The library's own message would show the row's content.
            cells(&text, &ends).ok_or_else(|| "The line is not valid CSV in UTF-8.".to_owned())
        } else {
            Err(format!("The line is longer than {MAX_LINE_BYTES} bytes; a closing quote may be missing."))
        };
        Ok(Some(Row { line, cells, len }))
    }

    /// Skips the ends of the previous line and of empty lines.
    fn skip_line_ends(&mut self) -> Result<()> {
        loop {
            let input = self.input.fill_buf().map_err(Error::internal)?;
            let ends = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.line += newlines(&input[..ends]);
            let is_end = ends < input.len() || input.is_empty();
            self.input.consume(ends);
            self.read += ends as u64;
            if is_end {
                return Ok(());
            }
        }
    }

    /// Converts a row to the equivalent JSON object. Empty cells are left out.
    fn record(&self, row: &[String]) -> Json {
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

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// The cells of a row without surrounding spaces; `None` if it isn't UTF-8.
fn cells(text: &[u8], ends: &[usize]) -> Option<Vec<String>> {
    let mut start = 0;
    let cell = |end: &usize| {
        let cell = text.get(start..*end)?;
        start = *end;
        Some(std::str::from_utf8(cell).ok()?.trim().to_owned())
    };
    ends.iter().map(cell).collect()
}
