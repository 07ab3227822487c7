"""operations per second of one caller: in batches, compared with single requests."""

import os
import sqlite3
import statistics

from harness import Server, directory, fdatasync_us

ALTERNATIONS = 5
SECONDS = 2
ORGANIZATION = {"id": "org_bench", "name": "Bench", "email": "bench@example.com"}
API_KEY = {"organization_id": "org_bench", "name": "Production API Key",
           "scopes": ["workflows:read", "transactions:write"]}


def batch(size, atomic=True):
    operation = {"method": "POST", "path": "/api-keys", "body": API_KEY}
    return size, "/admin/v1/batch", {"atomic": atomic, "operations": [operation] * size}


SIDES = {
    "one by one": (1, "/admin/v1/api-keys", API_KEY),
    "batches of 1": batch(1),
    "batches of 10": batch(10),
    "batches of 100": batch(100),
    "batches of 100, not atomic": batch(100, atomic=False),
}


def create_keys(dir, size, path, body):
    """Creates keys for a while, and checks that each acknowledged key is stored."""
    with Server(dir) as server:
        server.call("POST", "/admin/v1/organizations", ORGANIZATION)
        result = server.load("POST", path, 1, SECONDS, body)
    stored, = sqlite3.connect(server.file).execute("SELECT count(*) FROM api_keys").fetchone()
    # Also stored are the admin key, and requests that were in flight when the load ended.
    created = result["requests"] * size
    if not created < stored <= created + size + 1:
        raise SystemExit(f"{created} creations were acknowledged, {stored} keys are stored")
    return {"rate": result["rate"] * size, "p50": result["p50_us"] / 1000, "p99": result["p99_us"] / 1000}


def main():
    with directory() as dir:
        median, p99 = fdatasync_us(dir)
    print(f"{os.cpu_count()} processors; a 4 KiB append with fdatasync takes {median:.0f} µs "
          f"(99th percentile {p99:.0f} µs).\n")
    runs = {side: [] for side in SIDES}
    for _ in range(ALTERNATIONS):
        for side, request in SIDES.items():
            with directory() as dir:
                runs[side].append(create_keys(dir, *request))
    median = lambda side, name: statistics.median(run[name] for run in runs[side])
    # Compares runs of the same round, so that a change of the machine's speed affects both.
    ratio = lambda side: statistics.median(
        run["rate"] / single["rate"] for run, single in zip(runs[side], runs["one by one"]))
    print("| one caller | operations/s | ratio to one by one | request, p50 / p99 ms |")
    print("| --- | ---: | ---: | ---: |")
    for side in SIDES:
        print(f"| {side} | {median(side, 'rate'):,.0f} | {ratio(side):.1f} "
              f"| {median(side, 'p50'):.1f} / {median(side, 'p99'):.1f} |", flush=True)


main()
