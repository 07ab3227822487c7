//! Replays of stored responses: what the caller must still be allowed to do, and the reads of a batch, which run
//! again.
//!
//! The stored response of a batch has the results of its changes. In place of the result of a read it has only the
//! status: what the caller may see may have changed, and the result of a read can be long.

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::batch::{self, OperationResult};
use super::call::Call;
use super::reply::Reply;
use super::routes::{BATCH_ACTION, Route};
use crate::domain::access::Caller;
use crate::domain::batch::Batch;
use crate::domain::id::Kind;
use crate::error::{Error, Result};
use crate::service::idempotency::{Replay, ReplayedResponse, StoredResponse};

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

/// The JSON to store of a batch's results; `is_read` says which operations are reads. `None` if it is the JSON of
/// the response itself.
pub(super) fn to_stored_results(results: &[OperationResult], is_read: &[bool]) -> Result<Option<String>> {
    if !is_read.contains(&true) {
        return Ok(None);
    }
    let results = results.iter().zip(is_read).map(|(result, is_read)| match is_read {
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

/// Authorizes the replay of a stored response: as the caller of every operation that the earlier request was
/// authorized for. The pipeline and the transaction have authorized the caller of the request itself.
pub(super) fn authorize(call: &Call, caller: &Caller, stored: &StoredResponse) -> Result<Replay<Reply>> {
    if call.ctx.action != BATCH_ACTION {
        let key_id = match stored.secret {
            true => serde_json::from_str::<Data>(&stored.body).map_err(Error::internal)?.key_id(),
            false => None,
        };
        return Ok(Replay { key_ids: key_id.into_iter().collect(), reads: Vec::new(), batch_id: None });
    }
    let batch = Batch::read(call.require_body()?)?;
    let parsed: ParsedResults<'_> = serde_json::from_str(&stored.body).map_err(Error::internal)?;
    let batch_id = call.app.new_id(Kind::Batch)?;
    let mut replay = Replay { key_ids: Vec::new(), reads: Vec::new(), batch_id: Some(batch_id.clone()) };
    let mut results = parsed.results.into_iter();
    for operation in batch.operations {
        let result = results.next().map(ParsedResult::parse).transpose()?;
        if result.as_ref().is_none_or(ParsedResult::was_authorized)
            && let Some(route) = batch::operation_route(&operation)?
        {
            authorize_operation(route, caller)?;
        }
        let Some(result) = result else { continue };
        replay.key_ids.extend(result.key_id);
        if result.is_read {
            let read = batch::prepare_operation(call, &batch_id, operation)?;
            replay
                .reads
                .push(read.ok_or_else(|| Error::internal("a stored batch has an operation of no batch"))?);
        }
    }
    Ok(replay)
}

fn authorize_operation(route: &Route, caller: &Caller) -> Result<()> {
    caller.require_scope(route.auth.scopes())?;
    if route.auth.requires_platform_key() {
        caller.require_platform()?;
    }
    if route.requires_current_secret() { caller.require_current_secret() } else { Ok(()) }
}

/// The response of a replay: the stored response, with the new results of the reads in their places.
pub(super) fn write_replayed(call: &Call, replayed: ReplayedResponse<Reply>) -> Result<Reply> {
    let ReplayedResponse { response, read_results, .. } = replayed;
    if read_results.is_empty() {
        return Reply::from_stored(response);
    }
    let operations = Batch::read(call.require_body()?)?.operations;
    let parsed: ParsedResults<'_> = serde_json::from_str(&response.body).map_err(Error::internal)?;
    let mut read_results = read_results.into_iter();
    let mut results: Vec<Box<RawValue>> = Vec::with_capacity(operations.len());
    for (operation, stored) in operations.into_iter().zip(parsed.results) {
        if !ParsedResult::parse(stored)?.is_read {
            results.push(stored.to_owned());
            continue;
        }
        let result = read_results.next().ok_or_else(|| Error::internal("a read without a result"))?;
        let (result, _) = batch::operation_result(call, operation.id, result)?;
        results.push(to_raw_value(&result).map_err(Error::internal)?);
    }
    let body = serde_json::to_string(&ReplayedResults { results }).map_err(Error::internal)?;
    Reply::from_stored(StoredResponse { body, ..response })
}

#[derive(Serialize)]
struct ReplayedResults {
    results: Vec<Box<RawValue>>,
}
