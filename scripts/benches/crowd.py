"""latency of verifications beside thousands of slow clients, slow exports and analytics queries."""

import itertools
import multiprocessing
import os
import socket
import statistics
import sys
import time
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from harness import KEY, Client, Server, allow_many_files, background_load, directory, write_lines
from dataset import fill, secrets

KEYS = 1_000
EVENTS = 500_000
SLOW_CONNECTIONS = 10_000
EXPORTS = 8
CALLERS = 16
PAUSE_MS = 4  # average pause of a caller between a response and the next request
ALTERNATIONS = 5
SECONDS = 4
BYTE_INTERVAL = 2.0  # seconds between two bytes of a slow client
CHUNK_INTERVAL = 0.1  # seconds between two chunks that an export reads
CHUNK_BYTES = 32 * 1024
HEAD = f"Host: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"


class SlowClient:
    """A connection that is silent, or sends a head or a body byte by byte. It reconnects when it is closed."""

    kinds = itertools.cycle(("silent", "head", "body"))

    def __init__(self, address, connected):
        self.address = address
        self.connected = connected
        self.kind = next(SlowClient.kinds)
        self.connect()

    def connect(self):
        self.socket = socket.socket()
        self.socket.bind((f"127.0.0.{self.connected.value % 8 + 2}", 0))
        self.socket.connect(self.address)
        self.socket.setblocking(False)
        self.connected.value += 1
        if self.kind == "body":
            self.socket.sendall(f"POST /v1/keys/verify HTTP/1.1\r\n{HEAD}Content-Type: application/json\r\n"
                                "Content-Length: 1000\r\n\r\n".encode())
        self.bytes = itertools.cycle(b" ") if self.kind == "body" else iter(b"GET /v1/forward-auth HTTP/1.1\r\nX: " + b"x" * 9999)

    def step(self):
        try:
            if self.kind != "silent":
                self.socket.send(bytes([next(self.bytes)]))
            alive = self.socket.recv(4096) and False
        except BlockingIOError:
            alive = True
        except OSError:
            alive = False
        if not alive:
            self.socket.close()
            self.connect()


def slow_clients(url, connected):
    address = urlsplit(url).hostname, urlsplit(url).port
    clients = [SlowClient(address, connected) for _ in range(SLOW_CONNECTIONS)]
    tick = BYTE_INTERVAL / 100
    while True:
        for index in range(100):
            begin = time.monotonic()
            for client in clients[index::100]:
                client.step()
            time.sleep(max(0, begin + tick - time.monotonic()))


def slow_exports(url, received):
    """Clients that read an export of all events in chunks, and start a new one when it is complete."""
    def start_export():
        export = socket.create_connection((urlsplit(url).hostname, urlsplit(url).port))
        export.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK_BYTES)
        export.sendall(f"GET /admin/v1/audit-logs/export HTTP/1.1\r\n{HEAD}Connection: close\r\n\r\n".encode())
        return export

    exports = [start_export() for _ in range(EXPORTS)]
    while True:
        for index, export in enumerate(exports):
            chunk = export.recv(CHUNK_BYTES)
            received.value += len(chunk)
            if not chunk:
                exports[index] = start_export()
        time.sleep(CHUNK_INTERVAL)


def analytics(url, answered):
    client = Client(url, KEY)
    while True:
        client.get("/admin/v1/analytics/usage", period="90d", interval="hour", group_by="key")
        answered.value += 1


@contextmanager
def load_reached(work, url, min_count):
    """Runs work in the background, and waits until its counter has reached `min_count`."""
    counter = multiprocessing.Value("q", 0, lock=False)
    with background_load(work, url, counter) as process:
        while counter.value < min_count and process.is_alive():
            time.sleep(0.01)
        yield


# Waits until each connection was closed once, on average. From then on they reconnect one by one, not all at once.
SLOW_CLIENTS = (slow_clients, 2 * SLOW_CONNECTIONS)
OTHERS = ((slow_exports, EXPORTS * CHUNK_BYTES), (analytics, 3))
STATES = {
    "none": (),
    f"{SLOW_CONNECTIONS:,} slow connections": (SLOW_CLIENTS,),
    f"{EXPORTS} slow exports": OTHERS[:1],
    "analytics": OTHERS[1:],
    "all of these": (SLOW_CLIENTS, *OTHERS),
}


def open_files(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def verify(server, dir):
    """Verifies keys at a steady rate."""
    return server.load_lines("POST", "/v1/keys/verify", f"{dir}/keys", ('{"key":"', '"}'), CALLERS, SECONDS,
                             BENCH_PAUSE_MS=str(PAUSE_MS))


def main():
    allow_many_files()
    runs = {state: [] for state in STATES}
    with directory() as dir:
        fill(dir, KEYS, EVENTS)
        write_lines(f"{dir}/keys", secrets(0, KEYS))
        # The slow clients have few addresses, because a benchmark has only those of loopback.
        limits = {"TOLLHOUSE_HTTP__MAX_CONNECTIONS": str(SLOW_CONNECTIONS + 500),
                  "TOLLHOUSE_HTTP__MAX_UNAUTHENTICATED_PER_ADDRESS": "0"}
        with Server(dir, **limits) as server:
            verify(server, dir)
            idle = open_files(server)
            for _ in range(ALTERNATIONS):
                for state, works in STATES.items():
                    with ExitStack() as stack:
                        for work, min_count in works:
                            stack.enter_context(load_reached(work, server.url, min_count))
                        runs[state].append(verify(server, dir))
                    print(f"{state}: {runs[state][-1]}", file=sys.stderr, flush=True)
                    while open_files(server) > idle + 20:
                        time.sleep(0.01)
    print(f"{os.cpu_count()} processors, {CALLERS} callers.\n")
    print("| background load | verifications/s | p50, ms | p99, ms | p99, ratio to none |")
    print("| --- | ---: | ---: | ---: | ---: |")
    median = lambda runs, measure: statistics.median(run[measure] for run in runs)
    for state, state_runs in runs.items():
        ratio = statistics.median(run["p99_us"] / none["p99_us"] for run, none in zip(state_runs, runs["none"]))
        print(f"| {state} | {median(state_runs, 'rate'):,.0f} | {median(state_runs, 'p50_us') / 1000:.2f} "
              f"| {median(state_runs, 'p99_us') / 1000:.2f} | {ratio:.1f} |")


main()
