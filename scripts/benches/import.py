"""100,000 keys by one command, against as many single calls; and what it costs a server beside it."""

import hashlib
import json
import statistics
import subprocess
import time

from harness import KEY, PROGRAM, Client, Server, directory
from stock import ORGANIZATION, secrets

KEYS = 100_000
CALLS = 1_000
SCOPES = ["workflows:read", "transactions:write"]


def write(file):
    """Keys as another system would give them: by their hashes."""
    with open(file, "w") as lines:
        for secret in secrets(0, KEYS):
            hash = hashlib.sha256(secret.encode()).hexdigest()
            lines.write(json.dumps({"organization_id": "org_bench", "name": "Production API Key", "scopes": SCOPES,
                                    "hash": hash, "hash_encoding": "hex"}) + "\n")


def run(file, dir):
    """One import; its report, and how long it took."""
    begin = time.perf_counter()
    ended = subprocess.run([PROGRAM, "import", file, "--json", "--data", dir], capture_output=True, text=True)
    took = time.perf_counter() - begin
    if ended.returncode:
        raise SystemExit(ended.stdout + ended.stderr)
    return json.loads(ended.stdout), took


def calls(server):
    """Seconds for one call after the other over one connection."""
    client = Client(server.url, KEY)
    client.head += "Content-Type: application/json\r\n"
    body = json.dumps({"organization_id": "org_bench", "name": "Production API Key", "scopes": SCOPES})
    request = f"POST /admin/v1/api-keys HTTP/1.1\r\n{client.head}Content-Length: {len(body)}\r\n\r\n{body}"
    begin = time.perf_counter()
    for _ in range(CALLS):
        client.send(request, status=201)
    return time.perf_counter() - begin


def beside(server, process):
    """How long single changes take, in ms, while the process runs; one each 20 ms."""
    client = Client(server.url, KEY)
    client.head += "Content-Type: application/json\r\n"
    took = []
    while process.poll() is None:
        body = json.dumps({"name": f"Bench {len(took)}"})
        request = (f"PATCH /admin/v1/organizations/org_bench HTTP/1.1\r\n{client.head}"
                   f"Content-Length: {len(body)}\r\n\r\n{body}")
        took.append(client.send(request)[1] / 1000)
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit("the import failed")
    return statistics.median(took), statistics.quantiles(took, n=100)[98], max(took)


def main():
    with directory() as dir:
        write(f"{dir}/keys.ndjson")
        with Server(dir) as server:
            server.call("POST", "/admin/v1/organizations", ORGANIZATION)
            single = statistics.median(calls(server) for _ in range(3))
        report, took = run(f"{dir}/keys.ndjson", server.file.parent)
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
            median, slow, slowest = beside(server, process)
            with_server = time.perf_counter() - begin
    extrapolated = single * KEYS / CALLS
    print(f"| {KEYS:,} keys | s | keys/s | against single calls |")
    print("| --- | ---: | ---: | ---: |")
    print(f"| single calls, one after the other (from {CALLS:,}: {single:.2f} s) | {extrapolated:.0f} "
          f"| {KEYS / extrapolated:,.0f} | 1 |")
    for name, seconds in (("`tollhouse import`", took), ("the same beside a server that is written to", with_server),
                          ("again: all are there", again)):
        print(f"| {name} | {seconds:.1f} | {KEYS / seconds:,.0f} | {extrapolated / seconds:.1f} |")
    print(f"\nA change of the server meanwhile, one each 20 ms: median {median:.1f} ms, 99th percentile {slow:.0f} ms, "
          f"slowest {slowest:.0f} ms.")


main()
