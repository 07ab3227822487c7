"""cost of calls, memory and the start with few keys and events, compared with many."""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import time
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path

from harness import KEY, Client, Server, directory, write_lines
from dataset import fill, secrets

FEW = (1_000, 10_000)  # keys, audit events
MANY = (1_000_000, 5_000_000)
ROUNDS = 5
CALLS = 150  # of each kind, in a round
STARTS = 15
CONNECTIONS = 64
MAX_RATIO = 1.5
ADMIN = "/admin/v1"


class Side:
    """A server with its database, and a function for each kind of call that makes one."""

    def __init__(self, server, keys, events):
        self.server = server
        small = {"organization_id": "org_small", "name": "Small", "scopes": ["admin:orgs", "admin:users", "admin:keys"]}
        self.small_key = server.call("POST", f"{ADMIN}/api-keys", small)["key"]
        self.connect()
        # Keys from all over the database in random order, each used once, except for the first.
        chosen = random.Random(0).sample(range(keys), 1 + ROUNDS * CALLS)
        known, *unread = (next(secrets(index, 1)) for index in chosen)
        unread = iter(unread)
        audit, usage, denials, listed, search, users, organizations = (f"{ADMIN}/{name}" for name in (
            "audit-logs", "analytics/usage", "analytics/logs", "api-keys", "search", "users", "organizations"))
        get = lambda path, **query: lambda: self.client.get(path, **query)
        get_as_small = lambda path, **query: lambda: self.small_client.get(path, **query)
        days_ago = lambda days: f"{datetime.now(timezone.utc) - timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}"
        organization = {"org_id": "org_bench"}
        key = {"key_id": "key_model"}
        old_day = {"from": days_ago(300), "to": days_ago(299)}
        self.calls = {
            "verify, key in memory": lambda: self.client.verify(known),
            "verify, key not in memory": lambda: self.client.verify(next(unread)),
            "audit: newest": get(audit),
            "audit: by cursor, deep": get(audit, cursor=self.cursor(audit, events)),
            "audit: oldest": get(audit, order="asc"),
            "audit: of an organization": get(audit, **organization),
            "audit: of a day 300 days ago": get(audit, **old_day),
            "audit: of an organization and that day": get(audit, **old_day, **organization),
            "audit: until 300 days ago": get(audit, to=days_ago(300)),
            "audit: from now on": get(audit, **{"from": days_ago(0)}),
            "audit: of an action without events": get(audit, action="user.delete"),
            "audit: failures": get(audit, outcome="failed"),
            "usage: 30 days, all": get(usage, period="30d"),
            "usage: 30 days, an organization": get(usage, period="30d", **organization),
            "usage: 30 days, a key": get(usage, period="30d", **key),
            "usage: 30 days, the 100 busiest keys of all": get(usage, period="30d", group_by="key"),
            "usage: 90 days by hour, all": get(usage, period="90d", interval="hour"),
            "usage: 90 days by hour, an organization": get(usage, period="90d", interval="hour", **organization),
            "usage: 90 days by hour, a key": get(usage, period="90d", interval="hour", **key),
            "denials: newest": get(denials),
            "denials: of an organization": get(denials, **organization),
            "denials: of a key": get(denials, **key),
            "denials: of a day 20 days ago": get(denials, **{"from": days_ago(20), "to": days_ago(19)}),
            "denials: from now on": get(denials, **{"from": days_ago(0)}),
            "keys: newest": get(listed),
            "keys: by cursor, deep": get(listed, cursor=self.cursor(listed, keys)),
            "keys: of an organization": get(listed, organization_id="org_bench"),
            "keys: with a scope": get(listed, scope="workflows:read"),
            "keys: disabled": get(listed, status="disabled"),
            "keys: a rare word": get(listed, q="needle"),
            "keys: a word of every key": get(listed, q="production"),
            "keys: two words of every key": get(listed, q="key prod"),
            "keys: a rare word and one of every key": get(listed, q="api needle"),
            "keys: a word of no key": get(listed, q="haystack"),
            "keys: a beginning of many words": get(listed, q="12"),
            "keys: an organization of 10 keys, a word of every key": get(listed, q="production", organization_id="org_small"),
            "keys: an organization of 10 keys, a word of none": get(listed, q="haystack", organization_id="org_small"),
            "keys: the start of a secret": get(listed, q="toll_0000"),
            "keys: expired, none": get(listed, status="expired"),
            "keys: expire within 500 days, only old keys": get(listed, expires_before=days_ago(-500)),
            "keys: expire later, half": get(listed, expires_after=days_ago(-500)),
            "keys: expire after 7 years, five": get(listed, expires_after=days_ago(-2555)),
            "keys: expire before today, none": get(listed, expires_before=days_ago(0)),
            "keys: last used 100 days ago, only old keys": get(listed, last_used_before=days_ago(100)[:10]),
            "keys: last used before today, most": get(listed, last_used_before=days_ago(0)[:10]),
            "keys: last used years ago, none": get(listed, last_used_before=days_ago(2000)[:10]),
            "keys: never used": get(listed, never_used="true"),
            "keys: used": get(listed, never_used="false"),
            "search: a rare word": get(search, q="needle"),
            "search: a word of every key": get(search, q="production"),
            "keys: an organization of 10 keys, never used": get(listed, never_used="true", organization_id="org_small"),
            "organizations: newest": get(organizations),
            "organizations: by cursor, deep": get(organizations, cursor=self.cursor(organizations, keys // 10)),
            "organizations: suspended, none": get(organizations, status="suspended"),
            "organizations: on a plan, all": get(organizations, plan="standard"),
            "organizations: on a plan, none": get(organizations, plan="enterprise"),
            "organizations: a rare word": get(organizations, q="needle"),
            "organizations: a word of every organization": get(organizations, q="corp"),
            "users: newest": get(users),
            "users: by cursor, deep": get(users, cursor=self.cursor(users, keys // 10)),
            "users: suspended, none": get(users, status="suspended"),
            "users: an email address": get(users, email="office@needle.example"),
            "users: an external id, none": get(users, external_id="missing"),
            "users: a rare word": get(users, q="needle"),
            "users: a word of every user": get(users, q="love"),
            "users: a member's key, 10 members": get_as_small(users),
            "users: a member's key, a word of every user": get_as_small(users, q="love"),
            "users: a member's key, a word of others": get_as_small(users, q="needle"),
            "search: an id": get(search, q="key_rare"),
            "search: an organization of 10 keys, a word of every key": get_as_small(search, q="production"),
            "search: an organization of 10 keys, a word of others": get_as_small(search, q="needle"),
        }

    def connect(self):
        self.client = Client(self.server.url, KEY)
        self.small_client = Client(self.server.url, self.small_key)

    def cursor(self, path, rows):
        """Returns the cursor nine tenths down the list, but at most 100,000 rows."""
        query = {"limit": 100}
        for _ in range(max(min(rows * 9 // 10, 100_000) // 100, 1)):
            page, _ = self.client.get(path, **query)
            query["cursor"] = json.loads(page)["metadata"]["nextCursor"]
        return query["cursor"]

    def measure(self, kind, times):
        """Returns the duration of each call and the average CPU time of the server per call, in µs."""
        # New connections, because the server closes idle ones.
        self.connect()
        before = self.processor_us()
        durations = [self.calls[kind]()[1] for _ in range(times)]
        return durations, (self.processor_us() - before) / times

    def processor_us(self):
        """CPU time that the server's threads have used so far."""
        return sum(us for _, us in self.server.thread_times().values())


def compare(kind, sides):
    """Measures the sides in alternating rounds and prints a row of the table."""
    durations = [[] for _ in sides]
    processor_times = [[] for _ in sides]
    for turn in range(ROUNDS):
        for index, side in enumerate(sides):
            if turn == 0 and kind != "verify, key not in memory":
                side.measure(kind, 5)  # warm-up
            times, processor = side.measure(kind, CALLS)
            durations[index] += times
            processor_times[index].append(processor)
    cells = []
    ratios = []
    for few, many in (map(statistics.median, durations), map(statistics.median, processor_times)):
        ratios.append(many / few)
        cells += [f"{few:,.0f}", f"{many:,.0f}", f"{ratios[-1]:.2f}"]
    print(f"| {kind} | {' | '.join(cells)} |", flush=True)
    return ratios[0]


def memory(dir, keys):
    """Returns the resident memory of the idle server, and its peak after verifying all keys, in MiB."""
    file = write_lines(dir / "keys", secrets(0, keys))
    line = len(next(secrets(0, 1))) + 1
    with Server(dir) as server:
        Client(server.url, KEY).get("/readyz")
        idle = server.memory_mib("VmRSS")
        sent = 0
        window = min(keys, 250_000)
        while sent < keys:
            run = server.load_lines("POST", "/v1/keys/verify", file, ('{"key":"', '"}'), CONNECTIONS, 5,
                                    offset=sent * line, count=window)
            sent += min(window, run["requests"])
        return idle, server.memory_mib("VmHWM")


def start(dir):
    """Returns the time from the start of the process to the first 200 of /readyz, in ms."""
    server = Server(dir)
    begin = time.perf_counter()
    with subprocess.Popen(server.command, env=server.env, stderr=subprocess.PIPE, text=True) as process:
        url = next(match[1] for line in process.stderr if (match := re.search(r'listening on ([^\s"]+)', line)))
        Client(url, KEY).get("/readyz")
        duration = time.perf_counter() - begin
        process.terminate()
        process.stderr.read()
        return duration * 1000


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench scale", description=__doc__)
    parser.add_argument("--keys", type=int, default=MANY[0], help="number of keys on the larger side")
    parser.add_argument("--events", type=int, default=MANY[1], help="number of audit events on the larger side")
    parser.add_argument("--only", metavar="TEXT", help="measure only the calls that begin with this text")
    options = parser.parse_args()
    sizes = FEW, (options.keys, options.events)
    with ExitStack() as stack:
        dirs = [Path(stack.enter_context(directory())) for _ in range(3)]
        empty, *filled = dirs
        with Server(empty):
            pass  # The start creates the database.
        for dir, size in zip(filled, sizes):
            fill(dir, *size)
        print(f"{os.cpu_count()} processors.\n")
        few, many = (f"{keys:,} keys, {events:,} events" for keys, events in sizes)
        print(f"| µs | {few} | {many} | ratio | CPU time: few | many | ratio |")
        print("| --- |" + " ---: |" * 6)
        with ExitStack() as servers:
            sides = [Side(servers.enter_context(Server(dir)), *size) for dir, size in zip(filled, sizes)]
            kinds = [kind for kind in sides[0].calls if kind.startswith(options.only or "")]
            ratios = {kind: compare(kind, sides) for kind in kinds}
        slower = [kind for kind, ratio in ratios.items() if ratio > MAX_RATIO]
        print(f"\nMore than {MAX_RATIO} times as long with more keys: {'; '.join(slower) or 'none'}.")
        if options.only:
            return

        times = [[start(dir) for dir in dirs] for _ in range(STARTS)]
        medians = [statistics.median(column) for column in zip(*times)]
        print(f"\n| process start to the first 200, ms | no keys | {few} | {many} |")
        print("| --- | ---: | ---: | ---: |")
        print(f"| median of {STARTS} | {' | '.join(f'{median:.0f}' for median in medians)} |")
        print(f"| ratio to no keys | | {' | '.join(f'{median / medians[0]:.2f}' for median in medians[1:])} |")

        print(f"\n| resident, MiB | {few} | {many} |")
        print("| --- | ---: | ---: |")
        rows = zip(*(memory(dir, keys) for dir, (keys, _) in zip(filled, sizes)))
        for name, row in zip(("idle", "peak while each key is verified"), rows):
            print(f"| {name} | {' | '.join(f'{figure:.0f}' for figure in row)} |")


main()
