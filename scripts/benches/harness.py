"""What every bench needs: programs in directories of their own, wrk, and this machine's disk."""

import json
import os
import re
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlencode, urlsplit

BENCHES = Path(__file__).resolve().parent
ROOT = BENCHES.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
PROGRAM = TARGET / "release" / "tollhouse"
KEY = "the-admin-key-of-a-benchmark-0123456789"


def directory():
    """On the disk that the build is on: /tmp may be memory, where an fsync costs nothing."""
    return tempfile.TemporaryDirectory(prefix="bench-", dir=TARGET)


class Program:
    """A server in a process of its own. Leaving it stops it."""

    def __init__(self, command, dir, env=None, url=None):
        self.command = command
        self.env = env
        self.url = url  # None: it says so itself.
        self.log = Path(dir) / "log"

    def __enter__(self):
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(self.command, env=self.env, stderr=log)
        try:
            if self.url:
                self.wait_until_open()
            else:
                self.url = self.wait_for(r"listening on (\S+)\n")[1]
        except BaseException:
            self.stop()
            raise
        return self

    def wait_for(self, pattern):
        """The first match in the log."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if found := re.search(pattern, self.log.read_text()):
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise SystemExit(f"not in the log: {pattern}\n{self.log.read_text()[-2000:]}")

    def wait_until_open(self):
        """Until it accepts connections."""
        deadline = time.monotonic() + 30
        url = urlsplit(self.url)
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                return socket.create_connection((url.hostname, url.port)).close()
            except ConnectionRefusedError:
                time.sleep(0.01)
        raise SystemExit(f"nobody listens at {self.url}\n{self.log.read_text()[-2000:]}")

    def __exit__(self, *_):
        if self.stop() != 0:
            raise SystemExit(f"the server ended badly:\n{self.log.read_text()[-2000:]}")

    def stop(self):
        """As an operator would. The exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def processor_seconds(self):
        """What it and its children have used of the processors so far."""
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}")
        pids = [self.process.pid, *(task / "children").read_text().split()]
        # After the name, which may hold anything, user time and system time are the 12th and 13th.
        stats = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


class Client:
    """One connection to a server, one request after the other. Any other status than wanted fails the bench."""

    def __init__(self, url, key):
        self.head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
        self.socket = socket.create_connection((urlsplit(url).hostname, urlsplit(url).port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, path, **query):
        """The answer's body, and how long it took in µs."""
        path = f"{path}?{urlencode(query)}" if query else path
        return self.send(f"GET {path} HTTP/1.1\r\n{self.head}\r\n")

    def verify(self, secret, **more):
        body = json.dumps({"key": secret} | more)
        return self.send(f"POST /v1/keys/verify HTTP/1.1\r\n{self.head}Content-Type: application/json\r\n"
                         f"Content-Length: {len(body)}\r\n\r\n{body}")

    def send(self, request, status=200):
        request = request.encode()
        begin = time.perf_counter_ns()
        self.socket.sendall(request)
        answer, length = b"", None
        while length is None or len(answer) < length:
            part = self.socket.recv(1 << 18)
            answer += part
            if length is None and b"\r\n\r\n" in answer:
                head, _, _ = answer.partition(b"\r\n\r\n")
                length = len(head) + 4 + int(re.search(rb"content-length: (\d+)", head)[1])
            if not part:
                break
        took = (time.perf_counter_ns() - begin) / 1000
        if not answer.startswith(f"HTTP/1.1 {status} ".encode()):
            raise SystemExit(f"{request.decode()}\nwas answered\n{answer.decode()}")
        return answer[len(head) + 4:], took


class Server(Program):
    """Tollhouse over a directory of its own."""

    def __init__(self, dir, **settings):
        self.file = Path(dir) / "data" / "tollhouse.db"
        self.dir = Path(dir)
        # No limits on calls, and nothing of the caller's own environment.
        env = {name: value for name, value in os.environ.items() if not name.startswith("TOLLHOUSE_")}
        env |= {"TOLLHOUSE_ADMIN_KEY": KEY, "TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE": "0",
                "TOLLHOUSE_RATE_LIMITS__BATCH_PER_MINUTE": "0"} | settings
        super().__init__([PROGRAM, "--listen", "127.0.0.1:0", "--data", self.file.parent], dir, env)

    def count_syncs(self):
        """Has strace count the writer's syncs until the server stops; then `strace.wait()` leaves the
        count in the file `syncs`. The other threads, which sync nothing, are not slowed down."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        writer, = (task for task in tasks.iterdir() if (task / "comm").read_text() == "writer\n")
        strace = ["strace", "-c", "-e", "trace=fsync,fdatasync", "-o", self.dir / "syncs", "-p", writer.name]
        strace = subprocess.Popen(strace, stderr=subprocess.DEVNULL)
        while "TracerPid:\t0\n" in (writer / "status").read_text():
            if strace.poll() is not None:
                raise SystemExit("strace could not be attached to the writer")
            time.sleep(0.01)
        return strace

    def stopped(self):
        """What a server that has ended says of its writer: mutations and commits."""
        last = self.log.read_text().strip().splitlines()[-1]
        return tuple(int(re.search(rf'"?{name}"?[=:]\s*(\d+)', last)[1]) for name in ("mutations", "commits"))

    def call(self, method, path, body):
        """One request; the `data` of its answer."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), method=method)
        request.add_header("Authorization", f"Bearer {KEY}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["data"]

    def load(self, method, path, callers, seconds, body=None):
        """The same request from so many connections at once. Anything but a 2xx fails the bench."""
        env = {"BENCH_METHOD": method, "BENCH_KEY": KEY}
        if body is not None:
            env["BENCH_BODY"] = json.dumps(body)
        return wrk(self, path, callers, seconds, env)


def wrk(program, path, connections, seconds, env, threads=1):
    """Runs the load generator with what the environment tells wrk.lua. Anything but a 2xx fails the bench."""
    env = env | {"BENCH_THREADS": str(threads)}
    command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s",
               "-s", BENCHES / "wrk.lua", program.url + path]
    before = program.processor_seconds()
    ended = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=True)
    used = program.processor_seconds() - before
    result = json.loads(re.search(r"RESULT (.*)", ended.stdout)[1])
    if result["not_2xx"] or result["broken"] or not result["requests"]:
        raise SystemExit(f"not every request was answered well:\n{ended.stdout}")
    result["rate"] = result["requests"] * 1e6 / result["us"]
    result["processor_us"] = used * 1e6 / result["requests"]
    return result


def fdatasync_us(dir, times=1000):
    """Median and 99th percentile of what a 4 KiB append with its fdatasync takes here."""
    took = []
    with open(Path(dir) / "fdatasync", "wb", buffering=0) as file:
        for _ in range(times):
            file.write(b"x" * 4096)
            begin = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(took), statistics.quantiles(took, n=100)[98]
