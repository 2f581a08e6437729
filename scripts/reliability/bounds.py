#!/usr/bin/env python3
"""Judges how long clients wait beside a hostile one (G7): the p99 beside it against the p99 without it, in the same run.

    bounds.py LOG    reads the `measured:` lines that tests/e2e/neighbours.rs prints; names each that exceeds its bound

A bound is a ratio: hosts differ, and the times without the hostile client are measured in turns with those beside it.
They are compared with the larger of two: without it, and while the same is done to another gateway on the same core, because what
the hostile client takes of the host is not the gateway's doing. Where a crowd of clients makes much work at once, a time is allowed
too (ALLOWED), and the larger of both is the bound.
Exit codes: 0 all are within their bounds, 1 one is not, or was not measured, 2 bad arguments.
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

DRIVERS = ("epoll", "io_uring")
MEASURED = (
    "a flood of messages",
    "a flood of pings that is never read",
    "connections that come and go with garbage",
    "a reader that has stopped",
    "upgrades beside ten malformed requests a second",
    "a hundred readers of small messages that come back",
    "400,000 joins at once",
)

# What a p99 beside a hostile client may be, as a multiple of the larger p99 without one.
BOUND = 2.0

# What a p99 may be in any case, in µs.
ALLOWED = {
    "a hundred readers of small messages that come back": 20_000,
    "400,000 joins at once": 1_000_000,
}

# Faults that are known and not repaired yet: a bound of their own, so that they cannot get worse unnoticed, and why.
KNOWN_EXCESS = {}


class Measurement(NamedTuple):
    """p99 in µs: without the hostile client, with it at another gateway, and with it at this one."""

    what: str
    driver: str
    without: int
    elsewhere: int
    beside: int

    @property
    def ratio(self):
        return self.beside / max(self.without, self.elsewhere, 1)

    @property
    def bound(self):
        if self.what in KNOWN_EXCESS:
            return KNOWN_EXCESS[self.what][0]
        return max(BOUND, ALLOWED.get(self.what, 0) / max(self.without, self.elsewhere, 1))

    def __str__(self):
        return f"{self.what} | {self.driver}: {self.beside} µs is {self.ratio:.2f} times max({self.without}, {self.elsewhere}) µs"


def measurements(log):
    """What a log says was measured, each once."""
    found = set(re.findall(r"measured: (.+?) \| (\S+) \| (\d+) \| (\d+) \| (\d+)", log))
    return [Measurement(what, driver, *map(int, times)) for what, driver, *times in sorted(found)]


def complaints(log):
    """What is over its bound, was not measured, or does not need its row in KNOWN_EXCESS any more."""
    found = measurements(log)
    for measured in found:
        if measured.ratio > measured.bound:
            yield f"over its bound of {measured.bound:g}: {measured}"
    for what in MEASURED:
        seen = [measured for measured in found if measured.what == what]
        for driver in sorted(set(DRIVERS) - {measured.driver for measured in seen}):
            yield f"not measured: {what} | {driver}"
        if what in KNOWN_EXCESS and seen and all(measured.ratio <= BOUND for measured in seen):
            yield f"repaired: {what} is within {BOUND:g} again; delete its row of KNOWN_EXCESS"


def main(arguments):
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    path = Path(arguments[0])
    log = path.read_text() if path.exists() else ""
    for measured in measurements(log):
        reason = f" (known excess: {KNOWN_EXCESS[measured.what][1]})" if measured.what in KNOWN_EXCESS else ""
        print(f"{measured}, at most {measured.bound:g}{reason}")
    wrong = list(complaints(log))
    for complaint in wrong:
        print(f"bounds.py: {complaint}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
