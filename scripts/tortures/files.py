"""Damaged pages, and files that are moved, replaced or removed under a running server."""

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from crashes import count_unexpected, directory
from ledger import ACKNOWLEDGED, Ledger, Stored
from load import Load, Writer, create_quota_key
from shim import KEY, Server, run

PAGE = 4096
CALLERS = 8  # so many, created at different times, that hardly ever all of their keys are on one page


def pages_of_trees(file):
    """The pages of each table and index: at least its root."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        trees = {name: [root] for name, root in
                 database.execute("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0")}
        try:
            for name, page in database.execute("SELECT name, pageno FROM dbstat"):
                trees.setdefault(name, []).append(page)
        except sqlite3.OperationalError:
            pass  # This build of SQLite doesn't list pages.
    return trees


class DamagedPages:
    """A page of each table and index is overwritten while no server runs. The next one must notice, and no key that
    was revoked, before or after, may be valid."""
    name = "damaged pages"

    def run(self, result, rng, until):
        with directory() as dir:
            sound = Path(dir) / "sound"
            ledger, secrets = self.fill(sound, rng)
            trees = pages_of_trees(sound / "data" / "tollhouse.db")
            first = True
            while first or time.monotonic() < until:
                for name, pages in sorted(trees.items()):
                    page = pages[0] if first else rng.choice(pages)
                    copy = Path(dir) / "damaged"
                    shutil.copytree(sound, copy)
                    self.damage(copy / "data" / "tollhouse.db", page, rng)
                    result.tried += 1
                    self.use(copy, ledger, secrets, result, rng)
                    shutil.rmtree(copy)
                first = False

    def fill(self, dir, rng):
        """A stopped server's database with rows in every table. Returns the ledger, and the secrets of platform keys."""
        dir.mkdir()
        ledger = Ledger()
        with Server(dir) as server:
            caller = server.caller()
            create_quota_key(server, ledger, "quota")
            for number in range(5):
                fields = {"name": "n", "email": f"{number}@example.com"}
                member = {"user_id": f"user_{number}", "role": "owner"}
                for path, body in (("organizations", {"id": f"org_{number}"} | fields),
                                   ("users", {"id": f"user_{number}"} | fields),
                                   (f"organizations/org_{number}/members", member)):
                    status, _, code = caller.call("POST", f"/admin/v1/{path}", body)
                    if status != 201:
                        raise SystemExit(f"{path}: {status} {code}")
            secrets = [KEY]
            for _ in range(1, CALLERS):
                secrets.append(self.create_platform_key(caller))
                with Load(server, ledger, rng.random(), f"d{len(secrets)}") as load:
                    load.wait_for(60)
            server.stop()
        return ledger, secrets

    def create_platform_key(self, caller):
        fields = {"name": "caller", "scopes": ["admin:*", "keys:verify"]}
        status, data, code = caller.call("POST", "/admin/v1/api-keys", fields)
        if status != 201:
            raise SystemExit(f"a platform key: {status} {code}")
        return data["key"]

    def damage(self, file, page, rng):
        with open(file, "r+b") as opened:
            opened.seek((page - 1) * PAGE)
            opened.write(rng.choice([bytes(PAGE), rng.randbytes(PAGE)]))

    def use(self, dir, sound, secrets, result, rng):
        status, _ = run("check", data=dir / "data")
        if status == 0:
            result.add_wrong("check: ok")
        try:
            with Server(dir) as server:
                self.verify_and_revoke(server, sound, secrets, result, rng)
        except SystemExit:
            result.notes["not started"] += 1
            return
        result.notes["started"] += 1

    def verify_and_revoke(self, server, sound, secrets, result, rng):
        callers = [server.caller(secret) for secret in secrets]
        settled = [key for key in sound.keys if key.is_settled() and key.last() and key.last().secret]
        active = [key for key in settled if key.last().status == "active" and not key.organization]
        denied = [key for key in settled if key.last().status != "active"]
        for key in rng.sample(denied, 5):
            if any(caller.verify(key.last().secret) == "VALID" for caller in callers):
                result.revoked_valid += 1
        codes = {caller.verify(key.last().secret) for key in rng.sample(active, 5) for caller in callers}
        for code in codes - {"VALID", "UNAVAILABLE", None}:
            result.add_wrong(f"an active key is {code} instead of VALID or UNAVAILABLE")
        statuses = []
        # A caller whose own key is on the damaged page may do nothing.
        authenticated = [caller for caller in callers if caller.call("GET", "/admin/v1/whoami")[0] == 200]
        for key, caller in zip(rng.sample(active, 3), authenticated):
            status, _, code = caller.call("POST", f"/admin/v1/api-keys/{key.id}/revoke", {"reason": "damaged"})
            statuses.append(status)
            if status == 200:
                result.acknowledged += 1
            if any(caller.verify(key.last().secret) == "VALID" for caller in callers):
                if status == 200:
                    result.revoked_valid += 1
                else:
                    result.add_wrong(f"{code}: a revocation fails and leaves its key valid")
        for caller in authenticated:
            statuses.append(caller.call("POST", "/admin/v1/api-keys", {"name": "n", "scopes": []})[0])
        if "VALID" not in codes and server.readyz() == 200:
            result.add_wrong("readyz: 200 though all verifications of all callers fail")
        if not {200, 201} & set(statuses) and server.readyz(write=True) == 200:
            result.add_wrong("readyz?write=true: 200 though all changes of all callers fail")


