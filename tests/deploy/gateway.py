"""Real gateways for the deployment tests: start, ask, drain, stop. Loopback only, ports below the ephemeral range."""

import itertools
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from websockets.sync.client import connect

# Several test runs on one machine begin at different places.
_PORTS = itertools.count(12_000 + os.getpid() % 1_000 * 16)


def free_port():
    """A port of loopback below 32768 that nobody has."""
    for port in _PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def http(url, method="GET", body=None, timeout=5):
    """The status and text of an answer, refusals included."""
    request = urllib.request.Request(url, method=method, data=body, headers={"Content-Type": "text/plain"} if body else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


def wait_until(true, seconds=10, what="the condition"):
    """Asks until it is so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = true()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come true within {seconds} s")


class Gateway:
    """One process of the gateway."""

    def __init__(self, binary, toml="", prefix=(), ports=None, **variables):
        self.port, self.admin_port = ports or (free_port(), free_port())
        self.url, self.admin = f"ws://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.admin_port}"
        self.log = tempfile.NamedTemporaryFile("w+", prefix="tidegate-", suffix=".log")
        self.config = tempfile.NamedTemporaryFile("w", prefix="tidegate-", suffix=".toml")
        self.config.write(toml)
        self.config.flush()
        command = [*map(str, prefix), str(binary), "serve", "--config", self.config.name, "--listen", f"127.0.0.1:{self.port}",
                   "--admin", f"127.0.0.1:{self.admin_port}"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE_")}
        environment |= {f"TIDEGATE_{k.upper()}": str(v) for k, v in {"shards": 1, "log_format": "json", **variables}.items()}
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment)
        self.wait_ready()

    def wait_ready(self):
        """Until /ready says so; a gateway that ended shows its log."""
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"the gateway ended with {self.process.returncode}:\n{self.text()}")
            try:
                return self.ready() == 200
            except OSError:
                return False
        wait_until(ready, 20, "readiness")

    def text(self):
        """The log so far."""
        with open(self.log.name, encoding="utf-8") as file:
            return file.read()

    def ready(self):
        """The status of /ready."""
        return http(f"{self.admin}/ready")[0]

    def metrics(self):
        """The exposition."""
        return http(f"{self.admin}/metrics")[1]

    def metric(self, name):
        """The sum of all samples that begin with a name (labels may follow in the name)."""
        lines = [line for line in self.metrics().splitlines() if line.startswith(name)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line[len(name)] in " {,}" or "{" in name)

    def get(self, path):
        """A JSON answer of the admin port."""
        status, body = http(f"{self.admin}{path}")
        assert status == 200, body
        return json.loads(body)

    def peers(self):
        """The clients' addresses as the gateway knows them."""
        answer = self.get("/v1/connections?limit=100")
        rows = answer["connections"] if isinstance(answer, dict) else answer
        return [row["peer"] for row in rows]

    def hear_one_message(self):
        """A client joins, publishes and hears itself."""
        with connect(self.url) as client:
            assert json.loads(client.recv())["type"] == "welcome"
            client.send('{"type":"join","roomId":"lobby"}')
            assert json.loads(client.recv())["type"] == "joined"
            client.send('{"type":"message","roomId":"lobby","content":1}')
            assert json.loads(client.recv(timeout=5))["type"] == "message"

    def drain(self):
        """Begins a drain, and returns at once."""
        assert http(f"{self.admin}/drain", "POST", b"")[0] in (200, 202)

    def terminate(self, seconds=20):
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.process.wait(seconds)

    def close(self):
        """Ends it in any case."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self.config.close()
