#!/usr/bin/env python3
"""Prints the figures of scripts/bench.sh beside their targets: RATIOS RESULTS.jsonl"""

import sys

from results import Results

CPU_MESSAGE = ("server_cpu_us_per_message",)
CPU_DELIVERY = ("server_cpu_us_per_delivery",)
CPU_UPGRADE = ("server_cpu_us_per_upgrade",)
# What uWebSockets 20 took in the row of many rooms on a machine like the one that the targets were set on.
UWEBSOCKETS_MANY_ROOMS_US = 9.4


def ratio(results, row, driver, figure):
    """A driver's figure, the floor's, and the one over the other."""
    measured = results.figure(f"{row}/{driver}", *figure)
    floor = results.figure(f"{row}/floor", *figure)
    if measured is None or not floor:
        return None
    return measured, floor, measured / floor


def against_floor(results, driver):
    """Rows whose target is a multiple of the bare loop in the same run."""
    rows = [(row, CPU_MESSAGE, 1.05, "CPU per message") for row in results.named("echo-") if "pipelined" not in row]
    rows += [(f"fanout-{size}", CPU_DELIVERY, 1.05, "CPU per delivery") for size in results.sizes("fanout-")]
    rows += [(row, CPU_UPGRADE, 1.10, "CPU per upgrade") for row in results.named("upgrade")]
    for row, figure, target, what in rows:
        found = ratio(results, row, driver, figure)
        if found is None:
            yield f"{row}: {what}", f"≤ {target:.2f} × floor", "not measured", None
            continue
        measured, floor, times = found
        shown = f"{times:.2f} × ({measured:.2f} µs / {floor:.2f} µs)"
        yield f"{row}: {what}", f"≤ {target:.2f} × floor", shown, times <= target


def absolute(results, driver):
    """Rows whose target is a figure."""
    idle = f"idle-{max(results.sizes('idle-'), default='N')}"
    checks = [
        (f"{idle}: user memory", (idle, "user_bytes"), 128, "≤", "{:.0f} B"),
        (f"{idle}: with the kernel", (idle, "total_bytes"), 4300, "≤", "{:.0f} B"),
        (f"{idle}: heartbeats, by a million", (idle, "idle_cores_per_million"), 0.3, "≤", "{:.2f} cores"),
        ("flat out: deliveries/s", ("fanout-flat-out", "deliveries_per_s"), 1.75e6, "≥", "{:.0f}"),
        ("upgrades/s", ("upgrade", "connections_per_s"), 50_000, "≥", "{:.0f}"),
    ]
    for label, (row, key), target, sign, form in checks:
        measured = results.figure(f"{row}/{driver}", key)
        shown = "not measured" if measured is None else form.format(measured)
        floor = results.figure(f"{row}/floor", key)
        if measured is not None and floor is not None:
            shown += f" (bare {form.format(floor)})"
        bound = results.rows.get(f"{row}/{driver}", {}).get("client_bound") and sign == "≥"
        met = None if measured is None else (measured <= target if sign == "≤" else measured >= target)
        yield label, f"{sign} {form.format(target)}", shown + (" (client_bound)" if bound else ""), met


def slope(results, prefix, subject, figure):
    """What a thousand more connections add to a figure, by least squares from 1,000 connections on; None from fewer than two."""
    points = [(size, results.figure(f"{prefix}{size}/{subject}", *figure)) for size in results.sizes(prefix) if size >= 1000]
    points = [(x, y) for x, y in points if y is not None]
    if len(points) < 2:
        return None
    x0 = sum(x for x, _ in points) / len(points)
    y0 = sum(y for _, y in points) / len(points)
    return 1000 * sum((x - x0) * (y - y0) for x, y in points) / sum((x - x0) ** 2 for x, _ in points)


def slopes(results, driver):
    """How the cost grows with the connections, beside the floor's growth. Nothing is asked of it but to be shown."""
    for prefix, figure, what in (("echo-", CPU_MESSAGE, "per message"), ("fanout-", CPU_DELIVERY, "per delivery")):
        ours, bare = (slope(results, prefix, subject, figure) for subject in (driver, "floor"))
        shown = "not measured" if ours is None or bare is None else f"{ours:+.3f} µs (bare {bare:+.3f} µs)"
        yield f"{prefix}N: growth {what}, by 1,000 connections", "beside the floor's", shown, None


