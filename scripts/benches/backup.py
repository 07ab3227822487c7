"""a backup of half a gigabyte under load: its duration, the latency of verifications, the size of the WAL."""

import hashlib
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from pathlib import Path

from harness import KEY, PROGRAM, Client, Server, directory
from dataset import API_KEY, ORGANIZATION, secrets, store

BYTES = 500 << 20
KEYS = 500_000
PAUSE = 0.002  # seconds between a response and the next request
UNDISTURBED_SECONDS = 20
KEYS_IN_USE = 1_000


def writer(url, stop):
    """Changes the organization every 10 ms."""
    client = Client(url, KEY)
    client.head += "Content-Type: application/json\r\n"
    while not stop.is_set():
        body = json.dumps({"metadata": {"at": str(time.time())}})
        client.send(f"PATCH /admin/v1/organizations/org_bench HTTP/1.1\r\n{client.head}"
                    f"Content-Length: {len(body)}\r\n\r\n{body}")
        time.sleep(0.01)


def verify(server, until):
    """Verifies keys until `until()` is true. Returns their durations in µs and the largest size of the WAL."""
    client = Client(server.url, KEY)
    durations = []
    max_wal = 0
    file = Path(f"{server.file}-wal")
    keys = list(secrets(0, KEYS_IN_USE))
    while not until():
        for key in keys[len(durations) % KEYS_IN_USE:][:50]:
            response, us = client.verify(key)
            if b'"VALID"' not in response:
                raise SystemExit(response)
            durations.append(us)
            time.sleep(PAUSE)
        max_wal = max(max_wal, file.stat().st_size)
    return {"p50": statistics.median(durations), "p99": statistics.quantiles(durations, n=100)[98],
            "p999": statistics.quantiles(durations, n=1000)[998], "n": len(durations), "wal": max_wal}


def fill(dir):
    """Creates a database of BYTES with a valid audit chain. Most keys are copied, the rest imported with events."""
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
            verify(server, lambda end=time.monotonic() + 3: time.monotonic() > end)  # warm-up
            before = verify(server, lambda end=time.monotonic() + UNDISTURBED_SECONDS: time.monotonic() > end)
            begin = time.perf_counter()
            process = subprocess.Popen([PROGRAM, "backup", f"{dir}/backup.db", "--json", "--data", server.file.parent],
                                       stdout=subprocess.PIPE, stderr=sys.stderr)
            during = verify(server, lambda: process.poll() is not None)
            duration = time.perf_counter() - begin
            report = json.loads(process.stdout.read())
            stop.set()
            load.join()
    print(f"{report['bytes'] / (1 << 20):,.0f} MiB, {report['rows']['api_keys']:,} keys, "
          f"{report['rows']['audit_events']:,} audit events: {duration:.1f} s in total, of which copying took "
          f"{report['copy_seconds']:.1f} s and verifying {report['verification_seconds']:.1f} s.\n")
    print("| verifications | p50, µs | p99, µs | p99.9, µs | count | largest WAL, MiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, result in (("undisturbed", before), ("during the backup", during)):
        print(f"| {name} | {result['p50']:.0f} | {result['p99']:.0f} | {result['p999']:.0f} | {result['n']:,} "
              f"| {result['wal'] / (1 << 20):.1f} |")
    print(f"\np99 during the backup: {during['p99'] / before['p99']:.2f} times the undisturbed p99.")


main()
