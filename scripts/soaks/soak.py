"""Runs the server at a moderate load, and shows whether memory, files, threads, WAL and latency stay flat."""

import argparse
import json
import multiprocessing
import os
import signal
import socket
import sqlite3
import statistics
import sys
import threading
import time
from collections import defaultdict
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))
from clients import (Clients, batches, changes, create, export_events, idempotent, leaked_connections,  # noqa: E402
                     machine, operator, reads, serve_echo, verifications, visitors)
from dataset import store_chain  # noqa: E402
from flat import Tolerance, judge, judge_beside, prove_rule  # noqa: E402
from harness import PROGRAM, TARGET, Client, Server, allow_many_files, percentile  # noqa: E402

MINUTE = 60
WARM_UP_SECONDS = 120
# More than fits into the page caches of all connections, so that they are full before the measurement begins.
EVENTS = 150_000
EXPORTS = 3  # with the operator, as many as may run at once
READERS = 8  # More than there are connections, of which an idle one is the last that is used.
PROOF_INTERVAL = 6
PROOF_INTERVALS = 20
PROOF_WARM_UP_SECONDS = 30
LEAKED_PER_SECOND = 10

# Each client: what it does, and how often per second.
RATES = {"verify": (verifications, 100), "verify too": (verifications, 100), "change": (changes, 10),
         "reads": (reads, 5), "batches": (batches, 1), "idempotent": (idempotent, 2), "visitors": (visitors, 10)}
MACHINE_RATES = {"round trip": (b"e", 50), "round trip with a sync": (b"s", 10)}

# What is judged, and how much it may grow during a run. A latency must also grow in relation to what the machine itself
# takes in the same interval, so that other programs on it have less influence.
TOLERANCES = {
    "resident memory, MiB": Tolerance(0.03, 3),
    "open files": Tolerance(0, 5),
    "threads": Tolerance(0, 3),
    "WAL, MiB": Tolerance(0.25, 8),
    "verify, p50 ms": Tolerance(0.25, 0.05),
    "verify, p99 ms": Tolerance(1, 1),
    "change, p50 ms": Tolerance(0.25, 0.2),
    "change, p99 ms": Tolerance(1, 5),
}
BESIDE = {"verify": "round trip", "change": "round trip with a sync"}
GROWS = "**grows**"
PROOF_MUST_GROW = ("resident memory, MiB", "open files", "WAL, MiB")
PROOF_MUST_BE_FLAT = ("resident memory, MiB", "open files", "threads", "WAL, MiB")


class Samples:
    """Reads each second what the server uses. An interval's value is the median, and of the WAL the maximum."""

    def __init__(self, server):
        self.server = server
        self.seconds = []

    def take(self):
        process = Path(f"/proc/{self.server.process.pid}")
        wal = self.server.file.with_name(self.server.file.name + "-wal")
        self.seconds.append((self.server.memory_mib("VmRSS"), len(os.listdir(process / "fd")),
                             len(os.listdir(process / "task")), wal.stat().st_size / 2**20,
                             self.server.file.stat().st_size / 2**20))

    def close_interval(self):
        resident, files, threads, wal, database = zip(*self.seconds)
        self.seconds = []
        median = statistics.median
        return {"resident memory, MiB": median(resident), "open files": median(files), "threads": median(threads),
                "WAL, MiB": max(wal), "database, MiB": database[-1]}


