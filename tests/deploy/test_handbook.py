"""docs/operations.md and docs/metrics.md against the gateway and the tree: what they tell an operator to do works."""

import json
import re

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from conftest import ROOT, run
from gateway import http

TEXT = "".join((ROOT / f"docs/{page}.md").read_text() for page in ("operations", "metrics"))
HEADINGS = re.findall(r"^## (.+)$", TEXT, re.M)


TOPICS = ["Troubleshooting", "Commands", "The admin port", "Logs", "Sizing", "Tuning a host", "systemd", "Container", "Kubernetes", "Autoscaling",
          "Draining and rolling out", "Balancers in front", "Dashboard and alerts", "Large payloads", "Several regions"]


@pytest.mark.parametrize("topic", TOPICS)
def test_every_topic_has_its_section(topic):
    assert topic in HEADINGS


def test_every_file_that_it_names_is_there():
    named = set(re.findall(r"\b((?:tuning|k8s|scripts|tests/deploy)/[\w./-]*\w)", TEXT))
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).exists(), name


def test_what_to_look_at_first_is_served(gateway):
    asked = re.findall(r"curl -s '?127\.0\.0\.1:9090(/[^\s']*)", TEXT)
    assert {"/ready", "/metrics", "/v1/node"} <= set(asked)
    for path in asked:
        assert http(f"{gateway.admin}{path}")[0] == 200, path


def test_an_operator_finds_a_client_and_closes_it(gateway):
    with connect(gateway.url) as client:
        assert json.loads(client.recv(timeout=5))["type"] == "welcome"
        listed = gateway.get("/v1/connections?sort=outbox&limit=10")["connections"]
        assert len(listed) == 1
        assert http(f"{gateway.admin}/v1/connections/{listed[0]['id']}", "DELETE")[0] == 200
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=5)
        assert closed.value.rcvd.code == 1008


def test_every_metric_that_it_names_is_in_a_real_scrape(gateway):
    gateway.hear_one_message()
    scrape = gateway.metrics()
    for name in set(re.findall(r"`(ws_[a-z_]+|tidegate_[a-z_]+)", TEXT)):
        assert re.search(rf"^{name}", scrape, re.M), name


def test_every_setting_that_it_names_is_one(tidegate):
    printed = run(tidegate, "--print-config").stdout
    for table, key in set(re.findall(r"`(drain|heartbeat|limits|proxies|ready|admin|nats|raw)\.([a-z_0-9]+)\b", TEXT)):
        # `password_file` is where `password` stands.
        keys = f"{key}|{key.removesuffix('_file')}"
        assert re.search(rf"^\[{table}\]$.*?^#? ?({keys}) =", printed, re.M | re.S), f"{table}.{key}"


def test_the_arithmetic_of_sizing_is_the_programs():
    source = (ROOT / "src/gateway/check/capacity.rs").read_text()
    kernel, user = (int(re.search(rf"{name}_BYTES: u64 = ([0-9_]+)", source)[1]) for name in ("KERNEL", "USER"))
    assert f"| {kernel:,} |" in TEXT and f"about {user} |" in TEXT
    total = int(re.search(r"\*\*about ([0-9,]+)\*\*", TEXT)[1].replace(",", ""))
    assert kernel + user + 200 <= total <= kernel + user + 256
