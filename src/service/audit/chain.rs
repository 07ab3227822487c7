//! Verifies the stored audit chain.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;

use utoipa::IntoParams;

use super::EVENTS_PER_CHUNK;
use crate::app::App;
use crate::domain::audit::{AuditEntry, Verification};
use crate::domain::chain::{ChainAnchor, ChainLink, ChainVerifier, EventColumns};
use crate::domain::page::Query;
use crate::error::{Error, ErrorDetail, Result};
use crate::service::{RequestContext, read_audited};
use crate::store::audit::ChainRow;
use crate::store::{self, db::Tx};

/// Events hashed before the thread yields its core; they take about 100 µs.
const EVENTS_BETWEEN_YIELDS: usize = 16;

/// The query parameters of a verification.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AnchorQuery {
    /// A position in the chain and its hash, as `seq:hash`, that were stored elsewhere. Defaults to the
    /// start of the chain.
    #[param(min_length = 1, max_length = 200, pattern = "^0*[1-9][0-9]*:[0-9a-fA-F]{64}$")]
    anchor: Option<String>,
}

impl AnchorQuery {
    fn read(query: &mut Query) -> Self {
        Self { anchor: query.nonempty_text("anchor") }
    }
}

/// Verifies the audit chain, completely or from an anchor. Only platform keys can verify the chain. Stops when
/// the client disconnects.
///
/// # Errors
/// `RATE_LIMITED` while another export or chain verification of the key is running, or too many are.
pub(crate) async fn verify(
    app: &App,
    ctx: &Arc<RequestContext>,
    mut query: Query,
    disconnected: impl Future<Output = ()>,
) -> Result<Verification> {
    let _running = app.audit_reads.start(&ctx.caller)?;
    let AnchorQuery { anchor } = AnchorQuery::read(&mut query);
    query.finish(())?;
    let anchor = anchor.as_deref().map(parse_chain_anchor).transpose()?;
    let verification = tokio::select! {
        verification = verify_chain(app, anchor) => verification?,
        () = disconnected => {
            return Err(Error::unavailable("The client disconnected during the verification.", 1));
        }
    };
    read_audited(app, ctx, move |_, caller| {
        caller.require_platform()?;
        Ok((verification, AuditEntry::without_target(None)))
    })
    .await
}

/// Verifies the audit chain of the open database.
///
/// # Errors
/// `INVALID_REQUEST` when retention has removed the anchor's event.
pub(crate) async fn verify_chain(app: &App, anchor: Option<ChainAnchor>) -> Result<Verification> {
    let mut walk = app.db.read(move |tx| ChainWalk::start(tx, anchor)).await?;
    loop {
        match app.db.read(move |tx| walk.verify_chunk(tx)).await? {
            ControlFlow::Continue(verified) => walk = verified,
            ControlFlow::Break(verification) => return Ok(verification),
        }
    }
}

/// A verification of the stored audit chain. It reads in chunks, each in a transaction of its own, so that no read
/// transaction stays open for long.
pub(crate) struct ChainWalk {
    anchor: Option<ChainAnchor>,
    checkpoint: Option<ChainAnchor>,
    verifier: ChainVerifier,
    /// The `seq` of the first event of the next chunk.
    pub(crate) next: i64,
}

impl ChainWalk {
    /// Starts at the anchor or, without an anchor, at the first existing event.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when retention has removed the anchor's event.
    pub(crate) fn start(tx: &Tx<'_>, anchor: Option<ChainAnchor>) -> Result<Self> {
        let checkpoint = store::audit::last_pruning_checkpoint(tx)?;
        if let (Some(anchor), Some(checkpoint)) = (anchor, checkpoint)
            && anchor.seq < checkpoint.seq
        {
            return Err(anchor_pruned_error(anchor, checkpoint));
        }
        let verifier = ChainVerifier::new(anchor, true);
        let first = verifier.first_seq();
        // Events up to the checkpoint are skipped, because retention is removing them.
        let next = checkpoint.map_or(first, |checkpoint| first.max(checkpoint.seq + 1));
        Ok(Self { anchor, checkpoint, verifier, next })
    }

    /// Verifies the next chunk. Returns the result of the verification at the end of the chain, or at a broken
    /// event. If retention moved the checkpoint, the verification starts again from the new one.
    pub(crate) fn verify_chunk(mut self, tx: &Tx<'_>) -> Result<ControlFlow<Verification, Self>> {
        if store::audit::last_pruning_checkpoint(tx)? != self.checkpoint {
            return Self::start(tx, self.anchor).map(ControlFlow::Continue);
        }
        let rows = store::audit::chain_rows(tx, self.next, EVENTS_PER_CHUNK)?;
        for (index, ChainRow { seq, link }) in rows.iter().enumerate() {
            // Without the yield, a verification of a key waits milliseconds until the kernel preempts this thread.
            if index % EVENTS_BETWEEN_YIELDS == 0 {
                thread::yield_now();
            }
            let is_valid = |(link, columns): &(ChainLink, EventColumns)| {
                self.verifier.verify_next(link) && columns.matches_event(&link.json)
            };
            if !link.as_ref().is_some_and(is_valid) {
                self.verifier.record_break(*seq);
                return Ok(ControlFlow::Break(self.verifier.finish()));
            }
        }
        match rows.last() {
            Some(last) if rows.len() == EVENTS_PER_CHUNK => {
                self.next = last.seq + 1;
                Ok(ControlFlow::Continue(self))
            }
            _ => Ok(ControlFlow::Break(self.verifier.finish())),
        }
    }
}

/// The error for an anchor that can't be checked because retention removed the anchor's event.
fn anchor_pruned_error(anchor: ChainAnchor, checkpoint: ChainAnchor) -> Error {
    let seq = anchor.seq;
    let first = checkpoint.seq + 1;
    Error::invalid_request(vec![ErrorDetail {
        pointer: None,
        parameter: Some("anchor".to_owned()),
        code: "ANCHOR_PRUNED".into(),
        message: format!(
            "Retention removed event {seq}; the log now begins at event {first}. Use a later anchor, or none."
        ),
    }])
}

/// Parses an anchor of the form `seq:hash`; returns `INVALID_REQUEST` if the text has another form.
fn parse_chain_anchor(text: &str) -> Result<ChainAnchor> {
    ChainAnchor::parse(text).ok_or_else(|| {
        Error::invalid_request(vec![ErrorDetail {
            pointer: None,
            parameter: Some("anchor".to_owned()),
            code: "INVALID_ANCHOR".into(),
            message: "Must be seq:hash: an event's sequence number and the 64 hex digits of its hash."
                .to_owned(),
        }])
    })
}
