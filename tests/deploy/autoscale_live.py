#!/usr/bin/env python3
"""The loop of the autoscaler closed over real parts: autoscale_live.py [--smoke] [--binary FILE] [--plot FILE] [--json FILE]

Real clients on real gateways, a real Prometheus that scrapes them, the query of k8s/autoscaling/keda through its API, and only the
autoscaler itself a model (autoscaler.py), which starts gateways and drains them. Connections are a two-hundredth of production (30
clients a gateway instead of 6,000). Each of the autoscaler's rounds is 15 s of the story and takes as much less as the story says, or
longer on a busy machine: then the story waits for it. The gateways drain as much faster.

The day of day.py in eight minutes, on up to 25 gateways: its clients come, stay for half an hour and leave; a match at noon;
Prometheus really stops at 15:00; at 19:00 all connections are lost at once; in the night the gateways are drained one by one. --smoke
is a story of a minute: clients come until five gateways are needed, all connections are lost, two thirds leave. Fails where a client
was dropped untold, or where the number of gateways is not what the documentation says.
"""

import argparse
import asyncio
import json
import pathlib
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import Callable

import day
from autoscaler import SYNC_PERIOD_S, Autoscaler
from conftest import ROOT, alternative_triggers, binary, one, rendered
from day import Record
from fleet import Crowd, Fleet, Prometheus, talk
from gateway import wait_until

FEWER = 200
CAPACITY = 10_000


@dataclass
class Story:
    """What happens when, in seconds and clients as in production."""

    faster: int
    scrape: str
    population: Callable
    end_s: int
    storm_s: int
    blind_s: tuple = (0, 0)
    session_s: float = None


def short(at):
    """Clients of the shorter story: 29,000 within six minutes, 10,000 from the 40th on."""
    return 10_000 if at > 2400 else int(29_000 * min(1, 0.2 + 0.8 * at / 360))


DAY = Story(180, "250ms", day.population, day.DAY_S, day.STORM_S, day.BLIND_S, day.SESSION_S)
SMOKE = Story(90, "500ms", short, 4050, 750)


def ours():
    """The autoscaler of k8s/, its numbers as much smaller, and its query."""
    manifest = one(rendered("k8s/overlays/production"), "ScaledObject")
    scaler = Autoscaler.of_scaled_object(manifest)
    scaler.threshold /= FEWER
    return scaler, manifest["spec"]["triggers"][0]["metadata"]["query"]


