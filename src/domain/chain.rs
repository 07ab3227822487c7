//! The audit chain: each event's hash is taken over the one before it and its own JSON, byte for byte.

use std::fmt;

use ring::digest::{Context, SHA256};

use super::audit::{ChainHash, DOMAIN_TAG, Event, GENESIS, Verification};
use super::id;
use super::time::Timestamp;

/// `SHA-256(tag ‖ prev_hash ‖ json)`.
pub fn hash(prev_hash: &ChainHash, json: &str) -> ChainHash {
    let mut digest = Context::new(&SHA256);
    digest.update(DOMAIN_TAG);
    digest.update(prev_hash);
    digest.update(json.as_bytes());
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.finish().as_ref());
    hash
}

/// Bytes as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hash from its 64 hex digits.
pub(crate) fn unhex(text: &str) -> Option<ChainHash> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(hash)
}

/// One event in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Its place.
    pub(crate) seq: i64,
    /// The hash of the link before.
    pub(crate) prev_hash: ChainHash,
    /// Its own.
    pub(crate) hash: ChainHash,
    /// The event as stored.
    pub json: String,
}

impl Link {
    /// One line of an export: the stored JSON with both hashes behind its last field, so that cutting
    /// them off gives the stored bytes back.
    pub(crate) fn to_line(&self) -> String {
        let body = self.json.strip_suffix('}').unwrap_or(&self.json);
        format!("{body},\"prev_hash\":\"{}\",\"hash\":\"{}\"}}", hex(&self.prev_hash), hex(&self.hash))
    }

    /// Reads such a line; `None` when it isn't one.
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        const BEFORE: &str = ",\"prev_hash\":\"";
        const BETWEEN: &str = "\",\"hash\":\"";
        let rest = line.strip_suffix("\"}")?;
        let (rest, hash) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
        let rest = rest.strip_suffix(BETWEEN)?;
        let (rest, prev_hash) = rest.split_at_checked(rest.len().checked_sub(64)?)?;
        let json = format!("{}}}", rest.strip_suffix(BEFORE)?);
        let event: Event = serde_json::from_str(&json).ok()?;
        Some(Self { seq: event.seq?, prev_hash: unhex(prev_hash)?, hash: unhex(hash)?, json })
    }

    /// The event, if the hash fits it, and it its place.
    fn whole(&self) -> Option<Event> {
        if hash(&self.prev_hash, &self.json) != self.hash {
            return None;
        }
        serde_json::from_str::<Event>(&self.json).ok().filter(|event| event.seq == Some(self.seq))
    }
}

/// The copies of an event's fields that a database keeps beside it for its filters.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // They are the event's own.
pub struct Copies {
    pub(crate) id: [u8; 16],
    pub(crate) occurred_at: Timestamp,
    pub(crate) organization_id: Option<String>,
    pub(crate) actor_id: Option<String>,
    pub(crate) action: String,
    pub(crate) target_id: Option<String>,
    pub(crate) access: String,
    pub(crate) outcome: String,
}

impl Copies {
    /// Do the copies say what the event says?
    pub(crate) fn agree_with(&self, json: &str) -> bool {
        let Ok(event) = serde_json::from_str::<Event>(json) else { return false };
        id::event_bytes(&event.id) == Some(self.id)
            && Timestamp::parse(&event.occurred_at) == Some(self.occurred_at)
            && event.organization_id == self.organization_id
            && event.actor.id == self.actor_id
            && event.action == self.action
            && event.target.and_then(|target| target.id) == self.target_id
            && event.access == self.access
            && event.outcome == self.outcome
    }
}

/// A head that was kept elsewhere, or a checkpoint: the event at this place had this hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Anchor {
    /// The place.
    pub(crate) seq: i64,
    /// The hash.
    pub(crate) hash: ChainHash,
}

/// The action of the event that tells of a pruning.
pub(crate) const PRUNED: &str = "audit_log.prune";

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, hex(&self.hash))
    }
}

impl Anchor {
    /// The field of a pruning's event that names its checkpoint.
    pub(crate) const CHECKPOINT: &str = "checkpoint";

    /// The checkpoint that an event names, if it tells of a pruning: the last event that was removed.
    pub(crate) fn of_pruning(event: &Event) -> Option<Self> {
        let told = event.action == PRUNED && event.actor.kind == "system" && event.outcome == "success";
        let change = event.changes.iter().find(|change| told && change.field == Self::CHECKPOINT)?;
        // Nothing is removed that comes after its event.
        Self::parse(change.to.as_str()?)
            .filter(|checkpoint| event.seq.is_some_and(|seq| checkpoint.seq < seq))
    }

