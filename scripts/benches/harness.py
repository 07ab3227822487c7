"""Helpers of all benchmarks: programs in separate directories, clients, wrk, and the speed of this machine's disk."""

import argparse
import json
import math
import multiprocessing
import os
import re
import resource
import signal
import socket
import ssl
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode, urlsplit

BENCHES = Path(__file__).resolve().parent
ROOT = BENCHES.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
PROGRAM = TARGET / "release" / "tollhouse"
KEY = "the-admin-key-of-a-benchmark-0123456789"
# A program that uses less of a processor than this part, for longer than `usage.flush_interval`, is idle.
IDLE_PART = 0.05
IDLE_SECONDS = 1.5


def directory():
    """A temporary directory on the disk of the build. /tmp may be in memory, where an fsync costs nothing."""
    return tempfile.TemporaryDirectory(prefix="bench-", dir=TARGET)


class Program:
    """A server in a separate process, which stops when the context is left."""

    def __init__(self, command, dir, env=None, url=None):
        self.command = command
        self.env = env
        self.url = url  # If None, the URL is read from the log.
        self.log = Path(dir) / "log"

    def __enter__(self):
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(self.command, env=self.env, stderr=log)
        try:
            if self.url:
                self.wait_until_open()
            else:
                self.url = self.wait_for(r'listening on ([^\s"]+)')[1]
        except BaseException:
            self.stop()
            raise
        return self

    def wait_for(self, pattern):
        """Waits for the first match in the log and returns it."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if match := re.search(pattern, self.log.read_text()):
                return match
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise SystemExit(f"not in the log: {pattern}\n{self.log.read_text()[-2000:]}")

    def wait_until_open(self):
        """Waits until the server accepts connections."""
        deadline = time.monotonic() + 30
        url = urlsplit(self.url)
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                return socket.create_connection((url.hostname, url.port)).close()
            except ConnectionRefusedError:
                time.sleep(0.01)
        raise SystemExit(f"nothing listens at {self.url}\n{self.log.read_text()[-2000:]}")

    def __exit__(self, *_):
        if self.stop() != 0:
            raise SystemExit(f"the server failed:\n{self.log.read_text()[-2000:]}")

    def stop(self, timeout=30):
        """Sends SIGTERM, waits for the exit and returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def thread_times(self):
        """The name of each thread of the process and its children, and the CPU time in µs that it has used so far."""
        main = Path(f"/proc/{self.process.pid}/task/{self.process.pid}")
        times = {}
        for pid in (self.process.pid, *(main / "children").read_text().split()):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                try:
                    name = (thread / "comm").read_text().rstrip()
                    times[thread] = name, int((thread / "schedstat").read_text().split()[0]) / 1000
                except (FileNotFoundError, ProcessLookupError):
                    pass  # The thread has ended.
        return times

    def processor_us_since(self, before):
        """CPU time in µs since `before`, which is a result of `thread_times`, by name of the threads."""
        used = Counter()
        for thread, (name, us) in self.thread_times().items():
            used[name] += us - before.get(thread, (name, 0))[1]
        return used

    def wait_until_idle(self):
        """Waits until the program has finished what it does after its last response, such as writing usage."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            before = self.thread_times()
            time.sleep(IDLE_SECONDS)
            if self.processor_us_since(before).total() < IDLE_PART * IDLE_SECONDS * 1e6:
                return
        raise SystemExit(f"still busy two minutes after the last request: {self.command[0]}")

    def memory_mib(self, name):
        """A value of /proc/PID/status in MiB: `VmRSS` is the resident memory, `VmHWM` its peak."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) / 1024


