"""k8s/: every build is rendered by a real kustomize and validated against schemas."""

import copy
import json
import re
import subprocess
import tomllib

import pytest
import yaml

from conftest import BUILDS, GATEWAYS, K8S, ROOT, one, rendered, run
from pod_security import offences
from relations import gateway_pod, settings
from schema import Invalid, validate

# The oldest and newest Kubernetes that the manifests are for: keep-alive sysctls and matchLabelKeys came with 1.29.
KUBERNETES = ["1.29", "1.37"]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("build", BUILDS)
def test_every_object_is_valid(build, version):
    for document in rendered(build):
        validate(document, version)


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_component_is_valid(everything, version):
    kinds = {document["kind"] for document in everything}
    assert {"HorizontalPodAutoscaler", "Ingress", "PodMonitor", "PrometheusRule", "StatefulSet"} <= kinds
    for document in everything:
        validate(document, version)


def test_each_manifest_explains_itself():
    tracked = run("git", "ls-files", "k8s", "tuning", cwd=ROOT).stdout.split()
    files = [ROOT / name for name in tracked if name.endswith((".yaml", ".toml", ".conf", ".cfg", ".service"))]
    assert len(files) > 30
    for path in files:
        assert re.search(r"^\s*# \w.{20}", path.read_text(), re.M), f"{path} says nothing about itself"


def test_the_example_secret_is_valid_and_in_no_build():
    validate(yaml.safe_load((K8S / "base/secret.example.yaml").read_text()), KUBERNETES[-1])
    assert not [o for build in BUILDS for o in rendered(build) if o["kind"] == "Secret"]


@pytest.mark.parametrize("path, value", [
    ("Deployment spec.template.spec.terminationGracePeriod", 60),
    ("Deployment spec.replicas", "three"),
    ("Service spec.ports.0.port", "http"),
    ("ScaledObject spec.triggers.0.metadata.threshold", 6000),
    ("ScaledObject spec.triggers.0.metadata.metricName", "ws_connections_active"),
    ("ScaledObject spec.minReplicas", 3),
    ("PodMonitor spec.podMetricsEndpoints.0.interval", 15),
])
def test_a_wrong_field_is_refused(path, value):
    kind, keys = path.split(" ")
    document = copy.deepcopy(next(o for o in rendered("k8s/overlays/production") if o["kind"] == kind))
    *steps, last = keys.split(".")
    at = document
    for step in steps:
        at = at[int(step) if isinstance(at, list) else step]
    at[last] = value
    with pytest.raises(Invalid):
        validate(document, KUBERNETES[-1])


def pods(objects):
    """Every pod template of a build."""
    return {o["metadata"]["name"]: o["spec"]["template"]["spec"] for o in objects if "template" in o.get("spec", {})}


