"""Clients that change keys and organizations, and enter into a ledger what they were told."""

import random
import threading
import time

from ledger import ACKNOWLEDGED, METERS, REFUSED, REPORTED, UNKNOWN, Change, Key, QuotaKey, Report
from shim import REFUSALS

CLIENTS = 8
QUOTA = 2_000
# How often each change comes, in percent.
CHANGES = {"create": 25, "rename": 20, "disable": 10, "enable": 10, "rotate": 15, "revoke": 15, "organization": 5}


class Writer:
    """Sends one change after the other. `position` returns the end of the record."""

    def __init__(self, server, ledger, rng, name, position=lambda: 0):
        self.caller = server.caller()
        self.ledger = ledger
        self.rng = rng
        self.name = name
        self.position = position
        self.keys = []
        self.organization = None
        self.count = 0
        self.answered = 0  # responses of any kind

    def step(self):
        """One change. Returns False if there was no response."""
        open_keys = [key for key in self.keys if key.is_settled() and key.last() and key.last().status != "revoked"]
        kind, = self.rng.choices(list(CHANGES), CHANGES.values())
        if kind == "organization":
            return self.change_organization() != UNKNOWN
        if kind == "create" or not open_keys:
            return self.create() != UNKNOWN
        return self.change(self.rng.choice(open_keys[-20:]), kind) != UNKNOWN

    def next_id(self):
        self.count += 1
        return f"{self.name}-{self.count}"

    def create(self):
        name = self.next_id()
        organization = self.organization if self.rng.random() < 0.5 else None
        if organization and not (organization.last() and organization.is_settled()):
            organization = None
        key = Key(f"key_{name}", organization)
        change = Change(name, name, "active", None, None)
        self.ledger.add(key)
        self.keys.append(key)
        body = {"id": key.id, "name": name, "scopes": ["workflows:read"]}
        if organization:
            body["organization_id"] = organization.id
        return self.send(key, change, "POST", "/admin/v1/api-keys", body)

    def change_organization(self):
        """Creates an organization, or suspends or reactivates it."""
        id = self.next_id()
        organization = self.organization
        if not organization or not organization.is_settled() or not organization.last():
            self.organization = Key(f"org_{id}")
            self.ledger.add(self.organization)
            body = {"id": self.organization.id, "name": id, "email": f"{id}@example.com"}
            change = Change(id, id, "active", None, None)
            return self.send(self.organization, change, "POST", "/admin/v1/organizations", body)
        status = "active" if organization.last().status == "suspended" else "suspended"
        change = Change(id, id, status, None, None)
        path = f"/admin/v1/organizations/{organization.id}"
        return self.send(organization, change, "PATCH", path, {"name": id, "status": status})

    def change(self, key, kind):
        before = key.last()
        path = f"/admin/v1/api-keys/{key.id}"
        id = self.next_id()
        after = Change(id, before.name, before.status, before.reason, before.secret)
        if kind == "rename" or kind == "rotate" and before.status != "active":
            after.name = id
            return self.send(key, after, "PATCH", path, {"name": id})
        if kind in ("disable", "enable"):
            after.name = id
            after.status = "disabled" if kind == "disable" else "active"
            return self.send(key, after, "PATCH", path, {"name": id, "status": after.status})
        if kind == "withdraw":  # Takes access away and changes nothing else.
            after.status = "disabled"
            return self.send(key, after, "PATCH", path, {"status": "disabled"})
        if kind == "rotate":
            after.secret = None
            return self.send(key, after, "POST", path + "/rotate", {"grace_period_seconds": 0})
        after.status = "revoked"
        after.reason = id
        return self.send(key, after, "POST", path + "/revoke", {"reason": id})

    def send(self, key, change, method, path, body):
        replaced = key.last()
        key.changes.append(change)
        status, data, code = self.caller.call(method, path, body, change.request_id)
        position = self.position()
        if status is None:
            return UNKNOWN
        self.answered += 1
        if status in (200, 201):
            change.secret = data.get("key", change.secret)
            change.position = position
            if replaced and replaced.secret != change.secret:
                key.retired.append((replaced.secret, change))
            change.outcome = ACKNOWLEDGED
        elif code in REFUSALS:
            change.outcome = REFUSED
        else:
            self.ledger.unexpected[f"{status} {code}"] += 1
        return change.outcome if change.outcome != UNKNOWN else "answered"


