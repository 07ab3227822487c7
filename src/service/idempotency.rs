//! `Idempotency-Key`: a POST that is repeated with it is answered again instead of done again.
//!
//! The answer is stored in the transaction of the change, so that there is never one without the other.
//! One that shows a secret is sealed with a key that is derived from the caller's bearer token and the
//! Idempotency-Key. Neither is stored, so that the file alone opens nothing.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{self, SHA256};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};

use super::RequestContext;
use super::within::{self, Handler};
use crate::app::App;
use crate::domain::access::Caller;
use crate::domain::audit::{Entry, Event};
use crate::domain::time::Timestamp;
use crate::error::{Code, Error, Result};
use crate::store;
use crate::store::db::Tx;
use crate::store::idempotency::ResponseRow;

/// How long an answer is kept.
const KEPT_FOR_MILLIS: i64 = 86_400_000;

/// Answers that one write removes: other changes wait for it.
const PRUNED_AT_ONCE: usize = 1000;

/// Calls with an Idempotency-Key that may be under way.
const MAX_IN_FLIGHT: usize = 10_000;

/// The action of a repeated answer, whatever the route: nothing was done.
const REPLAYED: &str = "request.replayed";

type Digest = [u8; 32];

/// The calls with an Idempotency-Key that are being answered, by the name of their answer.
#[derive(Debug, Default)]
pub struct InFlight(Mutex<HashSet<Digest>>);

impl InFlight {
    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn claim(self: &Arc<Self>, name: Digest) -> Result<InFlightGuard> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.contains(&name) {
            let message = "A request with this Idempotency-Key is still running; try again in a moment.";
            return Err(Error::new(Code::Conflict, message));
        }
        if names.len() >= MAX_IN_FLIGHT {
            return Err(Error::unavailable("Too many requests are running; try again in a second.", 1));
        }
        names.insert(name);
        Ok(InFlightGuard { name, requests: self.clone() })
    }
}

/// Held while a call is being answered.
#[derive(Debug)]
struct InFlightGuard {
    name: Digest,
    requests: Arc<InFlight>,
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.requests.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

/// An answer as it is repeated: all but its metadata.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredResponse {
    /// The HTTP status.
    pub(crate) status: u16,
    /// Its ETag.
    pub(crate) etag: Option<String>,
    /// Does it show a secret?
    pub(crate) secret: bool,
    /// `data`, or `error`, as JSON.
    pub(crate) body: String,
}

/// How a call with an Idempotency-Key was answered.
pub(crate) enum IdempotentOutcome<R> {
    /// For the first time.
    Executed(R),
    /// As once before.
    Replayed(StoredResponse),
    /// Not at all: the key was used for something else, or the answer can't be opened.
    Refused(Error),
}

/// A call with an Idempotency-Key. Until it is dropped no other can have the same.
pub struct IdempotentRequest {
    claim: InFlightGuard,
    request: Digest,
    key: LessSafeKey,
    now: Timestamp,
}

impl IdempotentRequest {
    /// Claims the key for this call. `CONFLICT` while another one is running with it.
    pub fn claim(
        app: &App,
        ctx: &RequestContext,
        token: &str,
        key: &str,
        [method, path]: [&str; 2],
        body: &[u8],
    ) -> Result<Self> {
        let caller = ctx.caller.key().map_or("", |key| &key.id);
        let name = hash(&[b"tollhouse.idempotency.name.v1\n", caller.as_bytes(), b"\n", key.as_bytes()]);
        let request = [method.as_bytes(), b" ", path.as_bytes(), b"\n", body];
        Ok(Self {
            claim: app.in_flight.claim(name)?,
            request: hash(&request),
            key: derive(token, key, &name)?,
            now: ctx.now,
        })
    }

