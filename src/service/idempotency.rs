//! `Idempotency-Key`: a repeated POST with the same key gets the stored response instead of running again.
//!
//! The response is stored in the transaction of the change, so that neither exists without the other. A
//! response that contains a secret is encrypted with a key derived from the caller's bearer token and the
//! Idempotency-Key. Neither the token nor the Idempotency-Key is stored, so the response can't be decrypted
//! from the database file only.

use std::sync::Arc;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};

use super::operation::{Answer, Applied, Apply};
use super::{RequestContext, aggregate_events, run_in_transaction};
use crate::app::App;
use crate::app::in_flight::InFlightGuard;
use crate::domain::access::{self, Caller};
use crate::domain::action::{Access, Action};
use crate::domain::audit::{AuditEntry, Event};
use crate::domain::idempotency::{StorageLimits, counted_bytes};
use crate::domain::sha256::sha256_of_parts;
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, Result};
use crate::store;
use crate::store::db::Tx;
use crate::store::idempotency::{ResponseOwner, ResponseRow};

/// The time for which a response is stored: 24 hours, in milliseconds.
const RESPONSE_TTL_MILLIS: i64 = 86_400_000;

/// The largest number of expired responses that one write deletes, for which other changes wait.
const MAX_PRUNED_PER_WRITE: usize = 1000;

/// The number of bytes of expired responses after which a write deletes no more, because deleting a long
/// response takes longer.
const MAX_PRUNED_BYTES_PER_WRITE: u64 = 8 << 20;

/// A SHA-256 digest.
type Digest = [u8; 32];

/// The outcome of a request with an Idempotency-Key.
pub(crate) enum IdempotentOutcome {
    /// The operation was applied, with this answer.
    Applied(Answer),
    /// Nothing was applied; this is the stored answer of an earlier request.
    Replayed(Answer),
    /// The request is refused: the Idempotency-Key was used for another request, or the stored answer can't
    /// be decrypted.
    Refused(Error),
}

