//! Denials that are waiting to be written to the verification log, aggregated by minute, code, and key or
//! address.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::domain::api_key::Credential;
use crate::domain::cidr;
use crate::domain::time::Timestamp;
use crate::domain::verification::Outcome;

/// Maximum number of rows in memory. When it is reached, denials that need a new row are counted in one
/// overflow row per minute.
pub(super) const MAX_DENIAL_ROWS: usize = 1000;

/// What denials of the same code and minute are aggregated by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum AggregationKey {
    /// Denials of one API key, given by its `seq`.
    Key(i64),
    /// Denials of unknown keys, given by the id of the organization that verified them and the client's
    /// address (for IPv6, its /64 network).
    Address(Option<String>, Option<IpNet>),
    /// Denials that needed a new row when the maximum number of rows was reached.
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

    fn row_key(&self) -> RowKey {
        (self.first_at.minute(), self.code, self.aggregation_key.clone())
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
/// minute is over, with a count of 0, so that `MAX_DENIAL_ROWS` bounds the rows per minute and not per batch.
#[derive(Default)]
pub(crate) struct Denials(HashMap<RowKey, Denial>);

impl Denials {
    pub(crate) fn add(&mut self, denial: Denial) {
        let has_room = self.0.len() < MAX_DENIAL_ROWS;
        let mut row_key = denial.row_key();
        if let Some(row) = self.0.get_mut(&row_key) {
            row.merge(&denial);
            return;
        }
        let denial = if has_room { denial } else { denial.into_overflow() };
        row_key = denial.row_key();
        match self.0.get_mut(&row_key) {
            Some(row) => row.merge(&denial),
            None => drop(self.0.insert(row_key, denial)),
        }
    }

    /// Removes and returns the denials counted since the last call, oldest first.
    pub(crate) fn take(&mut self) -> Vec<Denial> {
        let latest = self.0.keys().map(|(minute, ..)| *minute).max();
        let mut denials: Vec<_> = self.0.values().filter(|row| row.count > 0).cloned().collect();
        self.0.retain(|(minute, ..), row| {
            row.count = 0;
            Some(*minute) == latest
        });
        denials.sort_by(|a, b| {
            (a.first_at, &a.aggregation_key, a.code).cmp(&(b.first_at, &b.aggregation_key, b.code))
        });
        denials
    }

    /// Puts back denials that could not be written.
    pub(crate) fn put_back(&mut self, denials: Vec<Denial>) {
        for denial in denials {
            let row_key = denial.row_key();
            match self.0.get_mut(&row_key) {
                Some(row) => row.merge(&denial),
                None => drop(self.0.insert(row_key, denial)),
            }
        }
    }
}
