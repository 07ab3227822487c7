//! Replays of stored responses: what the caller must still be allowed to do, and the reads of a batch, which run
//! again.
//!
//! The stored response of a batch has the results of its changes. In place of the result of a read it has only the
//! status: what the caller may see may have changed, and the result of a read can be long.

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::batch::{OperationResult, PreparedBatch};
use crate::domain::access::Caller;
use crate::domain::action::Access;
use crate::error::{Error, Result};
use crate::service::batch::BatchOperation;
use crate::service::idempotency;
use crate::service::operation::{Answer, Applied, Tx};

/// The `data` of a batch's response in the form that is stored.
#[derive(Serialize)]
struct StoredResults<'a> {
    results: Vec<StoredResult<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum StoredResult<'a> {
    Change(&'a OperationResult),
    /// The status of a read.
    Read(u16),
}

/// The JSON to store of a batch's results. `None` if it is the JSON of the response itself.
pub(super) fn to_stored_results(
    results: &[OperationResult],
    operations: &[BatchOperation],
) -> Result<Option<String>> {
    let is_read = |operation: &BatchOperation| operation.ctx.access == Access::Read;
    if !operations.iter().any(is_read) {
        return Ok(None);
    }
    let results = results.iter().zip(operations).map(|(result, operation)| match is_read(operation) {
        true => StoredResult::Read(result.status),
        false => StoredResult::Change(result),
    });
    let stored = StoredResults { results: results.collect() };
    serde_json::to_string(&stored).map(Some).map_err(Error::internal)
}

/// The results in a stored response; empty if the response isn't that of a batch.
#[derive(Deserialize)]
struct ParsedResults<'a> {
    #[serde(borrow, default)]
    results: Vec<&'a RawValue>,
}

/// The parts of a stored result that a replay depends on.
struct ParsedResult {
    status: u16,
    is_read: bool,
    /// The id of the API key whose secret the result contains.
    key_id: Option<String>,
}

impl ParsedResult {
    fn parse(json: &RawValue) -> Result<Self> {
        if let Ok(status) = json.get().parse() {
            return Ok(Self { status, is_read: true, key_id: None });
        }
        let result: ChangeResult = serde_json::from_str(json.get()).map_err(Error::internal)?;
        let key_id = result.body.data.and_then(Data::key_id);
        Ok(Self { status: result.status, is_read: false, key_id })
    }

    /// True if the operation was authorized and ran. The other results show nothing of a resource.
    fn was_authorized(&self) -> bool {
        !matches!(self.status, 401 | 403 | 424)
    }
}

#[derive(Deserialize)]
struct ChangeResult {
    status: u16,
    body: Envelope,
}

#[derive(Deserialize)]
struct Envelope {
    data: Option<Data>,
}

/// The members of a response's `data` that tell whose secret it contains.
#[derive(Deserialize)]
struct Data {
    id: Option<String>,
    #[serde(rename = "key")]
    secret: Option<serde::de::IgnoredAny>,
}

impl Data {
    fn key_id(self) -> Option<String> {
        self.secret.and(self.id)
    }
}

/// Authorizes the replay of an operation's stored answer. The pipeline and the transaction have authorized the caller of
/// the request itself.
pub(super) fn operation(tx: &Tx<'_>, caller: &Caller, stored: Answer) -> Result<Applied> {
    if stored.holds_secret {
        let data: Data = serde_json::from_str(&stored.data).map_err(Error::internal)?;
        let key_ids: Vec<_> = data.key_id().into_iter().collect();
        idempotency::ensure_can_see_secrets(tx, caller, &key_ids)?;
    }
    Ok(stored.into())
}

/// Authorizes the replay of a batch's stored answer: as the caller of every operation that the earlier request was
/// authorized for. Returns the answer with the new results of the reads in their places.
pub(super) fn batch(
    batch: &mut PreparedBatch,
    tx: &Tx<'_>,
    caller: &Caller,
    stored: Answer,
) -> Result<Applied> {
    let parsed: ParsedResults<'_> = serde_json::from_str(&stored.data).map_err(Error::internal)?;
    let results: Vec<_> =
        parsed.results.iter().map(|json| ParsedResult::parse(json)).collect::<Result<_>>()?;
    for (index, operation) in batch.operations().iter().enumerate() {
        if results.get(index).is_none_or(ParsedResult::was_authorized) {
            operation.ctx.authorize(caller)?;
        }
    }
    let key_ids: Vec<_> = results.iter().filter_map(|result| result.key_id.clone()).collect();
    idempotency::ensure_can_see_secrets(tx, caller, &key_ids)?;
    let reads: Vec<_> = (0..results.len()).filter(|index| results[*index].is_read).collect();
    if reads.is_empty() {
        return Ok(stored.into());
    }
    let (read_results, aggregated) = batch.run_reads(tx, &reads)?;
    let mut read_results = read_results.iter();
    let results = parsed.results.iter().zip(&results).map(|(json, result)| {
        if !result.is_read {
            return Ok((*json).to_owned());
        }
        let read = read_results.next().ok_or_else(|| Error::internal("a read without a result"))?;
        to_raw_value(read).map_err(Error::internal)
    });
    let replayed = ReplayedResults { results: results.collect::<Result<_>>()? };
    let data = serde_json::to_string(&replayed).map_err(Error::internal)?;
    Ok(Applied { answer: Answer { data, ..stored }, stored_data: None, aggregated })
}

#[derive(Serialize)]
struct ReplayedResults {
    results: Vec<Box<RawValue>>,
}
