"""Shows that the checks find losses: it causes some, and expects exactly these to be reported."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from crashes import check_stopped, directory
from ledger import ACKNOWLEDGED, REPORTED, Ledger, Result
from load import Load, create_quota_key
from power import DROPPED, Disk, durable_files, read_record
from shim import Control, Server

CHANGES = 200


def swallowed_syncs(dir, rng):
    """Syncs report success without being done, then the power is lost: every change since then is lost."""
    ledger = Ledger()
    control = Control(dir / "control")
    with Server(dir) as server:
        server.stop()
    base = durable_files(dir / "data")
    with Server(dir, control, dir / "record") as server:
        with Load(server, ledger, rng.random(), "synced", control.position) as load:
            load.wait_for(CHANGES)
        synced = ledger.acknowledged()
        control.set(sync_swallow=1)
        with Load(server, ledger, rng.random(), "swallowed", control.position) as load:
            load.wait_for(CHANGES)
        server.kill()
    disk = Disk(base)
    for kind, id, offset, data, _ in read_record(dir / "record"):
        disk.apply(kind, id, offset, data)
    disk.lose_power(dir / "left" / "data", DROPPED, rng)
    result = Result("syncs swallowed, then a loss of power")
    check_stopped(dir / "left", ledger, result, rng)
    return result, {"lost": ledger.acknowledged() - synced}


def edited_file(dir, rng, name, edit):
    """A server is killed, and its file edited. `edit` gets the database and the ledger, and returns what must be
    reported."""
    ledger = Ledger()
    with Server(dir) as server:
        create_quota_key(server, ledger, "quota")
        with Load(server, ledger, rng.random(), "e") as load:
            load.wait_for(CHANGES)
            quota_key = ledger.quota_keys[0]
            wait_until(lambda: quota_key.valid and any(report.is_due(None) for report in quota_key.reports))
        server.kill()
    with closing(sqlite3.connect(dir / "data" / "tollhouse.db")) as database:
        expected = edit(database, ledger)
        database.commit()
    result = Result(name)
    check_stopped(dir, ledger, result, rng, tried=len(ledger.keys) * CHANGES)
    return result, expected


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("no verification or no report was answered")
        time.sleep(0.01)


def remove_key(database, ledger):
    """Removes a key that was created and not changed since."""
    unchanged = (key for key in ledger.keys if [change.outcome for change in key.changes] == [ACKNOWLEDGED])
    key = next(key for key in unchanged if key.last().secret)
    for table in ("api_key_hashes", "api_key_scopes"):
        database.execute(f"DELETE FROM {table} WHERE key_seq = (SELECT seq FROM api_keys WHERE id = ?)", [key.id])
    database.execute("DELETE FROM api_keys WHERE id = ?", [key.id])
    return {"lost": 1}


def remove_event(database, ledger):
    change = ledger.keys[0].changes[0]
    database.execute("DELETE FROM audit_events WHERE json_extract(event, '$.context.request_id') = ?",
                     [change.request_id])
    return {"lost": 1}


def revive_keys(database, ledger):
    """Reactivates all disabled keys: each is wrong, and valid unless its organization is suspended."""
    disabled = sum(key.is_settled() and key.last().status == "disabled" for key in ledger.keys)
    database.execute("UPDATE api_keys SET status = 'active' WHERE status = 'disabled'")
    return {"wrong": disabled, "revoked_valid": None}


def forget_leases(database, ledger):
    database.execute("UPDATE quotas SET leased = 0")
    return {"over_quota": 1}


def forget_lease_of_organization(database, ledger):
    database.execute("UPDATE quotas SET leased = 0 WHERE meter = 'tokens' AND subject < 0")
    return {"over_quota": 1}


def remove_report(database, ledger):
    """Removes a report, but not the usage that it was counted as."""
    report = next(report for report in ledger.quota_keys[0].reports if report.is_due(None))
    database.execute("DELETE FROM usage_reports WHERE id = ?", [report.id])
    return {"lost": 1, "wrong": 1}


def count_report_twice(database, ledger):
    database.execute("UPDATE usage_units_hourly SET units = units + 1 WHERE meter = ? AND subject < 0", [REPORTED])
    return {"wrong": 1}


EDITS = (("an acknowledged key removed from the file", remove_key),
         ("the event of an acknowledged change removed", remove_event),
         ("all disabled keys active again", revive_keys),
         ("all used quotas set to 0", forget_leases),
         ("an organization's used quota of tokens set to 0", forget_lease_of_organization),
         ("an acknowledged report of usage removed", remove_report),
         ("a report of usage counted twice for an organization", count_report_twice))
COUNTS = ("lost", "wrong", "revoked_valid", "over_quota")


def prove(rng):
    """Prints what was caused and what was reported. Returns true if they are the same."""
    runs = [lambda dir: swallowed_syncs(dir, rng)]
    runs += [lambda dir, name=name, edit=edit: edited_file(dir, rng, name, edit) for name, edit in EDITS]
    print("| caused | expected: lost, wrong, revoked valid, over quota | reported |\n| --- | --- | --- |")
    proven = True
    for run in runs:
        with directory() as dir:
            result, expected = run(Path(dir))
        reported = {name: getattr(result, name) for name in COUNTS}
        # None is any number but 0.
        same = all(reported[name] == expected.get(name, 0) or expected.get(name, 0) is None and reported[name]
                   for name in COUNTS)
        proven = proven and same and sum(reported.values()) > 0
        show = [", ".join("≥ 1" if counts.get(name, 0) is None else str(counts.get(name, 0)) for name in COUNTS)
                for counts in (expected, reported)]
        print(f"| {result.name} | {show[0]} | {show[1]}{'' if same else ' **not as expected**'} |", flush=True)
    return proven
