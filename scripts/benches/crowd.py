"""how long verifications take while thousands of slow clients are there, exports stream and analytics run."""

import itertools
import json
import multiprocessing
import os
import resource
import socket
import statistics
import sys
import time
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from harness import KEY, Client, Server, directory, wrk
from stock import fill, secrets

KEYS, EVENTS = 1_000, 500_000
SLOW = 10_000  # connections
EXPORTS = 8
CALLERS = 16  # that each pause so many ms, on average, between an answer and the next question
PAUSE_MS = 4
ALTERNATIONS = 5
SECONDS = 4
# Each slow client sends a byte, and each export takes a piece, so often.
BYTE_EVERY = 2.0
PIECE_EVERY, PIECE = 0.1, 32 * 1024
HEAD = f"Host: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"


class Slow:
    """A connection that says nothing, or sends a head or a body byte by byte. A new one when it is cut."""

    kinds = itertools.cycle(("silent", "head", "body"))

    def __init__(self, address, reached):
        self.address, self.reached = address, reached
        self.kind = next(Slow.kinds)
        self.connect()

    def connect(self):
        self.socket = socket.socket()
        self.socket.bind((f"127.0.0.{self.reached.value % 8 + 2}", 0))
        self.socket.connect(self.address)
        self.socket.setblocking(False)
        self.reached.value += 1
        if self.kind == "body":
            self.socket.sendall(f"POST /v1/keys/verify HTTP/1.1\r\n{HEAD}Content-Type: application/json\r\n"
                                "Content-Length: 1000\r\n\r\n".encode())
        self.bytes = itertools.cycle(b" ") if self.kind == "body" else iter(b"GET /v1/forward-auth HTTP/1.1\r\nX: " + b"x" * 9999)

    def go_on(self):
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


def slow_clients(url, reached):
    address = urlsplit(url).hostname, urlsplit(url).port
    crowd = [Slow(address, reached) for _ in range(SLOW)]
    tick = BYTE_EVERY / 100
    while True:
        for nth in range(100):
            begin = time.monotonic()
            for slow in crowd[nth::100]:
                slow.go_on()
            time.sleep(max(0, begin + tick - time.monotonic()))


def slow_exports(url, taken):
    """Clients that take an export of all events piece by piece, and begin anew when they have it."""
    def begin():
        export = socket.create_connection((urlsplit(url).hostname, urlsplit(url).port))
        export.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
        export.sendall(f"GET /admin/v1/audit-logs/export HTTP/1.1\r\n{HEAD}Connection: close\r\n\r\n".encode())
        return export

    exports = [begin() for _ in range(EXPORTS)]
    while True:
        for nth, export in enumerate(exports):
            piece = export.recv(PIECE)
            taken.value += len(piece)
            if not piece:
                exports[nth] = begin()
        time.sleep(PIECE_EVERY)


def analytics(url, answered):
    client = Client(url, KEY)
    while True:
        client.get("/admin/v1/analytics/usage", period="90d", interval="hour", group_by="key")
        answered.value += 1


def background(work, url, counter):
    """Only when nobody else wants a processor: what these clients take of them is not what is measured."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    work(url, counter)


@contextmanager
def beside(work, url, least):
    """Does that in a process of its own; goes on when it has counted so far."""
    counter = multiprocessing.Value("q", 0, lock=False)
    process = multiprocessing.Process(target=background, args=(work, url, counter), daemon=True)
    process.start()
    try:
        while counter.value < least:
            if not process.is_alive():
                raise SystemExit(f"{work.__name__} ended")
            time.sleep(0.01)
        yield counter
        if not process.is_alive():
            raise SystemExit(f"{work.__name__} ended")
    finally:
        process.kill()
        process.join()


# Not before each was cut once, on average: they come back one by one from then on, not all at a time.
SLOW_CLIENTS = (slow_clients, 2 * SLOW)
OTHERS = ((slow_exports, EXPORTS * PIECE), (analytics, 3))
STATES = {
    "alone": (),
    f"{SLOW:,} slow connections": (SLOW_CLIENTS,),
    f"{EXPORTS} slow exports": OTHERS[:1],
    "analytics": OTHERS[1:],
    "all of these": (SLOW_CLIENTS, *OTHERS),
}


def connections(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def verify(server, dir, key):
    """Verifications at a steady rate."""
    file = f"{dir}/keys"
    body = '{"key":"', '"}'
    length = len(key) + len("".join(body))
    env = {"BENCH_KEYS": file, "BENCH_COUNT": str(KEYS), "BENCH_OFFSET": "0", "BENCH_TAIL": body[1],
           "BENCH_PAUSE_MS": str(PAUSE_MS),
           "BENCH_HEAD": f"POST /v1/keys/verify HTTP/1.1\r\n{HEAD}Content-Type: application/json\r\n"
                         f"Content-Length: {length}\r\n\r\n{body[0]}"}
    return wrk(server, "", CALLERS, SECONDS, env)


def main():
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    runs = {state: [] for state in STATES}
    with directory() as dir:
        fill(dir, KEYS, EVENTS)
        keys = list(secrets(0, KEYS))
        with open(f"{dir}/keys", "w") as file:
            file.writelines(f"{key}\n" for key in keys)
        with Server(dir, TOLLHOUSE_HTTP__MAX_CONNECTIONS=str(SLOW + 500)) as server:
            verify(server, dir, keys[0])
            idle = connections(server)
            for _ in range(ALTERNATIONS):
                for state, works in STATES.items():
                    with ExitStack() as stack:
                        for work, least in works:
                            stack.enter_context(beside(work, server.url, least))
                        runs[state].append(verify(server, dir, keys[0]))
                    print(f"{state}: {runs[state][-1]}", file=sys.stderr, flush=True)
                    while connections(server) > idle + 20:
                        time.sleep(0.01)
    print(f"{os.cpu_count()} processors, {CALLERS} callers.\n")
    print("| beside | verifications/s | p50, ms | p99, ms | p99 to that alone |")
    print("| --- | ---: | ---: | ---: | ---: |")
    median = lambda runs, what: statistics.median(run[what] for run in runs)
    for state, own in runs.items():
        ratio = statistics.median(run["p99_us"] / alone["p99_us"] for run, alone in zip(own, runs["alone"]))
        print(f"| {state} | {median(own, 'rate'):,.0f} | {median(own, 'p50_us') / 1000:.2f} "
              f"| {median(own, 'p99_us') / 1000:.2f} | {ratio:.1f} |")


main()
