"""durable changes per second: group commits, compared with one commit per change."""

import os
import sqlite3
import statistics

from harness import Server, directory, fdatasync_us, measure_pairs, programs_to_compare, ratio_cells

CALLERS = (1, 16, 64, 256)
ALTERNATIONS = 5
SECONDS = 2
SIDES = {"grouped": {}, "one by one": {"TOLLHOUSE_DATABASE__GROUP_LIMIT": "1"}}
ORGANIZATION = {"id": "org_bench", "name": "Bench", "email": "bench@example.com"}
API_KEY = {"organization_id": "org_bench", "name": "Production API Key",
           "scopes": ["workflows:read", "transactions:write"]}


def create_keys(dir, callers, strace=False, program=None, **settings):
    """Creates keys for a while, and checks that each acknowledged key is stored."""
    with Server(dir, program, **settings) as server:
        server.call("POST", "/admin/v1/organizations", ORGANIZATION)
        counting = server.count_syncs() if strace else None
        result = server.load("POST", "/admin/v1/api-keys", callers, SECONDS, API_KEY)
    if counting:
        counting.wait(timeout=30)
    stored, = sqlite3.connect(server.file).execute("SELECT count(*) FROM api_keys").fetchone()
    # Requests that were in flight when the load ended are stored, but not counted.
    if not result["requests"] < stored <= result["requests"] + callers + 1:
        raise SystemExit(f"{result['requests']} creations were acknowledged, {stored} keys are stored")
    result["mutations"], result["commits"] = server.writer_totals()
    return result


def alternate(callers):
    """Measures both sides in alternating runs, each with a new database, and returns the medians."""
    runs = {side: [] for side in SIDES}
    for _ in range(ALTERNATIONS):
        for side, settings in SIDES.items():
            with directory() as dir:
                runs[side].append(create_keys(dir, callers, **settings))
    median = lambda side, name: statistics.median(run[name] for run in runs[side])
    return {side: {name: median(side, name) for name in runs[side][0]} for side in SIDES}


def count_syncs(callers, settings):
    """Returns the server's counts of mutations and commits, and the kernel's count of syncs."""
    with directory() as dir:
        result = create_keys(dir, callers, strace=True, **settings)
        with open(f"{dir}/syncs") as file:
            # % time, seconds, usecs/call, calls, (errors,) syscall
            rows = [row.split() for row in file if row.rstrip().endswith(("fsync", "fdatasync"))]
        return result["mutations"], result["commits"], sum(int(row[3]) for row in rows)


def event_bytes():
    """Returns the stored bytes, with all indexes, of the audit events of a key's creation and of a read."""
    def table_size(file):
        db = sqlite3.connect(file)
        used, = db.execute("SELECT sum(pgsize) FROM dbstat WHERE name IN "
                             "(SELECT name FROM sqlite_schema WHERE tbl_name = 'audit_events')").fetchone()
        events, json = db.execute("SELECT count(*), sum(length(event)) FROM audit_events").fetchone()
        return used, events, json

    with directory() as dir:
        create_keys(dir, 64)
        with Server(dir) as server:
            key = server.call("POST", "/admin/v1/api-keys", API_KEY)
            before = table_size(server.file)
            server.load("GET", f"/admin/v1/api-keys/{key['id']}", 64, SECONDS)
        after = table_size(server.file)
    reads = [later - earlier for later, earlier in zip(after, before)]
    return [(used / events, json / events) for used, events, json in (before, reads)]


def creation_rate(callers, program):
    with directory() as dir:
        return create_keys(dir, callers, program=program)["rate"]


def compare(programs):
    print(f"{os.cpu_count()} processors, {ALTERNATIONS} pairs of {SECONDS} s.\n")
    print("| callers | before, changes/s | after, changes/s | ratio | lowest and highest |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for callers in CALLERS:
        before, after = measure_pairs(ALTERNATIONS, programs, lambda program: creation_rate(callers, program))
        print(f"| {callers} | {statistics.median(before):,.0f} | {statistics.median(after):,.0f} "
              f"| {ratio_cells(before, after)} |", flush=True)


def main():
    if programs := programs_to_compare("writes", __doc__):
        return compare(programs)
    with directory() as dir:
        median, p99 = fdatasync_us(dir)
    print(f"{os.cpu_count()} processors; a 4 KiB append with fdatasync takes {median:.0f} µs "
          f"(99th percentile {p99:.0f} µs).\n")
    print("| callers | grouped, changes/s | one by one, changes/s | ratio "
          "| grouped, p50 / p99 ms | one by one, p50 / p99 ms | changes per commit |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for callers in CALLERS:
        sides = alternate(callers)
        grouped = sides["grouped"]
        single = sides["one by one"]
        times = [f"{side['p50_us'] / 1000:.1f} / {side['p99_us'] / 1000:.1f}" for side in (grouped, single)]
        print(f"| {callers} | {grouped['rate']:,.0f} | {single['rate']:,.0f} "
              f"| {grouped['rate'] / single['rate']:.1f} | {times[0]} | {times[1]} "
              f"| {grouped['mutations'] / grouped['commits']:.1f} |", flush=True)

    print("\n| at 64 callers, counted by strace | changes | commits | syncs | changes per sync |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for side, settings in SIDES.items():
        mutations, commits, syncs = count_syncs(64, settings)
        print(f"| {side} | {mutations:,} | {commits:,} | {syncs:,} | {mutations / syncs:.1f} |", flush=True)

    print("\n| stored audit event | bytes with indexes | of which JSON |")
    print("| --- | ---: | ---: |")
    for name, (used, json) in zip(("creation of a key", "read of a key"), event_bytes()):
        print(f"| {name} | {used:,.0f} | {json:,.0f} |")


main()
