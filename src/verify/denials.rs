//! Denials that are waiting to be written to the verification log, aggregated by minute, code, and key or
//! address.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::domain::api_key::Credential;
use crate::domain::cidr;
use crate::domain::minute_rows::{MAX_ROWS_IN_MEMORY, MinuteRows, RowAdmission, RowOwner};
use crate::domain::time::Timestamp;
use crate::domain::verification::Outcome;

/// What denials of the same code and minute are aggregated by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum AggregationKey {
    /// Denials of one API key, given by its `seq`.
    Key(i64),
    /// Denials of unknown keys, given by the id of the organization that verified them and the client's
    /// address (for IPv6, its /64 network).
    Address(Option<String>, Option<IpNet>),
    /// Denials for whose row there was no room.
    Overflow,
}

impl fmt::Display for AggregationKey {
    /// A text that is unique for each aggregation key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AggregationKey::Key(seq) => write!(f, "{seq}"),
            AggregationKey::Address(organization_id, address) => {
                write!(f, "{} ", organization_id.as_deref().unwrap_or_default())?;
                address.map_or(Ok(()), |address| write!(f, "{address}"))
            }
            AggregationKey::Overflow => Ok(()),
        }
    }
}

/// A row of the verification log, or counts to add to a row that is already written.
#[derive(Clone, Debug)]
pub(crate) struct Denial {
    pub(crate) aggregation_key: AggregationKey,
    /// `None` for [`AggregationKey::Overflow`].
    pub(crate) code: Option<Outcome>,
    /// The key's organization; for an unknown key, the organization that verified it.
    pub(crate) organization_id: Option<String>,
    /// The client's address of the first denial.
    pub(crate) ip: Option<IpAddr>,
    /// Number of denials.
    pub(crate) count: u64,
    /// Time of the first denial.
    pub(crate) first_at: Timestamp,
    /// Time of the last denial, within the same minute.
    pub(crate) last_at: Timestamp,
}

impl Denial {
    pub(super) fn for_key(
        credential: &Credential,
        code: Outcome,
        ip: Option<IpAddr>,
        now: Timestamp,
    ) -> Self {
        let organization_id = credential.key.organization_id.clone();
        Self::first_denial(AggregationKey::Key(credential.seq), code, organization_id, ip, now)
    }

    pub(super) fn for_unknown_key(
        code: Outcome,
        organization_id: Option<&str>,
        ip: Option<IpAddr>,
        now: Timestamp,
    ) -> Self {
        let organization_id = organization_id.map(str::to_owned);
        let aggregation_key = AggregationKey::Address(organization_id.clone(), ip.map(cidr::client_network));
        Self::first_denial(aggregation_key, code, organization_id, ip, now)
    }

    fn first_denial(
        aggregation_key: AggregationKey,
        code: Outcome,
        organization_id: Option<String>,
        ip: Option<IpAddr>,
        now: Timestamp,
    ) -> Self {
        let ip = ip.map(|ip| ip.to_canonical());
        Self { aggregation_key, code: Some(code), organization_id, ip, count: 1, first_at: now, last_at: now }
    }

    /// The overflow row counts many keys, addresses, codes and organizations, so it names none of them.
    fn into_overflow(self) -> Self {
        Self {
            aggregation_key: AggregationKey::Overflow,
            code: None,
            organization_id: None,
            ip: None,
            ..self
        }
    }

    fn row_owner(&self) -> RowOwner<'_> {
        let is_key = matches!(self.aggregation_key, AggregationKey::Key(_));
        RowOwner { organization_id: self.organization_id.as_deref(), is_key }
    }

    fn row_key(&self) -> RowKey {
        (self.first_at.start_of_minute(), self.code, self.aggregation_key.clone())
    }

    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.first_at = self.first_at.min(other.first_at);
        self.last_at = self.last_at.max(other.last_at);
    }
}

/// Identifies a row: minute, code and aggregation key.
type RowKey = (Timestamp, Option<Outcome>, AggregationKey);

/// The rows of the current minute, and earlier rows that aren't written yet. A written row stays until its
/// minute is over, with a count of 0, so that the limits apply per minute and not per batch. When the rows of a
/// minute reach their limit, a row of a key replaces a row of an address. If the replaced row was already
/// written, it stays in the log, so that the log can have more rows than the limit.
#[derive(Default)]
pub(crate) struct Denials {
    rows: HashMap<RowKey, Denial>,
    minutes: HashMap<Timestamp, MinuteRows<RowKey>>,
    /// The minute of the last denial. It is not always the latest one, because the clock may be set back.
    current_minute: Option<Timestamp>,
}

impl Denials {
    pub(crate) fn add(&mut self, denial: Denial) {
        let row_key = denial.row_key();
        self.current_minute = Some(row_key.0);
        if let Some(row) = self.rows.get_mut(&row_key) {
            row.merge(&denial);
            return;
        }
        let admission = if self.rows.len() < MAX_ROWS_IN_MEMORY {
            self.minutes.entry(row_key.0).or_default().admit(&row_key, denial.row_owner())
        } else {
            RowAdmission::Overflow
        };
        match admission {
            RowAdmission::Admitted => drop(self.rows.insert(row_key, denial)),
            RowAdmission::Replaces(replaced) => {
                if let Some(replaced) = self.rows.remove(&replaced).filter(|row| row.count > 0) {
                    self.merge(replaced.into_overflow());
                }
                self.rows.insert(row_key, denial);
            }
            RowAdmission::Overflow => self.merge(denial.into_overflow()),
        }
    }

    /// Adds a denial to its row, whatever the number of rows.
    fn merge(&mut self, denial: Denial) {
        let row_key = denial.row_key();
        match self.rows.get_mut(&row_key) {
            Some(row) => row.merge(&denial),
            None => drop(self.rows.insert(row_key, denial)),
        }
    }

    /// Removes and returns the denials counted since the last call, oldest first.
    pub(crate) fn take(&mut self) -> Vec<Denial> {
        let current = self.current_minute;
        let mut denials: Vec<_> = self.rows.values().filter(|row| row.count > 0).cloned().collect();
        self.rows.retain(|(minute, ..), row| {
            row.count = 0;
            Some(*minute) == current
        });
        self.minutes.retain(|minute, _| Some(*minute) == current);
        denials.sort_by(|a, b| {
            (a.first_at, &a.aggregation_key, a.code).cmp(&(b.first_at, &b.aggregation_key, b.code))
        });
        denials
    }

    /// Puts back denials that could not be written.
    pub(crate) fn put_back(&mut self, denials: Vec<Denial>) {
        denials.into_iter().for_each(|denial| self.merge(denial));
    }
}
