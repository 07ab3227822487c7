//! Denials on their way to the verification log, folded by key or address, code and minute.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::domain::api_key::Credential;
use crate::domain::cidr;
use crate::domain::time::Timestamp;
use crate::domain::verification::Outcome;

/// Rows at most; what comes beyond is counted in one row a minute.
pub(super) const MAX_ROWS: usize = 1000;

/// What is counted together, beside the code and the minute.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum AggregationKey {
    /// A key, by its `seq`.
    Key(i64),
    /// Unknown keys from one address, or the /64 of an IPv6 address, by which organization asked.
    Address(Option<String>, Option<IpNet>),
    /// All that found no room.
    Rest,
}

impl fmt::Display for AggregationKey {
    /// A name for each that no other has.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AggregationKey::Key(seq) => write!(f, "{seq}"),
            AggregationKey::Address(organization_id, address) => {
                write!(f, "{} ", organization_id.as_deref().unwrap_or_default())?;
                address.map_or(Ok(()), |address| write!(f, "{address}"))
            }
            AggregationKey::Rest => Ok(()),
        }
    }
}

/// A row of the log, or more of one that is written already.
#[derive(Clone, Debug)]
pub(crate) struct Denial {
    /// What is counted together.
    pub(crate) aggregation_key: AggregationKey,
    /// `None` for [`AggregationKey::Rest`].
    pub(crate) code: Option<Outcome>,
    /// The key's organization, or that of the key which asked about an unknown one.
    pub(crate) organization_id: Option<String>,
    /// The client's address in the first of them.
    pub(crate) ip: Option<IpAddr>,
    /// How many it stands for.
    pub(crate) count: u64,
    /// When the first was.
    pub(crate) first_at: Timestamp,
    /// When the last was, within the same minute.
    pub(crate) last_at: Timestamp,
}

impl Denial {
    pub(super) fn of_key(credential: &Credential, code: Outcome, ip: Option<IpAddr>, now: Timestamp) -> Self {
        let organization_id = credential.key.organization_id.clone();
        Self::once(AggregationKey::Key(credential.seq), code, organization_id, ip, now)
    }

    pub(super) fn of_unknown(
        code: Outcome,
        organization_id: Option<&str>,
        ip: Option<IpAddr>,
        now: Timestamp,
    ) -> Self {
        let organization_id = organization_id.map(str::to_owned);
        let aggregation_key = AggregationKey::Address(organization_id.clone(), ip.map(cidr::subject));
        Self::once(aggregation_key, code, organization_id, ip, now)
    }

    fn once(
        aggregation_key: AggregationKey,
        code: Outcome,
        organization_id: Option<String>,
        ip: Option<IpAddr>,
        now: Timestamp,
    ) -> Self {
        let ip = ip.map(|ip| ip.to_canonical());
        Self { aggregation_key, code: Some(code), organization_id, ip, count: 1, first_at: now, last_at: now }
    }

    /// One that stands for many keys, addresses, codes and organizations names none of them.
    fn into_rest(self) -> Self {
        Self { aggregation_key: AggregationKey::Rest, code: None, organization_id: None, ip: None, ..self }
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

/// What makes a row: the minute, the code, and what is folded.
type RowKey = (Timestamp, Option<Outcome>, AggregationKey);

/// The rows of this minute, and of earlier ones that aren't written. A row that is written stays until its
/// minute is over, with a count of 0, so that the bound is one of rows a minute and not of rows a batch.
#[derive(Default)]
pub(crate) struct Denials(HashMap<RowKey, Denial>);

impl Denials {
    /// Counts a denial.
    pub(crate) fn add(&mut self, denial: Denial) {
        let has_room = self.0.len() < MAX_ROWS;
        let mut row_key = denial.row_key();
        if let Some(row) = self.0.get_mut(&row_key) {
            row.merge(&denial);
            return;
        }
        let denial = if has_room { denial } else { denial.into_rest() };
        row_key = denial.row_key();
        match self.0.get_mut(&row_key) {
            Some(row) => row.merge(&denial),
            None => drop(self.0.insert(row_key, denial)),
        }
    }

    /// Takes what was counted since it was last taken, oldest first.
    pub(crate) fn take(&mut self) -> Vec<Denial> {
        let latest = self.0.keys().map(|(minute, ..)| *minute).max();
        let mut taken: Vec<_> = self.0.values().filter(|row| row.count > 0).cloned().collect();
        self.0.retain(|(minute, ..), row| {
            row.count = 0;
            Some(*minute) == latest
        });
        taken.sort_by(|a, b| {
            (a.first_at, &a.aggregation_key, a.code).cmp(&(b.first_at, &b.aggregation_key, b.code))
        });
        taken
    }

    /// Puts back what could not be written.
    pub(crate) fn put_back(&mut self, taken: Vec<Denial>) {
        for denial in taken {
            let row_key = denial.row_key();
            match self.0.get_mut(&row_key) {
                Some(row) => row.merge(&denial),
                None => drop(self.0.insert(row_key, denial)),
            }
        }
    }
}
