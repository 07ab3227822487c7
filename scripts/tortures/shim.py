"""The program under shim.c, its faults, and the clients that talk to it."""

import json
import mmap
import os
import socket
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benches"))
from harness import KEY, PROGRAM, TARGET, Client, Program  # noqa: E402

# The order is that of `struct control` in shim.c.
FIELDS = ("clock_offset", "sync_errno", "sync_swallow", "sync_delay", "write_errno", "grow_errno", "room", "targets",
          "faults", "recorded")
DATABASE, WAL, OTHER = 1, 2, 4
ALL = DATABASE | WAL | OTHER
LIBRARY = TARGET / "torture" / "shim.so"

# Refusals that state that nothing was done.
REFUSALS = {"UNAVAILABLE", "STORAGE_FULL"}
TIMEOUT = 20  # seconds for a response


def build():
    """Compiles the shim. A program whose libc can't be preloaded would not be affected, which `faults` shows."""
    LIBRARY.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", LIBRARY, Path(__file__).parent / "shim.c", "-ldl",
                    "-lpthread"], check=True)


class Control:
    """The faults of the servers that use the same file."""

    def __init__(self, file):
        self.file = Path(file)
        self.file.write_bytes(bytes(8 * len(FIELDS)))
        with open(self.file, "r+b") as opened:
            self.mapped = mmap.mmap(opened.fileno(), 0)
        self.set(targets=ALL)

    def set(self, **values):
        for name, value in values.items():
            struct.pack_into("q", self.mapped, 8 * FIELDS.index(name), value)

    def get(self, name):
        return struct.unpack_from("q", self.mapped, 8 * FIELDS.index(name))[0]

    def position(self):
        """The end of the record. What was written before a response was received lies before it."""
        return self.get("recorded")

    def clear(self):
        self.set(**{name: 0 for name in FIELDS if name not in ("targets", "faults", "recorded")})


def settings_of_environment(**settings):
    """The environment of a server: without the caller's settings, and without limits on the number of calls."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("TOLLHOUSE_")}
    env |= {"TOLLHOUSE_ADMIN_KEY": KEY, "TOLLHOUSE_RATE_LIMITS__ADMIN_PER_MINUTE": "0",
            "TOLLHOUSE_RATE_LIMITS__BATCH_PER_MINUTE": "0",
            "TOLLHOUSE_PLANS__STANDARD__KEY_LIMITS": "[]",
            "TOLLHOUSE_PLANS__STANDARD__ORGANIZATION_LIMITS": "[]"} | settings
    return {name: value for name, value in env.items() if value is not None}


class Server(Program):
    """The program on the data directory `dir/data`. `control` puts the shim in between, `record` also records what is
    written. Unlike in a benchmark its end is not checked."""

    program = PROGRAM

    def __init__(self, dir, control=None, record=None, **settings):
        self.dir = Path(dir)
        self.data = self.dir / "data"
        env = settings_of_environment(**settings)
        if control:
            env |= {"LD_PRELOAD": str(LIBRARY), "TORTURE_DIR": str(self.data), "TORTURE_CONTROL": str(control.file)}
        if record:
            env["TORTURE_RECORD"] = str(record)
        command = [self.program, "serve", "--listen", "127.0.0.1:0", "--data", str(self.data)]
        super().__init__(command, dir, env)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def readyz(self, write=False):
        """The status of the readiness check; with `write`, of the one that asks for changes, too."""
        query = "?write=true" if write else ""
        try:
            with urllib.request.urlopen(self.url + "/readyz" + query, timeout=TIMEOUT) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code

    def caller(self, secret=KEY):
        return Caller(self.url, secret)


def run(*arguments, data=None, timeout=60, **options):
    """Runs a command of the program. Returns its exit status and what it wrote."""
    command = [Server.program, *map(str, arguments)] + (["--data", str(data)] if data else [])
    done = subprocess.run(command, env=settings_of_environment(), capture_output=True, text=True, timeout=timeout,
                          **options)
    return done.returncode, done.stdout + done.stderr


class Caller:
    """A connection of a platform key, which is opened again after an error."""

    def __init__(self, url, secret=KEY):
        self.url = url
        self.secret = secret
        self.client = None

    def call(self, method, path, body=None, request_id=None, headers=()):
        """Returns the status, `data` and the error code. The status is None if there was no response."""
        try:
            if not self.client:
                self.client = Client(self.url, self.secret, timeout=TIMEOUT)
            text = "" if body is None else json.dumps(body)
            head = self.client.head + (f"X-Request-Id: {request_id}\r\n" if request_id else "")
            head += "".join(f"{name}: {value}\r\n" for name, value in dict(headers).items())
            head += f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n" if text else ""
            status, response = self.client.exchange(f"{method} {path} HTTP/1.1\r\n{head}\r\n{text}")
        except (OSError, socket.timeout):
            self.client = None
            return None, None, None
        response = json.loads(response)
        return status, response.get("data"), (response.get("error") or {}).get("code")

    def verify(self, secret, **costs):
        """The code of a verification with these costs by meter, or of the error; None if there was no response."""
        _, data, error = self.call("POST", "/v1/keys/verify", {"key": secret, "costs": costs})
        return data["code"] if data else error
