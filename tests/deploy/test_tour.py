"""README's tour, command by command: what each client publishes on node one arrives on node two."""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from conftest import ROOT, run
from gateway import free_port

SECTION = (ROOT / "README.md").read_text().split("## A tour\n")[1].split("\n## ")[0]
COMMANDS = re.findall(r"^```sh\n(.*?)^```$", SECTION, re.M | re.S)
ARRIVED = SECTION.rstrip().removesuffix("```").rpartition("```\n")[2]


@pytest.fixture
def here(tidegate):
    """Turns a command of the tour into one for this build and free ports, while two nodes run on them."""
    first = free_port()
    ports = {"8081": first, "8082": first + 1, "9091": first + 10, "9092": first + 11, "4223": first + 20}
    nodes = subprocess.Popen([ROOT / "scripts/two-nodes.sh"], env={**os.environ, "GATEWAY": str(tidegate), "FIRST_PORT": str(first)},
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert any(line.startswith("Ctrl-C") for line in nodes.stdout)
        yield lambda command: re.sub(r"\b(8081|8082|9091|9092|4223)\b", lambda port: str(ports[port[0]]), command).replace(
            "$PWD/target/release/tidegate", str(tidegate))
    finally:
        nodes.send_signal(signal.SIGINT)
        nodes.wait(30)
        nodes.stdout.close()


@pytest.mark.skipif(not shutil.which("node"), reason="one of the clients runs on Node")
def test_what_five_clients_publish_on_node_one_arrives_on_node_two(here, tmp_path):
    start, listen, *publish = COMMANDS
    assert "scripts/two-nodes.sh" in start and len(publish) == 5
    alias, _, subscribe = listen.partition("\n")
    prelude = f"shopt -s expand_aliases\n{here(alias)}\n"
    arrived = tmp_path / "arrived"
    with open(arrived, "w") as out:
        listener = subprocess.Popen(["bash", "-c", f"{prelude}{here(subscribe).replace(' &', '')}"], stdout=out, stderr=out, cwd=ROOT,
                                    start_new_session=True)
    try:
        for number, command in enumerate(["true", *publish]):
            run("bash", "-c", prelude + here(command), cwd=ROOT, timeout=60)
            deadline = time.monotonic() + 30
            while len(arrived.read_text().splitlines()) <= number:
                assert time.monotonic() < deadline, f"{command}\n{arrived.read_text()}"
                time.sleep(0.05)
        assert arrived.read_text() == ARRIVED
    finally:
        os.killpg(listener.pid, signal.SIGTERM)
        listener.wait(30)
