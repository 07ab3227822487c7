"""Runs every kind of fault for its share of the time, and prints a table of what was lost."""

import argparse
import os
import random
import sys
import time
from pathlib import Path

from checkpoints import FailingCheckpoints
from crashes import Kills, Syncs
from disk import FullDisk
from files import DamagedPages, MovedFiles
from ledger import Result
from power import PowerLosses
from processes import OverlappingCommands, UnreadLogs
from proof import prove
from shim import PROGRAM, Server, build
from wrong_clock import ClockJumps

# The kinds of faults by the name that --only takes, and their shares of the time. Each runs at least once.
KINDS = {
    "kills": (Kills, 30),
    "power": (PowerLosses, 30),
    "syncs": (Syncs, 10),
    "checkpoints": (FailingCheckpoints, 3),
    "disk": (FullDisk, 6),
    "clock": (ClockJumps, 6),
    "pages": (DamagedPages, 6),
    "files": (MovedFiles, 4),
    "commands": (OverlappingCommands, 4),
    "logs": (UnreadLogs, 4),
}


def main():
    parser = argparse.ArgumentParser(prog="scripts/torture", description=__doc__, 
                                     epilog="Exit status 1 if anything was lost or wrong. PROGRAM=FILE tests that "
                                     "program instead of building one.")
    parser.add_argument("minutes", nargs="?", type=float, default=5, help="duration (default: %(default)s)")
    parser.add_argument("--only", metavar="NAMES", default=",".join(KINDS),
                        help="kinds of faults, comma-separated (default: %(default)s)")
    parser.add_argument("--prove", action="store_true",
                        help="only show that losses are reported: cause some, and compare them with the report")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32),
                        help="repeats the choices of a run, though not how processes interleave")
    options = parser.parse_args()
    unknown = set(options.only.split(",")) - set(KINDS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(KINDS)}")
    Server.program = Path(os.environ.get("PROGRAM", PROGRAM)).resolve()
    build()
    print(f"seed {options.seed}", file=sys.stderr)
    rng = random.Random(options.seed)
    if options.prove:
        sys.exit(0 if prove(rng) else 1)
    results = run([KINDS[name] for name in KINDS if name in options.only.split(",")], options.minutes * 60, rng)
    show(results)
    sys.exit(1 if any(result.failed() for result in results) else 0)


def run(kinds, seconds, rng):
    began = time.monotonic()
    total = sum(share for _, share in kinds)
    ended = 0
    results = []
    for kind, share in kinds:
        ended += share
        fault = kind()
        result = Result(fault.name)
        results.append(result)
        print(f"{fault.name} …", file=sys.stderr, flush=True)
        try:
            fault.run(result, rng, began + seconds * ended / total)
        except KeyboardInterrupt:
            break
        except SystemExit as error:  # A helper gave up. What was found until then is shown.
            result.add_wrong(f"the run ended early: {error}")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes", file=sys.stderr)
    return results


def show(results):
    print("| faults | tried | acknowledged | lost | wrong | revoked but valid | over quota |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for result in results:
        print(f"| {result.name} | {result.tried:,} | {result.acknowledged:,} | {result.lost:,} | {result.wrong:,} "
              f"| {result.revoked_valid:,} | {result.over_quota:,} |")
    for title, counts in (("lost or wrong", "faults"), ("other figures", "notes")):
        lines = [f"| {result.name} | {what} | {count:,} |" for result in results
                 for what, count in getattr(result, counts).most_common()]
        if lines:
            print(f"\n| faults | {title} | |\n| --- | --- | ---: |", *lines, sep="\n")


main()
