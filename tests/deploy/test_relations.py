"""The relations between the numbers of a build, each broken once; and the script that tells operators about theirs."""

import copy
import os
import shutil
import sys

import pytest
import yaml

from conftest import GATEWAYS, K8S, ROOT, one, rendered, run
from relations import CLOSE_DEADLINE_S, DRAIN_WINDOW_MAX_S, complaints, gateway_pod


@pytest.mark.parametrize("build", GATEWAYS)
def test_every_relation_between_the_numbers_holds(build):
    assert list(complaints(rendered(build))) == []


def test_every_relation_holds_with_the_hpa_too(everything):
    assert list(complaints(everything)) == []


def test_the_relations_count_with_the_gateways_own_limits():
    limits = (ROOT / "src/core/limits.rs").read_text()
    for name, value in (("CLOSE_DEADLINE", CLOSE_DEADLINE_S), ("DRAIN_WINDOW_MAX", DRAIN_WINDOW_MAX_S)):
        assert f"{name}: Duration = Duration::from_secs({value})" in limits


def changed(build, change):
    """A build with one thing wrong."""
    objects = copy.deepcopy(rendered(build))
    change(objects)
    return list(complaints(objects))


def toml(old, new):
    """A change of the gateway's settings."""
    def change(objects):
        for o in objects:
            if "tidegate.toml" in o.get("data", {}):
                assert old in o["data"]["tidegate.toml"]
                o["data"]["tidegate.toml"] = o["data"]["tidegate.toml"].replace(old, new)
    return change


def container(change):
    """A change of the gateway's container."""
    return lambda objects: change(gateway_pod(objects)["containers"][0])


def scaler(change):
    """A change of the ScaledObject's spec."""
    return lambda objects: change(one(objects, "ScaledObject")["spec"])


@pytest.mark.parametrize("change, complaint", [
    (lambda o: gateway_pod(o).update(terminationGracePeriodSeconds=40), "cut off untold"),
    (toml('window = "auto"', 'window = "2m"'), "raise --timeout"),
    (lambda o: gateway_pod(o)["containers"][0]["lifecycle"]["preStop"]["exec"]["command"].__setitem__(-1, "40s"), "a drain takes 40 s"),
    (toml('delay = "5s"', 'delay = "1s"'), "the Service notices"),
    (toml("max_connections = 10000", "max_connections = 7000"), "above 0.8"),
    (toml("max_connections = 10000", "max_connections = 8000"), "a lost pod do not fit"),
    (toml("max_connections = 10000", "max_connections = 100000"), "raise the memory request"),
    (toml("max_connections = 10000", ""), "max_connections is not set"),
    (scaler(lambda spec: spec["triggers"][0]["metadata"].update(threshold="9000")), "above 0.8"),
    (scaler(lambda spec: spec.update(minReplicaCount=1)), "a lost pod do not fit"),
    (scaler(lambda spec: spec.update(maxReplicaCount=2)), "at most 2 replicas"),
    (scaler(lambda spec: spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]["policies"][0]
            .update(periodSeconds=15)), "raise periodSeconds"),
    (lambda o: o.append(copy.deepcopy(one(o, "PodMonitor"))), "2 monitors"),
    (lambda o: o.append(copy.deepcopy(one(o, "ScaledObject"))), "two autoscalers"),
    (lambda o: one(o, "PodMonitor")["spec"].pop("podTargetLabels"), "podTargetLabels"),
    (container(lambda c: c["resources"]["limits"].update(memory="160Mi")), "leaves no 15 %"),
    # Parameters that are no such thing.
    (toml('window = "auto"', 'window = "30 seconds"'), "drain.window is '30 seconds'; give a duration"),
    (toml('window = "auto"', "window = 30s"), "tidegate.toml: "),
    (lambda o: [o.remove(c) for c in o if "tidegate.toml" in c.get("data", {})], "0 ConfigMaps have a tidegate.toml"),
    (lambda o: one(o, "Deployment")["metadata"].update(name="gateway"), "0 Deployments are called tidegate"),
    (container(lambda c: c.pop("lifecycle")), "the preStop hook is not"),
    (container(lambda c: c["lifecycle"]["preStop"]["exec"].update(command=["sleep", "30"])), "the preStop hook is not"),
    (container(lambda c: c["lifecycle"]["preStop"]["exec"]["command"].__setitem__(-1, "fifty")), "preStop's --timeout is 'fifty'"),
    (container(lambda c: c["resources"]["limits"].update(memory="a lot")), "the memory in resources.limits is 'a lot'"),
    (container(lambda c: c["resources"].pop("requests")), "the memory in resources.requests is 'None'"),
    (scaler(lambda spec: spec["triggers"][0]["metadata"].update(threshold="many")), "the threshold is 'many'"),
    (scaler(lambda spec: spec.pop("advanced")), "the ScaledObject has no 'advanced'"),
])
def test_each_broken_relation_is_told(change, complaint):
    told = changed("k8s/overlays/production", change)
    assert any(complaint in line for line in told), told


def test_an_operators_own_overlay_can_be_checked(tmp_path):
    script = ROOT / "scripts/render-check.py"
    good = run(sys.executable, script, K8S / "overlays/production")
    assert "0 wrong" in good.stdout
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\n")
    for arguments, complaint in (([tmp_path], "missing.yaml"), (["/nonexistent"], "no kustomization.yaml"),
                                 ([K8S / "base", "--kubernetes", "latest"], "give a version")):
        bad = run(sys.executable, script, *arguments, check=False)
        assert bad.returncode != 0 and complaint in bad.stderr
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "imaeg": "x"}]}}))
    (tmp_path / "kustomization.yaml").write_text("resources: [pod.yaml]\n")
    bad = run(sys.executable, script, tmp_path, check=False)
    assert bad.returncode == 1 and "imaeg" in bad.stderr


@pytest.mark.parametrize("line, complaint", [("max_conections = 5", "max_connections"), ("message_rate = -1", "message_rate"),
                                             ('driver = "kqueue"', "io_uring")])
def test_a_setting_that_the_gateway_refuses_is_told_before_it_is_applied(line, complaint, tidegate, tmp_path):
    overlay = K8S / "overlays" / f".{tmp_path.name}"
    overlay.mkdir()
    try:
        text = (K8S / "base/tidegate.toml").read_text()
        (overlay / "tidegate.toml").write_text(f"{line}\n{text}")
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "tidegate", "resources": ["../../base"],
            "configMapGenerator": [{"name": "tidegate", "behavior": "replace", "files": ["tidegate.toml"]}]}))
        bad = run(sys.executable, ROOT / "scripts/render-check.py", overlay, check=False, env={**os.environ, "TIDEGATE_BIN": str(tidegate)})
    finally:
        shutil.rmtree(overlay)
    assert bad.returncode == 1 and complaint in bad.stderr and "tidegate.toml" in bad.stderr
