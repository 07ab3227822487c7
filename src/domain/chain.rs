//! The audit chain: the hash of each audit event covers the hash of the previous event and the event's own
//! JSON, byte for byte.

use std::fmt;

use super::action::Action;
use super::audit::{ActorKind, ChainHash, DOMAIN_TAG, Event, GENESIS_HASH, Outcome, Verification};
use super::id;
use super::sha256::sha256_of_parts;
use super::time::Timestamp;

/// Computes the hash of an audit event: `SHA-256(DOMAIN_TAG ‖ prev_hash ‖ json)`.
pub fn hash(prev_hash: &ChainHash, json: &str) -> ChainHash {
    sha256_of_parts(&[DOMAIN_TAG, prev_hash, json.as_bytes()])
}

/// Parses a SHA-256 hash from 64 hex digits.
pub(crate) fn parse_hash(text: &str) -> Option<ChainHash> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).ok()?;
    Some(hash)
}

/// An audit event with its position in the audit chain.
#[derive(Clone, Debug, PartialEq)]
pub struct ChainLink {
    /// The sequence number of the event.
    pub(crate) seq: i64,
    /// The hash of the previous event.
    pub(crate) prev_hash: ChainHash,
    /// The hash of this event.
    pub(crate) hash: ChainHash,
    /// The event's JSON exactly as stored, because the hash covers these bytes.
    pub json: String,
}

impl ChainLink {
    /// Formats the event as a line of an export: the stored JSON with both hashes appended after its last
    /// field, so that removing the hashes restores the stored bytes.
    pub(crate) fn to_line(&self) -> String {
        let body = self.json.strip_suffix('}').unwrap_or(&self.json);
        format!(
            "{body},\"prev_hash\":\"{}\",\"hash\":\"{}\"}}",
            hex::encode(self.prev_hash),
            hex::encode(self.hash)
        )
    }

    /// Parses a line of an export. Returns `None` if the text isn't such a line.
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        const BEFORE: &str = ",\"prev_hash\":\"";
        const BETWEEN: &str = "\",\"hash\":\"";
        let rest = line.strip_suffix("\"}")?;
        let (rest, hash) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
        let rest = rest.strip_suffix(BETWEEN)?;
        let (rest, prev_hash) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
        let json = format!("{}}}", rest.strip_suffix(BEFORE)?);
        let event: Event = serde_json::from_str(&json).ok()?;
        Some(Self { seq: event.seq?, prev_hash: parse_hash(prev_hash)?, hash: parse_hash(hash)?, json })
    }

    /// Returns the parsed event if the stored hash and sequence number match its JSON, otherwise `None`.
    fn verified_event(&self) -> Option<Event> {
        if hash(&self.prev_hash, &self.json) != self.hash {
            return None;
        }
        serde_json::from_str::<Event>(&self.json).ok().filter(|event| event.seq == Some(self.seq))
    }
}

/// Copies of an audit event's fields, which the database stores in columns of their own so that lists can be
/// filtered.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The fields have the names of the event's fields.
pub struct EventColumns {
    pub(crate) id: [u8; 16],
    pub(crate) occurred_at: Timestamp,
    pub(crate) organization_id: Option<String>,
    pub(crate) actor_id: Option<String>,
    pub(crate) action: String,
    pub(crate) target_id: Option<String>,
    pub(crate) access: String,
    pub(crate) outcome: String,
}

impl EventColumns {
    /// True if the columns equal the fields in the event's JSON.
    pub(crate) fn matches_event(&self, json: &str) -> bool {
        let Ok(event) = serde_json::from_str::<Event>(json) else { return false };
        id::event_id_bytes(&event.id) == Some(self.id)
            && Timestamp::parse(&event.occurred_at) == Some(self.occurred_at)
            && event.organization_id == self.organization_id
            && event.actor.id == self.actor_id
            && event.action.as_str() == self.action
            && event.target.and_then(|target| target.id) == self.target_id
            && event.access.as_str() == self.access
            && event.outcome.as_str() == self.outcome
    }
}

/// Sequence number and hash of an audit event against which the chain is verified: a head that was stored
/// outside the database, or the checkpoint of a pruning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChainAnchor {
    pub(crate) seq: i64,
    pub(crate) hash: ChainHash,
}

impl fmt::Display for ChainAnchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, hex::encode(self.hash))
    }
}

impl ChainAnchor {
    /// The name of the changed field that holds the checkpoint in a pruning event.
    pub(crate) const CHECKPOINT_FIELD: &str = "checkpoint";

    /// Returns the checkpoint that a pruning event records, which is the last deleted event. `None` for other
    /// events.
    pub(crate) fn from_pruning_event(event: &Event) -> Option<Self> {
        let is_pruning = event.action == Action::PruneAuditLog
            && event.actor.kind == ActorKind::System
            && event.outcome == Outcome::Success;
        let change =
            event.changes.iter().find(|change| is_pruning && change.field == Self::CHECKPOINT_FIELD)?;
        // A pruning deletes only events that precede the pruning event.
        Self::parse(change.to.as_str()?)
            .filter(|checkpoint| event.seq.is_some_and(|seq| checkpoint.seq < seq))
    }

