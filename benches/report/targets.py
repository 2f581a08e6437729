"""The targets: what a driver's figures in a run are held to."""

import statistics
from dataclasses import dataclass

CPU_MESSAGE, CPU_DELIVERY, CPU_UPGRADE = "server_cpu_us_per_message", "server_cpu_us_per_delivery", "server_cpu_us_per_upgrade"
FLOOR, PEER = "floor", "uwebsockets"
# The absolute targets were set on a host where the bare echo of 64 B over 64 connections took this long a message, and where
# uWebSockets 20 took 9.4 µs for a delivery to one of many rooms. What the echo takes in a run tells how much slower its host is.
BARE_ECHO_THERE_US, MANY_ROOMS_US = 3.18, 0.8 * 9.4


@dataclass
class Row:
    """A figure beside its target; None for what is not known."""

    name: str
    target: str
    shown: str = "not measured"
    met: bool | None = None
    # Whether it is met on a host that is as much slower as this one, and whether the bare loop meets it.
    scaled_met: bool | None = None
    bare_met: bool | None = None

    def __str__(self):
        if self.met is not False:
            return self.shown
        also = [*["met scaled to this host"] * (self.scaled_met is True), *["nor met by the bare loop"] * (self.bare_met is False)]
        return f"{self.shown} **missed**" + (f" ({', '.join(also)})" if also else "")


