#!/usr/bin/env python3
"""A day of connections under the ScaledObject of k8s/, second by second, in the model: day.py [--plot FILE] [--seed N]

From the night's 9,000 clients to 150,000 in the evening. At 12:00 a match begins and brings 20,000 clients in five minutes, for two
hours; at 15:00 Prometheus is away for ten minutes; at 19:00 a balancer loses all connections at once (reconnect storm); in the night
the pods are scaled in, each with a drain. Prints what happened, and fails where a client was dropped untold.
"""

import argparse
import math
import random
import sys
from dataclasses import dataclass, field

from autoscaler import SYNC_PERIOD_S, Autoscaler
from cluster import Cluster, Settings
from conftest import ROOT, one, rendered
from relations import CLOSE_DEADLINE_S, drain_times, gateway_pod, settings

DAY_S = 24 * 3600
STORM_S = 19 * 3600
MATCH_S = (12 * 3600, 14 * 3600)
MATCH_CLIENTS = 20_000
BLIND_S = (15 * 3600, 15 * 3600 + 600)
# A client stays for half an hour on average.
SESSION_S = 1800
SCRAPE_S = 15
# How often clients come and go by themselves.
CHANGE_S = 5


@dataclass
class Record:
    """What happened, one entry for each round of the autoscaler."""

    at: list = field(default_factory=list)
    wanted: list = field(default_factory=list)
    connected: list = field(default_factory=list)
    capacity: list = field(default_factory=list)
    replicas: list = field(default_factory=list)
    ready: list = field(default_factory=list)
    fullest: list = field(default_factory=list)
    refused: list = field(default_factory=list)
    told: int = 0
    untold: int = 0


def population(at):
    """Clients that want to be connected at a second of the day: quiet before dawn, most at 20:00."""
    wave = 0.5 - 0.5 * math.cos(2 * math.pi * (at / DAY_S - 20 / 24 + 0.5))
    begins, ends = MATCH_S
    watching = min(max(at - begins, 0), 300, max(ends - at, 0)) / 300
    return int(9_000 + 141_000 * wave**1.5 + MATCH_CLIENTS * watching)


def cluster_settings(objects):
    """Of the model, from the manifests."""
    config, pod = settings(objects), gateway_pod(objects)
    delay, window = drain_times(config)
    return Settings(config["max_connections"], int(delay), int(window), CLOSE_DEADLINE_S, pod["terminationGracePeriodSeconds"])


def prometheus(at, seen):
    """What the query says: the value of the last scrape, or nothing while Prometheus is away."""
    return "error" if BLIND_S[0] <= at < BLIND_S[1] else seen


