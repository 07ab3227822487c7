//! Usage by the user who owns the keys. It is added up from the usage of all keys, so that the groups are exact.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::domain::access::Caller;
use crate::domain::meter::Meter;
use crate::domain::subject::Subject;
use crate::domain::usage::{Group, Span, UsageCounts};
use crate::error::{Error, ErrorDetail, Result};
use crate::store::usage::SubjectSet;
use crate::store::{self, db::Tx};

/// The largest number of hours and days of keys that are added up for a report. With [`MAX_KEYS`], it bounds the time of
/// a report to about a tenth of a second.
const MAX_LOOKUPS: u64 = 100_000;
/// The largest number of keys that are added up for a report. Each takes a lookup of its user, which costs more than one
/// of an hour or day.
const MAX_KEYS: usize = 25_000;
/// The largest number of groups in a report.
const MAX_GROUPS: usize = 1_000;

/// The usage of a key, of an organization's keys or of all keys, by user, busiest first. The keys without a user form a
/// group without an id. Only users that the caller can read have a name.
///
/// # Errors
/// `INVALID_REQUEST` if too many keys were used in too long a time.
pub(super) fn group_by_user(
    tx: &Tx<'_>,
    caller: &Caller,
    subject: Subject,
    meter: Meter,
    span: &Span,
) -> Result<Vec<Group>> {
    let mut by_user = match subject {
        Subject::Key(seq) => {
            let user = store::usage_by_key::find_user_id(tx, seq)?;
            HashMap::from([(user, store::usage::total_on_meter(tx, subject, meter, span)?)])
        }
        Subject::Organization(_) => sum_by_user(tx, SubjectSet::PartsOf(subject), meter, span)?,
        Subject::All => sum_by_user(tx, SubjectSet::Keys, meter, span)?,
    };
    by_user.retain(|_, counts| counts.requests() > 0 || counts.cost() > 0);
    let mut ranking: Vec<_> = by_user.into_iter().collect();
    let rank = |counts: &UsageCounts| match meter {
        Meter::REQUESTS => (counts.requests(), counts.cost()),
        _ => (counts.cost(), counts.requests()),
    };
    ranking.sort_unstable_by_key(|(id, counts)| (Reverse(rank(counts)), id.clone()));
    ranking.truncate(MAX_GROUPS);
    let group = |(id, counts): (Option<String>, UsageCounts)| {
        let name = match &id {
            Some(id) if caller.has_scope("admin:users") => {
                store::usage_by_key::find_user_name(tx, id, caller.organization_id())?
            }
            _ => None,
        };
        Ok(Group { id, name, totals: counts.totals() })
    };
    ranking.into_iter().map(group).collect()
}

/// The sums of the usage of keys in a span, by the id of their user.
fn sum_by_user(
    tx: &Tx<'_>,
    keys: SubjectSet,
    meter: Meter,
    span: &Span,
) -> Result<HashMap<Option<String>, UsageCounts>> {
    let parts = span.split_by_interval();
    let mut lookups = 0;
    for part in &parts {
        lookups += store::usage_by_key::count_lookups(tx, keys, part, MAX_LOOKUPS + 1 - lookups)?;
        if lookups > MAX_LOOKUPS {
            return Err(too_many_keys());
        }
    }
    // The index of each user's sums, and that of each key's user.
    let mut user_indexes: HashMap<Option<String>, usize> = HashMap::new();
    let mut key_indexes: HashMap<i64, usize> = HashMap::new();
    for part in &parts {
        for (key, user) in store::usage_by_key::keys_with_users(tx, keys, part, MAX_KEYS + 1)? {
            let next = user_indexes.len();
            key_indexes.insert(key, *user_indexes.entry(user).or_insert(next));
        }
        if key_indexes.len() > MAX_KEYS {
            return Err(too_many_keys());
        }
    }
    let mut sums = vec![UsageCounts::default(); user_indexes.len()];
    for part in &parts {
        store::usage_by_key::each_count(tx, keys, part, |key, counts| {
            let counts = if meter == Meter::REQUESTS { counts } else { counts.with_cost(0) };
            if let Some(sum) = key_indexes.get(&key).and_then(|index| sums.get_mut(*index)) {
                sum.merge(&counts);
            }
        })?;
        if meter != Meter::REQUESTS {
            store::usage_by_key::each_unit(tx, keys, meter, part, |key, units| {
                if let Some(sum) = key_indexes.get(&key).and_then(|index| sums.get_mut(*index)) {
                    sum.add_cost(units);
                }
            })?;
        }
    }
    Ok(user_indexes.into_iter().map(|(user, index)| (user, sums[index])).collect())
}

fn too_many_keys() -> Error {
    let message = "Too many keys were used to add up their usage by user. Use a shorter period, interval=day, or \
                   org_id.";
    Error::invalid_request(vec![ErrorDetail {
        pointer: None,
        parameter: Some("group_by".to_owned()),
        code: "TOO_MANY".into(),
        message: message.to_owned(),
    }])
}
