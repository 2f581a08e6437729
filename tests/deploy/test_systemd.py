"""tuning/systemd: the unit, what the gateway tells the service manager, and both together under a real systemd."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import manager
from conftest import ROOT, TUNING, run
from gateway import free_port, http, wait_until

UNIT = TUNING / "systemd" / "tidegate.service"
NATS = ROOT / ".deps/venv/bin/nats-server"


def test_the_unit_passes_systemds_own_verification(tmp_path):
    unit = tmp_path / "tidegate.service"
    unit.write_text(UNIT.read_text().replace("/usr/bin/tidegate", sys.executable))
    result = run("systemd-analyze", "verify", "--man=no", unit, check=False)
    complaints = [line for line in result.stderr.splitlines() if "tidegate.service" in line]
    assert result.returncode == 0 and not complaints, result.stderr


def test_the_verification_would_see_a_wrong_line(tmp_path):
    unit = tmp_path / "tidegate.service"
    unit.write_text(UNIT.read_text().replace("/usr/bin/tidegate", sys.executable).replace("WatchdogSec=10", "WatchdogSecs=10"))
    assert "WatchdogSecs" in run("systemd-analyze", "verify", "--man=no", unit, check=False).stderr


def test_each_setting_of_the_unit_has_a_reason_above_it():
    for block in UNIT.read_text().split("\n\n")[1:]:
        section = [line for line in block.splitlines() if not line.startswith("[")]
        assert section[0].startswith("# ") or section[0].startswith(("Description=", "WantedBy=", "Type=")), block


def test_the_unit_is_hardened(tmp_path):
    shutil.copy(UNIT, tmp_path / "tidegate.service")
    # 0 is a fortress, 10 is none; what is left is the network itself.
    run("systemd-analyze", "security", "--offline=true", "--threshold=20", tmp_path / "tidegate.service")


def test_systemd_waits_longer_than_a_drain_takes():
    unit = UNIT.read_text()
    stop = int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.M)[1])
    limits = (ROOT / "src/core/limits.rs").read_text()
    window = int(re.search(r"DRAIN_WINDOW_MAX: Duration = Duration::from_secs\((\d+)\)", limits)[1])
    close = int(re.search(r"CLOSE_DEADLINE: Duration = Duration::from_secs\((\d+)\)", limits)[1])
    assert stop > window + close
    assert "Type=notify" in unit and re.search(r"^WatchdogSec=\d+$", unit, re.M)


class Service:
    """A gateway under a service manager that only listens."""

    def __init__(self, tidegate, folder, *arguments):
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(folder / "notify"))
        self.manager.settimeout(30)
        self.port, self.admin = free_port(), free_port()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE_")}
        self.process = subprocess.Popen(
            [tidegate, "serve", "--listen", f"127.0.0.1:{self.port}", "--admin", f"127.0.0.1:{self.admin}", *arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**environment, "NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "1000000"})

    def hear(self, wanted):
        """The next word that says this, and everything before it but signs of life."""
        heard, end = [], time.monotonic() + 30
        while not heard or wanted not in heard[-1]:
            assert time.monotonic() < end, f"no {wanted} after {heard}"
            word = self.manager.recv(500).decode()
            if word != "WATCHDOG=1" or wanted == word:
                heard.append(word)
        return heard

    def ready(self):
        """The status of /ready."""
        return http(f"http://127.0.0.1:{self.admin}/ready")[0]

    def close(self):
        """Ends it in any case."""
        self.process.kill()
        self.process.wait()
        self.manager.close()


@pytest.fixture
def service(tidegate, tmp_path):
    """Starts services that end with the test."""
    started = []

    def start(*arguments):
        started.append(Service(tidegate, tmp_path, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def broker():
    """Starts a real broker at a port."""
    started = []

    def start(port):
        command = [NATS, "--addr", "127.0.0.1", "--port", str(port)]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    yield start
    for process in started:
        process.terminate()
        process.wait()


def test_a_service_manager_hears_ready_alive_draining_and_stopping(service):
    one = service("--drain-window", "0s")
    one.hear("READY=1")
    assert one.ready() == 200, "READY=1 is the first 200 of /ready"
    one.hear("WATCHDOG=1")
    one.process.send_signal(signal.SIGTERM)
    # No delay, no window, 5 s for close handshakes, 2 s margin, 5 s for the threads.
    assert one.hear("STOPPING=1")[0] == "STATUS=draining 0 clients\nEXTEND_TIMEOUT_USEC=12000000"
    assert one.process.wait(10) == 0


def test_a_node_that_waits_for_its_broker_says_so_asks_for_time_and_is_ready_when_it_comes(service, broker):
    port = free_port()
    one = service("--nats-url", f"nats://127.0.0.1:{port}")
    expected = "STATUS=starting: the broker was not reached yet\nEXTEND_TIMEOUT_USEC=15000000"
    # Twice: it goes on asking.
    assert one.hear("starting") + one.hear("starting") == [expected] * 2
    assert one.ready() == 503
    broker(port)
    assert set(one.hear("READY=1")[:-1]) <= {expected}
    assert one.ready() == 200


def test_a_node_that_never_was_ready_stops_like_any_other(service):
    one = service("--nats-url", f"nats://127.0.0.1:{free_port()}", "--drain-window", "0s")
    one.hear("starting")
    one.process.send_signal(signal.SIGTERM)
    heard = one.hear("STOPPING=1")
    assert one.process.wait(20) == 0 and not [word for word in heard if "READY" in word]


needs_systemd = pytest.mark.skipif(manager.why_not() is not None, reason=str(manager.why_not()))


@pytest.fixture
def systemd(tidegate, tmp_path):
    """Boots service managers that end with the test; gives them the public and admin port."""
    started = []

    def boot(toml="", drop_in=""):
        port, admin = free_port(), free_port()
        toml = f'listen = "127.0.0.1:{port}"\nshards = 1\n{toml}[admin]\nlisten = "127.0.0.1:{admin}"\n'
        started.append(manager.Manager(tmp_path / f"host{len(started)}", tidegate, UNIT, toml, drop_in))
        started[-1].port, started[-1].admin = port, admin
        return started[-1]

    yield boot
    for one in started:
        one.close()


@needs_systemd
def test_under_a_real_systemd_the_unit_starts_on_io_uring_unprivileged_and_stops_clean(systemd):
    host = systemd()
    started = host.systemctl("start", "tidegate")
    assert started.returncode == 0, started.stderr
    assert (host.state("ActiveState"), host.state("StatusText")) == ("active", "serving")
    assert json.loads(http(f"http://127.0.0.1:{host.admin}/v1/node")[1])["driver"]["name"] == "io_uring"
    status = run("nsenter", f"--target={host.pid}", "--mount", "--pid", "cat", f"/proc/{host.state('MainPID')}/status").stdout
    assert re.search(r"^Uid:\t[1-9]\d+", status, re.M) and re.search(r"^CapEff:\t0+$", status, re.M)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.M) and re.search(r"^Seccomp:\t2$", status, re.M)
    assert host.systemctl("stop", "tidegate").returncode == 0
    assert (host.state("Result"), host.state("ExecMainStatus")) == ("success", "0")


@needs_systemd
def test_a_start_outlasts_its_timeout_while_the_broker_is_away_and_ends_when_it_comes(systemd, broker):
    port = free_port()
    host = systemd(toml=f'nats.url = "nats://127.0.0.1:{port}"\n', drop_in="TimeoutStartSec=2")
    starting = threading.Thread(target=host.systemctl, args=("start", "tidegate"))
    starting.start()
    wait_until(lambda: "broker" in host.state("StatusText"), 20, "the reason in systemctl status")
    began = host.state("ExecMainStartTimestampMonotonic")
    starting.join(4)
    assert starting.is_alive() and host.state("SubState") == "start", "two seconds have passed, and it still starts"
    broker(port)
    starting.join(30)
    assert (host.state("ActiveState"), host.state("ExecMainStartTimestampMonotonic")) == ("active", began), "the same process"


@needs_systemd
def test_a_stop_outlasts_its_timeout_until_the_last_client_was_told(systemd):
    host = systemd(toml='drain.window = "6s"\n', drop_in="TimeoutStopSec=1")
    assert host.systemctl("start", "tidegate").returncode == 0
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(f"ws://127.0.0.1:{host.port}")) for _ in range(20)]
        stopping = threading.Thread(target=host.systemctl, args=("stop", "tidegate"))
        stopping.start()
        for client in clients:
            assert [json.loads(client.recv(timeout=30))["type"] for _ in range(2)] == ["welcome", "server-shutdown"]
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=30)
            assert closed.value.rcvd.code == 1012
        stopping.join(30)
    assert (host.state("Result"), host.state("ExecMainStatus")) == ("success", "0")


@needs_systemd
def test_a_node_that_stands_still_is_restarted_by_the_watchdog(systemd):
    host = systemd(drop_in="WatchdogSec=2")
    assert host.systemctl("start", "tidegate").returncode == 0
    before = host.state("MainPID")
    # The pid is one of the inner namespace.
    run("nsenter", f"--target={host.pid}", "--mount", "--pid", "kill", "-STOP", before)
    wait_until(lambda: host.state("NRestarts") == "1" and host.state("ActiveState") == "active", 60, "the restart")
    assert host.state("MainPID") not in (before, "0")


@needs_systemd
def test_a_wrong_configuration_is_not_started_again_and_again(systemd):
    host = systemd(toml="no_such_key = 1\n")
    assert host.systemctl("start", "tidegate").returncode != 0
    assert (host.state("ActiveState"), host.state("ExecMainStatus"), host.state("NRestarts")) == ("failed", "2", "0")
