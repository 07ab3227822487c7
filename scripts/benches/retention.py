"""how long verifications and changes take while a million old audit events are removed, and what that frees."""

import hashlib
import json
import math
import os
import sqlite3
import statistics
import threading
import time
import urllib.request

from harness import KEY, Server, directory
from stock import API_KEY, DAY, ORGANIZATION

EVENTS = 1_000_000
DAYS = 400  # that they are spread over
KEPT = 30  # days
CALLERS = 16
PAUSE_MS = 4  # on average, between an answer and the next question of a caller
WINDOW = 5  # seconds of load that make one measurement
QUIET = 6  # windows of it undisturbed, half of them before and half after
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CHANGE_EVERY = 0.02


def main():
    with directory() as dir:
        with Server(dir) as server:
            server.call("POST", "/admin/v1/organizations", ORGANIZATION)
            secret = server.call("POST", "/admin/v1/api-keys", API_KEY)["key"]
        fill(server.file)
        with Server(dir) as server:
            valid(server, EVENTS)
            quiet = [measure(server, secret) for _ in range(QUIET // 2)]
            full, began = size(server), time.monotonic()
            configure(server, {"retention": {"audit_days": KEPT}})
            busy, max_wal = [], 0
            while left(server.file):
                busy.append(measure(server, secret))
                max_wal = max(max_wal, size(server)[1])
            took = time.monotonic() - began
            small = size(server)
            quiet += [measure(server, secret) for _ in range(QUIET // 2)]
            found = valid(server, EVENTS * KEPT // DAYS)
        stopped = size(server)
    print(f"{EVENTS:,} events over {DAYS} days, of which {KEPT} are kept: done after {took:.0f} s, at most.\n")
    print("| | undisturbed | while they are removed | ratio |\n| --- | ---: | ---: | ---: |")
    for name, pick in (("verify, p50 ms", lambda one: one[0]["p50_us"] / 1000),
                       ("verify, p99 ms", lambda one: one[0]["p99_us"] / 1000),
                       ("verifications a second", lambda one: one[0]["rate"]),
                       ("a change, p50 ms", lambda one: one[1][0]), ("a change, p99 ms", lambda one: one[1][1])):
        sides = [statistics.median(pick(one) for one in side) for side in (quiet, busy)]
        print(f"| {name} | {sides[0]:,.2f} | {sides[1]:,.2f} | {sides[1] / sides[0]:.2f} |")
    worst = max(one[0]["p99_us"] for one in busy) / 1000
    print(f"| verify, p99 ms of the worst {WINDOW} s | | {worst:,.2f} | |")
    print("\n| MB | file | WAL |\n| --- | ---: | ---: |")
    for name, (file, wal) in (("before", full), ("the most meanwhile", (full[0], max_wal)), ("after", small),
                              ("after a stop", stopped)):
        print(f"| {name} | {file / 1e6:,.0f} | {wal / 1e6:,.0f} |")
    print(f"\nThe chain is valid: {found['checked']:,} events, from {found['first_seq']:,} to {found['last_seq']:,}.")


def ulid(number):
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def fill(file):
    """Makes the file's few events the last of a chain of many, which a server would have written like this."""
    db = sqlite3.connect(file)
    db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1000000")
    names = [name for _, name, *_ in db.execute("PRAGMA table_info(audit_events)")]
    own = [dict(zip(names, row)) for row in db.execute("SELECT * FROM audit_events ORDER BY seq")]
    db.execute("DELETE FROM audit_events")
    model = own[-1]
    now = int(time.time() * 1000)

    def rows():
        event, prev = json.loads(model["event"]), bytes(32)
        for seq in range(1, EVENTS + len(own) + 1):
            if seq <= EVENTS:
                at = now - DAYS * DAY + seq * DAYS * DAY // EVENTS - 1000
                number = at << 80 | seq
                row = model | {"id": number.to_bytes(16), "occurred_at": at}
                event["id"] = "evt_" + ulid(number)
                seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at // 1000))
                event["occurred_at"] = f"{seconds}.{at % 1000:03}Z"
                told = event
            else:
                row = own[seq - EVENTS - 1]
                told = json.loads(row["event"])
            told["seq"] = seq
            text = json.dumps(told, separators=(",", ":"), ensure_ascii=False)
            digest = hashlib.sha256(b"tollhouse.audit.v1\n" + prev + text.encode()).digest()
            yield tuple((row | {"seq": seq, "prev_hash": prev, "hash": digest, "event": text}).values())
            prev = digest

    db.executemany(f"INSERT INTO audit_events ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", rows())
    db.commit()
    db.close()


def configure(server, patch):
    request = urllib.request.Request(server.url + "/admin/v1/config", json.dumps(patch).encode(), method="PATCH")
    for name, value in (("Authorization", f"Bearer {KEY}"), ("Content-Type", "application/json"), ("If-Match", "*")):
        request.add_header(name, value)
    urllib.request.urlopen(request).close()


def measure(server, secret):
    """A window of verifications at a steady pace, beside which one caller changes things."""
    took, over = [], threading.Event()

    def change():
        nth = 0
        while not over.wait(CHANGE_EVERY):
            nth += 1
            begin = time.perf_counter()
            server.call("PATCH", "/admin/v1/organizations/org_bench", {"name": f"Bench {nth}"})
            took.append((time.perf_counter() - begin) * 1000)

    changes = threading.Thread(target=change)
    changes.start()
    verified = server.load("POST", "/v1/keys/verify", CALLERS, WINDOW, {"key": secret})
    over.set()
    changes.join()
    return verified, (statistics.median(took), sorted(took)[math.ceil(len(took) * 0.99) - 1])


def left(file):
    """Is there something that is still to be removed, or given back?"""
    db = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    free, = db.execute("PRAGMA freelist_count").fetchone()
    first, = db.execute("SELECT occurred_at FROM audit_events ORDER BY seq LIMIT 1").fetchone()
    db.close()
    return free > 256 or first < time.time() * 1000 - (KEPT + 1) * DAY


def size(server):
    wal = server.file.with_name(server.file.name + "-wal")
    return server.file.stat().st_size, wal.stat().st_size if wal.exists() else 0


def valid(server, least):
    request = urllib.request.Request(server.url + "/admin/v1/audit-logs/verify")
    request.add_header("Authorization", f"Bearer {KEY}")
    with urllib.request.urlopen(request) as answer:
        found = json.load(answer)["data"]
    if not found["valid"] or found["checked"] < least:
        raise SystemExit(f"the chain is not whole: {found}")
    return found


# What the load generator is told of every run.
os.environ["BENCH_PAUSE_MS"] = str(PAUSE_MS)
main()
