//! Parses the query strings of lists: filters, order and cursor.

use std::net::IpAddr;
use std::str::FromStr;

use strum::VariantNames;
use utoipa::IntoParams;

use super::cidr;
use super::rules;
use super::time::Timestamp;
use crate::error::{Code, Error, ErrorDetail, Result};

const MILLIS_PER_DAY: i64 = 86_400_000;

/// The sort order of a list, by time of creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, utoipa::ToSchema)]
#[schema(rename_all = "lowercase")]
#[derive(strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
pub enum Order {
    /// Newest first.
    #[default]
    Desc,
    /// Oldest first.
    Asc,
}

/// The requested page of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The maximum number of rows on the page, 1 to 100.
    pub limit: usize,
    /// The sort order of the list.
    pub order: Order,
    /// The `seq` of the last row of the previous page; `None` for the first page.
    pub after: Option<i64>,
}

/// The rows of a page and, if more rows follow, the position at which the next page starts.
#[derive(Clone, Debug)]
pub struct Rows<T> {
    /// The rows of the page, at most [`Page::limit`].
    pub rows: Vec<T>,
    /// The `seq` of the page's last row if more rows follow, otherwise `None`.
    pub(crate) next: Option<i64>,
}

/// The query parameters of every list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Maximum number of results per page.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100, default = 20)]
    limit: Option<usize>,
    /// `desc` returns the newest first, `asc` the oldest.
    #[param(default = "desc")]
    order: Option<Order>,
    /// `metadata.nextCursor` of the previous page, sent with the same filters and order. Rows created
    /// or deleted while paging are neither repeated nor skipped.
    #[param(max_length = 200)]
    cursor: Option<String>,
}

impl PageQuery {
    fn read(query: &mut Query) -> Self {
        let limit =
            query.text("limit").map(|text| text.parse().ok().filter(|limit| (1..=100).contains(limit)));
        if limit == Some(None) {
            query.add_fault("limit", "INVALID_VALUE", "Must be a whole number from 1 to 100.");
        }
        let order = query.one_of("order");
        Self { limit: limit.flatten(), order, cursor: query.single_value("cursor") }
    }
}

impl Page {
    /// Converts the result of a database query for `limit + 1` rows, each with its `seq`, into a page.
    pub(crate) fn paginate<T>(&self, mut rows: Vec<(i64, T)>) -> Rows<T> {
        let has_more = rows.len() > self.limit;
        rows.truncate(self.limit);
        let next = rows.last().filter(|_| has_more).map(|(seq, _)| *seq);
        Rows { rows: rows.into_iter().map(|(_, row)| row).collect(), next }
    }

    /// Like [`paginate`](Self::paginate), for a search that ended at the row `last_read`, before the page was full.
    pub(crate) fn paginate_incomplete<T>(&self, rows: Vec<(i64, T)>, last_read: i64) -> Rows<T> {
        Rows { next: Some(last_read), ..self.paginate(rows) }
    }
}

/// Parses the parameters of a query string. Reports all faults at once, and refuses unknown and repeated
/// parameters.
pub(crate) struct Query {
    pairs: Vec<(String, String)>,
    known_names: Vec<&'static str>,
    faults: Vec<ErrorDetail>,
}

impl Query {
    /// Starts parsing a query string, given as decoded name-value pairs.
    pub(crate) fn of(pairs: Vec<(String, String)>) -> Self {
        Self { pairs, known_names: Vec::new(), faults: Vec::new() }
    }

    /// Records a fault of a query parameter. At most 100 faults are kept.
    pub(super) fn add_fault(&mut self, parameter: &str, code: &'static str, message: impl Into<String>) {
        if self.faults.len() < 100 {
            let parameter = Some(parameter.chars().take(64).collect());
            self.faults.push(ErrorDetail {
                pointer: None,
                parameter,
                code: code.into(),
                message: message.into(),
            });
        }
    }

    /// True if a fault was recorded. Checks that would only report follow-on errors can then be skipped.
    pub(super) fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    /// Returns the text of a query parameter; `None` if it is absent or empty. Forms and scripts send empty
    /// parameters for what wasn't filled in. A parameter that is given more than once is a fault.
    fn single_value(&mut self, name: &'static str) -> Option<String> {
        self.single_value_or_empty(name).filter(|value| !value.is_empty())
    }

    fn single_value_or_empty(&mut self, name: &'static str) -> Option<String> {
        self.known_names.push(name);
        let mut values = self.pairs.iter().filter(|(given, _)| given == name).map(|(_, value)| value.clone());
        let value = values.next()?;
        if values.next().is_some() {
            self.add_fault(name, "DUPLICATE_PARAMETER", "Given more than once.");
            return None;
        }
        Some(value)
    }

    /// Parses a query parameter that is a text of at most 200 characters.
    pub(crate) fn text(&mut self, name: &'static str) -> Option<String> {
        let value = self.single_value(name)?;
        self.check_text(name, value)
    }

