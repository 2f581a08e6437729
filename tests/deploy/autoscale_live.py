#!/usr/bin/env python3
"""The loop of the autoscaler closed over real parts: autoscale_live.py [--smoke] [--binary FILE]

Real clients on real gateways, a real Prometheus that scrapes them, the query of k8s/autoscaling/keda through its API, and only the
autoscaler itself a model (autoscaler.py), which starts gateways and drains them. Connections are a hundredth and times a thirtieth
of production: 60 clients a gateway instead of 6,000, four gateways more in 2 s instead of a minute, one less in 4 s instead of two
minutes after 20 s of quiet.

The story: clients arrive until five gateways are needed, all connections are lost at once, two thirds leave, gateways are drained one
by one. Fails where a client was dropped untold, or where the number of gateways is not what the documentation says.
"""

import argparse
import asyncio
import contextlib
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import urllib.parse

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from autoscaler import SYNC_PERIOD_S, Autoscaler
from conftest import binary, one, rendered
from gateway import Gateway, free_port, http, wait_until

FEWER, FASTER = 100, 30
# Seconds of this run: everybody is there, the storm, they leave, the end.
STORY = {"full": (12, 25, 40, 95), "smoke": (6, 12, 16, 60)}
CLIENTS, LATE_CLIENTS = 290, 100


