"""Clients at a steady rate, each a process of its own."""

import itertools
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import urlencode, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))
from dataset import QUOTA, RATE_LIMIT, secrets  # noqa: E402
from harness import KEY, Client, allow_many_files  # noqa: E402

ORGANIZATION = "org_soak"
SUSPENDED = "org_suspended"  # Suspended and reactivated again and again.
# Limits that all keys of the organization share. They are counted, but never reached.
ORGANIZATION_LIMITS = [RATE_LIMIT, QUOTA]
CHANGED_KEYS = 50
UNKNOWN_KEYS = 1_000  # Always the same: a cache that fills up is no leak.
SILENT_SECONDS = 10  # http.header_timeout
CHANGES_NICE = 10  # of the server's threads that handle the Admin API
LEAKED_IN_TURN = 30  # steps between two uses of a leaked connection

# The keys that are verified: how many, their fields, and the codes that a verification may return.
VERIFIED = {
    "plain": (200, {}, ("VALID",)),
    "limited": (20, {"limits": [{"limit": 20, "window_seconds": 60}]}, ("VALID", "RATE_LIMITED")),
    "quota": (20, {"limits": [{"limit": 20_000, "period": "hour"}]}, ("VALID",)),
    "exceeded": (5, {"limits": [{"limit": 100, "period": "hour"}]}, ("VALID", "QUOTA_EXCEEDED")),
    "allowlist": (10, {"allowed_ips": ["203.0.113.0/24"]}, ("IP_NOT_ALLOWED",)),
    "scope": (10, {"scopes": ["transactions:write"]}, ("INSUFFICIENT_SCOPE",)),
}

READS = ("/whoami", "/organizations", f"/organizations/{ORGANIZATION}", "/api-keys?limit=100", "/api-keys?q=plain",
         "/users", f"/organizations/{ORGANIZATION}/members", "/audit-logs", "/audit-logs?outcome=denied",
         f"/audit-logs?org_id={ORGANIZATION}&limit=100", "/analytics/usage?period=24h",
         f"/analytics/usage?org_id={ORGANIZATION}&period=7d&group_by=key", "/analytics/overview", "/analytics/logs",
         "/config", "/scopes")


def create(server):
    """Creates the organizations and keys. Returns the secrets of the verified keys by kind, and the ids of the changed
    ones with their secrets."""
    for id, limits in ((ORGANIZATION, ORGANIZATION_LIMITS), (SUSPENDED, None)):
        body = {"id": id, "name": id, "email": f"{id.replace('_', '-')}@example.com", "limits": limits}
        server.call("POST", "/admin/v1/organizations", body)
    server.call("POST", "/admin/v1/users", {"id": "user_soak", "name": "Soak", "email": "soak@example.com"})

    def keys(count, name, fields):
        body = {"name": name, "scopes": ["workflows:read"], "organization_id": ORGANIZATION} | fields
        operation = {"method": "POST", "path": "/api-keys", "body": body}
        for begin in range(0, count, 100):
            operations = [operation] * min(100, count - begin)
            for result in server.call("POST", "/admin/v1/batch", {"operations": operations})["results"]:
                yield result["body"]["data"]

    verified = {name: [key["key"] for key in keys(count, name, fields)]
                for name, (count, fields, _) in VERIFIED.items()}
    changed = {name: [(key["id"], key["key"]) for key in keys(CHANGED_KEYS, name, {})]
               for name in ("changed", "batch", "idempotent")}
    return verified, changed


def expect(condition, what):
    """Ends the client, and with it the run, unless the condition is true."""
    if not condition:
        raise SystemExit(f"soak: {what}")


def code(response):
    """The code of a verification."""
    return json.loads(response)["data"]["code"]


