"""The moving parts of the autoscaler's loop that are real: gateways, a Prometheus that scrapes them, and clients that come and go."""

import asyncio
import contextlib
import json
import pathlib
import random
import subprocess
import urllib.parse

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from gateway import Gateway, free_port, http, wait_until


class Prometheus:
    """A Prometheus that scrapes some admin ports, whether a gateway is there or not, with the labels of the PodMonitor."""

    def __init__(self, folder, admin_ports, interval):
        self.folder, self.port, self.process = pathlib.Path(folder), free_port(), None
        targets = "".join(f"      - {{targets: ['127.0.0.1:{port}'], labels: {{app: tidegate, pod: slot-{n}}}}}\n"
                          for n, port in enumerate(admin_ports))
        # Targets are fixed: a discovery of new ones takes Prometheus up to 5 s, which would be a quarter of an hour here.
        (self.folder / "prometheus.yml").write_text(
            f"global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}\n"
            f"scrape_configs:\n  - job_name: tidegate\n    static_configs:\n{targets}")
        self.start()

    def start(self):
        """Starts it (again, with what it knew), and returns when it answers."""
        with open(self.folder / "log", "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/data",
                 f"--web.listen-address=127.0.0.1:{self.port}"], stdout=log, stderr=log)
        wait_until(self.ready, 60, "Prometheus")

    def ready(self):
        """Whether it answers."""
        if self.process.poll() is not None:
            raise AssertionError((self.folder / "log").read_text())
        with contextlib.suppress(OSError):
            return http(f"http://127.0.0.1:{self.port}/-/ready")[0] == 200

    def ask(self, query):
        """What KEDA gets: a number, None for an empty answer, "error" for none."""
        try:
            status, body = http(f"http://127.0.0.1:{self.port}/api/v1/query?query={urllib.parse.quote(query)}")
        except OSError:
            return "error"
        if status != 200:
            return "error"
        result = json.loads(body)["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    def close(self):
        """Ends it."""
        self.process.terminate()
        self.process.wait(30)


class Fleet:
    """The gateways, as a Deployment keeps them: each in a slot with ports of its own."""

    def __init__(self, path, capacity, faster, slots):
        self.path, self.capacity = path, capacity
        # The manifests' drain (5 s, then 30 s), as much faster as everything else.
        self.toml = f'[drain]\ndelay = "{5000 // faster}ms"\nwindow = "{30_000 // faster}ms"\n'
        self.free = [(free_port(), free_port()) for _ in range(slots)]
        self.admin_ports = [admin for _, admin in self.free]
        self.running, self.starting, self.draining, self.codes = [], set(), [], []
        self.failure = None

    def replicas(self):
        """Gateways that the Deployment counts: not those that are going."""
        return len(self.running) + len(self.starting)

    def scale(self, replicas):
        """Starts or drains until there are so many."""
        for _ in range(replicas - self.replicas()):
            task = asyncio.create_task(self._start(self.free.pop(0)))
            self.starting.add(task)
            task.add_done_callback(self._started)
        for _ in range(min(self.replicas() - replicas, len(self.running) - 1)):
            gateway = self.running.pop()
            gateway.process.terminate()
            self.draining.append(gateway)

    async def _start(self, ports):
        return await asyncio.to_thread(Gateway, self.path, self.toml, ports=ports, max_connections=self.capacity, connection_rate=0)

    def _started(self, task):
        self.starting.discard(task)
        if task.cancelled() or task.exception():
            self.failure = self.failure or task
        else:
            self.running.append(task.result())

    def reap(self):
        """Takes the exit codes of the gateways that are gone, and their slots back."""
        if self.failure:
            self.failure.result()
        for gateway in [g for g in self.draining if g.process.poll() is not None]:
            self.codes.append(gateway.process.returncode)
            self.draining.remove(gateway)
            self.free.append((gateway.port, gateway.admin_port))
            gateway.close()

    async def settle(self):
        """Until none is on its way in or out."""
        for _ in range(600):
            self.reap()
            if not self.starting and not self.draining:
                return
            await asyncio.sleep(0.05)

    async def close(self):
        """Ends all."""
        await asyncio.gather(*self.starting, return_exceptions=True)
        for gateway in self.running + self.draining:
            gateway.close()


class Crowd:
    """Clients behind a balancer that picks at random and asks another gateway on 503. They stay for a while, come back when told
    to, and notice when nobody told them."""

    def __init__(self, fleet, faster):
        self.fleet, self.faster = fleet, faster
        self.random = random.Random(1)
        # Tasks by name; connections that a network lost; connections that their clients end, and the tasks that do it.
        self.clients, self.lost, self.leaving, self.closing = {}, set(), set(), set()
        # Each open connection and its gateway.
        self.open = {}
        self.told = self.refused = self.messages = 0
        # The ends of those who were told nothing.
        self.untold = []

    def resize(self, number):
        """So many clients from now on."""
        for name in range(number):
            if name not in self.clients:
                self.clients[name] = asyncio.create_task(self.live())
        for name in [n for n in self.clients if n >= number]:
            self.clients.pop(name).cancel()

    def end_some(self, share):
        """So many of the clients have had enough, and come back as somebody else."""
        for client in [c for c in self.open if c not in self.leaving and self.random.random() < share]:
            self.leaving.add(client)
            self.closing.add(task := asyncio.create_task(client.close()))
            task.add_done_callback(self.closing.discard)

    def lose_all(self):
        """A network that forgets every connection at once."""
        lost = set(self.open)
        self.lost |= lost
        for client in lost:
            client.transport.abort()
        return len(lost)

    def fullest(self):
        """Connections of the gateway that has the most."""
        held = list(self.open.values())
        return max((held.count(gateway) for gateway in self.fleet.running), default=0)

    async def live(self):
        """One client: connects, stays, comes back."""
        attempt = 0
        while True:
            wait = 0.5
            for gateway in self.random.sample(self.fleet.running, min(3, len(self.fleet.running))):
                try:
                    client = await connect(f"{gateway.url}/?attempt={attempt}", ping_interval=None, close_timeout=1, open_timeout=30)
                except (OSError, InvalidHandshake, TimeoutError):
                    continue
                wait = await self.visit(client, gateway)
                break
            else:
                self.refused += 1
            attempt += 1
            await asyncio.sleep(self.random.random() * wait)

    async def visit(self, client, gateway):
        """One connection from its first to its last moment; gives the seconds to wait."""
        self.open[client] = gateway
        try:
            # Closed already: what it was told waits to be read.
            with contextlib.suppress(ConnectionClosed):
                await client.send('{"type":"join","roomId":"load"}')
            return await self.stay(client)
        finally:
            del self.open[client]
            self.leaving.discard(client)
            await client.close()

    async def stay(self, client):
        """Until the connection ends; gives the seconds to wait."""
        told = None
        while True:
            try:
                message = json.loads(await client.recv())
            except ConnectionClosed as end:
                return self.ended(client, told, end)
            if message["type"] == "message":
                self.messages += 1
            if message["type"] == "server-shutdown":
                told = message["reconnectAfter"] / 1000 / self.faster

    def ended(self, client, told, end):
        """Counts an end that was not the client's own wish; `told` are the seconds that it was told to wait."""
        if told is not None:
            self.told += 1
            return told
        if client in self.leaving:
            return 0.0
        if client not in self.lost:
            self.untold.append(str(end))
        return 9 / self.faster


async def talk(fleet):
    """Backends that publish: ten messages a second, each to one of the gateways."""
    chance = random.Random(2)
    while True:
        if fleet.running:
            gateway = chance.choice(fleet.running)
            with contextlib.suppress(OSError):
                await asyncio.to_thread(http, f"{gateway.admin}/v1/rooms/load/messages", "POST", b"a message of the usual size")
        await asyncio.sleep(0.1)
