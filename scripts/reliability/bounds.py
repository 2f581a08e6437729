#!/usr/bin/env python3
"""Judges how long clients wait beside a hostile one (G7), and how much of a core one compressed client takes.

    bounds.py LOG    reads the `measured:` lines that tests/e2e/neighbours.rs prints, and the `share of a core:` lines of
                     tests/e2e/inflating.rs; names each that exceeds its bound

A bound is a ratio. Of waiting it is that of the p99 beside the hostile client to the p99 without it: hosts differ, and both are measured
in turns in the same run.
They are compared with the larger of two: without it, and while the same is done to another gateway on the same core, because what
the hostile client takes of the host is not the gateway's doing. Where a crowd of clients makes much work at once, a time is allowed
too (ALLOWED), and the larger of both is the bound. Of a compressed client it is that of the CPU time that the gateway used to the time
that passed.
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

SHARES = (
    "64 KiB of blocks with a table and nothing in them",
    "4 KiB of blocks with a table and nothing in them",
    "1 KiB of blocks with a table and nothing in them",
    "4 KiB of spaces and as many bytes of blocks with a table",
    "64 KiB of which an eighth comes out",
    "32,000 final blocks",
    "2,000 final blocks",
    "64 kB of text",
    "4 kB of text",
    "messages that inflate from 0.1 to 64 KiB, over the rate",
    "64 KiB of text, over the rate",
)

# What one compressed client may take of a core, whatever it sends, with the default limits.
MOST_OF_A_CORE = 0.05

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


class Share(NamedTuple):
    """CPU time of the gateway while one client sent something, and the time that passed, in ms."""

    what: str
    driver: str
    used: int
    took: int

    @property
    def share(self):
        return self.used / max(self.took, 1)

    def __str__(self):
        return f"{self.what} | {self.driver}: {self.used} of {self.took} ms is {self.share:.1%} of a core"


def measurements(log):
    """What a log says was measured, each once."""
    found = set(re.findall(r"measured: (.+?) \| (\S+) \| (\d+) \| (\d+) \| (\d+)", log))
    return [Measurement(what, driver, *map(int, times)) for what, driver, *times in sorted(found)]


def shares(log):
    """What a log says one client took of a core, each once."""
    found = set(re.findall(r"share of a core: (.+?) \| (\S+) \| (\d+) \| (\d+)", log))
    return [Share(what, driver, *map(int, times)) for what, driver, *times in sorted(found)]


def complaints(log):
    """What is over its bound, was not measured, or does not need its row in KNOWN_EXCESS any more."""
    yield from complaints_of_waiting(log)
    yield from complaints_of_shares(log)


def complaints_of_shares(log):
    found = shares(log)
    for measured in found:
        if measured.share > MOST_OF_A_CORE:
            yield f"over its bound of {MOST_OF_A_CORE:.0%}: {measured}"
    for what in SHARES:
        for driver in sorted(set(DRIVERS) - {measured.driver for measured in found if measured.what == what}):
            yield f"not measured: {what} | {driver}"


def complaints_of_waiting(log):
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
    for measured in shares(log):
        print(f"{measured}, at most {MOST_OF_A_CORE:.0%}")
    wrong = list(complaints(log))
    for complaint in wrong:
        print(f"bounds.py: {complaint}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
