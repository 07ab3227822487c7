"""A full disk."""

import errno
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from crashes import check_stopped, count_unexpected, directory
from ledger import ACKNOWLEDGED, REFUSED, Ledger
from load import Load, Writer
from shim import Control, Server

TMPFS_MIB = 64
KEYS = 150  # that are there before the disk is full
MEASURED_KEYS = 10_000  # more than the reserve has room for
BATCH = 100
FOLLOWS_WITHIN = 1.0  # seconds from the response to a revocation until no verification is VALID


@contextmanager
def tmpfs(dir):
    """Yields what fills and frees a small file system that is mounted at `dir`."""
    dir.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MIB}m,mode=0700", "tmpfs", dir], check=True)
    filler = dir / "filler"

    def fill():
        with open(filler, "ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    try:
        yield fill, filler.unlink
    finally:
        subprocess.run(["umount", "--lazy", dir], check=True)


def can_mount(dir):
    try:
        with tmpfs(dir):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


class FullDisk:
    """Changes until the disk is full, revocations on the full disk, a stop and a start there, then room again."""
    name = "full disk"

    def run(self, result, rng, until):
        kinds = ["tmpfs", errno.ENOSPC, errno.EDQUOT, errno.EFBIG, "max_bytes"]
        with directory() as dir:
            if not can_mount(Path(dir) / "mount"):
                kinds.remove("tmpfs")
                result.notes["tmpfs left out: no permission to mount"] += 1
        if "tmpfs" in kinds:
            with directory() as dir, ExitStack() as stack:
                self.measure_reserve(Path(dir), stack, result)
        first = True
        while first or time.monotonic() < until:
            first = False
            for kind in kinds:
                with directory() as dir, ExitStack() as stack:
                    self.once(kind, Path(dir), stack, result, rng)

    def once(self, kind, dir, stack, result, rng):
        name = kind if isinstance(kind, str) else errno.errorcode[kind]
        control = Control(dir / "control")
        settings = {}
        if kind == "tmpfs":
            fill, free = stack.enter_context(tmpfs(dir / "data"))
        elif kind == "max_bytes":
            settings["TOLLHOUSE_DATABASE__MAX_BYTES"] = str(2 << 20)
            fill = free = lambda: None
        else:
            fill, free = lambda: control.set(grow_errno=kind), control.clear
        ledger = Ledger()
        writer = None
        with Server(dir, control, **settings) as server:
            writer = Writer(server, ledger, rng, "full", lambda: 0)
            for _ in range(KEYS):
                writer.create()
            fill()
            self.write_until_full(server, ledger, name, result, rng)
            result.tried += 1
            self.revoke(server, writer, name, KEYS // 3, result, rng)
            stopping = time.monotonic()
            try:
                status = server.stop()
                result.notes[f"stop on a full disk: exit {status}"] += 1
            except subprocess.TimeoutExpired:
                result.add_wrong(f"{name}: SIGTERM did not stop it in {time.monotonic() - stopping:.0f} s")
        try:
            with Server(dir, control, **settings) as server:
                self.revoke(server, writer, f"{name}, after a restart", KEYS // 3, result, rng)
                free()
                if kind != "max_bytes":
                    self.write_again(writer, name, result)
        except SystemExit as error:
            result.add_wrong(f"{name}: no start on a full disk")
            result.notes[f"start: {str(error).splitlines()[-1][:150]}"] += 1
            free()
        result.acknowledged += ledger.acknowledged()
        count_unexpected(ledger, result)
        check_stopped(dir, ledger, result, rng)

    def measure_reserve(self, dir, stack, result):
        """Counts the revocations on a full disk until one is refused, and how long verification takes to follow."""
        fill, _ = stack.enter_context(tmpfs(dir / "data"))
        with Server(dir) as server:
            caller = server.caller()
            secrets = {}
            for _ in range(MEASURED_KEYS // BATCH):
                create = {"method": "POST", "path": "/api-keys", "body": {"name": "n", "scopes": []}}
                status, data, code = caller.call("POST", "/admin/v1/batch", {"operations": [create] * BATCH})
                if status != 200:
                    raise SystemExit(f"the keys were not created: {status} {code}")
                created = (operation["body"]["data"] for operation in data["results"])
                secrets |= {key["id"]: key["key"] for key in created}
            fill()
            end = time.monotonic() + 5
            while caller.call("POST", "/admin/v1/api-keys", {"name": "n", "scopes": []})[0] == 201:
                if time.monotonic() > end:
                    break
            revoked, slowest = 0, 0.0
            for id, secret in secrets.items():
                status, _, _ = caller.call("POST", f"/admin/v1/api-keys/{id}/revoke", {"reason": "full disk"})
                told = time.monotonic()
                if status != 200:
                    break
                revoked += 1
                if caller.verify(secret) == "VALID":
                    result.revoked_valid += 1
                slowest = max(slowest, time.monotonic() - told)
            result.notes["revocations on a full disk until one was refused"] = revoked
            result.notes["slowest verification after such a revocation, µs"] = round(slowest * 1e6)

    def write_until_full(self, server, ledger, name, result, rng):
        """Changes until several in a row are refused."""
        end = time.monotonic() + 20
        with Load(server, ledger, rng.random(), "fill", clients=4) as load:
            while time.monotonic() < end:
                load.wait_for(50, seconds=2)
                latest = [change.outcome for writer in load.writers for key in writer.keys[-3:]
                          for change in key.changes]
                if latest and not latest.count(ACKNOWLEDGED):
                    return
        result.notes[f"{name}: still changes after 20 s"] += 1

    def revoke(self, server, writer, name, count, result, rng):
        """Revokes and disables keys, and verifies each before and after. A limit on the size of a file (EFBIG) leaves
        no way to store that; it must be refused as on a full disk."""
        writer.caller = server.caller()  # The server closes a connection that was idle while the disk was filled.
        keys = [key for key in writer.keys if key.is_settled() and key.last() and key.last().status == "active"]
        for number, key in enumerate(keys[:count]):
            secret = key.last().secret
            code = writer.caller.verify(secret)
            if code != "VALID":
                result.add_wrong(f"{name}: an active key is {code}")
            outcome = writer.change(key, "revoke" if number % 2 else "withdraw")
            told = time.monotonic()
            if outcome == REFUSED and name.startswith("EFBIG"):
                result.notes["revocations refused at the largest size of a file"] += 1
                continue
            if outcome != ACKNOWLEDGED:
                result.add_wrong(f"{name}: revocations that {'were refused' if outcome == REFUSED else 'failed'}")
                if number >= 10:
                    return
                continue
            result.notes["revocations on a full disk"] += 1
            if writer.caller.verify(secret) == "VALID":
                result.revoked_valid += 1
            elif time.monotonic() - told > FOLLOWS_WITHIN:
                result.notes["verifications that took more than a second to follow"] += 1

    def write_again(self, writer, name, result):
        end = time.monotonic() + 15
        while time.monotonic() < end:
            if writer.create() == ACKNOWLEDGED:
                return
            time.sleep(0.05)
        result.add_wrong(f"{name}: no change succeeds after there is room again")
