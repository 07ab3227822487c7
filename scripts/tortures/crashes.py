"""Kills of the process, and syncs and writes that fail or are slow."""

import errno
import subprocess
import tempfile
import time
from pathlib import Path

from ledger import TRIED, Ledger, Stored
from load import Load, create_quota_key
from shim import ALL, DATABASE, TARGET, WAL, Control, Server, run

MAX_CHANGES = 300  # before a kill
ROUNDS_PER_DIRECTORY = 20  # so that a check of everything remains quick


def directory():
    """A temporary directory on the disk of the build. /tmp may be in memory, where a sync costs nothing."""
    return tempfile.TemporaryDirectory(prefix="torture-", dir=TARGET)


def check_stopped(dir, ledger, result, rng, position=None, tried=TRIED):
    """Starts the server on a directory whose last server ended, checks everything that was acknowledged, of the secrets
    only `tried` ones, and kills it. Returns false if it doesn't start."""
    try:
        with Server(dir) as server:
            ledger.check(Stored(server.data / "tollhouse.db"), result, position)
            ledger.probe(server.caller(), result, rng, position, tried)
    except SystemExit as error:
        result.add_wrong("the server did not start")
        result.add_lost("acknowledged changes unreachable", ledger.acknowledged(position))
        result.notes[f"start: {str(error).splitlines()[-1][:200]}"] += 1
        return False
    return True


def check_file(dir, result):
    """Lets the program check the database: pages, references, audit chain, counts."""
    status, output = run("check", data=Path(dir) / "data")
    if status:
        result.add_wrong(f"check: {output.strip().splitlines()[0][:150]}")


def kill_at_start(dir, rng):
    """Kills a server while it starts, which is when it recovers what an earlier kill has left."""
    server = Server(dir)
    with open(server.log, "w") as log:
        process = subprocess.Popen(server.command, env=server.env, stderr=log)
    time.sleep(rng.random() * 0.05)  # Spreads the kills over the start.
    process.kill()
    process.wait()


class Kills:
    """SIGKILL at a random moment while clients change keys and spend a quota, many times on one directory. Some kills
    hit a server that starts, or one that stops."""
    name = "SIGKILL under load"

    def __init__(self):
        self.dir = None

    def run(self, result, rng, until):
        while time.monotonic() < until or not result.tried:
            with directory() as dir:
                self.rounds(Path(dir), result, rng, until)

    def rounds(self, dir, result, rng, until):
        ledger = Ledger()
        for number in range(ROUNDS_PER_DIRECTORY):
            if number and rng.random() < 0.3:
                kill_at_start(dir, rng)
                result.tried += 1
                result.notes["while it started"] += 1
            with Server(dir) as server:
                if number % 5 == 0:
                    create_quota_key(server, ledger, f"quota-{number}")
                with Load(server, ledger, rng.random(), f"r{number}") as load:
                    if not load.wait_for(rng.randrange(MAX_CHANGES)):
                        result.add_wrong("changes were not answered")
                    if rng.random() < 0.2:
                        server.process.terminate()
                        result.notes["while it stopped"] += 1
                    time.sleep(rng.random() * 0.02)  # Spreads the kills over the time between two acknowledgments.
                    server.kill()
                    load.stopped.set()
            result.tried += 1
            if not check_stopped(dir, ledger, result, rng):
                break
            if time.monotonic() > until:
                break
        check_file(dir, result)
        result.acknowledged += ledger.acknowledged()
        count_unexpected(ledger, result)


def count_unexpected(ledger, result):
    for answer, count in ledger.unexpected.items():
        result.notes[f"answered {answer}"] += count


class Syncs:
    """Syncs and writes of the database or the WAL fail or are slow while clients change keys; then a SIGKILL."""
    name = "failing and slow syncs and writes"

    FAULTS = (
        ("sync", {"sync_errno": errno.EIO}),
        ("write", {"write_errno": errno.EIO}),
        ("slow sync", {"sync_delay": 50_000}),
    )

    def run(self, result, rng, until):
        kinds = [(name, fault, targets) for name, fault in self.FAULTS for targets in (WAL, DATABASE, ALL)]
        first = True
        while first or time.monotonic() < until:
            first = False
            rng.shuffle(kinds)
            with directory() as dir:
                self.rounds(Path(dir), kinds, result, rng, until)

    def rounds(self, dir, kinds, result, rng, until):
        ledger = Ledger()
        control = Control(dir / "control")
        for number, (name, fault, targets) in enumerate(kinds):
            control.clear()
            with Server(dir, control) as server:
                if not ledger.quota_keys:
                    create_quota_key(server, ledger, "quota")
                with Load(server, ledger, rng.random(), f"s{number}") as load:
                    for _ in range(rng.randrange(1, 5)):
                        load.wait_for(rng.randrange(100), seconds=5)
                        before = control.get("faults")
                        control.set(targets=targets, **fault)
                        load.wait_for(rng.randrange(1, 100), seconds=1)
                        control.clear()
                        result.tried += max(control.get("faults") - before, 1)
                    # The fault has passed, and changes must work again without a restart.
                    acknowledged = ledger.acknowledged()
                    load.wait_for(50, seconds=5)
                    if ledger.acknowledged() == acknowledged:
                        result.add_wrong(f"no change succeeds after the end of a failing {name}")
                    server.kill()
                    load.stopped.set()
            if not check_stopped(dir, ledger, result, rng) or time.monotonic() > until and number >= 2:
                break
        check_file(dir, result)
        result.acknowledged += ledger.acknowledged()
        count_unexpected(ledger, result)