class Client:
    """Sends requests one after the other over one connection. An unexpected status fails the benchmark."""

    def __init__(self, url, key, timeout=None):
        url = urlsplit(url)
        self.head = f"Host: {url.hostname}\r\nAuthorization: Bearer {key}\r\n"
        self.socket = socket.create_connection((url.hostname, url.port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if url.scheme == "https":
            self.socket = tls_client().wrap_socket(self.socket)

    def get(self, path, **query):
        """Returns the response's body and the duration in µs."""
        path = f"{path}?{urlencode(query)}" if query else path
        return self.send(f"GET {path} HTTP/1.1\r\n{self.head}\r\n")

    def verify(self, secret, **fields):
        return self.send(self.with_body("POST", "/v1/keys/verify", {"key": secret} | fields))

    def with_body(self, method, path, body):
        """Builds a request with a JSON body."""
        body = json.dumps(body)
        return (f"{method} {path} HTTP/1.1\r\n{self.head}Content-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}")

    def send(self, request, status=200):
        begin = time.perf_counter_ns()
        actual, body = self.exchange(request)
        duration = (time.perf_counter_ns() - begin) / 1000
        if actual != status:
            raise SystemExit(f"unexpected response to\n{request}\n\n{actual} {body.decode()}")
        return body, duration

    def exchange(self, request):
        """Sends a request and returns the status and the body of the response."""
        self.socket.sendall(request.encode())
        response = b""
        length = None
        while length is None or len(response) < length:
            chunk = self.socket.recv(1 << 18)
            if not chunk:
                raise ConnectionError(f"the connection was closed after {response[:1000]}")
            response += chunk
            if length is None and b"\r\n\r\n" in response:
                head, _, _ = response.partition(b"\r\n\r\n")
                length = len(head) + 4 + int(re.search(rb"content-length: (\d+)", head)[1])
        return int(head.split()[1]), response[len(head) + 4:]


def tls_client(*protocols):
    """A TLS configuration that accepts any certificate and offers these protocols."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


class Server(Program):
    """Tollhouse with a separate data directory. `wrapper` is a command that runs the program, and a setting that is
    None has its default."""

    def __init__(self, dir, program=None, wrapper=(), **settings):
        self.file = Path(dir) / "data" / "tollhouse.db"
        self.dir = Path(dir)
        # Without limits on calls, and without settings from the environment.
        env = {name: value for name, value in os.environ.items() if not name.startswith("TOLLHOUSE_")}
        env |= {"TOLLHOUSE_ADMIN_KEY": KEY, "TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE": "0",
                "TOLLHOUSE_RATE_LIMITS__BATCH_PER_MINUTE": "0"} | settings
        env = {name: value for name, value in env.items() if value is not None}
        command = [*wrapper, program or PROGRAM, "--listen", "127.0.0.1:0", "--data", self.file.parent]
        super().__init__(command, dir, env)

    def count_syncs(self):
        """Starts strace to count the writer thread's syncs until the server stops. After `strace.wait()` the
        file `syncs` contains the count. The other threads don't sync and are not slowed down."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        writer, = (task for task in tasks.iterdir() if (task / "comm").read_text() == "writer\n")
        strace = ["strace", "-c", "-e", "trace=fsync,fdatasync", "-o", self.dir / "syncs", "-p", writer.name]
        strace = subprocess.Popen(strace, stderr=subprocess.DEVNULL)
        while "TracerPid:\t0\n" in (writer / "status").read_text():
            if strace.poll() is not None:
                raise SystemExit("strace could not be attached to the writer")
            time.sleep(0.01)
        return strace

    def writer_totals(self):
        """Mutations and commits of the writer, from the last log line of a stopped server."""
        last = self.log.read_text().strip().splitlines()[-1]
        return tuple(int(re.search(rf'"?{name}"?[=:]\s*(\d+)', last)[1]) for name in ("mutations", "commits"))

    def call(self, method, path, body):
        """Sends one request and returns `data` of the response."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), method=method)
        request.add_header("Authorization", f"Bearer {KEY}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request) as response:
            return json.load(response)["data"]

    def load(self, method, path, callers, seconds, body=None):
        """Sends the same request from `callers` connections at once. Any status but 2xx fails the benchmark."""
        env = {"BENCH_METHOD": method, "BENCH_KEY": KEY}
        if body is not None:
            env["BENCH_BODY"] = json.dumps(body)
        return wrk(self, path, callers, seconds, env)

    def load_lines(self, method, path, lines, body, connections, seconds, key=KEY, threads=1, offset=0, count=None,
                   **variables):
        """Sends a request for each line of a file, from the byte `offset` on, and starts over at its end. `body` is
        the JSON before and after the line. Any status but 2xx fails the benchmark."""
        with open(lines) as file:
            line = file.readline().rstrip("\n")
            count = count or 1 + sum(1 for _ in file)
        head = (f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(line.join(body))}\r\n\r\n{body[0]}")
        return wrk(self, "", connections, seconds, {
            "BENCH_KEYS": str(lines), "BENCH_COUNT": str(count), "BENCH_OFFSET": str(offset), "BENCH_HEAD": head,
            "BENCH_TAIL": body[1]} | variables, threads)


def wrk(program, path, connections, seconds, env, threads=1, until_idle=False):
    """Runs the load generator with these variables for wrk.lua. Any status but 2xx fails the benchmark. With
    `until_idle`, the CPU time includes what the program does after the last response, and the next run is not disturbed
    by it."""
    env = env | {"BENCH_THREADS": str(threads)}
    command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s",
               "-s", BENCHES / "wrk.lua", program.url + path]
    before = program.thread_times()
    process = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=True)
    if until_idle:
        program.wait_until_idle()
    used = program.processor_us_since(before)
    result = json.loads(re.search(r"RESULT (.*)", process.stdout)[1])
    if result["not_2xx"] or result["broken"] or not result["requests"]:
        raise SystemExit(f"some requests failed:\n{process.stdout}")
    result["rate"] = result["requests"] * 1e6 / result["us"]
    result["threads_us"] = Counter({name: us / result["requests"] for name, us in used.items()})
    result["processor_us"] = used.total() / result["requests"]
    return result


def write_lines(file, lines):
    with open(file, "w") as opened:
        opened.writelines(f"{line}\n" for line in lines)
    return file


def allow_many_files():
    """Raises the limit on open files as far as possible, also for the programs that are started."""
    max_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, max_files))


def run_idle(work, url, counter):
    """Runs work with idle priority, so that the CPU time of these clients does not affect the measurement."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    work(url, counter)


@contextmanager
def background_load(work, url, counter):
    """Runs work in a separate process with idle priority. It may not end by itself."""
    process = multiprocessing.Process(target=run_idle, args=(work, url, counter), daemon=True)
    process.start()
    try:
        yield process
        if not process.is_alive():
            raise SystemExit(f"the background load ended: {work}")
    finally:
        process.kill()
        process.join()


def programs_to_compare(name, description):
    """Reads the options of a benchmark that can compare two programs. Returns both, or None without options."""
    parser = argparse.ArgumentParser(prog=f"scripts/bench {name}", description=description)
    parser.add_argument("--before", type=Path, metavar="PROGRAM",
                        help="compare the same work with this program instead of measuring everything")
    parser.add_argument("--after", type=Path, metavar="PROGRAM", default=PROGRAM,
                        help="the other program, instead of the one that is built; only with --before")
    options = parser.parse_args()
    return options.before and (options.before.resolve(), options.after.resolve())


def measure_pairs(pairs, programs, measure):
    """Measures both programs in alternating order and returns the values of each."""
    values = [], []
    for pair in range(pairs):
        for index in (0, 1) if pair % 2 == 0 else (1, 0):
            values[index].append(measure(programs[index]))
    return values


def ratio_cells(before, after):
    """Cells of a table: the median of the ratios within a pair, the lowest and the highest."""
    ratios = [later / earlier for earlier, later in zip(before, after)]
    return f"{statistics.median(ratios):.2f} | {min(ratios):.2f}–{max(ratios):.2f}"


def percentile(values, percent):
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def fdatasync_us(dir, times=1000):
    """Median and 99th percentile of the duration of a 4 KiB append with fdatasync."""
    durations = []
    with open(Path(dir) / "fdatasync", "wb", buffering=0) as file:
        for _ in range(times):
            file.write(b"x" * 4096)
            begin = time.perf_counter()
            os.fdatasync(file.fileno())
            durations.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(durations), statistics.quantiles(durations, n=100)[98]
