"""memory and latency of verifications during attacks, with the limits as shipped."""

import argparse
import gc
import itertools
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from harness import PROGRAM, Client, Server, allow_many_files, background_load, directory, percentile
from dataset import API_KEY, ORGANIZATION, secrets, store, store_chain
from attackers import BEGUN, COUNTS, CLOSED, NOT_CONNECTED, Attack, Http2Bodies, Request, progress

UNDISTURBED_SECONDS = 3
ATTACK_SECONDS = 5
VERIFIERS = 4  # honest clients, each with a connection of its own
VERIFICATIONS_PER_SECOND = 800  # of all of them
HONEST_KEYS = 100
MAX_P99_RATIO = 3
# Memory in MiB that any load may take, in addition to the budget of what the attack uses: 88 MiB are SQLite's page
# caches, the rest is for connections, bodies of the data plane and the allocator.
ALLOWANCE_MIB = 128
REQUEST_MEMORY_MIB = 128  # the default of http.request_memory_bytes
CACHE_MIB = 16
# The responses that are kept for one key, and on top of them the WAL and the audit events.
DISK_MIB = 64 + 64
# Five times the limit of a key for all keys of an organization, and what is refilled in ten seconds.
MAX_TENANT_CALLS = 5 * 500 * 70 // 60
EVENTS = 100_000
DISTINCT_KEYS = 100_000
CATALOG = 2_000  # scopes
TENANT_KEYS = 100
MIB = 1 << 20
# A bound on the time for which an attack prepares, before the verifications are measured anyway.
PREPARATION_SECONDS = 5
STOP_SECONDS = 12  # longer than http.drain_timeout
# How long an honest client waits for its last responses, so that a short delay at the end leaves none unanswered.
GRACE_SECONDS = 1


@dataclass
class Case:
    """An attack. `attack` makes it from the credentials, and the measurement starts when it made that progress. The
    budgets are of memory and, where that is limited, of the disk; `max_successes` is the number of 200s."""

    name: str
    attack: object
    min_progress: int = 1
    budget_mib: int = 0
    disk_budget_mib: int | None = None
    max_successes: int | None = None
    settings: dict = field(default_factory=dict)
    tls: bool = False
    unread_log: bool = False


class UnreadServer(Server):
    """A server whose standard error is a pipe that nobody reads after the start."""

    def __enter__(self):
        self.process = subprocess.Popen(self.command, env=self.env, stderr=subprocess.PIPE)
        for line in self.process.stderr:
            if match := re.search(rb'listening on ([^\s"]+)', line):
                self.url = match[1].decode()
                return self
        raise SystemExit("the server did not start")


def get(path, key=None):
    credential = f"Authorization: Bearer {key}\r\n" if key else ""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{credential}\r\n"


def post(path, key, body, headers=""):
    """A request whose body is JSON text. With more in `headers`, a request that differs from the others."""
    return (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n{headers}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}")


def repeat(requests):
    """The same requests again and again; each is built only once."""
    return itertools.cycle([Request(request) for request in requests])


def fill_mib(before, item, after):
    """JSON text with as many items as fit into 1 MiB, the largest body that is allowed."""
    count = (MIB - len(before) - len(after)) // (len(item) + 1)
    return before + ",".join([item] * count) + after


def batches(item):
    body = fill_mib('{"operations":[{"method":"POST","path":"/users","body":[', item, "]}]}")
    return lambda credentials: Attack(repeat(post("/admin/v1/batch", key, body) for key in credentials["plain"]), 100)


def half_sent_bodies(credentials):
    body = " " * MIB
    return Attack(repeat(post("/v1/keys/verify", key, body)[:-1] for key in credentials["verifiers"]), 300)


def half_sent_http2_bodies(credentials):
    return Http2Bodies("/v1/keys/verify", credentials["verifiers"][0], MIB, 4)


def reads_of_large_key(credentials):
    """A batch whose response is a hundred times as large as the key."""
    operation = {"method": "GET", "path": f"/api-keys/{credentials['large']}"}
    return json.dumps({"operations": [operation] * 100})


def slow_readers(credentials):
    body = reads_of_large_key(credentials)
    return Attack(repeat(post("/admin/v1/batch", key, body) for key in credentials["admins"]), 50, slow=True)


def idempotent_reads(credentials):
    body = reads_of_large_key(credentials)
    requests = (Request(post("/admin/v1/batch", credentials["admins"][0], body, f"Idempotency-Key: {number}\r\n"))
                for number in itertools.count())
    return Attack(requests, 4)