@pytest.mark.parametrize("build", [b for b in GATEWAYS if b != "k8s/overlays/million"])
def test_every_pod_is_admitted_by_pod_security_restricted(build):
    assert {name: offences(pod) for name, pod in pods(rendered(build)).items() if offences(pod)} == {}
    namespace = one(rendered(build), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_a_million_connections_need_three_unsafe_sysctls_and_nothing_else():
    unsafe = offences(gateway_pod(rendered("k8s/overlays/million")))
    assert sorted(unsafe) == [f"the sysctl {name} is not safe" for name in
                              ("net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog", "net.ipv4.tcp_migrate_req")]


def test_the_check_of_pod_security_sees_what_it_should():
    pod = copy.deepcopy(gateway_pod(rendered("k8s/base")))
    pod["hostNetwork"] = True
    pod["volumes"].append({"name": "etc", "hostPath": {"path": "/etc"}})
    pod["securityContext"]["sysctls"].append({"name": "net.core.somaxconn", "value": "1"})
    pod["securityContext"]["seccompProfile"] = {"type": "Unconfined"}
    pod["containers"][0]["securityContext"] = {"privileged": True, "runAsUser": 0, "capabilities": {"add": ["NET_ADMIN"]}}
    pod["containers"][0]["ports"][0]["hostPort"] = 80
    assert len(offences(pod)) == 10


def test_the_base_runs_on_the_runtimes_profile_and_the_overlay_on_ours():
    assert gateway_pod(rendered("k8s/base"))["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    profile = gateway_pod(rendered("k8s/overlays/io-uring"))["securityContext"]["seccompProfile"]
    node = one(rendered("k8s/node-tuning"), "DaemonSet")["spec"]["template"]["spec"]
    folder = next(v["hostPath"]["path"] for v in node["volumes"] if v["name"] == "seccomp")
    assert f"/var/lib/kubelet/seccomp/{profile['localhostProfile']}" == f"{folder}/tidegate-io-uring.json"
    files = one(rendered("k8s/node-tuning"), "ConfigMap")["data"]
    assert json.loads(files["tidegate-io-uring.json"])["syscalls"][0]["names"][0] == "io_uring_setup"


def test_the_scaled_object_is_what_was_agreed():
    spec = one(rendered("k8s/overlays/production"), "ScaledObject")["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (3, 40)
    trigger = spec["triggers"][0]
    assert trigger["metricType"] == "AverageValue"
    assert trigger["metadata"]["query"] == 'sum(ws_connections_active{app="tidegate"})'
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleUp"] == {"stabilizationWindowSeconds": 0,
                                   "policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}]}
    assert behavior["scaleDown"] == {"stabilizationWindowSeconds": 600,
                                     "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}]}
    assert spec["fallback"]["replicas"] >= spec["minReplicaCount"]


def test_the_hpa_is_the_same_autoscaler(everything):
    keda = one(rendered("k8s/overlays/production"), "ScaledObject")["spec"]
    hpa = one(everything, "HorizontalPodAutoscaler")["spec"]
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (keda["minReplicaCount"], keda["maxReplicaCount"])
    assert hpa["behavior"] == keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    target = hpa["metrics"][0]["external"]
    assert target["target"] == {"type": "AverageValue", "averageValue": keda["triggers"][0]["metadata"]["threshold"]}
    adapter = yaml.safe_load((K8S / "autoscaling/hpa/prometheus-adapter-values.yaml").read_text())["rules"]["external"][0]
    assert adapter["name"]["as"] == target["metric"]["name"]
    query = adapter["metricsQuery"].replace("<<.Series>>", "ws_connections_active").replace("<<.LabelMatchers>>", 'app="tidegate"')
    assert query == keda["triggers"][0]["metadata"]["query"]


def test_only_one_autoscaler_sets_the_replicas(everything):
    assert one(rendered("k8s/base"), "Deployment")["spec"]["replicas"] == 3
    assert "replicas" not in one(rendered("k8s/overlays/production"), "Deployment")["spec"]
    assert "replicas" not in one(everything, "Deployment")["spec"]


@pytest.mark.parametrize("build", GATEWAYS)
def test_there_is_at_most_one_monitor(build):
    monitors = [o for o in rendered(build) if o["kind"] in ("PodMonitor", "ServiceMonitor")]
    annotated = gateway_annotations(rendered(build))
    assert len(monitors) <= 1 and not [a for a in annotated if a.startswith("prometheus.io/")]
    for monitor in monitors:
        assert monitor["spec"]["podTargetLabels"] == ["app"]


def gateway_annotations(objects):
    """Annotations of the gateway's pods, by which old Prometheus configurations scrape as well."""
    return one(objects, "Deployment", "tidegate")["spec"]["template"]["metadata"].get("annotations", {})


@pytest.mark.parametrize("build", GATEWAYS)
def test_selectors_ports_and_names_meet(build):
    objects = rendered(build)
    deployment = one(objects, "Deployment", "tidegate")
    template = deployment["spec"]["template"]
    labels, container = template["metadata"]["labels"], template["spec"]["containers"][0]
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    config = settings(objects)
    assert config["listen"].endswith(f":{ports['public']}") and config["admin"]["listen"].endswith(f":{ports['admin']}")
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for service in (o for o in objects if o["kind"] == "Service" and o["metadata"]["name"].startswith("tidegate")):
        assert service["spec"]["selector"].items() <= labels.items()
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= set(ports)
    for kind in ("livenessProbe", "readinessProbe"):
        assert container[kind]["httpGet"]["port"] == "admin"
    for kind in ("PodMonitor", "PodDisruptionBudget"):
        for o in (o for o in objects if o["kind"] == kind and o["metadata"]["name"] == "tidegate"):
            assert o["spec"]["selector"]["matchLabels"].items() <= labels.items()
    names = {o["metadata"]["name"] for o in objects if o["kind"] == "ConfigMap"}
    assert {v["configMap"]["name"] for v in template["spec"]["volumes"] if "configMap" in v} <= names


def admitted(policy, port, peer, namespace):
    """Whether a NetworkPolicy lets a pod with these labels, in a namespace with those, reach a port."""
    def matches(selector, labels):
        return selector.get("matchLabels", {}).items() <= labels.items()

    for rule in policy["spec"]["ingress"]:
        if port not in [p["port"] for p in rule["ports"]]:
            continue
        if "from" not in rule:
            return True
        for source in rule["from"]:
            here = matches(source["namespaceSelector"], namespace) if "namespaceSelector" in source else namespace.get("own")
            if here and matches(source.get("podSelector", {}), peer):
                return True
    return False


def test_the_admin_port_is_for_prometheus_and_publishers_only():
    policy = one(rendered("k8s/base"), "NetworkPolicy", "tidegate")
    monitoring, shop = {"kubernetes.io/metadata.name": "monitoring"}, {"kubernetes.io/metadata.name": "shop"}
    prometheus, publisher = {"app.kubernetes.io/name": "prometheus"}, {"tidegate.io/publisher": "true"}
    assert admitted(policy, "admin", prometheus, monitoring)
    assert admitted(policy, "admin", publisher, shop)
    assert not admitted(policy, "admin", {"app": "shop"}, shop)
    assert not admitted(policy, "admin", prometheus, shop), "a pod that calls itself prometheus"
    assert not admitted(policy, "admin", {"app": "grafana"}, monitoring)
    assert not admitted(policy, "admin", {"app": "tidegate"}, {**shop, "own": True})
    assert admitted(policy, "public", {}, shop)


def test_a_rollout_never_takes_a_pod_before_its_successor_is_ready():
    spec = one(rendered("k8s/base"), "Deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1} and spec["minReadySeconds"] > 0
    pod = spec["template"]["spec"]
    assert pod["enableServiceLinks"] is False and pod["automountServiceAccountToken"] is False
    assert {c["topologyKey"] for c in pod["topologySpreadConstraints"]} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    assert pod["containers"][0]["livenessProbe"]["httpGet"]["path"] == "/live"
    assert pod["containers"][0]["readinessProbe"]["httpGet"]["path"] == "/ready"


def test_the_ingress_keeps_quiet_connections_and_asks_another_pod_on_503():
    annotations = one(rendered("k8s/overlays/production"), "Ingress")["metadata"]["annotations"]
    value = {name.removeprefix("nginx.ingress.kubernetes.io/"): text for name, text in annotations.items()}
    assert value["proxy-read-timeout"] == value["proxy-send-timeout"] == str(24 * 3600)
    assert value["proxy-buffering"] == "off" and "http_503" in value["proxy-next-upstream"].split()
    options = (K8S / "ingress-nginx/ingress.yaml").read_text()
    assert "# nginx.ingress.kubernetes.io/session-cookie-name: route" in options


def test_the_node_is_tuned_by_the_very_files_of_tuning():
    objects = rendered("k8s/node-tuning")
    files = one(objects, "ConfigMap")["data"]
    assert files["sysctl.conf"] == (ROOT / "tuning/sysctl.d/90-tidegate.conf").read_text()
    assert files["tune.sh"] == (ROOT / "tuning/tune.sh").read_text()
    pod = one(objects, "DaemonSet")["spec"]["template"]["spec"]
    kernel = pod["initContainers"][0]
    assert kernel["securityContext"]["privileged"] and pod["hostNetwork"]
    assert not [c for c in pod["containers"] if c["securityContext"].get("privileged")], "only while it works"
    # The arguments are ones that the script takes.
    arguments = [a for a in kernel["command"][2:] if a.startswith("--")]
    usage = subprocess.run(["sh", ROOT / "tuning/tune.sh", "--help"], capture_output=True, text=True, check=True).stdout
    assert all(argument in usage for argument in arguments)


def test_what_pods_set_for_themselves_is_what_the_host_would_set():
    conf = (ROOT / "tuning/sysctl.d/90-tidegate.conf").read_text()
    for build in GATEWAYS:
        for sysctl in gateway_pod(rendered(build))["securityContext"]["sysctls"]:
            assert f"{sysctl['name']} = {sysctl['value']}\n" in conf


@pytest.mark.parametrize("build", GATEWAYS)
def test_no_sum_is_taken_over_pods_of_another_broker(build):
    objects = rendered(build)
    url = settings(objects)["nats"]["url"]
    assert re.fullmatch(r"nats://[a-z.]+:4222", url)
    brokers = [o for o in objects if o["kind"] == "StatefulSet"]
    if brokers:
        assert url == f"nats://{brokers[0]['spec']['serviceName']}:4222"


def test_the_broker_of_the_test_cluster_is_a_cluster():
    objects = rendered("k8s/overlays/test-cluster")
    spec = one(objects, "StatefulSet", "nats")["spec"]
    conf = next(o for o in objects if o["kind"] == "ConfigMap" and "nats.conf" in o["data"])["data"]["nats.conf"]
    assert re.findall(r"nats://(nats-\d)\.nats:6222", conf) == [f"nats-{n}" for n in range(spec["replicas"])]
    lame_duck = int(re.search(r"lame_duck_duration: (\d+)s", conf)[1])
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > lame_duck


@pytest.mark.parametrize("build", GATEWAYS)
def test_the_gateway_itself_accepts_the_configuration(build, tidegate, tmp_path):
    maps = [o for o in rendered(build) if o["kind"] == "ConfigMap" and "tidegate.toml" in o["data"]]
    (tmp_path / "tidegate.toml").write_text(maps[0]["data"]["tidegate.toml"])
    printed = tomllib.loads(run(tidegate, "serve", "--config", tmp_path / "tidegate.toml", "--print-config").stdout)
    assert printed["max_connections"] == settings(rendered(build))["max_connections"]
    # `auto` is shown as a comment, as every value that is absent.
    given = {key: value for key, value in settings(rendered(build))["drain"].items() if value != "auto"}
    assert given and printed["drain"] == {**printed["drain"], **given}
