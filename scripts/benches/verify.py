"""verifications per second, compared with bare warp, bare hyper, nginx with a map of the keys, and better-auth."""

import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

from harness import BENCHES, TARGET, Program, Server, directory, write_lines, wrk
from dataset import API_KEY, ORGANIZATION, QUOTA, RATE_LIMIT, secrets, store

CONNECTIONS = 64
# Threads of the load generator. A single thread is always busy and partly measures itself, so that is a separate case.
THREADS = os.cpu_count()
ALTERNATIONS = 9
SECONDS = 2
FEW = 1_000  # keys of the usual cases
SOME = 100_000
MANY = 1_000_000
# The number of requests that are built before a run; no run sends as many.
PREPARED_REQUESTS = 250_000
SIDES = ("Tollhouse", "bare warp", "bare hyper", "nginx", "better-auth")
# The cases with many keys also measure the same server with only a few of them.
FEW_KEYS = f"{FEW:,} keys"
BATCH = 100  # verifications in one call of verify-batch
SINGLE_CALLS = "single calls"
# What Tollhouse's threads do: `worker` serves connections, `lookups` reads keys that are not in memory, `writer` writes
# to the database, and `tokio-rt-worker` passes it the usage.
THREAD_NAMES = ("worker", "lookups", "writer", "tokio-rt-worker")


class KeySet:
    """Keys with the same limits, and a number of organizations to which they belong in turn."""

    def __init__(self, name, first, count, key_limits=(RATE_LIMIT,), organization_limits=(), organizations=1,
                 status="active"):
        self.first = first
        self.count = count
        self.ids = [f"{name}-{number}" for number in range(organizations)]
        self.key_limits = list(key_limits)
        self.organization_limits = list(organization_limits)
        self.status = status

    def create(self, server):
        """Creates the organizations, each with a key as the model for its others."""
        for id in self.ids:
            organization = {"id": f"org_{id}", "email": f"{id}@example.com", "limits": self.organization_limits}
            key = {"id": f"key_{id}", "organization_id": f"org_{id}", "limits": self.key_limits}
            server.call("POST", "/admin/v1/organizations", ORGANIZATION | organization)
            server.call("POST", "/admin/v1/api-keys", API_KEY | key)

    def store(self, file):
        """Stores the keys while the server is stopped."""
        for number, id in enumerate(self.ids):
            store(file, f"key_{id}", islice(self.secrets(), number, None, len(self.ids)), self.status)

    def secrets(self):
        return secrets(self.first, self.count)