def verifications(url, data):
    """Verifies each kind of key in turn. A step returns the latency in µs."""
    client = Client(url, KEY)
    verified, _ = data
    requests = {name: itertools.cycle(keys) for name, keys in verified.items()}
    requests["unknown"] = itertools.cycle(secrets(0, UNKNOWN_KEYS))
    allowed = {name: codes for name, (_, _, codes) in VERIFIED.items()} | {"unknown": ("NOT_FOUND",)}
    kinds = itertools.cycle(["plain"] * 6 + ["limited", "quota", "quota", "exceeded", "allowlist", "scope", "unknown"])

    def step():
        kind = next(kinds)
        body, latency = client.verify(next(requests[kind]), scopes=["workflows:read"], ip="198.51.100.7")
        expect(code(body) in allowed[kind], f"a key of the kind {kind!r} is {code(body)}")
        return latency

    return step


def changes(url, data):
    """Changes keys, an organization and a membership in turn. After each change of a key's status, its secret is
    verified."""
    client = Client(url, KEY)
    _, changed = data
    keys = itertools.cycle(changed["changed"])
    numbers = itertools.count()
    members = f"/organizations/{ORGANIZATION}/members"

    def send(method, path, body=None, status=200):
        text = client.with_body(method, f"/admin/v1{path}", body) if body is not None else (
            f"{method} /admin/v1{path} HTTP/1.1\r\n{client.head}\r\n")
        return client.send(text, status)[1]

    def script():
        while True:
            id, secret = next(keys)
            yield send("PATCH", f"/api-keys/{id}", {"name": f"changed {next(numbers)}"})
            for status, expected in (("disabled", "DISABLED"), ("active", "VALID")):
                yield send("PATCH", f"/api-keys/{id}", {"status": status})
                actual = code(client.verify(secret)[0])
                expect(actual == expected, f"a key that was set to {status} is {actual}")
            yield send("PATCH", f"/organizations/{SUSPENDED}", {"status": "suspended"})
            yield send("PATCH", f"/organizations/{SUSPENDED}", {"status": "active"})
            yield send("POST", members, {"user_id": "user_soak", "role": "member"}, 201)
            yield send("DELETE", f"{members}/user_soak")

    return script().__next__


def reads(url, _):
    client = Client(url, KEY)
    paths = itertools.cycle(READS)
    return lambda: client.get(f"/admin/v1{next(paths)}")[1]


def batches(url, data):
    client = Client(url, KEY)
    _, changed = data
    keys = itertools.cycle(changed["batch"])
    numbers = itertools.count()

    def step():
        operations = [{"method": "PATCH", "path": f"/api-keys/{next(keys)[0]}", "body": {"name": f"b {next(numbers)}"}}
                      for _ in range(10)]
        return client.send(client.with_body("POST", "/admin/v1/batch", {"operations": operations}))[1]

    return step


def idempotent(url, data):
    """Sends each request twice. The second response must be the first one."""
    client = Client(url, KEY)
    _, changed = data
    keys = itertools.cycle(changed["idempotent"])
    numbers = itertools.count()

    def step():
        id, _ = next(keys)
        head, _, body = client.with_body("POST", f"/admin/v1/api-keys/{id}/rotate",
                                         {"grace_period_seconds": 0}).partition("\r\n\r\n")
        request = f"{head}\r\nIdempotency-Key: soak-{next(numbers)}\r\n\r\n{body}"
        first, latency = client.send(request)
        second, _ = client.send(request)
        expect(json.loads(first)["data"] == json.loads(second)["data"], "a replayed response differs")
        return latency

    return step