def many_scopes(_):
    scopes = "&scope=".join(["workflows:*"] * (61 * 1024 // len("&scope=workflows:*")))
    unknown_key = next(secrets(DISTINCT_KEYS, 1))
    return Attack(repeat([get(f"/v1/forward-auth?scope={scopes}", unknown_key)]), 50)


def large_verifications(credentials):
    body = fill_mib('{"key":"","metadata":[', '{"a":0}', "]}")
    return Attack(repeat(post("/v1/keys/verify", key, body) for key in credentials["verifiers"]), 50)


def audit_reads(path):
    return lambda credentials: Attack(repeat(get(f"/admin/v1/audit-logs/{path}", key)
                                             for key in credentials["auditors"]), 50)


def keys_at_their_limit(credentials):
    return Attack(repeat(get("/admin/v1/api-keys", key) for key in credentials["admins"]), TENANT_KEYS)


def half_sent_heads(_):
    return Attack(repeat(["GET /v1/forward-auth HTTP/1.1\r\nHost: localhost\r\n"]), 1_500)


def distinct_keys(_):
    requests = [get("/v1/forward-auth", key) for key in secrets(0, DISTINCT_KEYS)]
    blocks = ["".join(requests[begin:begin + 50]) for begin in range(0, len(requests), 50)]
    return Attack(itertools.cycle([Request(block, 50) for block in blocks]), 50)


def refused_calls(_):
    return Attack(itertools.cycle([Request(get("/admin/v1/whoami") * 10, 10)]), 50)


CASES = (
    Case("memory: 1 MiB batches of small objects", batches('{"a":0}'), budget_mib=REQUEST_MEMORY_MIB),
    Case("memory: 1 MiB batches of deeply nested JSON", batches('{"a":' * 100 + "0" + "}" * 100),
         budget_mib=REQUEST_MEMORY_MIB),
    Case("memory: 300 half-sent bodies of 1 MiB", half_sent_bodies, min_progress=300),
    Case("memory: 400 half-sent bodies of 1 MiB, HTTP/2", half_sent_http2_bodies, min_progress=400, tls=True),
    Case("memory: 50 slow readers of large responses", slow_readers, budget_mib=REQUEST_MEMORY_MIB),
    Case("processor: 61 KB of scopes to forward-auth, no valid key", many_scopes),
    Case("processor: 1 MiB of JSON to verify", large_verifications),
    Case("processor: chain verifications", audit_reads("verify")),
    Case("processor: audit exports", audit_reads("export")),
    Case("disk: batches of 100 reads with an Idempotency-Key", idempotent_reads, budget_mib=REQUEST_MEMORY_MIB,
         disk_budget_mib=DISK_MIB),
    Case(f"limits: {TENANT_KEYS} keys of an organization", keys_at_their_limit,
         max_successes=MAX_TENANT_CALLS),
    Case("connections: 1,500 half-sent heads, 1,000 allowed", half_sent_heads, min_progress=1_500,
         settings={"TOLLHOUSE_HTTP__MAX_CONNECTIONS": "1000"}),
    Case(f"cache: {DISTINCT_KEYS:,} valid keys, {CACHE_MIB} MiB", distinct_keys, budget_mib=CACHE_MIB,
         settings={"TOLLHOUSE_CACHE__MAX_BYTES": str(CACHE_MIB * MIB)}),
    Case("log: refused calls, nobody reads it", refused_calls, unread_log=True),
)


class Side:
    """A program with its own database and credentials."""

    def __init__(self, name, program, dir, settings):
        self.name = name
        self.program = program
        self.dir = Path(dir)
        # The limits of the Admin API as shipped: they are a part of what is measured. The database takes them over when
        # it is created.
        self.settings = {"TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE": None,
                         "TOLLHOUSE_RATE_LIMITS__BATCH_PER_MINUTE": None,
                         "TOLLHOUSE_HTTP__DRAIN_TIMEOUT": "5s"} | settings
        self.credentials = self.prepare()

    def server(self, case):
        settings = self.settings | case.settings
        if case.tls:
            settings |= {"TOLLHOUSE_TLS__CERT": str(self.dir / "cert.pem"),
                         "TOLLHOUSE_TLS__KEY": str(self.dir / "key.pem")}
        server = UnreadServer if case.unread_log else Server
        return server(self.dir, self.program, **settings)

    def prepare(self):
        """Creates the organization's keys, a large key, the catalog, the audit events and the keys to verify."""
        with Server(self.dir, self.program, **self.settings) as server:
            server.call("POST", "/admin/v1/organizations", ORGANIZATION)
        store_chain(server.file, EVENTS, days=365)
        with Server(self.dir, self.program, **self.settings) as server:
            def create(path, bodies):
                operations = [{"method": "POST", "path": path, "body": body} for body in bodies]
                for begin in range(0, len(operations), 100):
                    body = {"operations": operations[begin:begin + 100]}
                    for result in server.call("POST", "/admin/v1/batch", body)["results"]:
                        yield result["body"]["data"]

            def keys(count, scope, **fields):
                body = {"name": "Key", "scopes": [scope]} | fields
                return [key["key"] for key in create("/api-keys", [body] * count)]

            tenant = {"organization_id": ORGANIZATION["id"]}
            metadata = {f"name-{number:02}": "\N{GRINNING FACE}" * 500 for number in range(50)}
            list(create("/scopes", [{"scope": f"resource-{number}:read"} for number in range(CATALOG)]))
            server.call("POST", "/admin/v1/api-keys", API_KEY)
            credentials = {
                "honest": keys(1, "keys:verify"),
                "plain": keys(10, "workflows:read", **tenant),
                "verifiers": keys(10, "keys:verify", **tenant),
                "admins": keys(TENANT_KEYS, "admin:keys", **tenant),
                "auditors": keys(10, "admin:audit"),
                "large": next(create("/api-keys", [API_KEY | {"id": "key_large", "metadata": metadata}]))["id"],
            }
        store(server.file, API_KEY["id"], secrets(0, DISTINCT_KEYS))
        certificate = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                       "-subj", "/CN=localhost", "-days", "2", "-keyout", "key.pem", "-out", "cert.pem"]
        subprocess.run(certificate, cwd=self.dir, check=True, capture_output=True)
        return credentials

    def disk_bytes(self):
        return sum(file.stat().st_size for file in (self.dir / "data").iterdir())

    def measure(self, case):
        """Runs one attack and returns the measurements of the server and of the honest clients."""
        attack = case.attack(self.credentials)
        counts = multiprocessing.Array("q", COUNTS, lock=False)
        server = self.server(case)
        server.__enter__()
        try:
            honest = self.credentials["honest"][0]
            verify_at_pace(server.url, honest, 1)  # warm-up
            undisturbed = verify_at_pace(server.url, honest, UNDISTURBED_SECONDS)
            Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # VmHWM starts over.
            idle = server.memory_mib("VmHWM")
            disk = self.disk_bytes()
            with background_load(attack, server.url, counts):
                deadline = time.monotonic() + PREPARATION_SECONDS
                while progress(counts) < case.min_progress and time.monotonic() < deadline:
                    time.sleep(0.01)
                attacked = verify_at_pace(server.url, honest, ATTACK_SECONDS)
                if server.process.poll() is not None:
                    raise SystemExit(f"{self.name}: the server ended during the attack")
                growth = server.memory_mib("VmHWM") - idle
            disk = self.disk_bytes() - disk
        except BaseException:
            server.process.kill()
            raise
        return {"undisturbed": undisturbed, "attacked": attacked, "growth_mib": growth, "disk_mib": disk / MIB,
                "calls": list(counts), "stopped": stop(server)}


def stop(server):
    """True if the server stops as asked; otherwise kills it."""
    try:
        return server.stop(STOP_SECONDS) == 0
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()
        return False


@dataclass
class Verifications:
    """Durations of verifications in ms, and the number of those that were refused."""

    durations: list
    refused: int
    unanswered: int

    def p(self, percent):
        return percentile(self.durations, percent)


def verify_at_pace(url, key, seconds):
    """Verifies keys at a steady rate over a few new connections."""
    results = multiprocessing.SimpleQueue()
    clients = [multiprocessing.Process(target=run_verifier, args=(url, key, seconds, results), daemon=True)
               for _ in range(VERIFIERS)]
    for client in clients:
        client.start()
    verifications = Verifications([], 0, 0)
    for _ in clients:
        durations, refused, unanswered = results.get()
        verifications.durations += durations
        verifications.refused += refused
        verifications.unanswered += unanswered
    for client in clients:
        client.join()
    return verifications


def run_verifier(url, key, seconds, results):
    """A client that sends a verification each time one is due, or when the one before is answered.

    The duration of a late one counts from when it was due, so that a server that stops for a second delays all that
    were due in that second. Those without a response at the end are included with the time that they have waited."""
    gc.disable()
    interval = VERIFIERS / VERIFICATIONS_PER_SECOND
    known = itertools.cycle(secrets(0, HONEST_KEYS))
    due = time.perf_counter()
    end = due + seconds
    durations = []
    refused = 0
    unanswered = 0
    client = None
    while due < end:
        now = time.perf_counter()
        if now < due:
            time.sleep(due - now)
            now = begin = time.perf_counter()
        else:
            begin = due
        due += interval
        try:
            remaining = max(end + GRACE_SECONDS - now, 0.001)
            client = client or Client(url, key, remaining)
            client.socket.settimeout(remaining)
            status, body = client.exchange(client.with_body("POST", "/v1/keys/verify", {"key": next(known)}))
            refused += status != 200 or b'"code":"VALID"' not in body
        except OSError:
            # The connection was closed, or the time is over: then so it is for all that are still due.
            unanswered += 1
            client = None
        durations.append((time.perf_counter() - begin) * 1000)
    results.put((durations, refused, unanswered))


def show_calls(counts):
    """What became of the attacker's requests."""
    waiting = counts[BEGUN] - counts[CLOSED] - sum(counts[100:])
    named = [(str(status), counts[status]) for status in range(100, COUNTS)]
    named += [("closed", counts[CLOSED]), ("waiting", waiting), ("not connected", counts[NOT_CONNECTED])]
    return ", ".join(f"{count:,} × {name}" for name, count in named if count > 0)


def show_latency(verifications):
    return f"{verifications.p(50):,.2f} / {verifications.p(99):,.2f}"


def missed_targets(case, run):
    missed = []
    if run["attacked"].p(99) > MAX_P99_RATIO * run["undisturbed"].p(99):
        missed.append("p99")
    if run["growth_mib"] > case.budget_mib + ALLOWANCE_MIB:
        missed.append("memory")
    if case.disk_budget_mib is not None and run["disk_mib"] > case.disk_budget_mib:
        missed.append("disk")
    if case.max_successes is not None and run["calls"][200] > case.max_successes:
        missed.append(f"calls (at most {case.max_successes:,})")
    if run["attacked"].refused:
        missed.append(f"verifications refused: {run['attacked'].refused:,}")
    if run["attacked"].unanswered:
        missed.append(f"verifications unanswered: {run['attacked'].unanswered:,}")
    if not run["stopped"]:
        missed.append("SIGTERM did not stop it")
    return ", ".join(missed)


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench abuse", description=__doc__)
    parser.add_argument("--before", type=Path, metavar="PROGRAM", help="also measure this program, in the same run")
    parser.add_argument("--after", type=Path, metavar="PROGRAM", default=PROGRAM,
                        help="the program to measure instead of the one that is built")
    parser.add_argument("--only", metavar="TEXT", default="", help="only the attacks whose name contains this text")
    parser.add_argument("--request-memory", type=int, metavar="MIB",
                        help="http.request_memory_bytes of the measured program, which is also the budget; without it "
                             f"the setting has its default, and the budget is {REQUEST_MEMORY_MIB} MiB")
    options = parser.parse_args()
    allow_many_files()
    cases = [case for case in CASES if options.only in case.name]
    if not cases:
        parser.error(f"no attack contains {options.only!r}; there are: {'; '.join(case.name for case in CASES)}")
    settings = {}
    if options.request_memory:
        settings["TOLLHOUSE_HTTP__REQUEST_MEMORY_BYTES"] = str(options.request_memory * MIB)
        for case in cases:
            case.budget_mib = options.request_memory if case.budget_mib == REQUEST_MEMORY_MIB else case.budget_mib
    programs = [("after", options.after.resolve(), settings)]
    if options.before:
        programs.insert(0, ("before", options.before.resolve(), {}))
    runs = []
    with ExitStack() as stack:
        sides = [Side(name, program, stack.enter_context(directory()), of_program)
                 for name, program, of_program in programs]
        for case in cases:
            for side in sides:
                print(f"{case.name}, {side.name}", file=sys.stderr, flush=True)
                runs.append((case, side.name, side.measure(case)))
    show(runs)


def show(runs):
    print(f"{os.cpu_count()} processors, {VERIFICATIONS_PER_SECOND:,} verifications/s due. Targets: a p99 of at most "
          f"{MAX_P99_RATIO} times the undisturbed one, and a peak memory of at most the budget over the idle server.\n")
    print("| attack | program | verify, p50 / p99 ms | attacked | p99, ratio | memory, MiB | budget | missed targets |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for case, program, run in runs:
        ratio = run["attacked"].p(99) / run["undisturbed"].p(99)
        print(f"| {case.name} | {program} | {show_latency(run['undisturbed'])} | {show_latency(run['attacked'])} "
              f"| {ratio:,.1f} | {run['growth_mib']:,.0f} | {case.budget_mib + ALLOWANCE_MIB} "
              f"| {missed_targets(case, run)} |")
    print("\n| attack | program | the attacker's requests |")
    print("| --- | --- | --- |")
    for case, program, run in runs:
        print(f"| {case.name} | {program} | {show_calls(run['calls'])} |")
    if any(case.disk_budget_mib is not None for case, _, _ in runs):
        print("\n| attack | program | written to the disk, MiB | budget |")
        print("| --- | --- | ---: | ---: |")
    for case, program, run in runs:
        if case.disk_budget_mib is not None:
            print(f"| {case.name} | {program} | {run['disk_mib']:,.0f} | {case.disk_budget_mib} |")


main()