def create_quota_key(server, ledger, name):
    """Creates a key and its organization, both with a quota for each meter."""
    caller = server.caller()

    def call(method, path, body, **options):
        status, data, code = caller.call(method, f"/admin/v1/{path}", body, **options)
        if status not in (200, 201):
            raise SystemExit(f"a key with quotas was not created: {path}: {status} {code}")
        return data

    meters = [*METERS, REPORTED]
    call("PATCH", "config", {"meters": meters}, headers={"If-Match": "*"})
    limits = [{"meter": meter, "limit": QUOTA, "period": "month"} for meter in meters]
    key = f"key_{name}"
    organization = f"org_{name}"
    call("POST", "organizations", {"id": organization, "name": name, "email": f"{name}@example.com", "limits": limits})
    secret = call("POST", "api-keys", {"id": key, "organization_id": organization, "name": name, "scopes": [],
                                       "limits": limits})["key"]
    ledger.quota_keys.append(QuotaKey(key, organization, secret, QUOTA))


class Reporter:
    """Makes reports of the usage of a key, and repeats some of them: first the one that was not acknowledged."""

    def __init__(self, server, ledger, key, rng, position):
        self.caller = server.caller()
        self.ledger = ledger
        self.key = key
        self.rng = rng
        self.position = position

    def step(self):
        reports = self.key.reports
        is_new = not reports or reports[-1].position is not None and self.rng.random() < 0.7
        if is_new:
            report = Report(f"report-{len(reports)}", self.rng.randrange(1, 20))
            reports.append(report)
        else:
            report = reports[-1] if reports[-1].position is None else self.rng.choice(reports)
        was_acknowledged = report.position is not None
        body = {"key_id": self.key.id, "costs": {REPORTED: report.units}, "id": report.id}
        status, data, code = self.caller.call("POST", "/v1/keys/usage", body)
        position = self.position()
        if status == 200:
            # Of a report that was repeated because it was not acknowledged, nobody knows whether it was counted.
            is_wrong = not data["counted"] if is_new else data["counted"] and was_acknowledged
            self.ledger.miscounted += is_wrong
            if not was_acknowledged:
                report.position = position
        elif status is not None and code not in REFUSALS:
            self.ledger.unexpected[f"{status} {code}"] += 1


class Load:
    """Writers, each in a thread, one client that spends quotas and one that makes reports, until they are stopped or
    unanswered.

    A leave of the context stops and joins them.
    """

    def __init__(self, server, ledger, seed, name, position=lambda: 0, clients=CLIENTS, pause=0.0):
        rng = random.Random(seed)
        self.stopped = threading.Event()
        self.pause = pause
        self.writers = [Writer(server, ledger, random.Random(rng.random()), f"{name}-{number}", position)
                        for number in range(clients)]
        self.threads = [threading.Thread(target=self.write, args=(writer,)) for writer in self.writers]
        if ledger.quota_keys:
            key = ledger.quota_keys[-1]
            reporter = Reporter(server, ledger, key, random.Random(rng.random()), position)
            self.threads += [threading.Thread(target=self.spend, args=(server.caller(), key, position)),
                             threading.Thread(target=self.report, args=(reporter,))]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def write(self, writer):
        while not self.stopped.is_set():
            answered = writer.step()
            if not answered and self.stopped.is_set():
                return
            if not answered or self.pause:
                time.sleep(max(self.pause, 0.001))

    def spend(self, caller, key, position):
        while not self.stopped.is_set():
            if key.verify(caller) == "VALID":
                key.valid.append(position())
            time.sleep(0.002)

    def report(self, reporter):
        while not self.stopped.is_set():
            reporter.step()
            time.sleep(0.01)

    def answered(self):
        return sum(writer.answered for writer in self.writers)

    def wait_for(self, count, seconds=30):
        """Waits for this number of further responses, for a limited time. Returns whether they came."""
        end = time.monotonic() + seconds
        goal = self.answered() + count
        while self.answered() < goal and time.monotonic() < end:
            time.sleep(0.002)
        return self.answered() >= goal