def ratio(results, row, ours, theirs, figure, form="{:.2f} µs"):
    """The median of ours over theirs in runs of the same turn, our figure in the middle run, and how that reads; None without a pair."""
    pairs = results.pairs(row, ours, theirs, figure)
    if not pairs:
        return None
    middle, times = pairs[len(pairs) // 2], statistics.median(a / b for a, b in pairs)
    shown = f"{times:.2f} × ({form.format(middle[0])} / {form.format(middle[1])}"
    if len(pairs) >= 4:
        low, high = (a / b for a, b in (pairs[len(pairs) // 4], pairs[-1 - len(pairs) // 4]))
        shown += f"; half of {len(pairs)} pairs within {low:.2f} to {high:.2f}"
    return times, middle[0], shown + ")"


def multiple(results, name, row, ours, theirs, figure, limit, form="{:.2f} µs"):
    """A cost that is held to a multiple of another server's."""
    judged = Row(name, f"≤ {limit:.2f} × {theirs}")
    found = ratio(results, row, ours, theirs, figure, form)
    if found:
        judged.met, judged.shown = found[0] <= limit, found[2]
        bare = [results.figure(f"{row}/{who}", figure) for who in (FLOOR, theirs)]
        judged.bare_met = bare[0] / bare[1] <= limit if theirs != FLOOR and all(bare) else None
    return judged


def absolute(results, name, measured, bare, limit, form, rate=False, scales=True):
    """A figure that is held to a number; `rate`: more is better; `scales`: a slower host is allowed more."""
    row, sign = Row(name, f"{'≥' if rate else '≤'} {form.format(limit)}"), -1 if rate else 1
    slower = results.figure(f"echo-64/{FLOOR}", CPU_MESSAGE) if scales else None
    if measured is not None:
        row.shown, row.met = form.format(measured), sign * measured <= sign * limit
        if slower:
            row.scaled_met = sign * measured <= sign * limit * (slower / BARE_ECHO_THERE_US) ** sign
        if bare is not None:
            row.shown, row.bare_met = f"{row.shown} (bare {form.format(bare)})", sign * bare <= sign * limit
    return row


def costs(results, ours, theirs):
    """CPU beside the bare loop, or beside the peer."""
    upgrade, other, many = (1.10, 1.05, None) if theirs == FLOOR else (1.0, 1.0, 0.8)
    rows = [("upgrade", "CPU per upgrade", CPU_UPGRADE, upgrade)]
    for prefix, name, figure in (("echo-", "CPU per message", CPU_MESSAGE), ("fanout-", "CPU per delivery", CPU_DELIVERY)):
        rows += [(f"{prefix}{size}", name, figure, other) for size in results.sizes(prefix)]
    rows += [(row, "CPU per delivery", CPU_DELIVERY, many) for row in results.named("fanout-") if many and row.endswith("-rooms")]
    for row, name, figure, limit in rows:
        yield multiple(results, f"{row}: {name}", row, ours, theirs, figure, limit)


def against_floor(results, driver):
    """The targets of scripts/bench.sh."""

    def both(row, *path):
        return [results.figure(f"{row}/{who}", *path) for who in (driver, FLOOR)]

    idle, fastest = f"idle-{max(results.sizes('idle-'), default='N')}", results.best_window(driver)
    yield absolute(results, "idle: user memory", *both(idle, "user_bytes"), 128, "{:.0f} B", scales=False)
    yield absolute(results, "idle: with the kernel", *both(idle, "total_bytes"), 4300, "{:.0f} B", scales=False)
    yield absolute(results, "idle: CPU of heartbeats, by a million", *both(idle, "idle_cores_per_million"), 0.3, "{:.2f} cores")
    yield absolute(results, "flat-out: deliveries/s", *both(fastest, "deliveries_per_s"), 1.75e6, "{:,.0f}", rate=True)
    per_core = (cost and 1e6 / cost for cost in both("upgrade", CPU_UPGRADE))
    yield absolute(results, "upgrade: upgrades/s of a core, by CPU", *per_core, 50_000, "{:,.0f}", rate=True)
    for row in (row for row in results.named("fanout-") if row.endswith("-rooms")):
        times, ours, _ = ratio(results, row, driver, FLOOR, CPU_DELIVERY) or (None, None, None)
        yield absolute(results, f"{row}: CPU per delivery", ours, ours and ours / times, MANY_ROOMS_US, "{:.1f} µs")
    yield from costs(results, driver, FLOOR)
    for piped in (row for row in results.named("echo-") if "pipelined" in row):
        single, each = (results.figure(f"{row}/{driver}", CPU_MESSAGE) for row in (piped.split("-pipelined")[0], piped))
        told = (f"{single / each:.1f} × by CPU", single / each >= 8) if single and each else ()
        yield Row(f"{piped}: rate", "≥ 8 × unpipelined", *told)
    waits = [results.figure(f"bystander-{when}/{driver}", "latency", "p99_us") for when in ("alone", "beside")]
    told = (f"{(waits[1] - waits[0]) / 1e3:+.2f} ms", waits[1] - waits[0] < 2000) if all(waits) else ()
    yield Row("bystander: p99 beside a broadcast", "< 2 ms more", *told)
    node, bare = (results.figure(f"cross-node/{who}", "latency", "p99_us") for who in (driver, f"floor-beside-{driver}"))
    told = (f"{node / bare:.2f} × ({node:.0f} / {bare:.0f} µs)", node / bare <= 1.5) if node and bare else ()
    yield Row("cross-node: p99", "≤ 1.5 × bare subscriber", *told)


def against_peer(results, gateway):
    """The targets of scripts/bench-peers.sh."""
    idle = f"idle-{max(results.sizes('idle-'), default='N')}"
    for name, figure in (("user memory", "user_bytes"), ("with the kernel", "total_bytes")):
        yield multiple(results, f"idle: {name}", idle, gateway, PEER, figure, 1.0, "{:.0f} B")
    ours, theirs = (results.figure(f"{results.best_window(who)}/{who}", "deliveries_per_s") for who in (gateway, PEER))
    told = (f"{ours / theirs:.2f} × ({ours:,.0f} / {theirs:,.0f})", ours >= theirs) if ours and theirs else ()
    yield Row("flat-out: deliveries/s", f"≥ 1.00 × {PEER}", *told)
    yield from costs(results, gateway, PEER)


def judged(results):
    """Of each driver or gateway in the run its rows; empty for a run without targets."""
    script, subjects = results.described.get("script"), results.subjects()
    if script == "bench-peers.sh":
        return {who: list(against_peer(results, who)) for who in subjects if who.startswith("tidegate")}
    return {who: list(against_floor(results, who)) for who in ("epoll", "io_uring") if who in subjects and script == "bench.sh"}