/// Authorizes the replay of a stored answer, and returns the answer as it is now.
pub(crate) type Replay<P> = fn(&mut P, &Tx<'_>, &Caller, Answer) -> Result<Applied>;

/// A request with an Idempotency-Key. Until this value is dropped, no other request of the caller can use the
/// same Idempotency-Key.
pub struct IdempotentRequest {
    guard: InFlightGuard,
    /// The SHA-256 digest of the request's method, path and body.
    request: Digest,
    /// The key that encrypts a stored response with a secret.
    encryption_key: LessSafeKey,
    /// True if the stored response is encrypted even if the operation doesn't mark it as containing a secret.
    is_always_sealed: bool,
    /// The API key whose limits the stored response counts towards.
    owner: ResponseOwner,
    limits: StorageLimits,
    /// The time of a stored response: the settled time, so that a response doesn't expire early because the
    /// clock was wrong when it was stored.
    settled_time: Timestamp,
    /// The time by which responses expire; none expires while the clock is unsettled.
    settled_now: Option<Timestamp>,
}

impl IdempotentRequest {
    /// Claims the Idempotency-Key for this request.
    ///
    /// # Errors
    /// `CONFLICT` while another request of the caller with the same Idempotency-Key is running; `UNAVAILABLE`
    /// when too many requests with an Idempotency-Key are running.
    pub fn claim(
        app: &App,
        ctx: &RequestContext,
        token: &str,
        key: &str,
        [method, path]: [&str; 2],
        body: &[u8],
    ) -> Result<Self> {
        let Caller::Key(credential) = &ctx.caller else {
            return Err(Error::internal("an Idempotency-Key without an API key"));
        };
        let caller = credential.key.id.as_bytes();
        let id = sha256_of_parts(&[b"tollhouse.idempotency.name.v1\n", caller, b"\n", key.as_bytes()]);
        let request = [method.as_bytes(), b" ", path.as_bytes(), b"\n", body];
        Ok(Self {
            guard: app.in_flight.claim(id)?,
            request: sha256_of_parts(&request),
            encryption_key: derive_encryption_key(token, key, &id)?,
            owner: ResponseOwner {
                key_seq: credential.seq,
                organization_seq: credential.organization.as_ref().map(|organization| organization.seq),
            },
            limits: app.config.idempotency.storage_limits(app.config.database.max_bytes),
            is_always_sealed: false,
            settled_time: app.clock.settled_time(),
            settled_now: app.clock.settled_now(),
        })
    }

    /// Encrypts the stored response in any case, for a request that holds a secret: an error message can repeat
    /// it, also in part.
    pub(crate) fn seal_response(&mut self) {
        self.is_always_sealed = true;
    }

    fn encrypt(&self, status: u16, data: String) -> Result<Vec<u8>> {
        // The nonce is random, because the same token and Idempotency-Key derive the same encryption key
        // again.
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Error::internal("no randomness"))?;
        let mut text = data.into_bytes();
        self.encryption_key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                self.associated_data(status),
                &mut text,
            )
            .map_err(|_| Error::internal("could not seal a response"))?;
        Ok([nonce.as_slice(), &text].concat())
    }

    fn decrypt(&self, stored: ResponseRow) -> Option<String> {
        if !stored.sealed {
            return String::from_utf8(stored.answer).ok();
        }
        let (nonce, text) = stored.answer.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = text.to_vec();
        let length = self
            .encryption_key
            .open_in_place(nonce, self.associated_data(stored.status), &mut text)
            .ok()?
            .len();
        text.truncate(length);
        String::from_utf8(text).ok()
    }

    fn associated_data(&self, status: u16) -> Aad<Vec<u8>> {
        Aad::from([self.guard.id.as_slice(), &self.request, &status.to_be_bytes()].concat())
    }

    /// Stores an answer with this data, in place of an expired one. The limits are checked in the transaction, so that
    /// concurrent requests don't exceed them.
    fn store_answer(&self, tx: &Tx<'_>, answer: &Answer, data: Option<String>) -> Result<()> {
        if tx.is_storage_full() {
            return Err(Error::only_withdrawals_accepted());
        }
        let data = data.unwrap_or_else(|| answer.data.clone());
        self.limits.check_length(data.len())?;
        let sealed = answer.holds_secret || self.is_always_sealed;
        let stored = ResponseRow {
            request: self.request,
            created_at: self.settled_time,
            status: answer.status,
            etag: answer.etag.clone(),
            sealed,
            answer: if sealed { self.encrypt(answer.status, data)? } else { data.into_bytes() },
        };
        store::idempotency::delete(tx, &self.guard.id)?;
        let bytes = counted_bytes(stored.answer.len());
        let is_platform_key = self.owner.organization_seq.is_none();
        let taken = store::idempotency::stored_bytes(tx, self.owner)?;
        self.limits.check_room(bytes, &taken, is_platform_key)?;
        store::idempotency::insert(tx, &self.guard.id, self.owner, bytes, &stored)
    }

    /// Reads the stored answer of an earlier request; `None` if there is none or it has expired. The inner
    /// error is the reason to refuse the request.
    fn find_answer(&self, tx: &Tx<'_>) -> Result<Option<Result<Answer>>> {
        let stored = store::idempotency::get(tx, &self.guard.id)?;
        let is_expired = |stored: &ResponseRow| {
            let end = stored.created_at.as_millis() + RESPONSE_TTL_MILLIS;
            self.settled_now.is_some_and(|now| now.as_millis() >= end)
        };
        let Some(stored) = stored.filter(|stored| !is_expired(stored)) else {
            return Ok(None);
        };
        if stored.request != self.request {
            let message =
                "This Idempotency-Key was used for a different request. Use a new key for each request.";
            return Ok(Some(Err(Error::new(Code::IdempotencyMismatch, message))));
        }
        let status = stored.status;
        let etag = stored.etag.clone();
        let holds_secret = stored.sealed;
        let answer = self.decrypt(stored).map(|data| Answer { status, data, etag, holds_secret, code: None });
        Ok(Some(answer.ok_or_else(|| {
            let message = "The request succeeded earlier, but its response holds a secret and can be decrypted \
                           only with the API key secret that made the request. Read the created resource, and \
                           rotate the key if you need a secret.";
            Error::new(Code::Conflict, message)
        })))
    }
}

fn derive_encryption_key(token: &str, key: &str, id: &Digest) -> Result<LessSafeKey> {
    let secret = Salt::new(HKDF_SHA256, b"tollhouse.idempotency.answer.v1").extract(token.as_bytes());
    let info = [id.as_slice(), key.as_bytes()];
    let okm = secret.expand(&info, &AES_256_GCM).map_err(|_| Error::internal("could not derive a key"))?;
    Ok(LessSafeKey::new(UnboundKey::from(okm)))
}

