"""Commands that overlap, and logs that nobody reads."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from crashes import check_file, check_stopped, count_unexpected, directory
from ledger import Ledger
from load import Load, create_quota_key
from shim import Server, run, settings_of_environment

TOGETHER = 3  # backups that begin at once
STOP_SECONDS = 20


def start(*arguments, data):
    return subprocess.Popen([Server.program, *map(str, arguments), "--data", str(data)], env=settings_of_environment(),
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class OverlappingCommands:
    """Commands beside a server under load and beside each other."""
    name = "overlapping commands"

    def run(self, result, rng, until):
        with directory() as dir:
            dir = Path(dir)
            ledger = Ledger()
            with Server(dir) as server:
                create_quota_key(server, ledger, "quota")
                with Load(server, ledger, rng.random(), "o", clients=4, pause=0.002) as load:
                    load.wait_for(200)
                    first = True
                    while first or time.monotonic() < until:
                        first = False
                        self.once(dir, result, rng)
                    server.kill()
                    load.stopped.set()
            result.acknowledged += ledger.acknowledged()
            count_unexpected(ledger, result)
            check_stopped(dir, ledger, result, rng)
            check_file(dir, result)

    def once(self, dir, result, rng):
        data = dir / "data"
        self.backups_at_one_name(dir, data, rng.random() < 0.5, result)
        self.killed_backup(dir, data, rng, result)
        for arguments in (("check",), ("audit", "verify"), ("export", "--output", dir / "export"),
                          ("audit", "export", "--output", dir / "audit"), ("admin-key", "create", "--name", "n")):
            result.tried += 1
            status, output = run(*arguments, data=data)
            if status == 2:  # A usage error would test nothing.
                raise SystemExit(f"{arguments}: {output}")
            if status:
                result.add_wrong(f"{arguments[0]} beside a server fails: {output.strip()[:150]}")
            for written in ("export", "audit"):
                (dir / written).unlink(missing_ok=True)
        for arguments in (("serve", "--listen", "127.0.0.1:0"), ("restore", "--force", dir / "backup.db")):
            result.tried += 1
            try:
                status, _ = run(*arguments, data=data, timeout=10)
            except subprocess.TimeoutExpired:
                status = 0
            if status == 0:
                result.add_wrong(f"{arguments[0]} beside a server was not refused")

    def backups_at_one_name(self, dir, data, force, result):
        """Of several backups at one name, one that exits with 0 must have left a sound file."""
        file = dir / "backup.db"
        file.unlink(missing_ok=True)
        arguments = ["backup", file] + (["--force"] if force else [])
        backups = [start(*arguments, data=data) for _ in range(TOGETHER)]
        statuses = [backup.wait(60) for backup in backups]
        result.tried += TOGETHER
        if 0 not in statuses:
            result.add_wrong("no backup of several at one name succeeds")
        elif run("check", file)[0]:
            result.add_wrong(f"{statuses.count(0)} backups at one name exit with 0, and the file is not ok")
            file.unlink(missing_ok=True)
        if not file.exists():
            status, output = run("backup", file, data=data)
            if status:
                result.add_wrong(f"backup: {output.strip()[:150]}")

    def killed_backup(self, dir, data, rng, result):
        """A backup that is killed leaves nothing that remains after the next one."""
        file = dir / "killed.db"
        backup = start("backup", file, data=data)
        time.sleep(rng.random() * 0.05)  # Spreads the kills over its run.
        backup.send_signal(signal.SIGKILL)
        backup.wait()
        result.tried += 1
        status, output = run("backup", "--force", file, data=data)
        if status:
            result.add_wrong(f"a backup after a killed one fails: {output.strip()[:150]}")
        left = [path.name for path in dir.iterdir() if path.name.startswith("killed.db") and path != file]
        left += [path.name for path in dir.iterdir() if path.name.startswith(".killed")]
        if left:
            result.add_wrong("a part of a killed backup remains")
        for name in [*left, file.name]:
            (dir / name).unlink(missing_ok=True)


class UnreadLogs:
    """Standard error is a pipe that nobody reads, a closed pipe, or full."""
    name = "unread logs"
    REQUESTS = 1_500  # whose log lines are more than a pipe holds

    def run(self, result, rng, until):
        first = True
        while first or time.monotonic() < until:
            first = False
            for kind in ("unread pipe", "closed pipe", "/dev/full"):
                with directory() as dir:
                    self.once(kind, Path(dir), result, rng)

    def once(self, kind, dir, result, rng):
        ledger = Ledger()
        result.tried += 1
        with Unlogged(dir, kind) as server:
            if not server.opened():
                result.add_wrong(f"{kind}: does not start")
                return
            with Load(server, ledger, rng.random(), "l") as load:
                if not load.wait_for(self.REQUESTS, seconds=30):
                    result.add_wrong(f"{kind}: requests are not answered")
                    server.kill()
                    load.stopped.set()
            server.process.send_signal(signal.SIGTERM)
            try:
                server.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                result.add_wrong(f"{kind}: SIGTERM does not stop it")
        result.acknowledged += ledger.acknowledged()
        count_unexpected(ledger, result)
        check_stopped(dir, ledger, result, rng)


class Unlogged(Server):
    """A server whose standard error is not a file. Its port is chosen before, since it can't tell it."""

    def __init__(self, dir, kind):
        super().__init__(dir, TOLLHOUSE_LOG__LEVEL="debug")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.command[self.command.index("127.0.0.1:0")] = f"127.0.0.1:{port}"
        self.kind = kind

    def __enter__(self):
        if self.kind == "/dev/full":
            self.ends = [os.open(self.kind, os.O_WRONLY)]
        else:
            self.ends = list(reversed(os.pipe()))
        # Log lines may not end the program, also not by the signal that a shell leaves at its default.
        self.process = subprocess.Popen(self.command, env=self.env, stderr=self.ends[0])
        if self.kind == "closed pipe":
            os.close(self.ends.pop())
        return self

    def opened(self):
        try:
            self.log.write_text("")
            self.wait_until_open()
            return True
        except SystemExit:
            return False

    def __exit__(self, *arguments):
        super().__exit__(*arguments)
        for end in self.ends:
            os.close(end)