def visitors(url, data):
    """Connections for a single request. Each tenth sends nothing, and the server must close it."""
    address = urlsplit(url).hostname, urlsplit(url).port
    keys = itertools.cycle(data[0]["plain"])
    numbers = itertools.count()
    silent = []

    def step():
        visitor = socket.create_connection(address, timeout=30)
        if next(numbers) % 10 == 0:
            silent.append((time.monotonic(), visitor))
            if silent[0][0] < time.monotonic() - SILENT_SECONDS - 5:
                _, oldest = silent.pop(0)
                expect(oldest.recv(1) == b"", "a silent connection was answered")
                oldest.close()
            return None
        with visitor:
            visitor.sendall(f"GET /v1/forward-auth HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                            f"Authorization: Bearer {next(keys)}\r\n\r\n".encode())
            expect(visitor.recv(1 << 16).startswith(b"HTTP/1.1 200"), "a visitor was refused")
        return None

    return step


def export_events(url, key, since=None):
    """Reads an export of the audit log to its end."""
    query = "?" + urlencode({"from": since.isoformat(timespec="seconds")}) if since else ""
    request = urllib.request.Request(f"{url}/admin/v1/audit-logs/export{query}")
    request.add_header("Authorization", f"Bearer {key}")
    with urllib.request.urlopen(request) as response:
        while response.read(1 << 20):
            pass


def operator(program, directory):
    """An export of the latest audit events, then a backup or an export of everything."""
    def make(url, _):
        commands = itertools.cycle((["backup"], ["export", "--output"]))

        def step():
            export_events(url, KEY, datetime.now(timezone.utc) - timedelta(minutes=1))
            file = directory / "copy"
            done = subprocess.run([program, *next(commands), file, "--data", directory / "data"], capture_output=True,
                                  text=True)
            expect(done.returncode == 0, done.stderr)
            file.unlink()

        return step

    return make


def machine(address, message):
    """What the machine itself takes: a round trip over loopback, with or without a sync."""
    def make(_url, _data):
        echo = socket.create_connection(address)
        echo.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def step():
            begin = time.perf_counter_ns()
            echo.sendall(message)
            expect(echo.recv(1) == message, "no echo")
            return (time.perf_counter_ns() - begin) / 1000

        return step

    return make


def serve_echo(listener, directory):
    """Echoes bytes. Before it echoes an `s`, it writes 4 KiB and syncs them. One process per connection, so that no
    echo waits for a sync. That process has the priority of the server's threads that handle changes."""
    for number in itertools.count():
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        file = os.open(directory / f"echo-{number}", os.O_CREAT | os.O_RDWR, 0o600)
        for position in itertools.count():
            try:
                message = connection.recv(1)
            except ConnectionResetError:  # the client was ended
                message = b""
            if not message:
                os._exit(0)
            if message == b"s":
                os.setpriority(os.PRIO_PROCESS, 0, CHANGES_NICE)
                os.pwrite(file, b"x" * 4096, position % 1024 * 4096)
                os.fdatasync(file)
            connection.sendall(message)


def leaked_connections(url, data):
    """Connections that are used once in a while and never closed."""
    allow_many_files()
    keys = itertools.cycle(data[0]["plain"])
    clients = []
    numbers = itertools.count()

    def step():
        clients.append(Client(url, KEY))
        # Each is used every few seconds, so that the server does not close it.
        for client in clients[next(numbers) % LEAKED_IN_TURN::LEAKED_IN_TURN]:
            client.verify(next(keys))

    return step


class Clients:
    """The processes. Each puts its name, the number of an interval, and its latencies there into `measured`, from the
    time on that `began` is set to."""

    def __init__(self, url, data, interval):
        self.url = url
        self.data = data
        self.interval = interval
        self.began = multiprocessing.Value("d", 0)
        self.measured = multiprocessing.Queue()
        self.processes = []

    def add(self, name, make, rate):
        arguments = (name, make, rate, self.url, self.data, self.interval, self.began, self.measured)
        process = multiprocessing.Process(target=work, args=arguments, name=name, daemon=True)
        process.start()
        self.processes.append(process)

    def check(self):
        for process in self.processes:
            if not process.is_alive():
                raise SystemExit(f"soak: the client {process.name!r} ended")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()


def work(name, make, rate, url, data, interval, began, measured):
    """Makes `rate` steps per second. What they return is sent with the number of the interval when the next one begins.
    Steps that are more than a second late are left out."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Otherwise a client that fails would wait until its latencies are read, and count as alive.
    measured.cancel_join_thread()
    step = make(url, data)
    latencies = []
    current = None
    due = time.monotonic()
    while True:
        time.sleep(max(0, due - time.monotonic()))
        latency = step()
        now = time.monotonic()
        due = max(due + 1 / rate, now - 1)
        number = int((now - began.value) / interval) if began.value else None
        if number != current:
            if current is not None:
                measured.put((name, current, latencies))
            latencies = []
            current = number
        latencies.append(latency)