/// Replays the stored answer, or applies the prepared request and stores its answer. Reading the caller, applying and
/// storing happen in one transaction. `replay` authorizes every operation of the earlier request again.
///
/// # Errors
/// The errors of `apply`. Its changes are then rolled back, and the caller of this function stores
/// the error with [`record_and_store_refusal`]. `UNAVAILABLE` if there is no room to store the
/// answer; the changes are rolled back, too. The refusals of `replay`.
pub(crate) async fn apply_or_replay<P: Send + 'static>(
    app: &App,
    ctx: &Arc<RequestContext>,
    idempotent: &Arc<IdempotentRequest>,
    mut prepared: P,
    apply: Apply<P>,
    replay: Replay<P>,
) -> Result<IdempotentOutcome> {
    let context = ctx.clone();
    let idempotent = idempotent.clone();
    let run = move |tx: &Tx<'_>, caller: &Caller| match idempotent.find_answer(tx)? {
        Some(Err(refusal)) => Ok((IdempotentOutcome::Refused(refusal), Vec::new())),
        Some(Ok(stored)) => {
            let mut replayed = replay(&mut prepared, tx, caller, stored)?;
            let event = replayed_event(&context, replayed.answer.status);
            if tx.is_storage_full() {
                replayed.aggregated.push(event);
            } else {
                store::audit::append(tx, event)?;
            }
            Ok((IdempotentOutcome::Replayed(replayed.answer), replayed.aggregated))
        }
        None => {
            let Applied { answer, stored_data, aggregated } = apply(&mut prepared, tx, caller)?;
            idempotent.store_answer(tx, &answer, stored_data)?;
            Ok((IdempotentOutcome::Applied(answer), aggregated))
        }
    };
    let (outcome, aggregated) = run_in_transaction(app, ctx, run).await?;
    aggregate_events(app, ctx, aggregated);
    Ok(outcome)
}

/// Returns `INSUFFICIENT_SCOPE` unless the caller could give each of these API keys its permissions: the
/// secret in a stored response gives whoever reads it these permissions.
pub(crate) fn ensure_can_see_secrets(tx: &Tx<'_>, caller: &Caller, key_ids: &[String]) -> Result<()> {
    for id in key_ids {
        let Some(key) = store::api_keys::get(tx, id)? else { continue };
        if access::ensure_can_grant(caller, &key).is_err() {
            let message = format!(
                "The response to the earlier request contains the secret of the key {id}, which has more \
                 permissions than your key has now."
            );
            return Err(Error::new(Code::InsufficientScope, message));
        }
    }
    Ok(())
}

/// The audit event of a replayed answer. Its access is `read`, because a replay changes nothing.
fn replayed_event(ctx: &RequestContext, status: u16) -> Event {
    let entry =
        AuditEntry { target: ctx.target.clone(), ..AuditEntry::without_target(ctx.caller.organization_id()) };
    Event {
        action: Action::RequestReplayed.into(),
        access: Access::Read.into(),
        ..ctx.audit_event(0, entry, status, None)
    }
}

/// Records the refusal or failure of a request as an audit event, and stores its answer for replays.
pub(crate) async fn record_and_store_refusal(
    app: &App,
    ctx: &Arc<RequestContext>,
    idempotent: &Arc<IdempotentRequest>,
    error: &Error,
    answer: Answer,
) -> Result<()> {
    let event = ctx.refusal_event(error);
    let idempotent = idempotent.clone();
    app.db
        .write(move |tx| {
            store::audit::append(tx, event.clone())?;
            idempotent.store_answer(tx, &answer, None)
        })
        .await
}

/// Deletes a chunk of expired responses. Returns `true` if there may be more expired responses. Deletes none
/// while the clock is unsettled.
///
/// # Errors
/// Errors of the database: `STORAGE_FULL`, `UNAVAILABLE`, `INTERNAL`.
pub async fn prune(app: &App) -> Result<bool> {
    let Some(now) = app.clock.settled_now() else { return Ok(false) };
    let expired_before = Timestamp::from_millis(now.as_millis() - RESPONSE_TTL_MILLIS);
    let prune = move |tx: &Tx<'_>| {
        store::idempotency::prune(tx, expired_before, now, MAX_PRUNED_PER_WRITE, MAX_PRUNED_BYTES_PER_WRITE)
    };
    app.db.write(prune).await
}
