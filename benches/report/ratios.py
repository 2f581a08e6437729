#!/usr/bin/env python3
"""Prints the figures of scripts/bench.sh beside their targets: ratios.py RESULTS.jsonl"""

import statistics
import sys
from dataclasses import dataclass

from results import Results

CPU_MESSAGE = ("server_cpu_us_per_message",)
CPU_DELIVERY = ("server_cpu_us_per_delivery",)
CPU_UPGRADE = ("server_cpu_us_per_upgrade",)
# Where the absolute targets were set, the bare echo of 64 B over 64 connections took this long a message; what it takes in a run,
# over this, is how much slower that run's host is.
BARE_ECHO_THERE_US = 3.18
# There uWebSockets 20 took so long for a delivery in the row of many rooms. Beside uWebSockets itself: scripts/bench-peers.sh.
UWEBSOCKETS_MANY_ROOMS_THERE_US = 9.4


@dataclass
class Row:
    """A figure beside its target; None for what is not known or not asked."""

    name: str
    target: str
    shown: str = "not measured"
    met: bool | None = None
    # The same target on a host that is as fast as this one.
    scaled: str = ""
    scaled_met: bool | None = None
    # Whether the bare loop would meet the target.
    bare_met: bool | None = None


def slowness(results):
    """How many times slower this run's host is than the one that the absolute targets were set on; None where that is not known."""
    bare = results.figure("echo-64/floor", *CPU_MESSAGE)
    return bare and bare / BARE_ECHO_THERE_US


def judged(results, name, measured, target, sign, form, scales, remark="", bare=None):
    """A row against an absolute target. `scales`: 1 for a cost, which a slower host raises, -1 for a rate, 0 for what it leaves."""
    row = Row(name, f"{sign} {form.format(target)}")
    holds = (lambda limit: measured <= limit) if sign == "≤" else (lambda limit: measured >= limit)
    if bare is not None and sign == "≤":
        row.bare_met = bare <= target
    slower = slowness(results) if scales else None
    if slower:
        limit = target * slower**scales
        row.scaled = f"{sign} {form.format(limit)}"
    if measured is not None:
        row.shown, row.met = form.format(measured) + remark, holds(target)
        row.scaled_met = holds(limit) if slower else None
    return row