class Run:
    """A server under load. `intervals` has the values of each interval, by name."""

    def __init__(self, program, interval, leak=False):
        self.program = program
        self.interval = interval
        self.leak = leak
        self.intervals = []
        self.counts = defaultdict(int)

    def measure(self, count, warm_up):
        with ExitStack() as stack:
            directory = Path(stack.enter_context(temporary_directory()))
            # Without limits of the plan for keys that have none of their own.
            settings = {"TOLLHOUSE_PLANS__STANDARD__KEY_LIMITS": "[]"}
            with Server(directory, self.program, **settings) as server:
                data = create(server)
            store_chain(server.file, EVENTS, days=20)
            server = stack.enter_context(Server(directory, self.program, **settings))
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            echo = multiprocessing.Process(target=serve_echo, args=(listener, directory))
            echo.start()
            stack.callback(lambda: (echo.terminate(), echo.join()))
            clients = stack.enter_context(Clients(server.url, data, self.interval))
            for name, (make, rate) in RATES.items():
                clients.add(name, make, rate)
            for name, (message, rate) in MACHINE_RATES.items():
                clients.add(name, machine(listener.getsockname(), message), rate)
            clients.add("operator", operator(self.program, directory), 1 / MINUTE)
            warm(server)
            wait(clients, time.monotonic() + warm_up)
            if self.leak:
                clients.add("leak", leaked_connections, LEAKED_PER_SECOND)
                reader = stack.enter_context(closing(sqlite3.connect(server.file, isolation_level=None)))
                reader.execute("BEGIN")  # The WAL can't start over while this transaction lasts.
                reader.execute("SELECT count(*) FROM meta").fetchone()
            self.follow(server, clients, count)

    def follow(self, server, clients, count):
        samples = Samples(server)
        size_before = server.file.stat().st_size
        events_before = last_event(server.file)
        began = time.monotonic()
        clients.began.value = began
        for number in range(count):
            end = began + (number + 1) * self.interval
            samples.take()
            while (left := end - time.monotonic()) > 0:
                time.sleep(min(1, left))
                clients.check()
                samples.take()
            self.intervals.append(samples.close_interval())
            print(f"{number + 1} of {count}: "
                  + ", ".join(f"{name} {value:.0f}" for name, value in self.intervals[-1].items()),
                  file=sys.stderr, flush=True)
        latencies = self.collect(clients, count)
        for number, interval in enumerate(self.intervals):
            for name in (*BESIDE, *MACHINE_RATES):
                for percent in (50, 99):
                    interval[f"{name}, p{percent} ms"] = percentile(latencies[name, number], percent) / 1000
        self.events = last_event(server.file) - events_before
        self.bytes_per_event = (server.file.stat().st_size - size_before) / self.events

    def collect(self, clients, count):
        """What the clients measured, by name and interval. Each reports an interval when its next one has begun."""
        missing = {(name, number) for name in (*RATES, *MACHINE_RATES) for number in range(count)}
        latencies = defaultdict(list)
        while missing:
            clients.check()
            name, number, values = clients.measured.get(timeout=MINUTE)
            missing.discard((name, number))
            if number < count:
                latencies[name.removesuffix(" too"), number] += values
                self.counts[name.removesuffix(" too")] += len(values)
        return latencies

    def verdicts(self):
        """For each name the verdict, and its words."""
        series = lambda name: [interval[name] for interval in self.intervals]
        for name, tolerance in TOLERANCES.items():
            client, _, measure = name.partition(", ")
            if client in BESIDE:
                verdict, grows_beside = judge_beside(series(name), series(f"{BESIDE[client]}, {measure}"), tolerance)
                growing = GROWS if grows_beside else f"as the {BESIDE[client]}"
            else:
                verdict, growing = judge(series(name), tolerance), GROWS
            yield name, verdict, growing if verdict.grows() else "flat"

    def growing(self):
        return [name for name, _, words in self.verdicts() if words == GROWS]


def temporary_directory():
    """A temporary directory on the disk of the build. /tmp may be in memory, where a sync costs nothing."""
    return TemporaryDirectory(prefix="soak-", dir=TARGET)


def last_event(file):
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as database:
        return database.execute("SELECT max(seq) FROM audit_events").fetchone()[0]


def wait(clients, until):
    while time.monotonic() < until:
        clients.check()
        time.sleep(0.2)


