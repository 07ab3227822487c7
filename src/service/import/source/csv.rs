//! Reads records from CSV in bounded memory. An unclosed quote turns the rest of a file into one row, so a row
//! that is too long is read to its end, but not kept in memory.

use std::io::BufRead;
use std::sync::Arc;

use csv_core::{ReadRecordResult, Reader};

use super::record::{MAX_LINE_BYTES, SourceRecord};
use crate::domain::fields::Json;
use crate::error::{Code, Error, Result};

/// The known columns of a CSV source. A dot separates a nested object from its field.
const CSV_COLUMNS: &[&str] = &[
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
    "limits",
    "self_rotation",
    "created_at",
    "updated_at",
    "last_used_at",
    "revoked_at",
    "revoked_reason",
];

/// The prefix of CSV columns that are fields of the nested object `metadata`.
const METADATA_PREFIX: &str = "metadata.";

/// The largest number of columns. The limit exceeds the number of fields of any valid record.
const MAX_COLUMNS: usize = 200;

/// Reads records from CSV.
pub(crate) struct CsvSource<'a> {
    input: Box<dyn BufRead + 'a>,
    parser: Reader,
    columns: Vec<String>,
    /// The number of the line at the current position, starting at 1.
    line: u64,
    bytes_read: u64,
}

/// A row of a CSV source.
struct CsvRow {
    /// The number of the row's first line.
    line: u64,
    /// The cells, or the reason why the row can't be read.
    cells: Result<Vec<String>, String>,
    /// The number of cells, including cells that are not kept because the header has fewer.
    cell_count: usize,
    /// True if no cell has a text, including cells that are not kept.
    is_empty: bool,
}

impl<'a> CsvSource<'a> {
    /// Opens a CSV source and reads the header line.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with the name of an unknown column, or if the header line is invalid.
    pub(super) fn new(input: Box<dyn BufRead + 'a>) -> Result<Self> {
        let mut source = Self { input, parser: Reader::new(), columns: Vec::new(), line: 1, bytes_read: 0 };
        let Some(CsvRow { cells, cell_count, .. }) = source.next_row(MAX_COLUMNS)? else { return Ok(source) };
        let columns =
            cells.map_err(|reason| invalid_source_error(format!("The header line is invalid: {reason}")))?;
        if cell_count > MAX_COLUMNS {
            let message = format!("The header has {cell_count} columns; at most {MAX_COLUMNS} are allowed.");
            return Err(invalid_source_error(message));
        }
        for column in &columns {
            if !CSV_COLUMNS.contains(&column.as_str()) && !column.starts_with(METADATA_PREFIX) {
                let known = CSV_COLUMNS.join(", ");
                let message = format!("Unknown column {column:?}. Known columns: {known}, metadata.NAME.");
                return Err(invalid_source_error(message));
            }
        }
        source.columns = columns;
        Ok(source)
    }

    /// The number of bytes read.
    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    pub(super) fn next(&mut self) -> Result<Option<SourceRecord>> {
        let expected = self.columns.len();
        let CsvRow { line, cells, cell_count, .. } = loop {
            let Some(row) = self.next_row(expected)? else { return Ok(None) };
            // Spreadsheets write rows that were emptied.
            if !row.is_empty {
                break row;
            }
        };
        let cells = match cells {
            Ok(_) if cell_count != expected => {
                Err(format!("The line has {cell_count} cells, the header has {expected}."))
            }
            cells => cells,
        };
        let json = cells.map(|cells| self.row_to_json(&cells));
        Ok(Some(SourceRecord { at: format!("line {line}"), json }))
    }