    /// Parses an anchor of the form `seq:hash`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (seq, hash) = text.split_once(':')?;
        let seq = seq.parse().ok().filter(|seq| *seq >= 1)?;
        Some(Self { seq, hash: parse_hash(hash)? })
    }
}

/// Verifies the audit chain from the oldest event to the newest and finds the first event that was edited,
/// removed or reordered.
#[derive(Debug)]
pub(crate) struct ChainVerifier {
    result: Verification,
    anchor: Option<ChainAnchor>,
    /// True if a gap in the sequence numbers is a break; false for a filtered export, which has gaps.
    complete: bool,
    /// Sequence number and hash of the event that was checked last.
    previous: Option<(i64, ChainHash)>,
    /// The last missing event if the beginning of the chain is missing. Cleared when a pruning event with
    /// this checkpoint is found, because that event explains the missing beginning.
    unexplained_pruning: Option<ChainAnchor>,
    /// The checkpoint of the last pruning event that was found.
    checkpoint: Option<ChainAnchor>,
}

impl ChainVerifier {
    /// Starts a verification at the anchor or, without an anchor, at the first existing event. If `complete`
    /// is false (for a filtered export), gaps are allowed and each event is checked by itself.
    ///
    /// If the oldest events were pruned, the first existing event isn't event 1. In that case a later pruning
    /// event must have the last missing event as its checkpoint.
    pub(crate) fn new(anchor: Option<ChainAnchor>, complete: bool) -> Self {
        let result = Verification { valid: true, ..Verification::default() };
        Self { result, anchor, complete, previous: None, unexplained_pruning: None, checkpoint: None }
    }

    /// Returns the sequence number from which the caller must read events: that of the anchor. Without an
    /// anchor, the number is below 1, so that events with invalid numbers are found too.
    pub(crate) fn first_seq(&self) -> i64 {
        self.anchor.map_or(i64::MIN, |anchor| anchor.seq)
    }

    /// Checks the next event. Returns `false` if the chain is broken at this event.
    pub(crate) fn verify_next(&mut self, link: &ChainLink) -> bool {
        let follows = match (self.previous, self.anchor) {
            (Some((seq, hash)), _) if link.seq == seq + 1 => link.prev_hash == hash,
            (Some((seq, _)), _) => !self.complete && link.seq > seq,
            (None, Some(anchor)) if link.seq == anchor.seq => link.hash == anchor.hash,
            // No event up to the anchor is stored: pruning removed them, the anchor's own event included. The first
            // event that is left is valid only if it directly follows the anchor and refers to its hash.
            (None, Some(anchor)) => {
                self.complete && link.seq == anchor.seq + 1 && link.prev_hash == anchor.hash
            }
            (None, None) if link.seq == 1 => link.prev_hash == GENESIS_HASH,
            (None, None) => !self.complete || link.seq > 1,
        };
        let event = if follows { link.verified_event() } else { None };
        let Some(event) = event else {
            // If an event is missing, the break is reported at the missing event, not at the intact event
            // after the gap.
            let expected = self.previous.map_or_else(|| self.expected_first_seq(), |(seq, _)| seq + 1);
            self.record_break(if self.complete { link.seq.min(expected) } else { link.seq });
            return false;
        };
        if self.previous.is_none() && self.complete && link.seq > self.expected_first_seq() {
            self.unexplained_pruning = Some(ChainAnchor { seq: link.seq - 1, hash: link.prev_hash });
        }
        if let Some(checkpoint) = ChainAnchor::from_pruning_event(&event) {
            self.unexplained_pruning = self.unexplained_pruning.filter(|cut| *cut != checkpoint);
            self.checkpoint = Some(checkpoint);
        }
        self.previous = Some((link.seq, link.hash));
        self.result.checked += 1;
        self.result.first_seq.get_or_insert(link.seq);
        self.result.last_seq = Some(link.seq);
        true
    }

    /// Returns the sequence number at which an unpruned chain starts.
    fn expected_first_seq(&self) -> i64 {
        self.anchor.map_or(1, |anchor| anchor.seq)
    }

    /// Records that the chain is broken at the event `seq`. Only the first break is kept.
    pub(crate) fn record_break(&mut self, seq: i64) {
        self.result.valid = false;
        self.result.broken_at.get_or_insert(seq);
    }

    /// Returns the result of the verification. The chain is also broken if it ends before the anchor, or if
    /// its beginning is missing and no pruning event records the deletion.
    pub(crate) fn finish(mut self) -> Verification {
        if let (Some(anchor), None) = (self.anchor, self.previous)
            && self.result.valid
        {
            self.record_break(anchor.seq);
        }
        if let Some(cut) = self.unexplained_pruning
            && self.result.valid
        {
            // The break is reported at the first missing event after the latest checkpoint.
            let kept_from = self.checkpoint.map_or(1, |checkpoint| checkpoint.seq + 1);
            self.record_break(kept_from.min(cut.seq + 1));
        }
        self.result.head_hash = self.previous.map(|(_, hash_secret)| hex::encode(hash_secret));
        self.result
    }
}