def warm(server):
    """Fills the page caches: exports of all events at once, pages of the audit log from more clients than there are
    connections, and reads that the writer records."""
    keys = [server.call("POST", "/admin/v1/api-keys", {"name": f"reader {number}", "scopes": ["*"]})
            for number in range(READERS)]
    operations = [{"method": "GET", "path": f"/api-keys/{keys[0]['id']}"}] * 100

    def export(key):
        export_events(server.url, key)

    def read(key):
        client = Client(server.url, key)
        page = {}
        for _ in range(100):
            response = json.loads(client.get("/admin/v1/audit-logs", limit=100, **page)[0])
            page = {"cursor": response["metadata"]["nextCursor"]}
            client.send(client.with_body("POST", "/admin/v1/batch", {"operations": operations}))

    for work, count in ((export, EXPORTS), (read, READERS)):
        threads = [threading.Thread(target=work, args=(key["key"],)) for key in keys[:count]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def show(run):
    together = 5 if len(run.intervals) >= 30 else 1
    columns = ("resident memory, MiB", "open files", "threads", "WAL, MiB", "database, MiB")
    latencies = ("verify", "change", "round trip", "round trip with a sync")
    heads = [*columns, *(f"{name}, p50 / p99 ms" for name in latencies)]
    print(f"| minutes | {' | '.join(heads)} |\n| ---: |{' ---: |' * len(heads)}")
    for begin in range(0, len(run.intervals), together):
        group = run.intervals[begin:begin + together]
        median = lambda name: statistics.median(interval[name] for interval in group)
        cells = [f"{median(name):,.0f}" for name in columns]
        cells += [f"{median(f'{name}, p50 ms'):.2f} / {median(f'{name}, p99 ms'):.2f}" for name in latencies]
        print(f"| {(begin + len(group)) * run.interval / MINUTE:.3g} | {' | '.join(cells)} |")
    print(f"\n{run.counts['verify']:,} verifications, {run.counts['change']:,} changes, {run.events:,} audit events; "
          f"the database grew by {run.bytes_per_event:,.0f} bytes per event.\n")
    show_verdicts(run)


def show_verdicts(run):
    hours = (len(run.intervals) - 1) * run.interval / (60 * MINUTE)
    print("| | first third | last third | trend per hour | growth in the run | tolerated | |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for name, verdict, words in run.verdicts():
        print(f"| {name} | {verdict.first:,.2f} | {verdict.last:,.2f} | {verdict.growth / hours:+,.2f} "
              f"| {verdict.growth:+,.2f} | {verdict.tolerance:,.2f} | {words} |")


def prove(program):
    """Applies the rule to known series, to a short run, and to one in which connections are never closed and a
    transaction holds the WAL."""
    proven = prove_rule()
    for leak in (False, True):
        run = Run(program, PROOF_INTERVAL, leak)
        run.measure(PROOF_INTERVALS, PROOF_WARM_UP_SECONDS)
        cause = "Connections that are never closed, and a transaction that holds the WAL" if leak else "No leak"
        print(f"\n{cause}:\n")
        show_verdicts(run)
        expected = PROOF_MUST_GROW if leak else PROOF_MUST_BE_FLAT
        wrong = [name for name in expected if (name in run.growing()) != leak]
        print(f"\n{'Not as expected: ' + '; '.join(wrong) if wrong else 'As expected.'}", flush=True)
        proven = proven and not wrong
    return proven


def main():
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__,
                                     epilog="Exit status 1 if anything grows. PROGRAM=FILE tests that program instead "
                                     "of building one.")
    parser.add_argument("minutes", nargs="?", type=int, default=60,
                        help="measured minutes, at least 6, after two of warm-up (default: %(default)s)")
    parser.add_argument("--prove", action="store_true",
                        help="only show that growth is found: cause some, and compare it with the verdict")
    options = parser.parse_args()
    if options.minutes < 6:
        parser.error("six minutes are the least that a verdict is possible for")
    program = Path(os.environ.get("PROGRAM", PROGRAM)).resolve()
    allow_many_files()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # Ends the server and the clients, too.
    if options.prove:
        sys.exit(0 if prove(program) else 1)
    run = Run(program, MINUTE)
    run.measure(options.minutes, WARM_UP_SECONDS)
    show(run)
    growing = run.growing()
    print(f"\n{'Not flat: ' + '; '.join(growing) if growing else 'Flat.'}")
    sys.exit(1 if growing else 0)


main()
