#!/usr/bin/env python3
"""Prints the figures of scripts/bench-peers.sh side by side: peers.py RESULTS.jsonl"""

import sys

from results import Results

# Row name's beginning, figure, heading, form.
COLUMNS = [
    ("idle", ("user_bytes",), "user B", "{:.0f}"),
    ("idle", ("kernel_bytes",), "kernel B", "{:.0f}"),
    ("idle", ("idle_cores",), "idle cores", "{:.3f}"),
    ("upgrade", ("server_cpu_us_per_upgrade",), "µs/upgrade", "{:.1f}"),
    ("echo-", ("server_cpu_us_per_message",), "µs/echo", "{:.2f}"),
    ("fanout-", ("server_cpu_us_per_delivery",), "µs/delivery", "{:.2f}"),
    ("flat-out", ("deliveries_per_s",), "deliveries/s", "{:.0f}"),
    ("half-load", ("latency", "p99_us"), "p99 µs at half load", "{:.0f}"),
    ("cross-node", ("latency", "p99_us"), "p99 µs across nodes", "{:.0f}"),
]


def table(results):
    """Heading and rows, each a list of texts."""
    columns = [
        (row, figure, f"{heading} ({row})" if start.endswith("-") else heading, form)
        for start, figure, heading, form in COLUMNS
        for row in results.named(start)
    ]
    yield ["", *(heading for _, _, heading, _ in columns)]
    for subject in results.subjects():
        figures = [(results.figure(f"{row}/{subject}", *figure), form) for row, figure, _, form in columns]
        yield [subject, *("-" if value is None else form.format(value) for value, form in figures)]


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: peers.py RESULTS.jsonl")
    results = Results(sys.argv[1])
    rows = list(table(results))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.rjust(width) for text, width in zip(row, widths)))
    for label, why in results.missing.items():
        print(f"{label}: not measured: {why}")


if __name__ == "__main__":
    main()
