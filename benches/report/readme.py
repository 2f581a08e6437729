"""The README's figures, between two markers, from the published runs."""

import million
import peers
import ratios

BEGIN = "<!-- figures: written by benches/report/report.py -->"
END = "<!-- end of figures -->"


def memory(results, row, who):
    """Of an idle client, in user space and in the kernel."""
    user, kernel = (results.figure(f"{row}/{who}", key) for key in ("user_bytes", "kernel_bytes"))
    return None if user is None or kernel is None else f"{user:,.0f} + {kernel:,.0f} B"


def fastest(results, row, who):
    """Of a flat-out row: the rate, what it costs the slowest, and whether the load side was the limit."""
    rate, p99_us = (results.figure(f"{row}/{who}", *path) for path in (["deliveries_per_s"], ["latency", "p99_us"]))
    if rate is None or p99_us is None:
        return None
    bound = ", the load's limit" if results.rows[f"{row}/{who}"].get("client_bound") else ""
    return f"{rate:,.0f} ({p99_us / 1e3:,.0f} ms{bound})"


# What a reader of the README sees of the peers: heading, row (None: each one's own best), cell.
COLUMNS = [
    ("idle client in a room, user + kernel", "idle", memory),
    ("CPU of an upgrade", "upgrade", peers.fixed("{:.0f} µs", *ratios.CPU_UPGRADE)),
    ("an echo, 1,000 clients", "echo-1000", peers.fixed("{:.1f} µs", *ratios.CPU_MESSAGE)),
    ("a delivery, one room of 10,000", "fanout-10000", peers.fixed("{:.1f} µs", *ratios.CPU_DELIVERY)),
    ("1,000 rooms of 10", "fanout-1000-rooms", peers.fixed("{:.1f} µs", *ratios.CPU_DELIVERY)),
    ("deliveries/s, flat out (their p99)", None, fastest),
]


def span(results, rows, driver, figure):
    """From the best to the worst ratio against the bare loop."""
    found = [ratios.ratio(results, row, driver, figure) for row in rows]
    times = [row[1] for row in found if row is not None]
    if not times:
        return "not measured"
    return f"{times[0]:.2f} ×" if len(times) == 1 else f"{min(times):.2f} to {max(times):.2f} ×"


def against_the_floor(results, table):
    """The gateway beside the bare loops."""
    sizes = {prefix: [f"{prefix}{size}" for size in results.sizes(prefix)] for prefix in ("idle-", "echo-", "fanout-")}
    drivers = results.drivers()

    def each(cell):
        return [cell(driver) for driver in drivers]

    def user(driver):
        return peers.fixed("{:.0f} B", "user_bytes")(results, sizes["idle-"][-1], driver) or "not measured"

    def flat_out(driver):
        row = results.best_window(driver)
        return fastest(results, row, driver) or "not measured"

    def between(prefix):
        ends = results.sizes(prefix)
        return f"{ends[0]:,} to {ends[-1]:,}" if ends else "N"

    rows = [["what", *drivers]]
    if sizes["idle-"]:
        rows.append(["user memory of an idle client in a room", *each(user)])
    what = f"CPU per message of an echo, against the bare loop, at {between('echo-')} connections"
    rows.append([what, *each(lambda driver: span(results, sizes["echo-"], driver, ratios.CPU_MESSAGE))])
    what = f"CPU per delivery of a fan-out, against a bare loop of `send`, at {between('fanout-')} members"
    rows.append([what, *each(lambda driver: span(results, sizes["fanout-"], driver, ratios.CPU_DELIVERY))])
    what = "CPU per upgrade, against bare accept, read, write and arm"
    rows.append([what, *each(lambda driver: span(results, ["upgrade"], driver, ratios.CPU_UPGRADE))])
    rows.append(["deliveries/s on one core, as fast as it goes, ten rooms of 100 (their p99)", *each(flat_out)])
    slower = ratios.slowness(results)
    yield from ["", f"Beside bare loops in the same run, on one core of {host(results, slower)}:", "", *table(rows)]
    yield from ["", "A fan-out is below 1 where a member's messages were coalesced into one send."]


def host(results, slower):
    """Which machine, and how fast it is."""
    told = results.described
    speed = f", whose bare echo of 64 B takes {slower * ratios.BARE_ECHO_THERE_US:.1f} µs" if slower else ""
    return f"a host ({told.get('cpu', 'unknown')}, kernel {told.get('kernel', 'unknown')}{speed})"


def beside_peers(results, table):
    """Every room server that was measured in the same run."""
    idle = peers.idle_row(results)
    columns = [(heading, idle if row == "idle" else row, cell) for heading, row, cell in COLUMNS]
    rows = {who: list(peers.cells(results, who, columns)) for who in results.subjects()}
    # Who has no room is in the report, not here; nor is what was only run for comparison.
    rows = [[who, *(text or "–" for text in row)] for who, row in rows.items() if sum(map(bool, row)) > 2]
    yield from ["", "Beside the peers, in another run, each on the same core; `floor` is a bare loop:", ""]
    yield from table([["server", *(heading for heading, _, _ in columns)], *rows])


def figures(runs, table):
    """The lines between the markers; `runs` by their script, `table` writes one."""
    if "bench.sh" in runs:
        yield from against_the_floor(runs["bench.sh"], table)
    if "bench-peers.sh" in runs:
        yield from beside_peers(runs["bench-peers.sh"], table)
    else:
        yield from ["", "The peers are not in a published run: `scripts/bench-peers.sh` measures them."]
    if "million.sh" in runs:
        cores = runs["million.sh"].described.get("cpus")
        yield from ["", f"A crowd on one host of {cores} cores, both ends of each connection (`scripts/million.sh`):", ""]
        yield from table(list(million.held(runs["million.sh"])))


def inserted(text, lines):
    """The README with these lines between its markers; ValueError where it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README has no {BEGIN} ... {END}")
    return before + begin + "\n" + "\n".join(lines) + "\n\n" + end + after
