"""verifications per second, compared with a bare warp route, nginx with a map of the keys, and better-auth."""

import http.client
import os
import shutil
import socket
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from harness import BENCHES, TARGET, Program, Server, directory, write_lines, wrk
from dataset import secrets, store

CONNECTIONS = 64
# Threads of the load generator. A single thread is always busy and partly measures itself, so that is a separate case.
THREADS = os.cpu_count()
ALTERNATIONS = 5
SECONDS = 2
KEYS_IN_USE = 1_000
MANY = 1_000_000
# The number of requests that are built before a run; no run sends as many.
WINDOW = 250_000
ORGANIZATION = {"id": "org_bench", "name": "Bench", "email": "bench@example.com"}
# The rate limit is counted, but never reached.
API_KEY = {"organization_id": "org_bench", "name": "Production API Key",
           "scopes": ["workflows:read", "transactions:write"],
           "rate_limit": {"limit": 1_000_000_000, "window_seconds": 60}}
SIDES = ("Tollhouse", "bare warp", "nginx", "better-auth")


class Side:
    """A program and its requests: the request before and after the key, the file of the keys to send, and a
    text that each response must contain."""

    def __init__(self, program, request, keys, expected=""):
        self.program = program
        self.request = request
        self.file = keys
        self.keys = keys.read_text().split()
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
        for key in {self.keys[0], self.keys[len(self.keys) // 2], self.keys[-1]}:
            self.ask(key)

    def load(self, seconds=SECONDS, threads=THREADS):
        """Sends the keys one after the other, from the first one that was not sent yet."""
        head, tail = self.request
        offset = self.sent % len(self.keys) * len(f"{self.keys[0]}\n")
        count = max(min(len(self.keys), WINDOW), threads)
        result = wrk(self.program, "", CONNECTIONS, seconds, {
            "BENCH_HEAD": head, "BENCH_TAIL": tail, "BENCH_KEYS": str(self.file),
            "BENCH_OFFSET": str(offset), "BENCH_COUNT": str(count)}, threads)
        self.sent += min(result["requests"], count)
        return result

    def send_all(self):
        """Sends every key at least once."""
        while self.sent < len(self.keys):
            self.load(5)


def post(keys, path="/", bearer=None):
    """Builds a request with the key in a JSON body."""
    before = '{"key":"'
    after = '"}'
    length = len(before) + len(keys.read_text().split(maxsplit=1)[0]) + len(after)
    caller = f"Authorization: Bearer {bearer}\r\n" if bearer else ""
    return (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{caller}Content-Type: application/json\r\n"
            f"Content-Length: {length}\r\n\r\n{before}"), after


def get(path):
    """Builds a request with the key in a header."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ", "\r\n\r\n"


def sample_response(side):
    """Returns the length of the body and the headers, except for those that every server adds itself."""
    body, headers = side.ask(side.keys[0])
    automatic = ("connection", "content-length", "date")
    return len(body), {name: value for name, value in headers if name.lower() not in automatic}


def bare(side, dir):
    """Starts a warp route that answers with the same number of bytes and the same headers for every key."""
    length, headers = sample_response(side)
    command = [TARGET / "release" / "examples" / "bare", str(length), *map(": ".join, headers.items())]
    return Program(command, dir)


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
    return Program(["node", home / "server.mjs", dir, str(KEYS_IN_USE)], dir)


def compare(name, sides, threads=THREADS):
    """Measures all sides in alternating runs."""
    for side in sides.values():
        side.check()
        side.load(1)  # warm-up
    runs = {side: [] for side in sides}
    for _ in range(ALTERNATIONS):
        for side in sides:
            runs[side].append(sides[side].load(threads=threads))
    for side in sides:
        sides[side].check()
        print(f"{name}, {side}: {' '.join(str(round(run['rate'])) for run in runs[side])}", file=sys.stderr)
    return name, runs


def prepare(dir, count):
    """Creates a database with `count` active keys and a thousand disabled ones. Returns the verifier's key."""
    with Server(dir) as server:
        server.call("POST", "/admin/v1/organizations", ORGANIZATION)
        model = server.call("POST", "/admin/v1/api-keys", API_KEY)["id"]
        verifier = server.call("POST", "/admin/v1/api-keys", {"name": "Gateway", "scopes": ["keys:verify"]})["key"]
    store(server.file, model, secrets(0, count))
    store(server.file, model, secrets(MANY, KEYS_IN_USE), status="disabled")
    return verifier


def cases_with_few_keys(stack):
    """The cases that use a thousand keys or one."""
    start = lambda program: stack.enter_context(program)
    dir = start(directory())
    verifier = prepare(dir, KEYS_IN_USE)
    server = start(Server(dir))
    keys = write_lines(Path(dir) / "keys", secrets(0, KEYS_IN_USE))

    def verify(keys, code):
        return Side(server, post(keys, "/v1/keys/verify", verifier), keys, f'"code":"{code}"')

    def bare_side(side):
        """The same requests to a bare route."""
        return Side(start(bare(side, start(directory()))), side.request, side.file)

    valid = verify(keys, "VALID")
    forward_auth = Side(server, get("/v1/forward-auth"), keys)
    nginx_server = start(nginx(keys, {"/verify": valid, "/forward-auth": forward_auth}, start(directory())))
    better_auth_server = start(better_auth(dir := start(directory())))
    better_auth_keys = Path(dir) / "keys"
    sides = {"Tollhouse": valid, "bare warp": bare_side(valid), "nginx": Side(nginx_server, get("/verify"), keys)}
    better_auth_side = Side(better_auth_server, post(better_auth_keys), better_auth_keys, '"valid":true')
    yield compare("verify", sides | {"better-auth": better_auth_side})
    yield compare("verify, one load generator thread", sides, threads=1)
    yield compare("forward-auth", {
        "Tollhouse": forward_auth, "bare warp": bare_side(forward_auth),
        "nginx": Side(nginx_server, get("/forward-auth"), keys)})
    for name, keys, code in (
            ("verify, one key", secrets(0, 1), "VALID"),
            ("verify, unknown keys", (f"sk_live_{n:035}" for n in range(KEYS_IN_USE)), "NOT_FOUND"),
            ("verify, disabled keys", secrets(MANY, KEYS_IN_USE), "DISABLED")):
        side = verify(write_lines(Path(start(directory())) / "keys", keys), code)
        yield compare(name, {"Tollhouse": side, "bare warp": bare_side(side)})


def cases_with_many_keys():
    """The cases that use a million keys: first most are read from the database, then all are in memory."""
    with directory() as dir:
        verifier = prepare(dir, MANY)
        keys = write_lines(Path(dir) / "keys", secrets(0, MANY))
        request = post(keys, "/v1/keys/verify", verifier)
        for name, settings in (
                ("verify, 1,000,000 keys, cache as shipped", {}),
                ("verify, 1,000,000 keys, cache for all", {"TOLLHOUSE_CACHE__MAX_BYTES": str(4 * 2**30)})):
            with Server(dir, **settings) as server, directory() as bare_dir:
                side = Side(server, request, keys, '"code":"VALID"')
                if settings:
                    side.send_all()
                with bare(side, bare_dir) as bare_server:
                    yield compare(name, {"Tollhouse": side, "bare warp": Side(bare_server, request, keys)})


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


def main():
    with ExitStack() as stack:
        cases = list(cases_with_few_keys(stack))
    cases += cases_with_many_keys()
    print(f"{os.cpu_count()} processors, {CONNECTIONS} connections, {THREADS} load generator threads.")
    median = lambda runs, measure: statistics.median(run[measure] for run in runs)
    table("requests/s", cases, "rate", lambda runs: f"{median(runs, 'rate'):,.0f}")
    table("p50 / p99 in ms, ratio of p99", cases, "p99_us",
          lambda runs: f"{median(runs, 'p50_us') / 1000:.2f} / {median(runs, 'p99_us') / 1000:.2f}")
    table("CPU time per request, µs", cases, "processor_us", lambda runs: f"{median(runs, 'processor_us'):.1f}")


main()