    /// Reads the next row and keeps at most `max_cells` of its cells. Keeps none if the row is too long.
    fn next_row(&mut self, max_cells: usize) -> Result<Option<CsvRow>> {
        self.skip_line_ends()?;
        let line = self.line;
        let start = self.bytes_read;
        let mut text = Vec::new();
        let mut cell_ends = Vec::new();
        let mut cell_count = 0;
        let mut is_empty = true;
        loop {
            let input = self.input.fill_buf().map_err(Error::internal)?;
            let mut text_buffer = [0; 4096];
            let mut cell_end_buffer = [0; 64];
            let (result, bytes_read, bytes_written, cells_ended) =
                self.parser.read_record(input, &mut text_buffer, &mut cell_end_buffer);
            self.line += count_newlines(&input[..bytes_read]);
            self.input.consume(bytes_read);
            self.bytes_read += bytes_read as u64;
            cell_count += cells_ended;
            is_empty &= text_buffer[..bytes_written].trim_ascii().is_empty();
            if self.bytes_read - start <= MAX_LINE_BYTES {
                text.extend_from_slice(&text_buffer[..bytes_written]);
                let kept = cells_ended.min(max_cells.saturating_sub(cell_ends.len()));
                cell_ends.extend_from_slice(&cell_end_buffer[..kept]);
            } else {
                text = Vec::new();
            }
            match result {
                ReadRecordResult::End => return Ok(None),
                ReadRecordResult::Record => break,
                _ => {}
            }
        }
        let cells = if self.bytes_read - start <= MAX_LINE_BYTES {
            split_cells(&text, &cell_ends).ok_or_else(|| "The line is not valid CSV in UTF-8.".to_owned())
        } else {
            Err(format!("The line is longer than {MAX_LINE_BYTES} bytes; a closing quote may be missing."))
        };
        Ok(Some(CsvRow { line, cells, cell_count, is_empty }))
    }

    /// Skips the end of the previous line, and empty lines.
    fn skip_line_ends(&mut self) -> Result<()> {
        loop {
            let input = self.input.fill_buf().map_err(Error::internal)?;
            let skipped = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.line += count_newlines(&input[..skipped]);
            let is_done = skipped < input.len() || input.is_empty();
            self.input.consume(skipped);
            self.bytes_read += skipped as u64;
            if is_done {
                return Ok(());
            }
        }
    }

    /// Converts a CSV row to the equivalent JSON object. Empty cells are omitted.
    fn row_to_json(&self, row: &[String]) -> Json {
        let mut pairs: Vec<(String, Json)> = Vec::new();
        for (column, cell) in self.columns.iter().zip(row).filter(|(_, cell)| !cell.is_empty()) {
            let value = match column.as_str() {
                "scopes" | "allowed_ips" => {
                    let items = cell.split(|c: char| c.is_whitespace() || c == ',' || c == ';');
                    let items = items.filter(|item| !item.is_empty());
                    Json::Array(Arc::new(items.map(|item| Json::String(item.to_owned())).collect()))
                }
                // A list of objects, written as JSON. Other text is reported as a fault of the field.
                "limits" => Json::parse(cell.as_bytes()).unwrap_or_else(|_| Json::String(cell.to_owned())),
                // Other text is reported as a fault of the field.
                "self_rotation" => cell.parse().map_or_else(|_| Json::String(cell.to_owned()), Json::Bool),
                _ => Json::String(cell.to_owned()),
            };
            match column.split_once('.') {
                None => pairs.push((column.clone(), value)),
                Some((outer, inner)) => {
                    let index = pairs.iter().position(|(name, _)| name == outer).unwrap_or_else(|| {
                        pairs.push((outer.to_owned(), Json::Object(Arc::default())));
                        pairs.len() - 1
                    });
                    if let Json::Object(fields) = &mut pairs[index].1 {
                        Arc::make_mut(fields).push((inner.to_owned(), value));
                    }
                }
            }
        }
        let is_key = pairs.iter().any(|(name, _)| name == "hash");
        if is_key && !pairs.iter().any(|(name, _)| name == "scopes") {
            pairs.push(("scopes".to_owned(), Json::Array(Arc::default())));
        }
        Json::Object(Arc::new(pairs))
    }
}

fn count_newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Splits the text of a row into cells and trims them; `None` if the text isn't valid UTF-8.
fn split_cells(text: &[u8], cell_ends: &[usize]) -> Option<Vec<String>> {
    let mut start = 0;
    let cell = |end: &usize| {
        let cell = text.get(start..*end)?;
        start = *end;
        Some(std::str::from_utf8(cell).ok()?.trim().to_owned())
    };
    cell_ends.iter().map(cell).collect()
}

fn invalid_source_error(message: String) -> Error {
    Error::new(Code::InvalidRequest, message)
}