def simulate(seed=1, until=DAY_S):
    """Runs the day."""
    objects = rendered("k8s/overlays/production")
    autoscaler = Autoscaler.of_scaled_object(one(objects, "ScaledObject"))
    chance = random.Random(seed)
    cluster = Cluster(cluster_settings(objects), chance)
    cluster.scale(-600, -(-population(0) // int(autoscaler.threshold)))
    cluster.arrive(0, population(0))
    record, seen = Record(), None
    for now in range(until):
        if now % CHANGE_S == 0:
            change(cluster, now, chance)
        if now == STORM_S:
            for lost in list(cluster.cut(1.0)):
                for wait in range(10):
                    cluster.arrive(now + wait, lost // 10 + (wait < lost % 10))
        cluster.step(now)
        if now % SCRAPE_S == 0:
            seen = cluster.clients
        if now % SYNC_PERIOD_S == 0:
            cluster.scale(now, autoscaler.decide(now, cluster.replicas(), prometheus(now, seen)))
            note(record, cluster, now)
    record.told, record.untold = cluster.told, cluster.untold
    return record


def change(cluster, now, chance):
    """Clients that come and go by themselves: sessions that end, and the day's growth."""
    leaving = cluster.clients * CHANGE_S / SESSION_S
    leaving = int(leaving) + (chance.random() < leaving % 1)
    cluster.leave(leaving)
    missing = population(now) - cluster.clients - cluster.away
    cluster.arrive(now, max(0, missing))
    cluster.leave(max(0, -missing))


def note(record, cluster, now):
    """One entry."""
    ready = cluster.ready(now)
    record.at.append(now / 3600)
    record.wanted.append(population(now))
    record.connected.append(cluster.clients)
    record.capacity.append(len(ready) * cluster.settings.capacity)
    record.replicas.append(cluster.replicas())
    record.ready.append(len(ready))
    record.fullest.append(max((pod.clients / cluster.settings.capacity for pod in ready), default=0))
    record.refused.append(cluster.refused)


def thinned(record):
    """About 700 entries of many: of each run of neighbours the one with the fewest clients, so that no hole is lost."""
    step = max(1, len(record.at) // 700)
    kept = [min(range(n, min(n + step, len(record.at))), key=record.connected.__getitem__) for n in range(0, len(record.at), step)]
    return Record(*([values[n] for n in kept] for values in (record.at, record.wanted, record.connected, record.capacity, record.replicas,
                                                             record.ready, record.fullest, record.refused)))


def plot(record, path, title):
    """Draws a day."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "tidegate"
    from matplotlib import pyplot

    figure, (clients, pods, fill) = pyplot.subplots(3, 1, figsize=(11, 9), sharex=True, height_ratios=[3, 2, 2])
    record = thinned(record)
    clients.plot(record.at, record.capacity, color="tab:gray", label="capacity of the ready pods", drawstyle="steps-post")
    clients.plot(record.at, record.connected, color="tab:blue", label="connected clients")
    clients.set_ylabel("clients")
    clients.legend(loc="upper left")
    clients.set_title(title)
    pods.plot(record.at, record.replicas, color="tab:orange", label="replicas wanted by the autoscaler", drawstyle="steps-post")
    pods.plot(record.at, record.ready, color="tab:green", label="pods that take clients", drawstyle="steps-post", alpha=0.7)
    pods.set_ylabel("pods")
    pods.legend(loc="upper left")
    fill.plot(record.at, [100 * f for f in record.fullest], color="tab:red", label="fullest pod, % of its capacity")
    fill.axhline(60, color="tab:gray", linewidth=0.8, linestyle="--", label="the autoscaler's threshold")
    fill.set_ylim(0, 110)
    fill.set_ylabel("%")
    fill.set_xlabel("hour of the day")
    fill.legend(loc="lower right")
    for axes in (clients, pods, fill):
        axes.axvspan(BLIND_S[0] / 3600, BLIND_S[1] / 3600, color="tab:gray", alpha=0.3)
        axes.axvline(STORM_S / 3600, color="tab:red", linewidth=0.8, linestyle=":")
        axes.grid(alpha=0.3)
    clients.annotate("all connections lost", (STORM_S / 3600, 5_000), ha="right", fontsize=8, rotation=90)
    clients.annotate("a match", (MATCH_S[0] / 3600, 5_000), ha="right", fontsize=8, rotation=90)
    clients.annotate("Prometheus away", (BLIND_S[0] / 3600, 5_000), ha="right", fontsize=8, rotation=90)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if str(path).endswith(".svg") else None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", metavar="FILE", nargs="?", const=str(ROOT / "target/day.svg"),
                        help="write a picture, .svg or .png (target/day.svg)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.plot and not arguments.plot.endswith((".svg", ".png")):
        parser.error(f"--plot: '{arguments.plot}' is no .svg or .png")
    record = simulate(arguments.seed)
    print(f"told losses {record.told}, untold losses {record.untold}")
    print(f"replicas {min(record.replicas)} to {max(record.replicas)}, most clients {max(record.connected)}, "
          f"fullest pod {max(record.fullest):.0%}, refused upgrades {record.refused[-1]}")
    if arguments.plot:
        plot(record, arguments.plot, "A day under k8s/autoscaling/keda: 6,000 clients a pod, pods of 10,000 (model)")
    sys.exit(1 if record.untold else 0)


if __name__ == "__main__":
    main()
