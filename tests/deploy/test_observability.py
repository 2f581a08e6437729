"""k8s/monitoring: the rules have unit tests, and nothing is drawn or alerted on that the gateway does not say."""

import json
import re
import shutil

import pytest
import yaml

from conftest import K8S, ROOT, run

RULES = yaml.safe_load((K8S / "monitoring/rules.yaml").read_text())["spec"]
DASHBOARD = json.loads((K8S / "monitoring/dashboard.json").read_text())
# What other programs say: the kubelet's cAdvisor.
FOREIGN = {"container_memory_working_set_bytes", "container_spec_memory_limit_bytes"}
WORD = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
KEYWORDS = {"sum", "by", "rate", "increase", "max", "count", "absent", "histogram_quantile", "and", "on", "le", "app", "instance",
            "reason", "result", "direction", "version", "driver", "namespace", "pod", "bool"}


def panels():
    """The panels that draw something."""
    return [p for p in DASHBOARD["panels"] if p["type"] != "row"]


def dashboard_queries():
    """Every query of the dashboard, with Grafana's variables filled in."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m").replace("$app", "tidegate").replace("$instance", ".*")


def metrics_of(query):
    """The metric names in a query."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", " ", query)
    bare = re.sub(r"\b(by|on)\s*\([^)]*\)", " ", bare)
    return {word for word in WORD.findall(bare)} - KEYWORDS


def rule_file(folder, groups):
    """A native rule file."""
    path = folder / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": groups}))
    return path


def test_the_rules_hold_their_stories(tmp_path):
    rule_file(tmp_path, RULES["groups"])
    shutil.copy(ROOT / "tests/deploy/rules_test.yaml", tmp_path)
    run("promtool", "check", "rules", "rules.yml", cwd=tmp_path)
    run("promtool", "test", "rules", "rules_test.yaml", cwd=tmp_path)


def test_every_alert_has_a_story_and_a_page_in_the_handbook():
    stories = (ROOT / "tests/deploy/rules_test.yaml").read_text()
    handbook = (ROOT / "docs/metrics.md").read_text()
    for rule in (r for group in RULES["groups"] for r in group["rules"] if "alert" in r):
        fired = re.search(rf"alertname: {rule['alert']}\n +exp_alerts:\n +- exp_labels", stories)
        assert fired, f"no story in which {rule['alert']} fires"
        assert f"`{rule['alert']}`" in handbook
        assert set(rule["annotations"]) == {"summary", "description"} and rule["labels"]["severity"] in ("warning", "critical")


def test_prometheus_can_parse_every_query_of_the_dashboard(tmp_path):
    rules = [{"record": f"panel:{n}", "expr": query} for n, (_, query) in enumerate(dashboard_queries())]
    run("promtool", "check", "rules", rule_file(tmp_path, [{"name": "dashboard", "rules": rules}]))


def test_prometheus_can_parse_every_query_of_the_page_on_metrics(tmp_path):
    section = (ROOT / "docs/metrics.md").read_text().split("## Queries")[1].split("\n## ")[0]
    queries = re.findall(r"^\| .+\? \| `(.+)` \|$", section, re.M)
    assert len(queries) > 3
    rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries)]
    run("promtool", "check", "rules", rule_file(tmp_path, [{"name": "queries", "rules": rules}]))


def test_the_dashboard_shows_what_an_operator_asks_first():
    drawn = set().union(*(metrics_of(query) for _, query in dashboard_queries()))
    asked = {"ws_connections_active", "ws_connection_capacity", "ws_messages_total", "ws_publish_delivery_seconds_bucket",
             "ws_outbox_bytes", "ws_unfinished_bytes", "ws_loop_lag_seconds", "ws_gaps_total", "ws_closes_total", "ws_relay_connected", "ws_relay_rtt_seconds"}
    assert asked <= drawn
    assert all(panel["title"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels())
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_no_two_panels_overlap():
    taken = {}
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"] and x < 24


@pytest.fixture(scope="module")
def scrape(gateway):
    """The exposition of a gateway with a client in a room that got a message, as Prometheus gets it."""
    gateway.hear_one_message()
    return gateway.metrics()


def exposed(scrape):
    """The names of all samples."""
    return {WORD.match(line)[0] for line in scrape.splitlines() if line and not line.startswith("#")}


def test_every_metric_of_the_dashboard_exists_in_a_real_scrape(scrape):
    for title, query in dashboard_queries():
        assert metrics_of(query) <= exposed(scrape), title


def test_every_metric_of_a_rule_exists_in_a_real_scrape_or_is_recorded(scrape):
    recorded = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
    for rule in (rule for group in RULES["groups"] for rule in group["rules"]):
        assert metrics_of(rule["expr"]) <= exposed(scrape) | recorded | FOREIGN, rule


def test_every_label_value_that_a_query_names_exists_in_a_real_scrape(scrape):
    queries = [query for _, query in dashboard_queries()]
    queries += [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
    named = {(label, value) for query in queries for label, values in re.findall(r'(reason|result|direction|type)=~?"([^"]+)"', query)
             for value in values.split("|")}
    assert named
    for label, value in sorted(named):
        assert f'{label}="{value}"' in scrape


def test_the_exposition_is_clean(scrape):
    run("promtool", "check", "metrics", input=scrape)
