"""rate and instructions of verifications and changes, compared with another version of the program."""

import argparse
import json
import os
import re
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import KEY, PROGRAM, Client, Server, directory, write_lines
from dataset import API_KEY, ORGANIZATION, secrets, store

PAIRS = 9
SECONDS = 2
CALLERS = 64
THREADS = os.cpu_count()  # of the load generator
LINES = 1_000  # different requests of a kind
MIN_RATE_RATIO = 0.95
MAX_INSTRUCTIONS_RATIO = 1.03
ORGANIZATION_PATH = f"/admin/v1/organizations/{ORGANIZATION['id']}"


class Kind:
    """A kind of request: `body` has "VALUE" at one place, where the requests have the values in turn. `requests` are two
    numbers of requests whose instructions are subtracted; both send every value that matters."""

    def __init__(self, name, method, path, body, values, requests, status=200):
        self.name = name
        self.method = method
        self.path = path
        self.parts = json.dumps(body).split("VALUE")  # the JSON before and after the value
        self.values = list(values)
        self.requests = requests
        self.status = status

    def load(self, server, dir):
        """Sends requests as fast as possible and returns the number of responses per second."""
        lines = write_lines(f"{dir}/lines", self.values)
        return server.load_lines(self.method, self.path, lines, self.parts, CALLERS, SECONDS, threads=THREADS)["rate"]

    def send(self, client, count):
        """Sends requests one after the other."""
        for number in range(count):
            body = json.loads(self.values[number % LINES].join(self.parts))
            client.send(client.with_body(self.method, self.path, body), self.status)


NAMES = [f"Name {number:04}" for number in range(LINES)]
NEW_KEY = {name: value for name, value in API_KEY.items() if name != "id"} | {"name": "VALUE"}
OPERATION = {"method": "POST", "path": "/api-keys", "body": NEW_KEY | {"name": "Production"}}
BATCH = {"operations": [OPERATION | {"body": NEW_KEY}] + [OPERATION] * 19}
KINDS = (
    Kind("verify", "POST", "/v1/keys/verify", {"key": "VALUE"}, secrets(0, LINES), (1_000, 5_000)),
    Kind("create a key", "POST", "/admin/v1/api-keys", NEW_KEY, NAMES, (1_000, 2_000), status=201),
    # Each call changes the name, because one that changes nothing stores nothing.
    Kind("change an organization", "PATCH", ORGANIZATION_PATH, {"name": "VALUE"}, NAMES, (1_000, 2_000)),
    Kind("batch of 20 creations", "POST", "/admin/v1/batch", BATCH, NAMES, (50, 100)),
)


def prepare(program, dir):
    """Creates a database with an organization and the keys to verify."""
    with Server(dir, program) as server:
        server.call("POST", "/admin/v1/organizations", ORGANIZATION)
        server.call("POST", "/admin/v1/api-keys", API_KEY)
    store(server.file, API_KEY["id"], secrets(0, LINES))


def measure_rates(kind, programs):
    """Measures pairs of runs in alternating order, each with a new database. Returns the rates of each program."""
    rates = [[] for _ in programs]
    for pair in range(PAIRS):
        sides = list(zip(programs, rates))
        for program, program_rates in sides if pair % 2 == 0 else reversed(sides):
            with directory() as dir:
                prepare(program, dir)
                with Server(dir, program) as server:
                    program_rates.append(kind.load(server, dir))
    for program, program_rates in zip(programs, rates):
        shown = " ".join(f"{rate:.0f}" for rate in program_rates)
        print(f"{kind.name}, {program}: {shown}", file=sys.stderr, flush=True)
    return rates


def count_instructions(kind, program, count):
    """Returns the instructions of a server that gets `count` requests, from its start to its stop."""
    with directory() as dir:
        prepare(program, dir)
        output = Path(dir) / "callgrind"
        wrapper = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={output}"]
        # Everything but the clock is slower under valgrind. So that the time has less influence on the number of
        # instructions, usage is only written at the stop.
        with Server(dir, program, wrapper, TOLLHOUSE_USAGE__FLUSH_INTERVAL="1h") as server:
            client = Client(server.url, KEY)
            kind.send(client, count)
            client.socket.close()
        return int(re.search(r"^(?:summary|totals): (\d+)", output.read_text(), re.MULTILINE)[1])


def measure_instructions(programs):
    """Returns the instructions per request of each kind, for each program: the difference between many requests and
    fewer, in which the start and the stop cancel out. The load of the machine has no influence."""
    def per_request(kind, program):
        fewer, many = kind.requests
        difference = count_instructions(kind, program, many) - count_instructions(kind, program, fewer)
        return difference / (many - fewer)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {kind: [pool.submit(per_request, kind, program) for program in programs] for kind in KINDS}
        return {kind: [future.result() for future in of_kind] for kind, of_kind in futures.items()}


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench compare", description=__doc__)
    parser.add_argument("--before", type=Path, metavar="PROGRAM", required=True, help="the program to compare with")
    parser.add_argument("--after", type=Path, metavar="PROGRAM", default=PROGRAM,
                        help="the program to compare instead of the one that is built")
    options = parser.parse_args()
    programs = [options.before.resolve(), options.after.resolve()]
    within_bounds = True

    def verdict(met):
        nonlocal within_bounds
        within_bounds &= met
        return "yes" if met else "no"

    print(f"{os.cpu_count()} processors, {CALLERS} callers, {PAIRS} pairs of {SECONDS} s.\n")
    print("| requests/s | before | after | ratio | lowest and highest ratio | within the bound |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for kind in KINDS:
        before, after = measure_rates(kind, programs)
        ratios = [later / earlier for earlier, later in zip(before, after)]
        ratio = statistics.median(ratios)
        print(f"| {kind.name} | {statistics.median(before):,.0f} | {statistics.median(after):,.0f} | {ratio:.3f} "
              f"| {min(ratios):.2f}–{max(ratios):.2f} | ≥ {MIN_RATE_RATIO}: {verdict(ratio >= MIN_RATE_RATIO)} |",
              flush=True)

    print("\n| instructions per request | before | after | ratio | within the bound |")
    print("| --- | ---: | ---: | ---: | --- |")
    for kind, (before, after) in measure_instructions(programs).items():
        ratio = after / before
        print(f"| {kind.name} | {before:,.0f} | {after:,.0f} | {ratio:.3f} "
              f"| ≤ {MAX_INSTRUCTIONS_RATIO}: {verdict(ratio <= MAX_INSTRUCTIONS_RATIO)} |")
    if not within_bounds:
        sys.exit(1)


main()
