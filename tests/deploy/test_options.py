"""What stands in the manifests' comments as an option works when it is switched on."""

import tomllib

import yaml

from conftest import K8S, commented_triggers, one, rendered, run, uncommented
from schema import validate

KUBERNETES = "1.37"


def test_client_ip_affinity_for_an_hour_is_an_option_of_the_service():
    text = uncommented((K8S / "base/services.yaml").read_text(), "sessionAffinity", "  clientIP", "    timeoutSeconds")
    service = next(yaml.safe_load_all(text))
    validate(service, KUBERNETES)
    assert service["spec"]["sessionAffinity"] == "ClientIP"
    assert service["spec"]["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 3600}}
    assert "sessionAffinity" not in one(rendered("k8s/base"), "Service", "tidegate")["spec"], "off by default"


def test_cookie_affinity_is_an_option_of_the_ingress():
    ingress = yaml.safe_load(uncommented((K8S / "ingress-nginx/ingress.yaml").read_text(), "nginx.ingress.kubernetes.io/"))
    validate(ingress, KUBERNETES)
    value = {name.removeprefix("nginx.ingress.kubernetes.io/"): text for name, text in ingress["metadata"]["annotations"].items()}
    assert (value["affinity"], value["session-cookie-name"], value["session-cookie-max-age"]) == ("cookie", "route", "3600")
    assert not [name for name in one(rendered("k8s/overlays/production"), "Ingress")["metadata"]["annotations"] if "cookie" in name]


def test_the_other_triggers_of_the_scaled_object_are_valid_and_parse(tmp_path):
    triggers = commented_triggers()
    assert [word in trigger["metadata"]["query"] for trigger, word in
            zip(triggers, ("ws_messages_total", "ws_outbox_bytes", "ws_connection_capacity"))] == [True] * 3
    scaled = one(rendered("k8s/overlays/production"), "ScaledObject")
    validate({**scaled, "spec": {**scaled["spec"], "triggers": scaled["spec"]["triggers"] + triggers}}, KUBERNETES)
    rules = [{"record": f"trigger:{n}", "expr": trigger["metadata"]["query"]} for n, trigger in enumerate(triggers)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "triggers", "rules": rules}]}))
    run("promtool", "check", "rules", tmp_path / "rules.yml")
    assert all(trigger["metadata"]["ignoreNullValues"] == "false" for trigger in triggers)


def test_trusted_proxies_are_an_option_that_the_gateway_takes(tidegate, tmp_path):
    text = uncommented((K8S / "base/tidegate.toml").read_text(), "[proxies]", "trusted = ")
    (tmp_path / "tidegate.toml").write_text(text)
    printed = tomllib.loads(run(tidegate, "--config", tmp_path / "tidegate.toml", "--print-config").stdout)
    assert printed["proxies"]["trusted"] == ["10.0.0.0/8"]


def test_the_headless_service_names_each_pod_and_the_budget_lets_one_go():
    objects = rendered("k8s/base")
    assert one(objects, "Service", "tidegate-pods")["spec"]["clusterIP"] == "None"
    assert one(objects, "PodDisruptionBudget", "tidegate")["spec"]["maxUnavailable"] == 1
