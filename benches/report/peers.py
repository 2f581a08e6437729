#!/usr/bin/env python3
"""Prints the figures of scripts/bench-peers.sh side by side: peers.py RESULTS.jsonl"""

import sys

from ratios import CPU_DELIVERY, CPU_MESSAGE, CPU_UPGRADE
from results import Results

PEER_TO_BEAT = "uwebsockets"


def idle_row(results):
    """The row with the most idle connections."""
    return f"idle-{max(results.sizes('idle-'), default='N')}"


def fixed(form, *path):
    """A column of one figure of a row."""

    def cell(results, row, subject):
        value = results.figure(f"{row}/{subject}", *path)
        return None if value is None else form.format(value)

    return cell


def heartbeats(results, row, subject):
    """What idle clients cost; only of who pings them, or it would be the cost of something else."""
    return fixed("{:.2f}", "idle_cores_per_million")(results, row, subject) if results.figure(f"{row}/{subject}", "pings") else None


def account(results, row, subject):
    """What the account of messages says: each came once and in order, or not."""
    wrong = [f"{count:,} {what}" for what, count in results.wrongs(f"{row}/{subject}")]
    if results.figure(f"{row}/{subject}", "lost") is None:
        return None
    return ", ".join(wrong) or "exact"


def groups(results):
    """Titles of tables with their columns: heading, row (None: each subject's own best one), cell."""
    idle = idle_row(results)
    yield "Idle, a room joined; upgrades", [
        ("user B", idle, fixed("{:,.0f}", "user_bytes")),
        ("kernel B", idle, fixed("{:,.0f}", "kernel_bytes")),
        ("total B", idle, fixed("{:,.0f}", "total_bytes")),
        ("pings answered", idle, fixed("{:,.0f}", "pings")),
        ("idle cores by a million", idle, heartbeats),
        ("CPU µs/upgrade", "upgrade", fixed("{:.1f}", *CPU_UPGRADE)),
        ("upgrades/s", "upgrade", fixed("{:,.0f}", "connections_per_s")),
    ]
    cpu = [(f"{row}: µs", row, fixed("{:.2f}", *CPU_MESSAGE)) for row in results.named("echo-")]
    rate = [(f"{row}: messages/s", row, fixed("{:,.0f}", "messages_per_s")) for row in results.named("echo-")]
    yield "Echo of 64 B: server CPU per message", [*cpu, *rate]
    rows = results.named("fanout-")
    cpu = [(f"{row}: µs", row, fixed("{:.2f}", *CPU_DELIVERY)) for row in rows]
    yield "Fan-out of 128 B: server CPU per delivery", [*cpu, *((f"{row}: account", row, account) for row in rows)]
    rates = [(f"{row}: deliveries/s", row, fixed("{:,.0f}", "deliveries_per_s")) for row in results.named("flat-out-")]
    yield "As fast as it goes, ten rooms of 100 members", [
        *rates,
        ("best", None, lambda _, row, __: row),
        ("CPU µs/delivery", None, fixed("{:.2f}", *CPU_DELIVERY)),
        ("p50 ms", None, lambda *where: milliseconds(*where, "p50_us")),
        ("p99 ms", None, lambda *where: milliseconds(*where, "p99_us")),
        ("account", None, account),
    ]
    yield "Publish to delivery", [
        ("half-load: deliveries/s", "half-load", fixed("{:,.0f}", "deliveries_per_s")),
        ("half-load: p50 ms", "half-load", lambda *where: milliseconds(*where, "p50_us")),
        ("half-load: p99 ms", "half-load", lambda *where: milliseconds(*where, "p99_us")),
        ("cross-node: p50 ms", "cross-node", lambda *where: milliseconds(*where, "p50_us")),
        ("cross-node: p99 ms", "cross-node", lambda *where: milliseconds(*where, "p99_us")),
    ]


def milliseconds(results, row, subject, key):
    value = results.figure(f"{row}/{subject}", "latency", key)
    return None if value is None else f"{value / 1e3:.2f}"


