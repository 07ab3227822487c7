"""What clients asked for and what they were told, compared with what a database has."""

import hashlib
import sqlite3
import threading
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field

ACKNOWLEDGED, REFUSED, UNKNOWN = "acknowledged", "refused", "unknown"
TRIED = 30  # secrets that must be denied
METERS = ["requests", "tokens"]  # of the quotas that verifications spend
REPORTED = "bytes"  # the meter of the quotas that only reports of usage charge


@dataclass
class Change:
    """A change of a key or an organization and its state afterwards. `secret` is None if no response told it."""
    request_id: str
    name: str
    status: str
    reason: str | None
    secret: str | None
    outcome: str = UNKNOWN
    position: int = 0  # of the record at the acknowledgment


@dataclass
class Key:
    """A key that one client changes, one change after the other. After a change of unknown outcome it is left alone. An
    organization is followed in the same way; it has no secret."""
    id: str
    organization: "Key | None" = None
    changes: list = field(default_factory=list)
    retired: list = field(default_factory=list)  # (secret, change that replaced it)

    def last(self):
        return next((c for c in reversed(self.changes) if c.outcome == ACKNOWLEDGED), None)

    def is_settled(self):
        return all(change.outcome != UNKNOWN for change in self.changes)

    def as_of(self, position):
        """The last acknowledged change up to a position of the record, and whether no later one can have happened."""
        if position is None:
            return self.last(), self.is_settled()
        last = next((change for change in reversed(self.changes)
                     if change.outcome == ACKNOWLEDGED and change.position <= position), None)
        return last, last is self.changes[-1]


@dataclass
class Report:
    """A report of usage, and the position of the record at its acknowledgment; None before. Until then it is repeated,
    and it must count once."""
    id: str
    units: int
    position: int | None = None

    def is_due(self, position):
        """True if the report was acknowledged, up to a position of the record."""
        return self.position is not None and (position is None or self.position <= position)


@dataclass
class QuotaKey:
    """A key and its organization, which have a quota of `limit` units for each meter, and the positions of the record
    at the key's VALID verifications. Each of them has spent a unit of each quota of `METERS`. Only the reports use
    `REPORTED`."""
    id: str
    organization: str
    secret: str
    limit: int
    valid: list = field(default_factory=list)
    reports: list = field(default_factory=list)

    def verify(self, caller):
        return caller.verify(self.secret, **{meter: 1 for meter in METERS})

    def is_over_quota(self, stored, position):
        """True if some quota allows, or has leased, fewer units than were used. Reports are counted above it, too."""
        used = sum(position is None or at <= position for at in self.valid)
        reported = sum(report.units for report in self.reports if report.is_due(position))
        leased = {meter: min(stored.leased.get((id, meter), 0) for id in (self.id, self.organization))
                  for meter in [*METERS, REPORTED]}
        return used > self.limit or any(used > leased[meter] for meter in METERS) or reported > leased[REPORTED]

    def lost_reports(self, stored, position):
        """Number of acknowledged reports that are not stored."""
        return sum(report.is_due(position) and stored.reports.get((self.id, report.id)) != report.units
                   for report in self.reports)

    def is_usage_wrong(self, stored):
        """True if the recorded usage is not the sum of the stored reports."""
        sum_of_reports = sum(units for (id, _), units in stored.reports.items() if id == self.id)
        return any(usage.get(id, 0) != sum_of_reports
                   for usage in stored.reported_usage for id in (self.id, self.organization))


@dataclass
class Result:
    """What a kind of fault has led to; a line of the table."""
    name: str
    tried: int = 0
    acknowledged: int = 0
    lost: int = 0
    wrong: int = 0
    revoked_valid: int = 0
    over_quota: int = 0
    notes: Counter = field(default_factory=Counter)
    faults: Counter = field(default_factory=Counter)  # by description: each that counts as lost or wrong

    def add_wrong(self, description, count=1):
        self.wrong += count
        self.faults[description] += count

    def add_lost(self, description, count):
        self.lost += count
        if count:
            self.faults[description] += count

    def failed(self):
        return self.lost + self.wrong + self.revoked_valid + self.over_quota


class Stored:
    """What a database file has, read without the program."""

    def __init__(self, file):
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as database:
            rows = database.execute("SELECT id, name, status, revoked_reason, (SELECT hash FROM api_key_hashes WHERE "
                                    "key_seq = seq AND state = 'current') FROM api_keys")
            self.keys = {id: state for id, *state in rows}
            rows = database.execute("SELECT id, name, status, NULL, NULL FROM organizations")
            self.keys |= {id: state for id, *state in rows}
            events = database.execute("SELECT json_extract(event, '$.context.request_id') FROM audit_events "
                                      "WHERE access = 'write' AND outcome = 'success'")
            self.events = Counter(request_id for request_id, in events)
            # Units that are leased, by key or organization and meter.
            rows = database.execute("SELECT coalesce(k.id, o.id), meter, sum(leased) FROM quotas "
                                    "LEFT JOIN api_keys k ON k.seq = subject "
                                    "LEFT JOIN organizations o ON o.seq = -1 - subject GROUP BY subject, meter")
            self.leased = {(id, meter): leased for id, meter, leased in rows}
            rows = database.execute("SELECT k.id, r.id, json_extract(costs, ?) FROM usage_reports r "
                                    "JOIN api_keys k ON k.seq = key_seq", [f"$.{REPORTED}"])
            self.reports = {(key, id): units for key, id, units in rows}
            self.reported_usage = [self.usage_of(database, table) for table in ("hourly", "daily")]

    @staticmethod
    def usage_of(database, table):
        """The recorded units of the meter of the reports, by key or organization."""
        rows = database.execute(f"SELECT coalesce(k.id, o.id), sum(units) FROM usage_units_{table} "
                                "LEFT JOIN api_keys k ON k.seq = subject "
                                "LEFT JOIN organizations o ON o.seq = -1 - subject WHERE meter = ? GROUP BY subject",
                                [REPORTED])
        return dict(rows.fetchall())