    /// Reads `seq:hash`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (seq, hash) = text.split_once(':')?;
        let seq = seq.parse().ok().filter(|seq| *seq >= 1)?;
        Some(Self { seq, hash: unhex(hash)? })
    }
}

/// Walks links from old to new and finds the first that is edited, removed or out of order.
#[derive(Debug)]
pub(crate) struct Walk {
    found: Verification,
    anchor: Option<Anchor>,
    whole: bool,
    before: Option<(i64, ChainHash)>,
    /// Where the chain was cut, until the event comes that tells of it.
    cut: Option<Anchor>,
    /// The latest checkpoint that an event told of.
    checkpoint: Option<Anchor>,
}

impl Walk {
    /// Begins at the very first event there is, or at an anchor. A walk that isn't `whole` (a filtered
    /// export) allows gaps and checks each event by itself.
    ///
    /// The first event there is may be a later one than the first that ever was: then the event of a pruning
    /// has to follow, and to name as its checkpoint the one before.
    pub(crate) fn new(anchor: Option<Anchor>, whole: bool) -> Self {
        let found = Verification { valid: true, ..Verification::default() };
        Self { found, anchor, whole, before: None, cut: None, checkpoint: None }
    }

    /// Where to begin to read: at the anchor, else before the first place, where nothing may stand.
    pub(crate) fn first(&self) -> i64 {
        self.anchor.map_or(i64::MIN, |anchor| anchor.seq)
    }

    /// Takes the next link; `false` when the chain is broken there.
    pub(crate) fn step(&mut self, link: &Link) -> bool {
        let follows = match (self.before, self.anchor) {
            (Some((seq, hash)), _) if link.seq == seq + 1 => link.prev_hash == hash,
            (Some((seq, _)), _) => !self.whole && link.seq > seq,
            (None, Some(anchor)) if link.seq == anchor.seq => link.hash == anchor.hash,
            // It may have been the checkpoint of a pruning, whose event has to follow.
            (None, Some(anchor)) => self.whole && link.seq == anchor.seq + 1 && link.prev_hash == anchor.hash,
            (None, None) if link.seq == 1 => link.prev_hash == GENESIS,
            (None, None) => !self.whole || link.seq > 1,
        };
        let event = if follows { link.whole() } else { None };
        let Some(event) = event else {
            // A missing event is the break, not the innocent one behind it.
            let expected = self.before.map_or_else(|| self.begins_at(), |(seq, _)| seq + 1);
            self.break_at(if self.whole { link.seq.min(expected) } else { link.seq });
            return false;
        };
        if self.before.is_none() && self.whole && link.seq > self.begins_at() {
            self.cut = Some(Anchor { seq: link.seq - 1, hash: link.prev_hash });
        }
        if let Some(checkpoint) = Anchor::of_pruning(&event) {
            self.cut = self.cut.filter(|cut| *cut != checkpoint);
            self.checkpoint = Some(checkpoint);
        }
        self.before = Some((link.seq, link.hash));
        self.found.checked += 1;
        self.found.first_seq.get_or_insert(link.seq);
        self.found.last_seq = Some(link.seq);
        true
    }

    /// The place where the chain has to begin, as far as is known.
    fn begins_at(&self) -> i64 {
        self.anchor.map_or(1, |anchor| anchor.seq)
    }

    /// Notes a break that the walker itself saw.
    pub(crate) fn break_at(&mut self, seq: i64) {
        self.found.valid = false;
        self.found.broken_at.get_or_insert(seq);
    }

    /// What was found. An anchor that was never met (the chain ends before it) is a break, and so is a
    /// beginning that no event tells of: what comes before it was removed by somebody else.
    pub(crate) fn finish(mut self) -> Verification {
        if let (Some(anchor), None) = (self.anchor, self.before)
            && self.found.valid
        {
            self.break_at(anchor.seq);
        }
        if let Some(cut) = self.cut
            && self.found.valid
        {
            // Of what the latest checkpoint leaves, the first that is missing.
            let kept_from = self.checkpoint.map_or(1, |checkpoint| checkpoint.seq + 1);
            self.break_at(kept_from.min(cut.seq + 1));
        }
        self.found.head_hash = self.before.map(|(_, hash)| hex(&hash));
        self.found
    }
}