class Prometheus:
    """A Prometheus that scrapes the gateways of a file every second."""

    def __init__(self, folder):
        self.folder, self.port = pathlib.Path(folder), free_port()
        (self.folder / "targets.json").write_text("[]")
        (self.folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
            "scrape_configs:\n"
            f"  - {{job_name: tidegate, file_sd_configs: [{{files: [{self.folder}/targets.json], refresh_interval: 1s}}]}}\n")
        self.log = open(self.folder / "log", "w", encoding="utf-8")
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/data",
             f"--web.listen-address=127.0.0.1:{self.port}"], stdout=self.log, stderr=self.log)
        wait_until(self.ready, 30, "Prometheus")

    def ready(self):
        """Whether it answers."""
        if self.process.poll() is not None:
            raise AssertionError((self.folder / "log").read_text())
        with contextlib.suppress(OSError):
            return http(f"http://127.0.0.1:{self.port}/-/ready")[0] == 200

    def scrape(self, gateways):
        """From now on these, as the PodMonitor would label them."""
        targets = [{"targets": [f"127.0.0.1:{g.admin_port}"], "labels": {"app": "tidegate", "pod": f"gateway-{g.port}"}} for g in gateways]
        new = self.folder / "targets.new"
        new.write_text(json.dumps(targets))
        new.rename(self.folder / "targets.json")

    def ask(self, query):
        """What KEDA gets: a number, None for an empty answer, "error" for none."""
        status, body = http(f"http://127.0.0.1:{self.port}/api/v1/query?query={urllib.parse.quote(query)}")
        if status != 200:
            return "error"
        result = json.loads(body)["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    def close(self):
        """Ends it."""
        self.process.terminate()
        self.process.wait(10)
        self.log.close()


class Fleet:
    """The gateways, as a Deployment keeps them."""

    def __init__(self, path, prometheus):
        self.path, self.prometheus = path, prometheus
        self.running, self.draining, self.codes = [], [], []

    async def scale(self, replicas):
        """Starts or drains until there are so many."""
        while len(self.running) < replicas:
            start = asyncio.to_thread(Gateway, self.path, "[drain]\ndelay = \"200ms\"\nwindow = \"1s\"\n", max_connections=10_000 // FEWER,
                                      connection_rate=0)
            self.running.append(await start)
        while len(self.running) > replicas:
            gateway = self.running.pop()
            gateway.process.terminate()
            self.draining.append(gateway)
        self.prometheus.scrape(self.running + self.draining)

    def reap(self):
        """Takes drained gateways out of the scrape."""
        ended = [g for g in self.draining if g.process.poll() is not None]
        self.codes += [g.process.returncode for g in ended]
        for gateway in ended:
            self.draining.remove(gateway)
            gateway.close()
        if ended:
            self.prometheus.scrape(self.running + self.draining)

    def close(self):
        """Ends all."""
        for gateway in self.running + self.draining:
            gateway.close()


class Crowd:
    """Clients that stay connected, come back when told to, and notice when nobody told them."""

    def __init__(self, fleet):
        self.fleet, self.random = fleet, random.Random(1)
        self.clients, self.open, self.lost = {}, set(), set()
        self.told = self.untold = self.refused = 0

    def resize(self, number):
        """So many clients from now on."""
        for name in range(number):
            if name not in self.clients:
                self.clients[name] = asyncio.create_task(self.live())
        for name in [n for n in self.clients if n >= number]:
            self.clients.pop(name).cancel()

    def lose_all(self):
        """A network that forgets every connection at once."""
        self.lost = set(self.open)
        for client in self.lost:
            client.transport.abort()
        return len(self.lost)

    async def live(self):
        """One client: connects, stays, comes back."""
        attempt = 0
        while True:
            gateway = self.random.choice(self.fleet.running)
            try:
                async with connect(f"{gateway.url}/?attempt={attempt}", ping_interval=None, close_timeout=1) as client:
                    self.open.add(client)
                    try:
                        wait = await self.stay(client)
                    finally:
                        self.open.discard(client)
            except (OSError, InvalidHandshake, TimeoutError):
                self.refused += 1
                wait = 0.5
            attempt += 1
            await asyncio.sleep(self.random.random() * wait)

    async def stay(self, client):
        """Until the connection ends; gives the seconds to wait."""
        wait, told = 0.3, False
        while True:
            try:
                message = json.loads(await client.recv())
            except ConnectionClosed:
                if told:
                    self.told += 1
                elif client not in self.lost:
                    self.untold += 1
                return wait
            if message["type"] == "server-shutdown":
                told, wait = True, message["reconnectAfter"] / 1000 / FASTER


def ours():
    """The autoscaler of k8s/, a hundredth of the size and thirty times as fast, and its query."""
    manifest = one(rendered("k8s/overlays/production"), "ScaledObject")
    scaler = Autoscaler.of_scaled_object(manifest)
    scaler.threshold /= FEWER
    scaler.up, scaler.down = scaler.up.scaled(FASTER), scaler.down.scaled(FASTER)
    return scaler, manifest["spec"]["triggers"][0]["metadata"]["query"]


async def story(path, prometheus, times):
    """Runs it; gives what was seen, one row a round."""
    full, storm, leave, end = times
    scaler, query = ours()
    fleet = Fleet(path, prometheus)
    crowd, rows = Crowd(fleet), []
    lost = None
    try:
        await fleet.scale(scaler.least)
        # Until the first scrape the answer is empty, and three empty answers are the fallback's ten replicas.
        await asyncio.to_thread(wait_until, lambda: prometheus.ask(query) is not None, 30, "the first scrape")
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < end:
            if now < leave:
                crowd.resize(int(CLIENTS * min(1, 0.2 + 0.8 * now / full)))
            else:
                crowd.resize(LATE_CLIENTS)
            if now >= storm and lost is None:
                lost = crowd.lose_all()
            answer = await asyncio.to_thread(prometheus.ask, query)
            wanted = scaler.decide(now, len(fleet.running), answer)
            rows.append((now, len(crowd.open), answer, len(fleet.running), wanted))
            await fleet.scale(wanted)
            fleet.reap()
            if now > leave and not fleet.draining and len(fleet.running) == scaler.least:
                break
            await asyncio.sleep(max(0, SYNC_PERIOD_S / FASTER - (time.monotonic() - begin - now)))
        await asyncio.sleep(2.5)
        own = sum(g.metric("ws_connections_active") for g in fleet.running)
        seen = await asyncio.to_thread(prometheus.ask, query)
        crowd.resize(0)
        await asyncio.sleep(0.2)
    finally:
        fleet.close()
    return rows, crowd, fleet, lost, (own, seen)


def judge(rows, crowd, fleet, lost, agreement):
    """What must have been so; gives the complaints."""
    most = max(replicas for *_, replicas, _ in rows)
    ups = [wanted for *_, replicas, wanted in rows if wanted > replicas]
    expected = -(-CLIENTS * FEWER // 6000)
    own, seen = agreement
    print(f"told losses {crowd.told + lost}, untold losses {crowd.untold}")
    print(f"gateways {rows[0][3]} → {most} → {rows[-1][4]}; drained {len(fleet.codes)} with exit codes {sorted(set(fleet.codes))}; "
          f"lost in the storm {lost}; refused and retried {crowd.refused}; at the end the query says {seen:.0f}, the gateways {own:.0f}")
    if crowd.untold:
        yield f"{crowd.untold} clients were dropped untold"
    if most != expected or not ups:
        yield f"{CLIENTS * FEWER} clients (scaled) at 6,000 are {expected} gateways, but there were at most {most}"
    if rows[-1][4] != 3 or len(fleet.codes) < most - 3 or set(fleet.codes) != {0}:
        yield "the gateways that were too many did not all drain and end with 0"
    if own != LATE_CLIENTS or seen != own:
        yield f"{LATE_CLIENTS} clients are connected, the gateways count {own:.0f}, the query {seen}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a shorter story")
    parser.add_argument("--binary", type=pathlib.Path, default=binary(), help="the gateway")
    parser.add_argument("--rows", action="store_true", help="print each round")
    arguments = parser.parse_args()
    if not arguments.binary or not arguments.binary.exists():
        parser.error("no gateway binary: cargo build, or --binary")
    with tempfile.TemporaryDirectory() as folder:
        prometheus = Prometheus(folder)
        try:
            outcome = asyncio.run(story(arguments.binary, prometheus, STORY["smoke" if arguments.smoke else "full"]))
        finally:
            prometheus.close()
    if arguments.rows:
        for now, connected, answer, replicas, wanted in outcome[0]:
            print(f"{now:6.1f} s  connected {connected:4}  query {answer}  gateways {replicas} → {wanted}")
    complaints = list(judge(*outcome))
    for complaint in complaints:
        print(f"wrong: {complaint}", file=sys.stderr)
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
