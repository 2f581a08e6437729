"""What scripts/million.sh held, as rows of a table."""

import publication

# Key of the results, what it is, form.
FIGURES = [
    ("connections", "connections, each in one room, both ends on this host", "{:,.0f}"),
    ("connections_per_s", "connected, a second, both ends", "{:,.0f}"),
    ("failed_attempts", "refused at first, and dialled again", "{:,.0f}"),
    ("user_bytes", "user memory of a connection", "{:,.0f} B"),
    ("kernel_bytes", "kernel memory of a connection, the gateway's end", "{:,.0f} B"),
    ("total_bytes", "both", "{:,.0f} B"),
    ("idle_cores", "CPU of all gateways while idle, heartbeats on", "{:.3f} cores"),
    ("idle_cores_per_million", "the same by a million connections", "{:.3f} cores"),
    ("pings", "pings answered meanwhile", "{:,.0f}"),
    ("published", "broadcasts to everybody", "{:,.0f}"),
    ("delivered", "deliveries", "{:,.0f}"),
]


def held(results):
    """Heading and rows for each run of the script: what, how much."""
    yield ["what", "figure"]
    for label, row in results.rows.items():
        found = row["results"]
        if "tidegate" in results.about:
            yield ["gateway", results.about["tidegate"]]
        yield ["gateways on one port", str(publication.servers(row))]
        for key, what, form in FIGURES:
            if found.get(key) is not None:
                yield [what, form.format(found[key])]
        yield from broadcast(results, label)


def broadcast(results, label):
    last_us = results.figure(label, "last_member", "max_us")
    if last_us is None:
        return
    latency = results.figure(label, "latency")
    yield ["publish to delivery", f"p50 {latency['p50_us'] / 1e6:.2f} s, p99 {latency['p99_us'] / 1e6:.2f} s"]
    yield ["publish to the last member's delivery", f"{last_us / 1e6:.2f} s"]
    wrong = ", ".join(f"{count:,} {what}" for what, count in results.wrongs(label))
    wrong = wrong or ", ".join(f"{count:,} ended while idle ({how})" for how, count in results.figure(label, "ended_while_idle").items())
    yield ["exactly once, and nobody lost", wrong or "yes"]