def ratio(results, row, driver, figure):
    """A driver's figure in the middle one of all pairs of runs; the median of what it is of the floor's; and how that reads, with the pair's
    figures and the middle half of the others. None where there is no pair."""
    pairs = results.pairs(row, driver, "floor", *figure)
    if not pairs:
        return None
    measured, floor = pairs[len(pairs) // 2]
    times = statistics.median(ours / bare for ours, bare in pairs)
    shown = f"{times:.2f} × ({'' if len(pairs) % 2 else 'about '}{measured:.2f} µs / {floor:.2f} µs"
    if len(pairs) >= 4:
        low, high = (ours / bare for ours, bare in (pairs[len(pairs) // 4], pairs[-1 - len(pairs) // 4]))
        shown += f"; half of {len(pairs)} pairs within {low:.2f} to {high:.2f}"
    return measured, times, shown + ")"


def against_floor(results, driver):
    """Rows whose target is a multiple of the bare loop in the same run."""
    rows = [(row, CPU_MESSAGE, 1.05, "CPU per message") for row in results.named("echo-") if "pipelined" not in row]
    rows += [(f"fanout-{size}", CPU_DELIVERY, 1.05, "CPU per delivery") for size in results.sizes("fanout-")]
    rows += [(row, CPU_UPGRADE, 1.10, "CPU per upgrade") for row in results.named("upgrade")]
    for name, figure, target, what in rows:
        row = Row(f"{name}: {what}", f"≤ {target:.2f} × floor")
        found = ratio(results, name, driver, figure)
        if found is not None:
            _, times, row.shown = found
            row.met = times <= target
        yield row


def absolute(results, driver):
    """Rows whose target is a figure."""
    idle = f"idle-{max(results.sizes('idle-'), default='N')}"
    fastest = results.best_window(driver) or "flat-out-N"
    checks = [
        (f"{idle}: user memory", (idle, "user_bytes"), 128, "≤", "{:.0f} B", 0),
        (f"{idle}: with the kernel", (idle, "total_bytes"), 4300, "≤", "{:.0f} B", 0),
        (f"{idle}: heartbeats, by a million", (idle, "idle_cores_per_million"), 0.3, "≤", "{:.2f} cores", 1),
        (f"{fastest}: deliveries/s", (fastest, "deliveries_per_s"), 1.75e6, "≥", "{:,.0f}", -1),
    ]
    for name, (row, key), target, sign, form, scales in checks:
        floor = results.figure(f"{row}/floor", key)
        remark = "" if floor is None else f" (bare {form.format(floor)})"
        if sign == "≥" and results.rows.get(f"{row}/{driver}", {}).get("client_bound"):
            remark += " (client_bound)"
        yield judged(results, name, results.figure(f"{row}/{driver}", key), target, sign, form, scales, remark, floor)
    yield upgrades(results, driver)
    for row in (name for name in results.named("fanout-") if name.endswith("-rooms")):
        found = ratio(results, row, driver, CPU_DELIVERY)
        remark = f" ({found[1]:.2f} × floor)" if found else ""
        target = 0.8 * UWEBSOCKETS_MANY_ROOMS_THERE_US
        floor = found and found[0] / found[1]
        yield judged(results, f"{row}: CPU per delivery", found and found[0], target, "≤", "{:.1f} µs", 1, remark, floor)


def upgrades(results, driver):
    """How many upgrades a core's time is enough for; beside it, how many the load saw, whose end of a connection costs more."""
    per_core, bare = (cost and 1e6 / cost for cost in (results.figure(f"upgrade/{who}", *CPU_UPGRADE) for who in (driver, "floor")))
    seen = results.figure(f"upgrade/{driver}", "connections_per_s")
    remark = f" ({seen:,.0f} seen" + (f"; bare {bare:,.0f}, by CPU)" if bare else ")") if seen else ""
    return judged(results, "upgrades/s of a core, by CPU", per_core, 50_000, "≥", "{:,.0f}", -1, remark)


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
        row = Row(f"{prefix}N: growth {what}, by 1,000 connections", "beside the floor's")
        ours, bare = (slope(results, prefix, subject, figure) for subject in (driver, "floor"))
        if ours is not None and bare is not None:
            row.shown = f"{ours:+.3f} µs (bare {bare:+.3f} µs)"
        yield row


def flat_out(results, driver):
    """As fast as it goes, in each window; the best counts above. No message may wait for longer than one turn of the loop: the gateway
    tells its longest, and within which time it delivered."""
    for name in results.named("flat-out-"):
        rate = results.figure(f"{name}/{driver}", "deliveries_per_s")
        bare = results.figure(f"{name}/floor", "deliveries_per_s")
        p99_us = results.figure(f"{name}/{driver}", "latency", "p99_us")
        row = Row(f"{name}: deliveries/s", "beside the floor's")
        if rate is not None and bare is not None:
            wrongs = "".join(f", {count:,} {what}" for what, count in results.wrongs(f"{name}/{driver}"))
            row.shown = f"{rate:,.0f} (bare {bare:,.0f}), p99 {p99_us / 1e3:.1f} ms{wrongs}"
        yield row
        turns = results.turns.get(f"{name}/{driver}")
        if turns and turns["delivered_within_s"]:
            told = f"99 % within {turns['delivered_within_s']} s, longest turn {turns['loop_lag_us'] / 1e3:.1f} ms"
            yield Row(f"{name}: delivered within a turn", "beside the longest turn", told)


def pipelined(results, driver):
    """What sixteen messages under way on a connection bring."""
    for name in (name for name in results.named("echo-") if "pipelined" in name):
        row = Row(f"{name}: rate", "≥ 8 × unpipelined")
        single = results.figure(f"{name.split('-pipelined')[0]}/{driver}", *CPU_MESSAGE)
        piped = results.figure(f"{name}/{driver}", *CPU_MESSAGE)
        if single and piped:
            row.shown, row.met = f"{single / piped:.1f} × by CPU ({piped:.2f} µs each)", single / piped >= 8
        yield row


def added_ms(results, subject):
    """What a broadcast to the crowd adds to the calm clients' p99; None where that was not measured."""
    alone, beside = (results.figure(f"bystander-{when}/{subject}", "latency", "p99_us") for when in ("alone", "beside"))
    return None if alone is None or beside is None else (beside - alone) / 1e3


def bystander(results, driver):
    """An unrelated room beside a broadcast. The floor's row is what the load side and the host add by themselves."""
    row = Row("bystander's p99 beside a broadcast", "< 2 ms more")
    added, bare = added_ms(results, driver), added_ms(results, "floor")
    if added is not None:
        alone = results.figure(f"bystander-alone/{driver}", "latency", "p99_us") / 1e3
        row.shown, row.met = f"{added:+.2f} ms (alone {alone:.2f} ms, beside {alone + added:.2f} ms", added < 2
        row.shown += ")" if bare is None else f"; {bare:+.2f} ms without a gateway)"
        if not results.rows[f"bystander-beside/{driver}"]["host"].get("scheduled"):
            row.shown += ", the crowd's readers going before the calm ones"
    yield row


def cross_node(results, driver):
    """From the broker to a member, beside a bare subscriber of the same messages."""
    row = Row("cross-node: p99", "≤ 1.5 × bare subscriber")
    node = results.figure(f"cross-node/{driver}", "latency", "p99_us")
    bare = results.figure(f"cross-node/floor-beside-{driver}", "latency", "p99_us")
    if node and bare:
        row.shown, row.met = f"{node / bare:.2f} × ({node:.0f} µs / {bare:.0f} µs)", node / bare <= 1.5
    yield row


def ratios(results, driver):
    """All rows of a driver."""
    parts = (absolute, against_floor, pipelined, bystander, cross_node, flat_out, slopes)
    return [row for part in parts for row in part(results, driver)]


def explained(results):
    """What the column of scaled targets means, in a sentence."""
    slower = slowness(results)
    if not slower:
        return "Absolute targets are not scaled to this host: the bare echo of 64 B was not measured."
    return (
        f"Absolute targets were set on a host whose bare echo of 64 B takes {BARE_ECHO_THERE_US} µs. In this run it takes {slower:.2f} "
        "times that; the last two columns have the same targets for a host that is so much slower or faster."
    )


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


def why_auto(results):
    """What `--driver auto` takes, and what the rows say of that."""
    ahead = [row[-1] for row in list(side_by_side(results))[1:]]
    counts = f"epoll is ahead on {ahead.count('epoll')} rows, io_uring on {ahead.count('io_uring')}, {ahead.count('alike')} are alike."
    idle = f"idle-{max(results.sizes('idle-'), default='N')}"
    totals = [results.figure(f"{idle}/{driver}", "total_bytes") for driver in ("epoll", "io_uring")]
    memory = ""
    if None not in totals:
        memory = f" An idle connection on io_uring takes {totals[1] - totals[0]:+.0f} B, with the kernel."
    return (
        f"By CPU {counts}{memory} `auto` takes io_uring where the host lets it; `--driver epoll` is for nodes on which memory, not "
        "CPU, is what runs out."
    )


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: ratios.py RESULTS.jsonl")
    results = Results(sys.argv[1])
    marks = {True: "met", False: "MISSED", None: "-"}
    print(explained(results))
    for driver in results.drivers():
        rows = ratios(results, driver)
        width = max(len(row.name) for row in rows)
        print(f"\n{driver}")
        for row in rows:
            scaled = f"scaled {row.scaled}: {marks[row.scaled_met]}" if row.scaled else ""
            print(f"  {row.name:<{width}}  {row.target:<23}  {row.shown:<52}  {marks[row.met]:<6}  {scaled}".rstrip())
    for label, why in results.missing.items():
        print(f"  {label}: not measured: {why}")


if __name__ == "__main__":
    main()