    /// Like [`text`](Self::text), but refuses an empty value, for a parameter without which a check is weaker.
    pub(crate) fn nonempty_text(&mut self, name: &'static str) -> Option<String> {
        let value = self.single_value_or_empty(name)?;
        self.check_text(name, value)
    }

    fn check_text(&mut self, name: &'static str, value: String) -> Option<String> {
        if value.contains('\0') {
            self.add_fault(name, "INVALID_CHARACTER", "Must not contain U+0000.");
            return None;
        }
        if !(1..=200).contains(&value.chars().count()) {
            self.add_fault(name, "INVALID_LENGTH", "Must have 1 to 200 characters.");
            return None;
        }
        Some(value)
    }

    /// Parses a query parameter that is the name of a variant of `T`.
    pub(crate) fn one_of<T: FromStr + VariantNames>(&mut self, name: &'static str) -> Option<T> {
        match rules::parse_variant(&self.text(name)?) {
            Ok(variant) => Some(variant),
            Err(message) => {
                self.add_fault(name, "INVALID_VALUE", message);
                None
            }
        }
    }

    /// Parses a query parameter that is `true` or `false`.
    pub(crate) fn boolean(&mut self, name: &'static str) -> Option<bool> {
        let flag = self.text(name)?.parse().ok();
        if flag.is_none() {
            self.add_fault(name, "INVALID_VALUE", "Must be one of: true, false.");
        }
        flag
    }

    /// Parses a query parameter that is an IP address.
    pub(crate) fn address(&mut self, name: &'static str) -> Option<IpAddr> {
        let text = self.text(name)?;
        let address = cidr::parse_address(&text);
        if address.is_none() {
            self.add_fault(name, "INVALID_ADDRESS", "Must be an IPv4 or IPv6 address.");
        }
        address
    }

    /// Parses a query parameter that is an RFC 3339 timestamp. The `+` of its offset may be unencoded, which makes
    /// it a space in a query.
    pub(crate) fn time(&mut self, name: &'static str) -> Option<Timestamp> {
        let text = self.text(name)?;
        let time = parse_time(&text);
        if time.is_none() {
            self.add_fault(
                name,
                "INVALID_TIME",
                "Must be an RFC 3339 timestamp, such as 2026-11-23T07:08:09Z.",
            );
        }
        time
    }

    /// Parses a query parameter that is a date, or a timestamp, of which only the date counts. Returns the beginning of
    /// the day, in UTC.
    pub(crate) fn date(&mut self, name: &'static str) -> Option<Timestamp> {
        let text = self.text(name)?;
        let time = Timestamp::parse(&format!("{text}T00:00:00Z")).or_else(|| parse_time(&text));
        if time.is_none() {
            self.add_fault(
                name,
                "INVALID_TIME",
                "Must be a date, such as 2026-11-23, or an RFC 3339 timestamp.",
            );
        }
        time.map(|time| time.bucket_bounds(MILLIS_PER_DAY).0)
    }

    /// Parses the [query parameters of every list](PageQuery). The cursor is returned encrypted;
    /// the caller decrypts it.
    pub(crate) fn page(&mut self) -> (Page, Option<String>) {
        let PageQuery { limit, order, cursor } = PageQuery::read(self);
        (Page { limit: limit.unwrap_or(20), order: order.unwrap_or_default(), after: None }, cursor)
    }

    /// Returns the value if there are no faults, otherwise an error with all faults. Each parameter that no
    /// method asked for is unknown, which is a fault.
    pub(crate) fn finish<T>(mut self, value: T) -> Result<T> {
        let pairs = std::mem::take(&mut self.pairs);
        for (name, _) in &pairs {
            if !self.known_names.contains(&name.as_str()) {
                let known = self.known_names.join(", ");
                let hint = if known.is_empty() {
                    "none are supported here".to_owned()
                } else {
                    format!("supported parameters are: {known}")
                };
                self.add_fault(name, "UNKNOWN_PARAMETER", format!("Unknown parameter; {hint}."));
            }
        }
        if self.faults.is_empty() { Ok(value) } else { Err(Error::invalid_request(self.faults)) }
    }
}

/// Parses an RFC 3339 timestamp of a query, in which the `+` of an offset may have become a space.
fn parse_time(text: &str) -> Option<Timestamp> {
    Timestamp::parse(text).or_else(|| {
        let (time, offset) = text.rsplit_once(' ')?;
        Timestamp::parse(&format!("{time}+{offset}"))
    })
}

/// The error `INVALID_CURSOR`. Its message is the same for every cause.
pub(crate) fn invalid_cursor() -> Error {
    let detail = ErrorDetail {
        pointer: None,
        parameter: Some("cursor".to_owned()),
        code: "INVALID_CURSOR".into(),
        message: "Use nextCursor exactly as returned, with the same filters and order.".to_owned(),
    };
    let message = "The cursor is malformed, or belongs to another list, other filters or another order.";
    Error { details: vec![detail], ..Error::new(Code::InvalidCursor, message) }
}
