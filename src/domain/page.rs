//! What a list is asked for: filters, order, and where to go on.

use std::net::IpAddr;

use super::time::Timestamp;
use crate::error::{Code, Detail, Error, Result};

/// Which way a list runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, utoipa::ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Order {
    /// Newest first.
    #[default]
    Desc,
    /// Oldest first.
    Asc,
}

/// One page of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Rows at most, 1 to 100.
    pub limit: usize,
    /// Which way.
    pub order: Order,
    /// The `seq` of the last row of the page before.
    pub after: Option<i64>,
}

/// A page's rows and, when there are more, the `seq` to go on from.
#[derive(Clone, Debug)]
pub struct Rows<T> {
    /// At most `limit`.
    pub rows: Vec<T>,
    /// The `seq` of the last of them, when there are more.
    pub(crate) next: Option<i64>,
}

impl Page {
    /// Cuts what a query for `limit + 1` rows with their `seq` brought.
    pub(crate) fn cut<T>(&self, mut found: Vec<(i64, T)>) -> Rows<T> {
        let more = found.len() > self.limit;
        found.truncate(self.limit);
        let next = found.last().filter(|_| more).map(|(seq, _)| *seq);
        Rows { rows: found.into_iter().map(|(_, row)| row).collect(), next }
    }
}

/// Reads the parameters of a query string: all faults at once, unknown and repeated ones refused.
pub(crate) struct Query {
    given: Vec<(String, String)>,
    known: Vec<&'static str>,
    faults: Vec<Detail>,
}

impl Query {
    /// Begins with the decoded pairs.
    pub(crate) fn of(given: Vec<(String, String)>) -> Self {
        Self { given, known: Vec::new(), faults: Vec::new() }
    }

    /// Notes what is wrong with a parameter.
    pub(super) fn fault(&mut self, parameter: &str, code: &'static str, message: impl Into<String>) {
        if self.faults.len() < 100 {
            let parameter = Some(parameter.chars().take(64).collect());
            self.faults.push(Detail { pointer: None, parameter, code: code.into(), message: message.into() });
        }
    }

    /// Was anything wrong so far? What follows from it need not be told as well.
    pub(super) fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    /// A parameter as it was given, once.
    fn once(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let mut values = self.given.iter().filter(|(given, _)| given == name).map(|(_, value)| value.clone());
        let value = values.next()?;
        if values.next().is_some() {
            self.fault(name, "DUPLICATE_PARAMETER", "Given more than once.");
            return None;
        }
        Some(value)
    }

    /// A text of 1 to 200 characters.
    pub(crate) fn text(&mut self, name: &'static str) -> Option<String> {
        let value = self.once(name)?;
        if (1..=200).contains(&value.chars().count()) && !value.contains('\0') {
            return Some(value);
        }
        self.fault(name, "INVALID_LENGTH", "Must have 1 to 200 characters.");
        None
    }

    /// One of the names in a table.
    pub(crate) fn one_of<T: Copy>(&mut self, name: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(name)?;
        let found = choices.iter().find(|(choice, _)| *choice == text).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<_> = choices.iter().map(|(choice, _)| *choice).collect();
            self.fault(name, "INVALID_VALUE", format!("Must be one of: {}.", names.join(", ")));
        }
        found
    }

    /// An address. IPv4-mapped IPv6 is IPv4.
    pub(crate) fn address(&mut self, name: &'static str) -> Option<IpAddr> {
        let text = self.text(name)?;
        let address = text.parse().ok().map(|address: IpAddr| address.to_canonical());
        if address.is_none() {
            self.fault(name, "INVALID_ADDRESS", "Must be an IPv4 or IPv6 address.");
        }
        address
    }

    /// A time in RFC 3339.
    pub(crate) fn time(&mut self, name: &'static str) -> Option<Timestamp> {
        let text = self.text(name)?;
        let time = Timestamp::parse(&text);
        if time.is_none() {
            self.fault(name, "INVALID_TIME", "Must be a time in RFC 3339, such as 2026-11-23T07:08:09Z.");
        }
        time
    }

    /// `limit` and `order` of a list; the cursor is read by who can open it.
    pub(crate) fn page(&mut self) -> (Page, Option<String>) {
        let limit = match self.text("limit").map(|text| text.parse::<usize>()) {
            None => 20,
            Some(Ok(limit)) if (1..=100).contains(&limit) => limit,
            Some(_) => {
                self.fault("limit", "INVALID_VALUE", "Must be a whole number from 1 to 100.");
                20
            }
        };
        let order = self.one_of("order", &[("desc", Order::Desc), ("asc", Order::Asc)]).unwrap_or_default();
        let cursor = self.once("cursor");
        (Page { limit, order, after: None }, cursor)
    }

    /// The value when there was no fault, else all of them. Names that nobody asked for are faults.
    pub(crate) fn finish<T>(mut self, value: T) -> Result<T> {
        let given = std::mem::take(&mut self.given);
        for (name, _) in &given {
            if !self.known.contains(&name.as_str()) {
                let known = self.known.join(", ");
                let hint =
                    if known.is_empty() { "none is".to_owned() } else { format!("known are: {known}") };
                self.fault(name, "UNKNOWN_PARAMETER", format!("There is no such parameter here; {hint}."));
            }
        }
        if self.faults.is_empty() { Ok(value) } else { Err(Error::invalid(self.faults)) }
    }
}

/// `INVALID_CURSOR`, the same for every reason.
pub(crate) fn invalid_cursor() -> Error {
    let detail = Detail {
        pointer: None,
        parameter: Some("cursor".to_owned()),
        code: "INVALID_CURSOR".into(),
        message: "Use nextCursor as it was answered, with the same filters and order.".to_owned(),
    };
    let message = "The cursor is not one of this list with these filters and this order.";
    Error { details: vec![detail], ..Error::new(Code::InvalidCursor, message) }
}
