"""Losses of power, rebuilt from a recorded run."""

import struct
import tempfile
import time
from pathlib import Path

from crashes import check_file, check_stopped, count_unexpected, directory
from ledger import Ledger
from load import Load, create_quota_key
from shim import Control, Server

# The kinds of operations in shim.c.
CREATE, OPEN, WRITE, TRUNCATE, SYNC, SYNC_DIRECTORY, UNLINK, RENAME = range(1, 9)
HEAD = struct.Struct("iiqq")
SECTOR = 512

# What happens to the writes since the last sync of their file.
DROPPED, KEPT, SOME, TORN = "all dropped", "all kept", "some dropped", "some dropped, some torn"
LOSSES = (DROPPED, KEPT, SOME, SOME, TORN, TORN)

CHANGES_PER_RECORD = 1_500  # several checkpoints
POINTS_PER_RECORD = 40


def read_record(file):
    """The operations of a record: kind, id of the file, offset, data, and the position behind it."""
    data = memoryview(Path(file).read_bytes())
    position = 0
    while position + HEAD.size <= len(data):
        kind, id, offset, length = HEAD.unpack_from(data, position)
        position += HEAD.size + length
        yield kind, id, offset, data[position - length:position], position


class File:
    """A file's durable content, and the writes and truncations since its last sync."""

    def __init__(self, content=b""):
        self.durable = bytearray(content)
        self.pending = []

    def sync(self):
        for kind, offset, data in self.pending:
            change(self.durable, kind, offset, data)
        self.pending = []

    def after_loss(self, loss, rng):
        """The content after a loss of power. Each pending write is stored or not, whatever happens to the others, so
        every order is possible; a torn one is stored in some of its sectors."""
        content = bytearray(self.durable)
        keep = {DROPPED: 0, KEPT: 1}.get(loss, rng.random())
        for kind, offset, data in self.pending:
            torn = loss == TORN and kind == WRITE and rng.random() < 0.3
            if torn:
                for at in range(0, len(data), SECTOR):
                    if rng.random() < 0.5:
                        change(content, kind, offset + at, data[at:at + SECTOR])
            elif rng.random() < keep:
                change(content, kind, offset, data)
        return content


def change(content, kind, offset, data):
    if kind == TRUNCATE:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset:offset + len(data)] = data


class Disk:
    """The files of a directory while a record is replayed. Names are durable after a sync of the directory; a loss of
    power keeps a first part of those that were changed since, as journaling file systems do."""

    def __init__(self, base):
        """`base` are the files, by name, that existed before the record."""
        self.base = {name: File(content) for name, content in base.items()}
        self.files = {}
        self.names = dict(self.base)
        self.pending = []

    def apply(self, kind, id, offset, data):
        if kind == OPEN:
            # Also a file that was created, or got its name, since the record began.
            self.files[id] = self.names_after(len(self.pending))[bytes(data).decode()]
        elif kind == CREATE:
            self.files[id] = File()
            self.pending.append((bytes(data).decode(), self.files[id], None))
        elif kind in (WRITE, TRUNCATE):
            self.files[id].pending.append((kind, offset, data))
        elif kind == SYNC:
            self.files[id].sync()
        elif kind == SYNC_DIRECTORY:
            self.names = self.names_after(len(self.pending))
            self.pending = []
        elif kind == UNLINK:
            self.pending.append((None, None, bytes(data).decode()))
        elif kind == RENAME:
            old, new = bytes(data).decode().split("\0")
            self.pending.append((new, self.names_after(len(self.pending))[old], old))

    def names_after(self, count):
        """The names when this number of pending changes has become durable: each adds one, removes one, or both."""
        names = dict(self.names)
        for added, file, removed in self.pending[:count]:
            names.pop(removed, None)
            if added:
                names[added] = file
        return names

    def lose_power(self, dir, loss, rng):
        """Writes what is left to a new directory."""
        dir.mkdir(parents=True)
        count = {DROPPED: 0, KEPT: len(self.pending)}.get(loss, rng.randint(0, len(self.pending)))
        for name, file in self.names_after(count).items():
            path = dir / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(file.after_loss(loss, rng))
            path.chmod(0o600)


class Recording:
    """A run of the server under load whose writes are recorded, on a database that exists: a new one gets its name by
    a system call that the library between the program and the kernel doesn't see."""

    def __init__(self, dir, rng, changes):
        self.ledger = Ledger()
        self.control = Control(dir / "control")
        self.base = {}
        self.run_and_kill(dir, rng)
        self.file = dir / "record"
        with Server(dir, self.control, self.file) as server:
            self.began = self.control.position()
            if not self.ledger.quota_keys:
                create_quota_key(server, self.ledger, "quota")
                self.began = self.control.position()
            with Load(server, self.ledger, rng.random(), "p", self.control.position) as load:
                load.wait_for(changes)
            server.stop()

    def run_and_kill(self, dir, rng):
        """A first run that ends with a WAL. What it leaves is taken to be durable."""
        with Server(dir) as server:
            create_quota_key(server, self.ledger, "quota")
            with Load(server, self.ledger, rng.random(), "k") as load:
                load.wait_for(200)
                server.kill()
                load.stopped.set()
        self.base = durable_files(dir / "data")


def durable_files(data):
    """The files of a stopped server, by name, without the index of the WAL, which is rebuilt."""
    return {path.name: path.read_bytes() for path in data.iterdir() if not path.name.endswith("-shm")}


class PowerLosses:
    name = "loss of power, rebuilt"

    def run(self, result, rng, until):
        while time.monotonic() < until or not result.tried:
            with directory() as dir:
                recording = Recording(Path(dir), rng, CHANGES_PER_RECORD)
                if recording.ledger.unexpected:
                    count_unexpected(recording.ledger, result)
                self.points(recording, Path(dir), result, rng, until)
                result.acknowledged += recording.ledger.acknowledged()

    def points(self, recording, dir, result, rng, until):
        operations = list(read_record(recording.file))
        possible = [index for index, operation in enumerate(operations) if operation[4] >= recording.began]
        # Half of the points lie within checkpoints or right before and after a sync, where little is in the record.
        database = {id for kind, id, _, name, _ in operations if kind in (OPEN, CREATE) and name == b"tollhouse.db"}
        special = [index for index in possible if is_special(operations, index, database)]
        chosen = set(rng.choices(possible, k=POINTS_PER_RECORD // 2) + rng.choices(special, k=POINTS_PER_RECORD // 2))
        disk = Disk(recording.base)
        for index, (kind, id, offset, data, position) in enumerate(operations):
            disk.apply(kind, id, offset, data)
            if index not in chosen:
                continue
            lose_power(disk, dir, rng.choice(LOSSES), recording.ledger, position, result, rng)
            if time.monotonic() > until and result.tried >= POINTS_PER_RECORD // 2:
                return


def is_special(operations, index, database):
    near = operations[max(0, index - 1):index + 2]
    return any(kind in (SYNC, SYNC_DIRECTORY, TRUNCATE, UNLINK, RENAME) or kind == WRITE and id in database
               for kind, id, *_ in near)


def lose_power(disk, dir, loss, ledger, position, result, rng):
    """Rebuilds what a loss of power leaves, starts the program on it, and checks all that was acknowledged before."""
    with tempfile.TemporaryDirectory(prefix="point-", dir=dir) as point:
        point = Path(point)
        disk.lose_power(point / "data", loss, rng)
        result.tried += 1
        result.notes[loss] += 1
        if check_stopped(point, ledger, result, rng, position):
            check_file(point, result)
