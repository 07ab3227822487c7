"""operations a second from one caller: in batches, against one request for each."""

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
    """Creates keys for a while, and shows that each that was acknowledged lies in the file."""
    with Server(dir) as server:
        server.call("POST", "/admin/v1/organizations", ORGANIZATION)
        result = server.load("POST", path, 1, SECONDS, body)
    stored, = sqlite3.connect(server.file).execute("SELECT count(*) FROM api_keys").fetchone()
    # The admin's own; and what was under way when the load ended is stored too, but was not counted.
    created = result["requests"] * size
    if not created < stored <= created + size + 1:
        raise SystemExit(f"{created} creations were answered, {stored} are stored")
    return {"rate": result["rate"] * size, "p50": result["p50_us"] / 1000, "p99": result["p99_us"] / 1000}


def main():
    with directory() as dir:
        median, slow = fdatasync_us(dir)
    print(f"{os.cpu_count()} processors; a 4 KiB append with fdatasync takes {median:.0f} µs here "
          f"(99th percentile {slow:.0f} µs).\n")
    runs = {side: [] for side in SIDES}
    for _ in range(ALTERNATIONS):
        for side, what in SIDES.items():
            with directory() as dir:
                runs[side].append(create_keys(dir, *what))
    median = lambda side, name: statistics.median(run[name] for run in runs[side])
    # Of neighbouring runs: a machine that drifts disturbs these less.
    ratio = lambda side: statistics.median(
        run["rate"] / alone["rate"] for run, alone in zip(runs[side], runs["one by one"]))
    print("| one caller | operations/s | against one by one | a request, p50 / p99 ms |")
    print("| --- | ---: | ---: | ---: |")
    for side in SIDES:
        print(f"| {side} | {median(side, 'rate'):,.0f} | {ratio(side):.1f} "
              f"| {median(side, 'p50'):.1f} / {median(side, 'p99'):.1f} |", flush=True)


main()
