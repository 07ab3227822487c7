"""a backup of half a gigabyte under load: how long it takes, what verifications notice, how the WAL grows."""

import hashlib
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from pathlib import Path

from harness import KEY, PROGRAM, Client, Server, directory
from stock import API_KEY, ORGANIZATION, secrets, store

BYTES = 500 << 20
KEYS = 500_000
PAUSE = 0.002  # seconds between an answer and the next question
ALONE = 20  # seconds
IN_USE = 1_000


def writer(url, stop):
    """Changes the organization, one each 10 ms."""
    client = Client(url, KEY)
    client.head += "Content-Type: application/json\r\n"
    while not stop.is_set():
        body = json.dumps({"metadata": {"at": str(time.time())}})
        client.send(f"PATCH /admin/v1/organizations/org_bench HTTP/1.1\r\n{client.head}"
                    f"Content-Length: {len(body)}\r\n\r\n{body}")
        time.sleep(0.01)


def verify(server, until):
    """How long verifications take, in µs, until it says so; and how large the WAL was at most."""
    client, took, wal = Client(server.url, KEY), [], 0
    file = Path(f"{server.file}-wal")
    keys = list(secrets(0, IN_USE))
    while not until():
        for key in keys[len(took) % IN_USE:][:50]:
            answer, us = client.verify(key)
            if b'"VALID"' not in answer:
                raise SystemExit(answer)
            took.append(us)
            time.sleep(PAUSE)
        wal = max(wal, file.stat().st_size)
    return {"p50": statistics.median(took), "p99": statistics.quantiles(took, n=100)[98],
            "p999": statistics.quantiles(took, n=1000)[998], "n": len(took), "wal": wal}


def fill(dir):
    """A file of that size with a chain that verifies: most keys are copied, the rest comes with its events."""
    with Server(dir) as server:
        server.call("POST", "/admin/v1/organizations", ORGANIZATION)
        server.call("POST", "/admin/v1/api-keys", API_KEY)
    store(server.file, API_KEY["id"], secrets(0, KEYS))
    first, count = KEYS, 100_000
    while server.file.stat().st_size < BYTES:
        with open(f"{dir}/more.ndjson", "w") as lines:
            for secret in secrets(first, count):
                lines.write(json.dumps({"organization_id": "org_bench", "name": "Production API Key",
                                        "scopes": API_KEY["scopes"], "hash_encoding": "hex",
                                        "hash": hashlib.sha256(secret.encode()).hexdigest()}) + "\n")
        subprocess.run([PROGRAM, "import", f"{dir}/more.ndjson", "--data", server.file.parent],
                       stdout=subprocess.DEVNULL, check=True)
        first += count


def main():
    with directory() as dir:
        fill(dir)
        with Server(dir) as server:
            stop = multiprocessing.Event()
            load = multiprocessing.Process(target=writer, args=(server.url, stop), daemon=True)
            load.start()
            verify(server, lambda end=time.monotonic() + 3: time.monotonic() > end)  # to warm up
            before = verify(server, lambda end=time.monotonic() + ALONE: time.monotonic() > end)
            begin = time.perf_counter()
            process = subprocess.Popen([PROGRAM, "backup", f"{dir}/backup.db", "--json", "--data", server.file.parent],
                                       stdout=subprocess.PIPE, stderr=sys.stderr)
            during = verify(server, lambda: process.poll() is not None)
            took = time.perf_counter() - begin
            made = json.loads(process.stdout.read())
            stop.set()
            load.join()
    print(f"{made['bytes'] / (1 << 20):,.0f} MiB, {made['rows']['api_keys']:,} keys, "
          f"{made['rows']['audit_events']:,} audit events: {took:.1f} s in all, of which the copy "
          f"{made['copy_seconds']:.1f} s and the proof {made['proof_seconds']:.1f} s.\n")
    print("| verifications | p50, µs | p99, µs | p99.9, µs | asked | WAL at most, MiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, side in (("undisturbed", before), ("during the backup", during)):
        print(f"| {name} | {side['p50']:.0f} | {side['p99']:.0f} | {side['p999']:.0f} | {side['n']:,} "
              f"| {side['wal'] / (1 << 20):.1f} |")
    print(f"\np99 during the backup: {during['p99'] / before['p99']:.2f} of undisturbed.")


main()