class Side:
    """A program and its requests: the request before and after the key, the file of the keys to send, and a
    text that each response must contain."""

    def __init__(self, program, request, keys, expected=""):
        self.program = program
        self.request = request
        self.file = keys
        all_keys = keys.read_text().split()
        self.count = len(all_keys)
        self.sample = (all_keys[0], all_keys[self.count // 2], all_keys[-1])
        self.expected = expected
        self.sent = 0

    def ask(self, key):
        """Sends one request as the load generator sends it. Returns the body and the headers of the response."""
        url = urlsplit(self.program.url)
        with socket.create_connection((url.hostname, url.port)) as connection:
            connection.sendall(key.join(self.request).encode())
            response = http.client.HTTPResponse(connection)
            response.begin()
            body = response.read().decode()
        if response.status != 200 or self.expected not in body:
            raise SystemExit(f"{self.program.url} answered {response.status}: {body}")
        return body, response.getheaders()

    def check(self):
        """Checks the responses of a sample. The measured requests are only checked for their status."""
        for key in self.sample:
            self.ask(key)

    def load(self, seconds=SECONDS, threads=THREADS):
        """Sends the keys one after the other, from the first one that was not sent yet."""
        head, tail = self.request
        offset = self.sent % self.count * (self.file.stat().st_size // self.count)
        count = max(min(self.count, PREPARED_REQUESTS), threads)
        result = wrk(self.program, "", CONNECTIONS, seconds, {
            "BENCH_HEAD": head, "BENCH_TAIL": tail, "BENCH_KEYS": str(self.file),
            "BENCH_OFFSET": str(offset), "BENCH_COUNT": str(count)}, threads,
            until_idle=isinstance(self.program, Server))
        self.sent += min(result["requests"], count)
        return result

    def send_all(self):
        """Sends every key at least once."""
        while self.sent < self.count:
            self.load(5)


def post(keys, path="/", bearer=None, before='{"key":"', after='"}'):
    """Builds a request with the key in a JSON body."""
    length = len(before) + len(keys.read_text().split(maxsplit=1)[0]) + len(after)
    caller = f"Authorization: Bearer {bearer}\r\n" if bearer else ""
    return (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{caller}Content-Type: application/json\r\n"
            f"Content-Length: {length}\r\n\r\n{before}"), after


def get(path):
    """Builds a request with the key in a header."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ", "\r\n\r\n"


def sample_response(side):
    """Returns the length of the body and the headers, except for those that every server adds itself."""
    body, headers = side.ask(side.sample[0])
    automatic = ("connection", "content-length", "date")
    return len(body), {name: value for name, value in headers if name.lower() not in automatic}


def bare_sides(side, stack):
    """Starts routes of warp and hyper that answer the same requests, for every key with the same number of bytes and
    the same headers."""
    length, headers = sample_response(side)
    sides = {}
    for name, example in (("bare warp", "bare"), ("bare hyper", "bare_hyper")):
        command = [TARGET / "release" / "examples" / example, str(length), *map(": ".join, headers.items())]
        program = stack.enter_context(Program(command, stack.enter_context(directory())))
        sides[name] = Side(program, side.request, side.file)
    return sides


def nginx(keys, sides, dir):
    """Starts nginx that looks the key up in a map and answers each path with the size and headers of its side."""
    known = "\n".join(f"'Bearer {key}' 1;" for key in keys.read_text().split())
    locations = ""
    for path, side in sides.items():
        length, headers = sample_response(side)
        content_type = headers.pop("content-type", "")
        added = "\n".join(f"add_header {name} '{value}';" for name, value in headers.items())
        locations += f"""location = {path} {{
            default_type '{content_type}';
            {added}
            if ($valid = 0) {{ return 401; }}
            return 200 '{"x" * length}';
        }}\n"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    file = Path(dir) / "nginx.conf"
    file.write_text(f"""
        daemon off; worker_processes auto; pid {dir}/pid; error_log stderr;
        {"" if os.getuid() else "user root;"}
        events {{ worker_connections 1024; }}
        http {{
            access_log off; keepalive_requests 1000000000;
            {"".join(f"{kind}_temp_path {dir}/{kind}; " for kind in kinds)}
            map_hash_bucket_size 128; map_hash_max_size 16384;
            map $http_authorization $valid {{ default 0; {known} }}
            server {{ listen {address}; {locations} }}
        }}""")
    return Program(["nginx", "-e", "stderr", "-p", dir, "-c", file], dir, url=f"http://{address}")


def better_auth(dir):
    """Starts better-auth in one Node process, which creates its own keys."""
    home = TARGET / "better-auth"
    shutil.copytree(BENCHES / "better-auth", home, dirs_exist_ok=True)
    subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=home, stdout=sys.stderr, check=True)
    return Program(["node", home / "server.mjs", dir, str(FEW)], dir)


def compare(name, sides, threads=THREADS):
    """Measures all sides in alternating runs, every second time in the opposite order."""
    for side in sides.values():
        side.check()
        side.load(1)  # warm-up
    runs = {side: [] for side in sides}
    for number in range(ALTERNATIONS):
        for side in list(sides)[::-1 if number % 2 else 1]:
            runs[side].append(sides[side].load(threads=threads))
    for side in sides:
        sides[side].check()
        print(f"{name}, {side}: {' '.join(str(round(run['rate'])) for run in runs[side])}", file=sys.stderr)
    return name, runs


def prepare(dir, key_sets):
    """Creates a database with these keys. Returns the verifier's key."""
    with Server(dir) as server:
        for key_set in key_sets:
            key_set.create(server)
        verifier = server.call("POST", "/admin/v1/api-keys", {"name": "Gateway", "scopes": ["keys:verify"]})["key"]
    for key_set in key_sets:
        key_set.store(server.file)
    return verifier


def batches_of(side, verifier, stack):
    """The keys of a side in calls of verify-batch. A line of the file has the keys of a call."""
    keys = side.file.read_text().split()
    lines = ['"},{"key":"'.join(keys[first:first + BATCH]) for first in range(0, len(keys), BATCH)]
    file = write_lines(Path(stack.enter_context(directory())) / "keys", lines)
    request = post(file, "/v1/keys/verify-batch", verifier, '{"verifications":[{"key":"', '"}]}')
    batches = Side(side.program, request, file, side.expected)
    body, _ = batches.ask(batches.sample[0])
    if body.count(side.expected) != BATCH:
        raise SystemExit(f"not all keys of the batch are valid: {body}")
    return batches


def check_limits(side, key_set):
    """Checks that a response names the limits of the key and of its organization, so that these are measured."""
    body, _ = side.ask(side.sample[0])
    expected = [{"on": on} | limit for on, limits in (
        ("key", key_set.key_limits), ("organization", key_set.organization_limits)) for limit in limits]
    actual = json.loads(body)["data"]["limits"]
    for limit in actual:
        del limit["remaining"], limit["resets_at"]
    if actual != expected:
        raise SystemExit(f"not the limits that were set: {body}")


def cases_with_few_keys(stack):
    """The cases that use a thousand keys or one."""
    start = lambda program: stack.enter_context(program)
    one_window = KeySet("window", 0, FEW)
    no_limit = KeySet("none", FEW, FEW, key_limits=())
    # In a hundred organizations, so that connections seldom wait for each other.
    four_limits = KeySet("four", 2 * FEW, FEW, (RATE_LIMIT, QUOTA), (RATE_LIMIT, QUOTA), organizations=100)
    hot_organization = KeySet("hot", 3 * FEW, FEW, organization_limits=(RATE_LIMIT,))
    disabled = KeySet("disabled", 4 * FEW, FEW, status="disabled")
    dir = start(directory())
    verifier = prepare(dir, [one_window, no_limit, four_limits, hot_organization, disabled])
    server = start(Server(dir))

    def verify(secrets, code):
        keys = write_lines(Path(start(directory())) / "keys", secrets)
        return Side(server, post(keys, "/v1/keys/verify", verifier), keys, f'"code":"{code}"')

    valid = verify(one_window.secrets(), "VALID")
    check_limits(valid, one_window)
    forward_auth = Side(server, get("/v1/forward-auth"), valid.file)
    nginx_server = start(nginx(valid.file, {"/verify": valid, "/forward-auth": forward_auth}, start(directory())))
    better_auth_server = start(better_auth(dir := start(directory())))
    better_auth_keys = Path(dir) / "keys"
    sides = {"Tollhouse": valid} | bare_sides(valid, stack) | {"nginx": Side(nginx_server, get("/verify"), valid.file)}
    better_auth_side = Side(better_auth_server, post(better_auth_keys), better_auth_keys, '"valid":true')
    batches = batches_of(valid, verifier, stack)
    yield compare("verify", sides | {"better-auth": better_auth_side})
    yield compare(f"verify-batch of {BATCH}", {"Tollhouse": batches, SINGLE_CALLS: valid})
    yield compare("verify, one load generator thread", sides, threads=1)
    yield compare("forward-auth", {"Tollhouse": forward_auth} | bare_sides(forward_auth, stack) | {
        "nginx": Side(nginx_server, get("/forward-auth"), valid.file)})
    for name, key_set in (("no limit", no_limit), ("four limits on key and organization", four_limits),
                          ("one organization with a limit", hot_organization)):
        side = verify(key_set.secrets(), "VALID")
        check_limits(side, key_set)
        yield compare(f"verify, {name}", {"Tollhouse": side} | bare_sides(side, stack))
    for name, keys, code in (
            ("one key", islice(one_window.secrets(), 1), "VALID"),
            ("unknown keys", (f"sk_live_{n:035}" for n in range(FEW)), "NOT_FOUND"),
            ("disabled keys", disabled.secrets(), "DISABLED")):
        side = verify(keys, code)
        yield compare(f"verify, {name}", {"Tollhouse": side} | bare_sides(side, stack))


def cases_with_many_keys(stack):
    """The cases that use 100,000 or a million keys. Where all are in memory, they were verified before."""
    dir = stack.enter_context(directory())
    keys = KeySet("window", 0, MANY)
    verifier = prepare(dir, [keys])
    files = {count: write_lines(Path(dir) / f"keys-{count}", islice(keys.secrets(), count))
             for count in (FEW, SOME, MANY)}
    large_cache = {"TOLLHOUSE_CACHE__MAX_BYTES": str(4 * 2**30)}
    for name, count, settings, in_memory in (
            ("100,000 keys", SOME, {}, True),
            ("1,000,000 keys, cache as shipped", MANY, {}, False),
            ("1,000,000 keys, cache for all", MANY, large_cache, True)):
        with ExitStack() as programs:
            server = programs.enter_context(Server(dir, **settings))
            side, few = (Side(server, post(files[size], "/v1/keys/verify", verifier), files[size], '"code":"VALID"')
                         for size in (count, FEW))
            if in_memory:
                side.send_all()
            yield compare(f"verify, {name}", {"Tollhouse": side, FEW_KEYS: few} | bare_sides(side, programs))


def table(title, cases, measure, show):
    """Prints the medians of one measure and the ratio of Tollhouse to each other side (median of the runs)."""
    first, *others = SIDES
    print(f"\n| {title} | {first} |", *(f"{side} | ratio |" for side in others))
    print("| --- |" + " ---: |" * (2 * len(SIDES) - 1))
    for name, runs in cases:
        cells = [name, show(runs[first])]
        for side in others:
            ratios = [own[measure] / other[measure] for own, other in zip(runs[first], runs.get(side, []))]
            cells += [show(runs[side]), f"{statistics.median(ratios):.2f}"] if ratios else ["", ""]
        print(f"| {' | '.join(cells)} |")


def median(runs, measure):
    return statistics.median(run[measure] for run in runs)


def table_of_batches(cases):
    """Prints the keys per second, and the CPU time for each, in calls of verify-batch and in single calls."""
    print(f"\n| verify-batch of {BATCH} | in batches | {SINGLE_CALLS} | ratio |\n| --- | ---: | ---: | ---: |")
    for _, runs in cases:
        if SINGLE_CALLS not in runs:
            continue
        for title, measure, factor, format in (("keys/s", "rate", BATCH, ",.0f"),
                                               ("CPU time per key, µs", "processor_us", 1 / BATCH, ".2f")):
            pairs = [(batch[measure] * factor, single[measure]) for batch, single in zip(*runs.values())]
            medians = (f"{statistics.median(column):{format}}" for column in zip(*pairs))
            ratio = statistics.median(batch / single for batch, single in pairs)
            print(f"| {title} | {' | '.join(medians)} | {ratio:.2f} |")


def table_of_threads(cases):
    """Prints the CPU time of Tollhouse's threads, and the ratio to that with few keys (median of the runs)."""
    names = " | ".join(f"`{name}`" for name in THREAD_NAMES)
    print(f"\n| CPU time per request of Tollhouse's threads, µs | all | {names} "
          f"| all, ratio to {FEW_KEYS} | `worker`, ratio to {FEW_KEYS} |")
    print("| --- |" + " ---: |" * (3 + len(THREAD_NAMES)))
    for name, runs in cases:
        own = runs[SIDES[0]]
        cells = [name, f"{median(own, 'processor_us'):.1f}"]
        cells += [f"{median([run['threads_us'] for run in own], thread):.2f}" for thread in THREAD_NAMES]
        ratios = [(run["processor_us"] / few["processor_us"], run["threads_us"]["worker"] / few["threads_us"]["worker"])
                  for run, few in zip(own, runs.get(FEW_KEYS, []))]
        cells += [f"{statistics.median(column):.2f}" for column in zip(*ratios)] or ["", ""]
        print(f"| {' | '.join(cells)} |")


def main():
    cases = []
    for group in (cases_with_few_keys, cases_with_many_keys):
        with ExitStack() as stack:
            cases += group(stack)
    print(f"{os.cpu_count()} processors, {CONNECTIONS} connections, {THREADS} load generator threads.")
    table("requests/s", cases, "rate", lambda runs: f"{median(runs, 'rate'):,.0f}")
    table("p50 / p99 in ms, ratio of p99", cases, "p99_us",
          lambda runs: f"{median(runs, 'p50_us') / 1000:.2f} / {median(runs, 'p99_us') / 1000:.2f}")
    table("CPU time per request, µs", cases, "processor_us", lambda runs: f"{median(runs, 'processor_us'):.1f}")
    table_of_batches(cases)
    table_of_threads(cases)


main()
