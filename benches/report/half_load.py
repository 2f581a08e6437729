#!/usr/bin/env python3
"""Prints half of the publications a second that a server reached in the best of its flat-out rows: half_load.py RESULTS.jsonl SERVER"""

import sys

from results import Results


def half(results, server):
    """Publications a second, at least 1; None without such a row."""
    row = results.best_window(server)
    if row is None:
        return None
    found = results.rows[f"{row}/{server}"]["results"]
    return max(found["published"] / found["delivered"] * found["deliveries_per_s"] / 2, 1)


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: half_load.py RESULTS.jsonl SERVER")
    rate = half(Results(sys.argv[1]), sys.argv[2])
    if rate is None:
        sys.exit(f"no flat-out row of {sys.argv[2]} in {sys.argv[1]}")
    print(rate)


if __name__ == "__main__":
    main()