class Stage:
    """One run of a story."""

    def __init__(self, story, path, folder):
        self.story = story
        self.scaler, self.query = ours()
        self.fleet = Fleet(path, CAPACITY // FEWER, story.faster, self.scaler.most + 3)
        self.crowd = Crowd(self.fleet, story.faster)
        self.prometheus = Prometheus(folder, self.fleet.admin_ports, story.scrape)
        self.record, self.answers = Record(), []
        self.lost = self.returning = None
        self.away = False
        # What the commented triggers say when most is going on.
        self.alternatives = {}

    async def run(self):
        """From the first gateways to the last drained one."""
        talking = asyncio.create_task(talk(self.fleet))
        try:
            await self.begin()
            for at in range(0, self.story.end_s, SYNC_PERIOD_S):
                next_round = time.monotonic() + SYNC_PERIOD_S / self.story.faster
                await self.round(at)
                await asyncio.sleep(max(0, next_round - time.monotonic()))
            return await self.finale()
        finally:
            talking.cancel()
            self.crowd.resize(0)
            await asyncio.sleep(0.5)
            await self.fleet.close()
            self.prometheus.close()

    async def begin(self):
        """As many gateways as the first clients need."""
        self.fleet.scale(max(self.scaler.least, -(-self.story.population(0) // FEWER // int(self.scaler.threshold))))
        await self.fleet.settle()
        # Until the first scrape the answer is empty, and three empty answers are the fallback's ten replicas.
        await asyncio.to_thread(wait_until, lambda: self.prometheus.ask(self.query) is not None, 30, "the first scrape")

    async def round(self, at):
        """What is due, and one round of the autoscaler."""
        self.crowd.resize(self.story.population(at) // FEWER)
        if self.story.session_s:
            self.crowd.end_some(SYNC_PERIOD_S / self.story.session_s)
        if at >= self.story.storm_s and self.lost is None:
            self.alternatives = {query: await asyncio.to_thread(self.prometheus.ask, query) for query in alternative_triggers()}
            self.lost = self.crowd.lose_all()
        await self.look_away(at)
        answer = await asyncio.to_thread(self.prometheus.ask, self.query)
        replicas = self.fleet.replicas()
        wanted = self.scaler.decide(at, replicas, answer)
        self.note(at, wanted, answer)
        self.fleet.scale(wanted)
        self.fleet.reap()

    async def look_away(self, at):
        """Prometheus is really away meanwhile."""
        begins, ends = self.story.blind_s
        if begins <= at < ends and not self.away:
            self.away = True
            await asyncio.to_thread(self.prometheus.close)
        if at >= ends and self.away and not self.returning:
            self.returning = asyncio.create_task(asyncio.to_thread(self.prometheus.start))

    def note(self, at, wanted, answer):
        """One entry."""
        record, running = self.record, len(self.fleet.running)
        record.at.append(at / 3600)
        record.wanted.append(self.story.population(at))
        record.connected.append(len(self.crowd.open) * FEWER)
        record.capacity.append(running * CAPACITY)
        record.replicas.append(wanted)
        record.ready.append(running)
        record.fullest.append(self.crowd.fullest() * FEWER / CAPACITY)
        record.refused.append(self.crowd.refused)
        self.answers.append(answer)

    async def finale(self):
        """Nobody comes or goes any more: what the query says, what the gateways say, and how many are really there."""
        await self.fleet.settle()
        own = seen = None
        for _ in range(60):
            await asyncio.sleep(0.5)
            own = await asyncio.to_thread(lambda: sum(g.metric("ws_connections_active") for g in self.fleet.running))
            seen = await asyncio.to_thread(self.prometheus.ask, self.query)
            if own == seen == len(self.crowd.open) == len(self.crowd.clients):
                break
        return own, seen, len(self.crowd.clients)


def judge(stage, ending):
    """What must have been so; gives the complaints."""
    story, record, crowd, codes = stage.story, stage.record, stage.crowd, stage.fleet.codes
    own, seen, clients = ending
    print(f"told losses {crowd.told + stage.lost}, untold losses {len(crowd.untold)}")
    print(f"gateways {record.replicas[0]} → {max(record.replicas)} → {record.replicas[-1]}, at least {min(record.replicas)}; drained "
          f"{len(codes)} with exit codes {sorted(set(codes))}; lost in the storm {stage.lost}; refused and retried {crowd.refused}; "
          f"messages heard {crowd.messages}; at the end the query says {seen:.0f}, the gateways {own:.0f}, the clients {clients}")
    if not crowd.messages:
        yield "nobody heard a message: there was no load"
    if crowd.untold:
        yield f"{len(crowd.untold)} clients were dropped untold: {crowd.untold[:3]}"
    most, needed = max(record.replicas), max(-(-w // int(stage.scaler.threshold * FEWER)) for w in record.wanted)
    # Within 10 % the HPA leaves the number as it is; what comes back from a storm may be counted twice for one scrape.
    if not needed / 1.1 <= most <= needed * 1.1 + 1:
        yield f"at most {max(record.wanted)} clients at 6,000 are {needed} gateways, but there were {most}"
    if min(record.replicas) != stage.scaler.least:
        yield f"there were never only {stage.scaler.least} gateways"
    if not codes or set(codes) != {0}:
        yield f"gateways that were too many did not drain and end with 0: {codes}"
    if not own == seen == clients:
        yield f"{clients} clients are connected, the gateways count {own}, the query {seen}"
    storm = next(n for n, hour in enumerate(record.at) if hour * 3600 >= story.storm_s)
    calm = [r for hour, r in zip(record.at, record.replicas) if 0 <= hour * 3600 - story.storm_s <= 500]
    if min(calm) < record.replicas[storm]:
        yield "gateways were scaled in because of the storm"
    back = [c for hour, c in zip(record.at, record.connected) if 120 <= hour * 3600 - story.storm_s <= 1600]
    if max(back) < 0.97 * record.wanted[storm]:
        yield f"after the storm only {max(back)} of {record.wanted[storm]} clients came back"
    yield from judge_blindness(stage)
    for query, answer in stage.alternatives.items():
        if not isinstance(answer, float) or answer < 0:
            yield f"the commented trigger {query} says {answer}"


def judge_blindness(stage):
    """Nothing is scaled in while Prometheus is away."""
    blind = [n for n, answer in enumerate(stage.answers) if answer == "error"]
    # A busy machine may keep Prometheus from answering at other times, too; nothing is scaled in then either.
    if stage.story.blind_s[1] and not blind:
        yield "Prometheus was never away"
    for n in blind[1:]:
        if stage.record.replicas[n] < stage.record.replicas[n - 1]:
            yield f"a gateway was drained at {stage.record.at[n]:.2f} h, blind"


async def play(story, path):
    """The story; what it left, and its ending."""
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(story, path, folder)
        return stage, await stage.run()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="the shorter story")
    parser.add_argument("--binary", type=pathlib.Path, default=binary(), help="the gateway")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE", nargs="?", const=ROOT / "target/autoscaling.svg",
                        help="write a picture, .svg or .png (target/autoscaling.svg)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write each round here")
    arguments = parser.parse_args()
    if not arguments.binary or not arguments.binary.exists():
        parser.error("no gateway binary: cargo build, or --binary")
    if arguments.plot and arguments.smoke:
        parser.error("--plot draws the day; leave --smoke out")
    if arguments.json and not arguments.json.parent.is_dir():
        parser.error(f"--json: '{arguments.json.parent}' is no directory")
    if arguments.plot and (arguments.plot.suffix not in (".svg", ".png") or not arguments.plot.parent.is_dir()):
        parser.error(f"--plot: '{arguments.plot}' is no .svg or .png in a directory that exists")
    stage, ending = asyncio.run(play(SMOKE if arguments.smoke else DAY, arguments.binary))
    if arguments.json:
        arguments.json.write_text(json.dumps({**asdict(stage.record), "answers": stage.answers}) + "\n")
    if arguments.plot:
        title = "A day under k8s/autoscaling/keda: real gateways, clients and Prometheus at 1:200, a day in eight minutes"
        day.plot(stage.record, arguments.plot, title)
    complaints = list(judge(stage, ending))
    for complaint in complaints:
        print(f"wrong: {complaint}", file=sys.stderr)
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
