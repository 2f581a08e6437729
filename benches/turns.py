#!/usr/bin/env python3
"""Watches a gateway under load: turns.py LABEL METRICS_URL RESULTS.jsonl

Looks four times a second until it gets SIGTERM; then adds a line with the longest turn of the gateway's loop, and the time
within which 99 % of the publications were delivered."""

import json
import re
import signal
import sys
import time
import urllib.request


def scrape(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def longest_turn(text):
    """Seconds; the gateway tells the longest turn of the last minute, by shard."""
    return max((float(value) for value in re.findall(r"^ws_loop_lag_seconds\S* (\S+)$", text, re.M)), default=0.0)


def within(text):
    """The bound of the bucket that 99 % of the publications fall into."""
    buckets = re.findall(r'^ws_publish_delivery_seconds_bucket\{le="([^"]+)"\} (\S+)$', text, re.M)
    count = float(buckets[-1][1]) if buckets else 0
    return next((bound for bound, seen in buckets if count and float(seen) >= 0.99 * count), None)


def main():
    if len(sys.argv) != 4:
        sys.exit("usage: turns.py LABEL METRICS_URL RESULTS.jsonl")
    label, url, results = sys.argv[1:]
    over = []
    signal.signal(signal.SIGTERM, lambda *_: over.append(True))
    longest, text = 0.0, ""
    while not over:
        text = scrape(url)
        longest = max(longest, longest_turn(text))
        time.sleep(0.25)
    line = {"tool": "turns", "label": label, "loop_lag_us": longest * 1e6, "delivered_within_s": within(text)}
    with open(results, "a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
