"""A model of gateway pods and their clients, for the question whether the autoscaler's decisions keep everybody served.

Clients are numbers, time goes in steps of one second, and chance comes from a seed. A pod starts, is ready, drains (goes on
accepting for the delay, then refuses and tells and closes everybody over the window), and is killed at the end of the grace
period: whoever is connected then was not told. Clients that are closed come back within the time that they were told; clients that
are refused come back after a back-off with jitter.
"""

import random
from dataclasses import dataclass, field


@dataclass
class Settings:
    """Of the gateway and of the cluster, in seconds and connections."""

    capacity: int
    drain_delay_s: int
    drain_window_s: int
    close_deadline_s: int
    grace_s: int
    start_s: int = 90
    notice_s: int = 4
    reconnect_within_s: int = 5
    backoff_s: int = 30


@dataclass
class Pod:
    """One gateway."""

    ready_at: int
    clients: int = 0
    draining_since: int = None

    def accepts(self, now, settings):
        """Whether an upgrade that reaches it is answered with 101, room permitting."""
        return self.ready_at <= now and (self.draining_since is None or now < self.draining_since + settings.drain_delay_s)

    def in_service(self, now, settings):
        """Whether the Service still sends clients here: it notices a drain a moment later."""
        return self.ready_at <= now and (self.draining_since is None or now < self.draining_since + settings.notice_s)


@dataclass
class Cluster:
    """All pods, and the clients on their way."""

    settings: Settings
    random: random.Random
    pods: list = field(default_factory=list)
    # When how many clients knock (again): seconds → number.
    knocking: dict = field(default_factory=dict)
    told: int = 0
    untold: int = 0
    refused: int = 0

    @property
    def clients(self):
        """Connected clients: what the query sums up, draining pods included."""
        return sum(pod.clients for pod in self.pods)

    @property
    def away(self):
        """Clients that want to be connected and are not."""
        return sum(self.knocking.values())

    def ready(self, now):
        """Pods that the Service sends clients to."""
        return [pod for pod in self.pods if pod.in_service(now, self.settings)]

    def replicas(self):
        """Pods that the Deployment counts: not those that are going."""
        return sum(pod.draining_since is None for pod in self.pods)

    def scale(self, now, replicas):
        """What the Deployment does with a new number."""
        for _ in range(replicas - self.replicas()):
            self.pods.append(Pod(now + self.settings.start_s))
        going = sorted((p for p in self.pods if p.draining_since is None), key=lambda p: (p.ready_at <= now, -p.ready_at))
        for pod in going[: max(0, self.replicas() - replicas)]:
            pod.draining_since = now

    def arrive(self, at, clients):
        """Clients that want to connect from then on."""
        if clients:
            self.knocking[at] = self.knocking.get(at, 0) + clients

    def leave(self, clients):
        """Clients that close by themselves, from all pods alike."""
        for pod, share in zip(self.pods, self._spread(clients, [pod.clients for pod in self.pods])):
            pod.clients -= min(share, pod.clients)

    def cut(self, share):
        """A balancer or network that loses a share of all connections: the clients know nothing and come back at once."""
        for pod in self.pods:
            lost = int(pod.clients * share)
            pod.clients -= lost
            yield lost

    def step(self, now):
        """One second."""
        self._drain(now)
        self._admit(now)

    def _admit(self, now):
        arriving = sum(self.knocking.pop(at) for at in [at for at in self.knocking if at <= now])
        if not arriving:
            return
        pods = self.ready(now)
        if not pods:
            self._again(now, arriving)
            return
        # The balancer picks at random; a refusal is asked for at the next pod (retry on 503) before the client hears of it.
        for pod, share in zip(pods, self._spread(arriving, [1] * len(pods))):
            taken = min(share, self.settings.capacity - pod.clients) if pod.accepts(now, self.settings) else 0
            pod.clients += taken
            arriving -= taken
        for pod in pods:
            if pod.accepts(now, self.settings) and arriving:
                taken = min(arriving, self.settings.capacity - pod.clients)
                pod.clients += taken
                arriving -= taken
        self.refused += arriving
        self._again(now, arriving)

    def _again(self, now, clients):
        """Back-off with full jitter, in twenty groups where they are many."""
        groups = min(clients, 20)
        for group in range(groups):
            size = clients // groups + (group < clients % groups)
            self.arrive(now + 1 + self.random.randrange(self.settings.backoff_s), size)

    def _drain(self, now):
        s = self.settings
        draining = [pod for pod in self.pods if pod.draining_since is not None]
        if not draining:
            return
        for pod in draining:
            into = now - pod.draining_since - s.drain_delay_s
            if 0 <= into and pod.clients:
                left = max(1, s.drain_window_s - into)
                closing = -(-pod.clients // left)
                pod.clients -= closing
                self.told += closing
                for wait in range(1, s.reconnect_within_s + 1):
                    self.arrive(now + wait, closing // s.reconnect_within_s + (wait <= closing % s.reconnect_within_s))
            if now >= pod.draining_since + s.grace_s:
                self.untold += pod.clients
                pod.clients = 0
        self.pods = [p for p in self.pods if p.draining_since is None or p.clients or now < p.draining_since + s.drain_delay_s]

    def _spread(self, number, weights):
        """A number split by weights, whole, with chance for the rest."""
        total = sum(weights)
        if not total:
            return [0] * len(weights)
        shares = [number * weight // total for weight in weights]
        for index in self.random.sample(range(len(weights)), min(len(weights), number - sum(shares))):
            shares[index] += 1
        return shares
