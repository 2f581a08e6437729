#!/usr/bin/env python3
"""The load generator through each balancer: balancers_load.py [--smoke] [--connections N] [--rate N] [--seconds N]

One gateway, and `tideload fanout` to it directly, through nginx and through HAProxy with the configurations of tuning/balancers: what a
balancer costs in latency, and that nothing is lost, doubled or reordered on the way. Figures count only on a quiet machine with a
release build.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from conftest import ROOT, binary
from gateway import Gateway
from test_balancers import Balancer


def load_generator():
    """The newest build of tideload."""
    built = [p for p in (ROOT / "target" / kind / "tideload" for kind in ("release", "debug")) if p.exists()]
    return max(built, key=lambda p: p.stat().st_mtime, default=None)


def measure(tideload, url, arguments):
    """One run: its JSON line."""
    command = [tideload, "fanout", f"{url}/", "--connections", arguments.connections, "--rate", arguments.rate, "--seconds",
               arguments.seconds, "--exactly-once", "--quiet", "--json", "-"]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    if not result.stdout.strip():
        sys.exit(f"tideload failed with {result.returncode}:\n{result.stderr}")
    return result.returncode, json.loads(result.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few connections, two seconds")
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--rate", type=int, default=20, help="publications a second")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--tideload", type=pathlib.Path, default=load_generator(), help="the load generator")
    parser.add_argument("--json", type=pathlib.Path, help="write the records here")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.connections, arguments.seconds = 50, 2
    if not 1 <= arguments.connections <= 900:
        parser.error("--connections: 1 to 900, what the balancers' small test configuration holds")
    if arguments.rate < 1 or arguments.seconds < 1:
        parser.error("--rate and --seconds are at least 1")
    if not binary() or not arguments.tideload or not arguments.tideload.exists():
        parser.error("build first: cargo build --release -p tidegate -p tideload")
    records, wrong = {}, []
    gateway = Gateway(binary(), connection_rate=0, message_rate=0)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            for way in ("direct", "nginx", "haproxy"):
                folder = pathlib.Path(scratch) / way
                folder.mkdir()
                balancer = None if way == "direct" else Balancer(way, folder, [gateway])
                try:
                    code, records[way] = measure(arguments.tideload.resolve(), (balancer or gateway).url, arguments)
                finally:
                    if balancer:
                        balancer.close()
                if code:
                    wrong.append(way)
    finally:
        gateway.close()
    show(records)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")
    for way in wrong:
        print(f"wrong: {way}: not every member got every message once and in order", file=sys.stderr)
    sys.exit(1 if wrong else 0)


def show(records):
    """A table; latency is from publish to delivery."""
    print(f"{'way':8} {'delivered':>10} {'lost':>5} {'doubled':>8} {'reordered':>10} {'p50 ms':>8} {'p99 ms':>8}")
    for way, record in records.items():
        seen = record["results"]
        p50, p99 = (seen["latency"][name] / 1000 for name in ("p50_us", "p99_us"))
        print(f"{way:8} {seen['delivered']:10} {seen['lost']:5} {seen['duplicate']:8} {seen['reordered']:10} {p50:8.2f} {p99:8.2f}")


if __name__ == "__main__":
    main()