def digest(secret):
    return hashlib.sha256(secret.encode()).digest()


def matches(key, index, state):
    """True if a key's stored state is the one after this change."""
    change = key.changes[index]
    *fields, hash = state
    if [change.name, change.status, change.reason] != fields:
        return False
    if change.status == "revoked":  # It has no current secret any more.
        return True
    if change.secret:
        return digest(change.secret) == hash
    # A creation or rotation whose secret nobody was told.
    before = next((earlier.secret for earlier in reversed(key.changes[:index]) if earlier.secret), None)
    return before is None or digest(before) != hash


class Ledger:
    """The keys of all clients of a data directory."""

    def __init__(self):
        self.lock = threading.Lock()
        self.keys = []
        self.quota_keys = []
        self.lost = set()  # ids of keys for which the last check found something lost
        self.unexpected = Counter()  # responses that are neither a success nor a refusal, by status and code
        self.miscounted = 0  # responses to reports that count one twice or never

    def add(self, key):
        with self.lock:
            self.keys.append(key)

    def acknowledged(self, position=None):
        changes = sum(change.outcome == ACKNOWLEDGED and (position is None or change.position <= position)
                      for key in self.keys for change in key.changes)
        return changes + sum(report.is_due(position) for key in self.quota_keys for report in key.reports)

    def check(self, stored, result, position=None):
        """Compares a database with what was acknowledged, up to a position of the record, and adds the differences.
        Later changes may be there or not."""
        self.lost.clear()
        for key in self.keys:
            self.check_key(key, stored, result, position)
        for key in self.quota_keys:
            if key.is_over_quota(stored, position):
                result.over_quota += 1
            result.add_lost("acknowledged reports of usage lost", key.lost_reports(stored, position))
            if key.is_usage_wrong(stored):
                result.add_wrong("usage that is not the sum of its reports")
        if self.miscounted:
            result.add_wrong("reports of usage that were counted twice or never", self.miscounted)
            self.miscounted = 0

    def check_key(self, key, stored, result, position):
        due = [change.outcome == ACKNOWLEDGED and (position is None or change.position <= position)
               for change in key.changes]
        state = stored.keys.get(key.id)
        # The newest change whose state is stored; -1 if the key is not there; None if the state is none of them.
        applied = -1
        if state is not None:
            candidates = (index for index in range(len(key.changes)) if matches(key, index, state))
            applied = max(candidates, default=None)
        if applied is None:
            result.add_wrong("a key has a state that no change led to")
            return
        lost = [index for index, change in enumerate(key.changes)
                if due[index] and (index > applied or not stored.events[change.request_id])]
        if lost:
            self.lost.add(key.id)
            result.add_lost("acknowledged changes lost", len(lost))
        for index, change in enumerate(key.changes):
            events = stored.events[change.request_id]
            if index in lost:
                continue
            if change.outcome == REFUSED:
                if events or index == applied:
                    result.add_wrong("a refused change was stored")
            elif events != (index <= applied):
                result.add_wrong("a change without its one audit event, or an event without its change")

    def probe(self, caller, result, rng, position=None, count=TRIED):
        """Verifies secrets: what was revoked, disabled or replaced must be denied, what is active must be valid, except
        for keys that are lost anyway."""
        denied, valid = [], []
        for key in self.keys:
            last, is_settled = key.as_of(position)
            if not last or not last.secret:  # a creation of which nobody was told, or an organization
                continue
            suspension, is_known = key.organization.as_of(position) if key.organization else (None, True)
            is_suspended = is_known and suspension and suspension.status == "suspended"
            if last.status == "revoked" or is_suspended or is_settled and last.status == "disabled":
                denied.append(last.secret)
            elif is_settled and is_known and key.id not in self.lost:
                valid.append(last.secret)
            for secret, by in key.retired:
                if by.outcome == ACKNOWLEDGED and (position is None or by.position <= position):
                    denied.append(secret)
        for secret in rng.sample(denied, min(count, len(denied))):
            if caller.verify(secret) == "VALID":
                result.revoked_valid += 1
        for secret in rng.sample(valid, min(count // 3, len(valid))):
            code = caller.verify(secret)
            if code != "VALID":
                result.add_wrong(f"an active key is {code}")
