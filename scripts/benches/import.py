"""import of 100,000 keys, compared with single calls, and its effect on a running server."""

import hashlib
import json
import statistics
import subprocess
import time

from harness import KEY, PROGRAM, Client, Server, directory, measure_pairs, programs_to_compare, ratio_cells
from dataset import ORGANIZATION, secrets

KEYS = 100_000
CALLS = 1_000
PAIRS = 5
SCOPES = ["workflows:read", "transactions:write"]


def write(file):
    """Writes keys as another system would export them, by their hashes."""
    with open(file, "w") as lines:
        for secret in secrets(0, KEYS):
            hash = hashlib.sha256(secret.encode()).hexdigest()
            lines.write(json.dumps({"organization_id": "org_bench", "name": "Production API Key", "scopes": SCOPES,
                                    "hash": hash, "hash_encoding": "hex"}) + "\n")


def run(file, dir, program=PROGRAM):
    """Runs an import. Returns its report and its duration in seconds."""
    begin = time.perf_counter()
    process = subprocess.run([program, "import", file, "--json", "--data", dir], capture_output=True, text=True)
    duration = time.perf_counter() - begin
    if process.returncode:
        raise SystemExit(process.stdout + process.stderr)
    return json.loads(process.stdout), duration


def time_single_calls(server):
    """Returns the seconds for CALLS calls, one after the other over one connection."""
    client = Client(server.url, KEY)
    body = {"organization_id": "org_bench", "name": "Production API Key", "scopes": SCOPES}
    request = client.with_body("POST", "/admin/v1/api-keys", body)
    begin = time.perf_counter()
    for _ in range(CALLS):
        client.send(request, status=201)
    return time.perf_counter() - begin


def measure_changes(server, process):
    """Makes a change every 20 ms while the process runs. Returns median, p99 and maximum of the durations in ms."""
    client = Client(server.url, KEY)
    durations = []
    while process.poll() is None:
        request = client.with_body("PATCH", "/admin/v1/organizations/org_bench", {"name": f"Bench {len(durations)}"})
        durations.append(client.send(request)[1] / 1000)
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit("the import failed")
    return statistics.median(durations), statistics.quantiles(durations, n=100)[98], max(durations)


def import_rate(file, program):
    """Returns the keys per second that a program imports into a new database."""
    with directory() as dir:
        with Server(dir, program) as server:
            server.call("POST", "/admin/v1/organizations", ORGANIZATION)
        report, seconds = run(file, server.file.parent, program)
        if report["imported"] != {"api_key": KEYS}:
            raise SystemExit(report)
        return KEYS / seconds


def compare(programs):
    with directory() as dir:
        write(f"{dir}/keys.ndjson")
        before, after = measure_pairs(PAIRS, programs, lambda program: import_rate(f"{dir}/keys.ndjson", program))
    print(f"| `tollhouse import` of {KEYS:,} keys, {PAIRS} pairs | before | after | ratio | lowest and highest |")
    print("| --- | ---: | ---: | ---: | ---: |")
    print(f"| keys/s | {statistics.median(before):,.0f} | {statistics.median(after):,.0f} | {ratio_cells(before, after)} |")


def main():
    if programs := programs_to_compare("import", __doc__):
        return compare(programs)
    with directory() as dir:
        write(f"{dir}/keys.ndjson")
        with Server(dir) as server:
            server.call("POST", "/admin/v1/organizations", ORGANIZATION)
            single = statistics.median(time_single_calls(server) for _ in range(3))
        report, first = run(f"{dir}/keys.ndjson", server.file.parent)
        if report["imported"] != {"api_key": KEYS}:
            raise SystemExit(report)
        report, again = run(f"{dir}/keys.ndjson", server.file.parent)
        if report["unchanged"] != {"api_key": KEYS}:
            raise SystemExit(report)
    with directory() as dir:
        write(f"{dir}/keys.ndjson")
        with Server(dir) as server:
            server.call("POST", "/admin/v1/organizations", ORGANIZATION)
            begin = time.perf_counter()
            process = subprocess.Popen([PROGRAM, "import", f"{dir}/keys.ndjson", "--data", server.file.parent],
                                       stdout=subprocess.DEVNULL)
            median, p99, slowest = measure_changes(server, process)
            with_server = time.perf_counter() - begin
    extrapolated = single * KEYS / CALLS
    print(f"| {KEYS:,} keys | s | keys/s | ratio to single calls |")
    print("| --- | ---: | ---: | ---: |")
    print(f"| single calls, one after the other (from {CALLS:,}: {single:.2f} s) | {extrapolated:.0f} "
          f"| {KEYS / extrapolated:,.0f} | 1 |")
    for name, seconds in (("`tollhouse import`", first), ("the same while a server handles changes", with_server),
                          ("again, all keys unchanged", again)):
        print(f"| {name} | {seconds:.1f} | {KEYS / seconds:,.0f} | {extrapolated / seconds:.1f} |")
    print(f"\nChanges on the server during the import, every 20 ms: median {median:.1f} ms, "
          f"99th percentile {p99:.0f} ms, slowest {slowest:.0f} ms.")


main()
