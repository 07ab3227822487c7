"""Checkpoints that fail because the disk under the database file fails, while the WAL works."""

import errno
import json
import time
import urllib.request
from pathlib import Path

from crashes import check_file, check_stopped, count_unexpected, directory
from ledger import Ledger
from load import Load, create_quota_key
from shim import DATABASE, Control, Server

REASON = "CHECKPOINT_FAILING"
MESSAGE = "could not checkpoint the WAL"
MAX_CHANGES = 20_000  # until a checkpoint must have been due
MIN_CHANGES = 500  # while checkpoints fail
SECONDS = 60  # the longest pause before a checkpoint is repeated


def reasons(server):
    with urllib.request.urlopen(server.url + "/readyz?write=true") as response:
        return [reason["code"] for reason in json.load(response)["data"]["reasons"]]


class FailingCheckpoints:
    """Changes must go on, durably, and the failure must be reported until it is over."""
    name = "failing checkpoints"

    FAULTS = ({"write_errno": errno.EIO}, {"sync_errno": errno.EIO})

    def run(self, result, rng, until):
        while time.monotonic() < until or not result.tried:
            for fault in self.FAULTS:
                with directory() as dir:
                    self.once(Path(dir), fault, result, rng)

    def once(self, dir, fault, result, rng):
        ledger = Ledger()
        control = Control(dir / "control")
        with Server(dir, control) as server:
            create_quota_key(server, ledger, "quota")
            control.set(targets=DATABASE, **fault)
            with Load(server, ledger, rng.random(), "c") as load:
                while not control.get("faults") and load.answered() < MAX_CHANGES:
                    load.wait_for(100)
                began = time.monotonic()
                before = ledger.acknowledged()
                load.wait_for(MIN_CHANGES)
                seconds = time.monotonic() - began
                if ledger.acknowledged() - before < MIN_CHANGES * 0.5:
                    result.add_wrong("changes don't go on while checkpoints fail")
                result.notes["changes a second meanwhile"] = round(MIN_CHANGES / seconds)
                if reasons(server) != [REASON]:
                    result.add_wrong(f"/readyz has no {REASON}")
            result.tried += control.get("faults")
            if Path(server.log).read_text().count(MESSAGE) != 1:
                result.add_wrong("a failing checkpoint is not logged once")
            # The server is killed while the WAL is long, or after the next checkpoint has succeeded.
            if rng.random() < 0.5:
                control.clear()
                end = time.monotonic() + SECONDS
                while reasons(server) and time.monotonic() < end:
                    time.sleep(0.05)
                if reasons(server):
                    result.add_wrong("no checkpoint succeeds after the end of the failure")
            server.kill()
        control.clear()
        if check_stopped(dir, ledger, result, rng):
            check_file(dir, result)
        result.acknowledged += ledger.acknowledged()
        count_unexpected(ledger, result)