class MovedFiles:
    """The files are moved, replaced or removed under a running server. What is acknowledged from then on must be in
    the file at the path; to acknowledge nothing is right."""
    name = "moved files"

    def run(self, result, rng, until):
        kinds = (self.rename_directory, self.unlink, self.replace_by_copy, self.remove_wal, self.remove_lock)
        first = True
        while first or time.monotonic() < until:
            first = False
            for move in kinds:
                with directory() as dir:
                    self.once(move, Path(dir), result, rng)

    def once(self, move, dir, result, rng):
        name = move.__name__.replace("_", " ")
        ledger = Ledger()
        data = dir / "data"
        with Server(dir) as server:
            revoked = Writer(server, ledger, rng, "revoked")
            revoked.create()
            key = revoked.keys[0]
            secret = key.last().secret
            status, output = run("backup", dir / "older.db", data=data)
            if status:
                raise SystemExit(f"the backup failed: {output}")
            revoked.change(key, "revoke")
            with Load(server, ledger, rng.random(), "m", clients=4) as load:
                load.wait_for(50)
            move(dir, data, server, result)
            after = Ledger()
            with Load(server, after, rng.random(), "after", clients=4, pause=0.01) as load:
                load.wait_for(200, seconds=3)
            if server.caller().verify(secret) == "VALID":
                result.revoked_valid += 1
            if after.acknowledged() == 0 and server.readyz() == 200:
                result.add_wrong(f"{name}: readyz is 200 though no change succeeds")
            if rng.random() < 0.5:
                server.stop()
            else:
                server.kill()
        result.tried += 1
        result.acknowledged += after.acknowledged()
        count_unexpected(after, result)
        missing = after.acknowledged()
        if (data / "tollhouse.db").exists():
            stored = Stored(data / "tollhouse.db")
            missing -= sum(change.outcome == ACKNOWLEDGED and stored.events[change.request_id] > 0
                           for key in after.keys for change in key.changes)
        result.add_lost(f"{name}: changes acknowledged afterwards", missing)

    def rename_directory(self, dir, data, server, result):
        data.rename(dir / "elsewhere")

    def unlink(self, dir, data, server, result):
        (data / "tollhouse.db").unlink()

    def replace_by_copy(self, dir, data, server, result):
        (dir / "older.db").rename(data / "tollhouse.db")

    def remove_wal(self, dir, data, server, result):
        (data / "tollhouse.db-wal").unlink()

    def remove_lock(self, dir, data, server, result):
        (data / "tollhouse.lock").unlink()
        second = Server(dir)
        second.log = dir / "second.log"
        try:
            with second:
                result.add_wrong("remove lock: a second server starts")
        except SystemExit:
            pass
