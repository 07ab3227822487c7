"""latency of verifications and changes while a million old audit events are deleted, and the space that frees."""

import json
import os
import sqlite3
import statistics
import threading
import time
import urllib.request

from harness import KEY, Server, directory, percentile
from dataset import API_KEY, DAY, ORGANIZATION, store_chain

EVENTS = 1_000_000
DAYS = 400  # between the oldest and the newest event
KEPT_DAYS = 30
CALLERS = 16
PAUSE_MS = 4  # average pause of a caller between a response and the next request
WINDOW = 5  # seconds of load in one measurement
UNDISTURBED_WINDOWS = 6  # half of them before the deletion and half after
CHANGE_INTERVAL = 0.02  # seconds


def main():
    with directory() as dir:
        with Server(dir) as server:
            server.call("POST", "/admin/v1/organizations", ORGANIZATION)
            secret = server.call("POST", "/admin/v1/api-keys", API_KEY)["key"]
        store_chain(server.file, EVENTS, DAYS)
        with Server(dir) as server:
            verify_chain(server, EVENTS)
            undisturbed = [measure(server, secret) for _ in range(UNDISTURBED_WINDOWS // 2)]
            size_before = size(server)
            began = time.monotonic()
            configure(server, {"retention": {"audit_days": KEPT_DAYS}})
            deleting = []
            max_wal = 0
            while is_unfinished(server.file):
                deleting.append(measure(server, secret))
                max_wal = max(max_wal, size(server)[1])
            duration = time.monotonic() - began
            size_after = size(server)
            undisturbed += [measure(server, secret) for _ in range(UNDISTURBED_WINDOWS // 2)]
            chain = verify_chain(server, EVENTS * KEPT_DAYS // DAYS)
        size_stopped = size(server)
    print(f"{EVENTS:,} events over {DAYS} days, of which {KEPT_DAYS} are kept: finished within {duration:.0f} s.\n")
    print("| | undisturbed | while events are deleted | ratio |\n| --- | ---: | ---: | ---: |")
    for name, pick in (("verify, p50 ms", lambda window: window[0]["p50_us"] / 1000),
                       ("verify, p99 ms", lambda window: window[0]["p99_us"] / 1000),
                       ("verifications/s", lambda window: window[0]["rate"]),
                       ("change, p50 ms", lambda window: window[1][0]),
                       ("change, p99 ms", lambda window: window[1][1])):
        sides = [statistics.median(pick(window) for window in side) for side in (undisturbed, deleting)]
        print(f"| {name} | {sides[0]:,.2f} | {sides[1]:,.2f} | {sides[1] / sides[0]:.2f} |")
    worst = max(window[0]["p99_us"] for window in deleting) / 1000
    print(f"| verify, p99 ms of the worst {WINDOW} s | | {worst:,.2f} | |")
    print("\n| MB | file | WAL |\n| --- | ---: | ---: |")
    for name, (file, wal) in (("before", size_before), ("maximum during the deletion", (size_before[0], max_wal)),
                              ("after", size_after), ("after a stop", size_stopped)):
        print(f"| {name} | {file / 1e6:,.0f} | {wal / 1e6:,.0f} |")
    print(f"\nThe chain is valid: {chain['checked']:,} events, from {chain['first_seq']:,} to {chain['last_seq']:,}.")


def configure(server, patch):
    request = urllib.request.Request(server.url + "/admin/v1/config", json.dumps(patch).encode(), method="PATCH")
    for name, value in (("Authorization", f"Bearer {KEY}"), ("Content-Type", "application/json"), ("If-Match", "*")):
        request.add_header(name, value)
    urllib.request.urlopen(request).close()


def measure(server, secret):
    """Measures one window of verifications at a steady rate, while one caller makes changes."""
    durations = []
    finished = threading.Event()

    def change():
        count = 0
        while not finished.wait(CHANGE_INTERVAL):
            count += 1
            begin = time.perf_counter()
            server.call("PATCH", "/admin/v1/organizations/org_bench", {"name": f"Bench {count}"})
            durations.append((time.perf_counter() - begin) * 1000)

    changes = threading.Thread(target=change)
    changes.start()
    verified = server.load("POST", "/v1/keys/verify", CALLERS, WINDOW, {"key": secret})
    finished.set()
    changes.join()
    return verified, (statistics.median(durations), percentile(durations, 99))


def is_unfinished(file):
    """True if expired events or free pages remain."""
    db = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    free, = db.execute("PRAGMA freelist_count").fetchone()
    first, = db.execute("SELECT occurred_at FROM audit_events ORDER BY seq LIMIT 1").fetchone()
    db.close()
    return free > 256 or first < time.time() * 1000 - (KEPT_DAYS + 1) * DAY


def size(server):
    wal = server.file.with_name(server.file.name + "-wal")
    return server.file.stat().st_size, wal.stat().st_size if wal.exists() else 0


def verify_chain(server, min_events):
    request = urllib.request.Request(server.url + "/admin/v1/audit-logs/verify")
    request.add_header("Authorization", f"Bearer {KEY}")
    with urllib.request.urlopen(request) as response:
        result = json.load(response)["data"]
    if not result["valid"] or result["checked"] < min_events:
        raise SystemExit(f"the audit chain is not valid: {result}")
    return result


# Read by wrk.lua in every run.
os.environ["BENCH_PAUSE_MS"] = str(PAUSE_MS)
main()