    fn seal(&self, response: &StoredResponse) -> Result<Vec<u8>> {
        // A new one each time: the key is the same when the token is used for the same name again.
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| Error::internal("no randomness"))?;
        let mut text = response.body.clone().into_bytes();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                self.binding(response.status),
                &mut text,
            )
            .map_err(|_| Error::internal("an answer could not be sealed"))?;
        Ok([nonce.as_slice(), &text].concat())
    }

    fn unseal(&self, stored: ResponseRow) -> Option<String> {
        if !stored.sealed {
            return String::from_utf8(stored.answer).ok();
        }
        let (nonce, text) = stored.answer.split_at_checked(NONCE_LEN)?;
        let (nonce, mut text) = (Nonce::try_assume_unique_for_key(nonce).ok()?, text.to_vec());
        let opened = self.key.open_in_place(nonce, self.binding(stored.status), &mut text).ok()?.len();
        text.truncate(opened);
        String::from_utf8(text).ok()
    }

    fn binding(&self, status: u16) -> Aad<Vec<u8>> {
        Aad::from([self.claim.name.as_slice(), &self.request, &status.to_be_bytes()].concat())
    }

    fn store(&self, tx: &Tx<'_>, response: &StoredResponse) -> Result<()> {
        let answer = if response.secret { self.seal(response)? } else { response.body.clone().into_bytes() };
        let stored = ResponseRow {
            request: self.request,
            created_at: self.now,
            status: response.status,
            etag: response.etag.clone(),
            sealed: response.secret,
            answer,
        };
        store::idempotency::put(tx, &self.claim.name, &stored)
    }

    /// The answer that is kept, if its time isn't over.
    fn find(&self, tx: &Tx<'_>) -> Result<Option<Result<StoredResponse>>> {
        let stored = store::idempotency::get(tx, &self.claim.name)?;
        let Some(stored) =
            stored.filter(|stored| self.now.as_millis() < stored.created_at.as_millis() + KEPT_FOR_MILLIS)
        else {
            return Ok(None);
        };
        if stored.request != self.request {
            let message = "This Idempotency-Key was used for another request; use a new key for each.";
            return Ok(Some(Err(Error::new(Code::IdempotencyMismatch, message))));
        }
        let (status, etag, secret) = (stored.status, stored.etag.clone(), stored.sealed);
        let response = self.unseal(stored).map(|body| StoredResponse { status, etag, secret, body });
        Ok(Some(response.ok_or_else(|| {
            let message = "This was done, but its answer shows a secret and can be opened only with the secret \
                           that your key had then. Look at what was made, and rotate it if you need a secret.";
            Error::new(Code::Conflict, message)
        })))
    }
}

fn derive(token: &str, key: &str, name: &Digest) -> Result<LessSafeKey> {
    let secret = Salt::new(HKDF_SHA256, b"tollhouse.idempotency.answer.v1").extract(token.as_bytes());
    let info = [name.as_slice(), key.as_bytes()];
    let okm = secret.expand(&info, &AES_256_GCM).map_err(|_| Error::internal("no key could be derived"))?;
    Ok(LessSafeKey::new(UnboundKey::from(okm)))
}

fn hash(parts: &[&[u8]]) -> Digest {
    let mut digest = digest::Context::new(&SHA256);
    parts.iter().for_each(|part| digest.update(part));
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.finish().as_ref());
    hash
}

/// Answers as before, or runs the handler and keeps what it answers, all in one transaction and for the
/// caller as it is there. `may_see` is asked before a secret is shown again.
///
/// # Errors
/// The handler's own, which has changed nothing and is not kept yet: see [`refuse`].
pub(crate) async fn answer<R: Send + 'static>(
    app: &App,
    ctx: &Arc<RequestContext>,
    idempotent: &Arc<IdempotentRequest>,
    handler: Handler<R>,
    keep: fn(&R) -> Option<StoredResponse>,
    may_see: impl Fn(&Caller) -> Result<()> + Send + 'static,
) -> Result<IdempotentOutcome<R>> {
    let (ctx, clock, idempotent) = (ctx.clone(), app.clock.clone(), idempotent.clone());
    app.db
        .write(move |tx| {
            let caller = ctx.reload(tx, &clock)?;
            if let Some(found) = idempotent.find(tx)? {
                return match found {
                    Ok(response) => {
                        if response.secret {
                            may_see(&caller)?;
                        }
                        store::audit::append(tx, replayed(&ctx, response.status))?;
                        Ok(IdempotentOutcome::Replayed(response))
                    }
                    Err(error) => Ok(IdempotentOutcome::Refused(error)),
                };
            }
            let reply = within::run(tx, &clock, &ctx, &handler)?;
            if let Some(response) = keep(&reply) {
                idempotent.store(tx, &response)?;
            }
            Ok(IdempotentOutcome::Executed(reply))
        })
        .await
}

/// The event of an answer that was given again: a look, since nothing was done.
fn replayed(ctx: &RequestContext, status: u16) -> Event {
    let entry = Entry { target: ctx.target.clone(), ..Entry::about(ctx.caller.organization_id()) };
    Event { action: REPLAYED.into(), access: "read".into(), ..ctx.event(0, entry, status, None) }
}

/// Records a refusal that the handler decided, and keeps it.
pub(crate) async fn refuse(
    app: &App,
    ctx: &Arc<RequestContext>,
    idempotent: &Arc<IdempotentRequest>,
    error: &Error,
    response: StoredResponse,
) -> Result<()> {
    let (event, idempotent) = (ctx.refusal(error), idempotent.clone());
    app.db
        .write(move |tx| {
            store::audit::append(tx, event.clone())?;
            idempotent.store(tx, &response)
        })
        .await
}

/// Removes at most so many answers whose time is over. Are there more?
pub async fn prune(app: &App) -> Result<bool> {
    let over = Timestamp::from_millis(app.clock.now().as_millis() - KEPT_FOR_MILLIS);
    let pruned = app.db.write(move |tx| store::idempotency::prune(tx, over, PRUNED_AT_ONCE));
    Ok(pruned.await? == PRUNED_AT_ONCE)
}
