"""A wall clock that jumps."""

import sqlite3
import time
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

from crashes import check_stopped, directory
from ledger import Ledger
from load import Load, create_quota_key
from shim import Control, Server

HOUR = 3_600
DAY = 24 * HOUR
YEARS = 12 * 365 * DAY
# How far the clock is set forward to close the minute in which data was stored. A jump is measured from there; this one
# is too small to be one.
NEXT_MINUTE = 61
# How long the clock is wrong. The background jobs that delete run at the start and whenever settings change.
WRONG_SECONDS = 3

# Tables whose rows no clock may make disappear, and the column that identifies a row.
TABLES = (("usage_hourly", "start || ' ' || subject"), ("usage_daily", "start || ' ' || subject"),
          ("usage_units_hourly", "start || ' ' || subject || ' ' || meter"),
          ("usage_units_daily", "start || ' ' || subject || ' ' || meter"),
          ("usage_reports", "key_seq || ' ' || id"), ("verification_log", "seq"), ("audit_events", "seq"))


def rows(data):
    with closing(sqlite3.connect(f"file:{data / 'tollhouse.db'}?mode=ro", uri=True, timeout=10)) as database:
        return {table: {id for id, in database.execute(f"SELECT {id} FROM {table}")} for table, id in TABLES}


class ClockJumps:
    """Data is stored, the clock is wrong for a few seconds, at a start or while the server runs, and right again."""
    name = "clock jumps"

    CASES = (("12 years ahead at a start", YEARS, True), ("12 years ahead", YEARS, False),
             ("25 hours ahead", 25 * HOUR, False), ("a day back", -DAY, False), ("an hour back", -HOUR, False),
             ("an hour back at a start", -HOUR, True))

    def run(self, result, rng, until):
        first = True
        while first or time.monotonic() < until:
            first = False
            for case in self.CASES:
                with directory() as dir:
                    self.once(*case, Path(dir), result, rng)

    def once(self, name, offset, at_start, dir, result, rng):
        control = Control(dir / "control")
        ledger = Ledger()
        settings = {"TOLLHOUSE_RETENTION__AUDIT_DAYS": "30"}
        with Server(dir, control, **settings) as server:
            caller = server.caller()
            expired = self.create_expiring_key(caller)
            create_quota_key(server, ledger, "quota")
            quota = ledger.quota_keys[0]
            with Load(server, ledger, rng.random(), "c", clients=2) as load:
                load.wait_for(100)
                wait_for(lambda: len(quota.valid) > 20)
            wait_for(lambda: caller.verify(expired) == "EXPIRED")
            # The rows of the verification log are written when their minute closes.
            control.set(clock_offset=NEXT_MINUTE)
            wait_for(lambda: all(rows(server.data).values()))
            if at_start:
                server.stop()
                before = rows(server.data)
            else:
                before = rows(server.data)
                control.set(clock_offset=NEXT_MINUTE + offset)
                self.while_wrong(server, name, offset, expired, quota, result)
                control.set(clock_offset=NEXT_MINUTE)
                self.when_right(server, name, quota, result)
                server.stop()
        if at_start:
            control.set(clock_offset=NEXT_MINUTE + offset)
            with Server(dir, control, **settings) as server:
                self.while_wrong(server, name, offset, expired, quota, result)
                server.stop()
            control.set(clock_offset=NEXT_MINUTE)
            with Server(dir, control, **settings) as server:
                self.when_right(server, name, quota, result)
                server.stop()
        result.tried += 1
        after = rows(dir / "data")
        for table, _ in TABLES:
            result.add_lost(f"{name}: rows of {table}", len(before[table] - after[table]))
        result.acknowledged += ledger.acknowledged()
        if before["audit_events"] <= after["audit_events"]:  # Otherwise their loss was counted already.
            check_stopped(dir, ledger, result, rng)

    def create_expiring_key(self, caller):
        soon = (datetime.now(timezone.utc) + timedelta(seconds=1)).isoformat(timespec="milliseconds")
        body = {"name": "expires", "scopes": [], "expires_at": soon.replace("+00:00", "Z")}
        status, data, code = caller.call("POST", "/admin/v1/api-keys", body)
        if status != 201:
            raise SystemExit(f"the key that expires was not created: {status} {code}")
        return data["key"]

    def while_wrong(self, server, name, offset, expired, quota, result):
        caller = server.caller()
        end = time.monotonic() + WRONG_SECONDS
        revived = 0
        # A change of the settings lets retention run at once.
        status, _, code = caller.call("PATCH", "/admin/v1/config", {"retention": {"usage_hourly_days": 89}},
                                      headers={"If-Match": "*"})
        if status != 200:
            result.notes[f"settings: {status} {code}"] += 1
        while time.monotonic() < end:
            revived += caller.verify(expired) == "VALID"
            # Spends the quota of the wrong period, which must not count in the right one. A smaller jump may stay
            # within the month.
            caller.verify(quota.secret, requests=quota.limit // 10 if offset == YEARS else 0)
            time.sleep(0.1)
        if revived:
            result.add_wrong(f"{name}: an expired key is valid again")

    def when_right(self, server, name, quota, result):
        code = quota.verify(server.caller())
        if code == "VALID":
            quota.valid.append(0)
        else:
            result.add_wrong(f"{name}: afterwards a key with quota left is {code}")


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("the data for a jump of the clock was not stored in time")
        time.sleep(0.05)
