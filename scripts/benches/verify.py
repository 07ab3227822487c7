"""verifications a second: against a bare warp route, nginx with a map of the keys, and better-auth."""

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

from harness import BENCHES, TARGET, Program, Server, directory, wrk
from stock import secrets, store

CONNECTIONS = 64
# Of the load generator. A single one is busy all the time, so that it measures itself too: a case of its own.
THREADS = os.cpu_count()
ALTERNATIONS = 5
SECONDS = 2
IN_USE = 1_000
MANY = 1_000_000
# More than are sent in a run: so many requests are made beforehand.
WINDOW = 250_000
ORGANIZATION = {"id": "org_bench", "name": "Bench", "email": "bench@example.com"}
# With a limit that is counted and never reached.
API_KEY = {"organization_id": "org_bench", "name": "Production API Key",
           "scopes": ["workflows:read", "transactions:write"],
           "rate_limit": {"limit": 1_000_000_000, "window_seconds": 60}}
SIDES = ("Tollhouse", "bare warp", "nginx", "better-auth")


class Side:
    """A program and what it is asked: the request before and after the key, the file of the keys that take
    turns in it, and what each answer must hold."""

    def __init__(self, program, request, keys, expected=""):
        self.program = program
        self.request = request
        self.file = keys
        self.keys = keys.read_text().split()
        self.expected = expected
        self.sent = 0

    def ask(self, key):
        """One request, byte for byte as the load generator sends it. The body and the headers of the answer."""
        url = urlsplit(self.program.url)
        with socket.create_connection((url.hostname, url.port)) as connection:
            connection.sendall(key.join(self.request).encode())
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            body = answer.read().decode()
        if answer.status != 200 or self.expected not in body:
            raise SystemExit(f"{self.program.url} answered {answer.status}: {body}")
        return body, answer.getheaders()

    def check(self):
        """Is a sample answered as expected? Of the timed requests only the status is looked at."""
        for key in {self.keys[0], self.keys[len(self.keys) // 2], self.keys[-1]}:
            self.ask(key)

    def load(self, seconds=SECONDS, threads=THREADS):
        """Sends the keys in turn, from the one after the last that was sent."""
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
    """A request with the key in a JSON body."""
    before, after = '{"key":"', '"}'
    length = len(before) + len(keys.read_text().split(maxsplit=1)[0]) + len(after)
    caller = f"Authorization: Bearer {bearer}\r\n" if bearer else ""
    return (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{caller}Content-Type: application/json\r\n"
            f"Content-Length: {length}\r\n\r\n{before}"), after


def get(path):
    """A request with the key in a header."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ", "\r\n\r\n"


def answer_of(side):
    """How long the body is, and the headers that are not HTTP's own."""
    body, headers = side.ask(side.keys[0])
    own = ("connection", "content-length", "date")
    return len(body), {name: value for name, value in headers if name.lower() not in own}


def bare(side, dir):
    """A warp route that answers as many bytes and the same headers, whatever the key."""
    length, headers = answer_of(side)
    command = [TARGET / "release" / "examples" / "bare", str(length), *map(": ".join, headers.items())]
    return Program(command, dir)


def nginx(keys, sides, dir):
    """nginx that looks the key up in a map, and answers each path with the bytes and headers of its side."""
    known = "\n".join(f"'Bearer {key}' 1;" for key in keys.read_text().split())
    locations = ""
    for path, side in sides.items():
        length, headers = answer_of(side)
        kind = headers.pop("content-type", "")
        added = "\n".join(f"add_header {name} '{value}';" for name, value in headers.items())
        locations += f"""location = {path} {{
            default_type '{kind}';
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
    """better-auth in one Node process, which makes keys of its own."""
    home = TARGET / "better-auth"
    shutil.copytree(BENCHES / "better-auth", home, dirs_exist_ok=True)
    subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=home, stdout=sys.stderr, check=True)
    return Program(["node", home / "server.mjs", dir, str(IN_USE)], dir)


def compare(name, sides, threads=THREADS):
    """The runs of all sides, which take turns."""
    for side in sides.values():
        side.check()
        side.load(1)  # to warm up
    runs = {side: [] for side in sides}
    for _ in range(ALTERNATIONS):
        for side in sides:
            runs[side].append(sides[side].load(threads=threads))
    for side in sides:
        sides[side].check()
        print(f"{name}, {side}: {' '.join(str(round(run['rate'])) for run in runs[side])}", file=sys.stderr)
    return name, runs


def prepare(dir, count):
    """A database with so many good keys, and a thousand that are disabled. The verifier's key."""
    with Server(dir) as server:
        server.call("POST", "/admin/v1/organizations", ORGANIZATION)
        model = server.call("POST", "/admin/v1/api-keys", API_KEY)["id"]
        verifier = server.call("POST", "/admin/v1/api-keys", {"name": "Gateway", "scopes": ["keys:verify"]})["key"]
    store(server.file, model, secrets(0, count))
    store(server.file, model, secrets(MANY, IN_USE), status="disabled")
    return verifier


def write_keys(dir, keys):
    file = Path(dir) / "keys"
    file.write_text("".join(f"{key}\n" for key in keys))
    return file


def with_few(stack):
    """The cases in which a thousand keys, or one, are in use."""
    start = lambda program: stack.enter_context(program)
    dir = start(directory())
    verifier = prepare(dir, IN_USE)
    server = start(Server(dir))
    keys = write_keys(dir, secrets(0, IN_USE))

    def verify(keys, code):
        return Side(server, post(keys, "/v1/keys/verify", verifier), keys, f'"code":"{code}"')

    def beside(side):
        """The same requests to a bare route."""
        return Side(start(bare(side, start(directory()))), side.request, side.file)

    valid = verify(keys, "VALID")
    forward_auth = Side(server, get("/v1/forward-auth"), keys)
    map = start(nginx(keys, {"/verify": valid, "/forward-auth": forward_auth}, start(directory())))
    other = start(better_auth(dir := start(directory())))
    other_keys = Path(dir) / "keys"
    sides = {"Tollhouse": valid, "bare warp": beside(valid), "nginx": Side(map, get("/verify"), keys)}
    theirs = Side(other, post(other_keys), other_keys, '"valid":true')
    yield compare("verify", sides | {"better-auth": theirs})
    yield compare("verify, one thread that loads", sides, threads=1)
    yield compare("forward-auth", {
        "Tollhouse": forward_auth, "bare warp": beside(forward_auth), "nginx": Side(map, get("/forward-auth"), keys)})
    for name, keys, code in (
            ("verify, one key", secrets(0, 1), "VALID"),
            ("verify, unknown keys", (f"sk_live_{n:035}" for n in range(IN_USE)), "NOT_FOUND"),
            ("verify, disabled keys", secrets(MANY, IN_USE), "DISABLED")):
        side = verify(write_keys(start(directory()), keys), code)
        yield compare(name, {"Tollhouse": side, "bare warp": beside(side)})


def with_many():
    """The cases in which a million keys take turns: most of them read from the file, then all in memory."""
    with directory() as dir:
        verifier = prepare(dir, MANY)
        keys = write_keys(dir, secrets(0, MANY))
        request = post(keys, "/v1/keys/verify", verifier)
        for name, settings in (
                ("verify, 1,000,000 keys, cache as shipped", {}),
                ("verify, 1,000,000 keys, cache for all", {"TOLLHOUSE_CACHE__MAX_BYTES": str(4 * 2**30)})):
            with Server(dir, **settings) as server, directory() as other:
                side = Side(server, request, keys, '"code":"VALID"')
                if settings:
                    side.send_all()
                with bare(side, other) as beside:
                    yield compare(name, {"Tollhouse": side, "bare warp": Side(beside, request, keys)})


def table(title, cases, what, show):
    """The medians of one measure, and Tollhouse's ratio to each other side: the median over the turns."""
    first, *others = SIDES
    print(f"\n| {title} | {first} |", *(f"{side} | ratio |" for side in others))
    print("| --- |" + " ---: |" * (2 * len(SIDES) - 1))
    for name, runs in cases:
        cells = [name, show(runs[first])]
        for side in others:
            ratios = [own[what] / other[what] for own, other in zip(runs[first], runs.get(side, []))]
            cells += [show(runs[side]), f"{statistics.median(ratios):.2f}"] if ratios else ["", ""]
        print(f"| {' | '.join(cells)} |")


def main():
    with ExitStack() as stack:
        cases = list(with_few(stack))
    cases += with_many()
    print(f"{os.cpu_count()} processors, {CONNECTIONS} connections, {THREADS} threads that load.")
    median = lambda runs, what: statistics.median(run[what] for run in runs)
    table("requests/s", cases, "rate", lambda runs: f"{median(runs, 'rate'):,.0f}")
    table("p50 / p99 in ms, ratio of p99", cases, "p99_us",
          lambda runs: f"{median(runs, 'p50_us') / 1000:.2f} / {median(runs, 'p99_us') / 1000:.2f}")
    table("µs of processor a request", cases, "processor_us", lambda runs: f"{median(runs, 'processor_us'):.1f}")


main()