def coalescing(results, driver):
    """As fast as it goes, no message may wait for longer than one turn of the loop. The gateway tells both."""
    turns = results.turns.get(f"fanout-flat-out/{driver}")
    told = turns and turns["delivered_within_s"]
    shown = "not measured"
    if told:
        shown = f"99 % delivered within {told} s, longest turn {turns['loop_lag_us']:.0f} µs"
    yield "flat out: delivered within a turn", "beside the longest turn", shown, None


def derived(results, driver):
    """Rows that compare two measurements."""
    for row in results.named("echo-"):
        if "pipelined" in row:
            single = results.figure(f"{row.split('-pipelined')[0]}/{driver}", *CPU_MESSAGE)
            piped = results.figure(f"{row}/{driver}", *CPU_MESSAGE)
            times = single / piped if single and piped else None
            shown = "not measured" if times is None else f"{times:.1f} × by CPU ({piped:.2f} µs each)"
            yield f"{row}: rate", "≥ 8 × unpipelined", shown, None if times is None else times >= 8
    for row in (name for name in results.named("fanout-") if name.endswith("-rooms")):
        found = ratio(results, row, driver, CPU_DELIVERY)
        target = 0.8 * UWEBSOCKETS_MANY_ROOMS_US
        shown = "not measured" if found is None else f"{found[0]:.2f} µs ({found[2]:.2f} × floor)"
        yield f"{row}: CPU per delivery", f"≤ {target:.1f} µs", shown, None if found is None else found[0] <= target
    alone = results.figure(f"bystander-alone/{driver}", "latency", "p99_us")
    beside = results.figure(f"bystander-beside/{driver}", "latency", "p99_us")
    added = (beside - alone) / 1e3 if alone is not None and beside is not None else None
    shown = "not measured" if added is None else f"{added:+.2f} ms"
    yield "bystander's p99 beside a broadcast", "< 2 ms more", shown, None if added is None else added < 2
    node = results.figure(f"cross-node/{driver}", "latency", "p99_us")
    bare = results.figure(f"cross-node/floor-beside-{driver}", "latency", "p99_us")
    times = node / bare if node and bare else None
    shown = "not measured" if times is None else f"{times:.2f} × ({node:.0f} µs / {bare:.0f} µs)"
    yield "cross-node: p99", "≤ 1.5 × bare subscriber", shown, None if times is None else times <= 1.5


def ratios(results, driver):
    """All rows of a driver: name, target, measured, whether it is met (None: not measured)."""
    parts = (absolute, against_floor, derived, coalescing, slopes)
    return [row for part in parts for row in part(results, driver)]


def side_by_side(results):
    """Heading and rows: both drivers' CPU in each row, and which is ahead."""
    figures = (CPU_MESSAGE, CPU_DELIVERY, CPU_UPGRADE, ("idle_cores",))
    yield ["row", "epoll", "io_uring", "ahead"]
    for row in dict.fromkeys(label.split("/")[0] for label in results.rows):
        for figure in figures:
            pair = [results.figure(f"{row}/{driver}", *figure) for driver in ("epoll", "io_uring")]
            if None in pair or figure == ("idle_cores",) and row != f"idle-{max(results.sizes('idle-'), default='N')}":
                continue
            unit = "cores" if figure == ("idle_cores",) else "µs"
            # What is within two percent is no difference that such a run can see.
            ahead = "alike" if abs(pair[0] - pair[1]) <= 0.02 * max(pair) else ("epoll" if pair[0] < pair[1] else "io_uring")
            yield [row, *(f"{value:.3g} {unit}" for value in pair), ahead]


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: ratios.py RESULTS.jsonl")
    results = Results(sys.argv[1])
    for driver in results.drivers():
        rows = ratios(results, driver)
        width = max(len(row[0]) for row in rows)
        print(f"\n{driver}")
        for name, target, shown, met in rows:
            mark = {True: "met", False: "MISSED", None: "-"}[met]
            print(f"  {name:<{width}}  {target:<22}  {shown:<44}  {mark}")
    for label, why in results.missing.items():
        print(f"  {label}: not measured: {why}")


if __name__ == "__main__":
    main()
