"""What every bench needs: the release program in a directory of its own, wrk, and this machine's disk."""

import json
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
PROGRAM = TARGET / "release" / "tollhouse"
KEY = "the-admin-key-of-a-benchmark-0123456789"


def directory():
    """On the disk that the build is on: /tmp may be memory, where an fsync costs nothing."""
    return tempfile.TemporaryDirectory(prefix="bench-", dir=TARGET)


class Server:
    """The program over a new database. Leaving it stops it."""

    def __init__(self, dir, **settings):
        self.dir = Path(dir)
        self.file = self.dir / "data" / "tollhouse.db"
        # No limits on calls, and nothing of the caller's own environment.
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("TOLLHOUSE_")}
        self.env |= {"TOLLHOUSE_ADMIN_KEY": KEY, "TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE": "0"} | settings
        self.log = self.dir / "log"

    def __enter__(self):
        command = [PROGRAM, "--listen", "127.0.0.1:0", "--data", self.file.parent]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, env=self.env, stderr=log)
        try:
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

    def __exit__(self, *_):
        if self.stop() != 0:
            raise SystemExit(f"the server ended badly:\n{self.log.read_text()[-2000:]}")

    def stop(self):
        """As an operator would. The exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

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
        env = os.environ | {"BENCH_METHOD": method, "BENCH_KEY": KEY}
        if body is not None:
            env["BENCH_BODY"] = json.dumps(body)
        wrk = ["wrk", "-t1", f"-c{callers}", f"-d{seconds}s", "-s", Path(__file__).parent / "wrk.lua"]
        wrk = subprocess.run([*wrk, self.url + path], env=env, capture_output=True, text=True, check=True)
        result = json.loads(re.search(r"RESULT (.*)", wrk.stdout)[1])
        if result["not_2xx"] or result["broken"] or not result["requests"]:
            raise SystemExit(f"not every request was answered well:\n{wrk.stdout}")
        result["rate"] = result["requests"] * 1e6 / result["us"]
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