def cells(results, subject, columns):
    """The texts of a subject's row; None for what was not measured."""
    for _, row, cell in columns:
        row = row or results.best_window(subject)
        yield None if row is None else cell(results, row, subject)


def tables(results):
    """Titles with their tables: heading and rows, each a list of texts. Who has no figure in a table is not in it."""
    for title, columns in groups(results):
        rows = {subject: list(cells(results, subject, columns)) for subject in results.subjects()}
        rows = [[subject, *(text or "–" for text in row)] for subject, row in rows.items() if any(row)]
        if rows:
            yield title, [["", *(heading for heading, _, _ in columns)], *rows]


def beside(results, ours, theirs=PEER_TO_BEAT):
    """Rows against the peer to beat, in the same run: what, target, ours, theirs, the bare loop, how many times theirs, whether it is met,
    whether the bare loop would meet it."""
    idle = idle_row(results)
    costs = [(f"{idle}: user memory", idle, ("user_bytes",), 1.0, "{:.0f} B")]
    costs += [(f"{idle}: with the kernel", idle, ("total_bytes",), 1.0, "{:.0f} B")]
    costs += [("upgrade: CPU", "upgrade", CPU_UPGRADE, 1.0, "{:.2f} µs")]
    costs += [(f"{row}: CPU per message", row, CPU_MESSAGE, 1.0, "{:.2f} µs") for row in results.named("echo-")]
    for row in results.named("fanout-"):
        target = 0.8 if row.endswith("-rooms") else 1.0
        costs.append((f"{row}: CPU per delivery", row, CPU_DELIVERY, target, "{:.2f} µs"))
    for what, row, figure, target, form in costs:
        three = [results.figure(f"{row}/{who}", *figure) for who in (ours, theirs, "floor")]
        pairs = results.pairs(row, ours, theirs, *figure)
        if pairs:
            three[:2] = pairs[len(pairs) // 2]
        yield compared(what, f"≤ {target:.1f} ×", three, form, lambda times, target=target: times <= target)
    best = {who: results.best_window(who) for who in (ours, theirs, "floor")}
    three = [row and results.figure(f"{row}/{who}", "deliveries_per_s") for who, row in best.items()]
    yield compared("as fast as it goes: deliveries/s", "≥ 1.0 ×", three, "{:,.0f}", lambda times: times >= 1)
    three = [row and results.figure(f"{row}/{who}", "latency", "p99_us") for who, row in best.items()]
    yield compared("as fast as it goes: p99 of that", "shown", three, "{:,.0f} µs", None)
    three = [results.figure(f"half-load/{who}", "latency", "p99_us") for who in (ours, theirs, "floor")]
    yield compared("at half of its own best: p99", "shown", three, "{:,.0f} µs", None)


def compared(what, target, three, form, holds):
    ours, theirs, bare = three
    shown = ["–" if value is None else form.format(value) for value in three]
    times, bare_times = (value / theirs if value is not None and theirs else None for value in (ours, bare))
    met, bare_met = (holds(value) if holds and value is not None else None for value in (times, bare_times))
    return [what, target, *shown, "–" if times is None else f"{times:.2f} ×", met, bare_met]


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: peers.py RESULTS.jsonl")
    results = Results(sys.argv[1])
    for title, rows in tables(results):
        print_table(title, rows)
    for ours in results.gateways():
        rows = [[*row[:-2], {True: "met", False: "MISSED", None: "-"}[row[-2]]] for row in beside(results, ours)]
        print_table(f"{ours} beside {PEER_TO_BEAT}", [["", "target", "ours", "theirs", "bare", "times theirs", ""], *rows])
    for label, why in results.missing.items():
        print(f"{label}: not measured: {why}")


def print_table(title, rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"\n{title}")
    for row in rows:
        print("  " + "  ".join(text.rjust(width) for text, width in zip(row, widths)))


if __name__ == "__main__":
    main()
