"""What must hold between the numbers of a rendered build; each complaint says what is wrong and what to change."""

import re
import tomllib

# From src/core/limits.rs; a test compares them.
CLOSE_DEADLINE_S = 5
DRAIN_WINDOW_MAX_S = 30
IDLE_BYTES, PAGE_BYTES, BASE_MIB = 4100, 4096, 64


class Unreadable(Exception):
    """A parameter that is not what it should be; the text says what is accepted."""


def seconds(text, what):
    """A duration such as 5s or 2m in seconds."""
    found = re.fullmatch(r"(\d+)(ms|s|m|h)", str(text))
    if not found:
        raise Unreadable(f"{what} is '{text}'; give a duration such as 500ms, 30s or 2m")
    return int(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[found[2]]


def mebibytes(text, what):
    """A Kubernetes quantity of memory in MiB."""
    found = re.fullmatch(r"(\d+)(k|M|G|Ki|Mi|Gi|)", str(text))
    if not found:
        raise Unreadable(f"{what} is '{text}'; give a quantity such as 512Mi or 2Gi")
    unit = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[found[2]]
    return int(found[1]) * unit / 2**20


def number(text, what):
    """A number of connections, which KEDA and the HPA want as text."""
    try:
        return float(text)
    except (TypeError, ValueError):
        raise Unreadable(f"{what} is '{text}'; give a number of connections") from None


def gateway_toml(objects):
    """The text of the gateway's own configuration in a build."""
    maps = [o for o in objects if o["kind"] == "ConfigMap" and "tidegate.toml" in o.get("data", {})]
    if len(maps) != 1:
        raise Unreadable(f"{len(maps)} ConfigMaps have a tidegate.toml; the gateway reads one")
    return maps[0]["data"]["tidegate.toml"]


def settings(objects):
    """The gateway's own configuration in a build."""
    try:
        return tomllib.loads(gateway_toml(objects))
    except tomllib.TOMLDecodeError as error:
        raise Unreadable(f"tidegate.toml: {error}") from error


def gateway_pod(objects):
    """The pod template's spec of the gateway."""
    found = [o for o in objects if o["kind"] == "Deployment" and o["metadata"]["name"] == "tidegate"]
    if len(found) != 1:
        raise Unreadable(f"{len(found)} Deployments are called tidegate; the gateway is one")
    return found[0]["spec"]["template"]["spec"]


def of_kind(objects, *kinds):
    """The objects of these kinds."""
    return [o for o in objects if o["kind"] in kinds]


def complaints(objects):
    """All that is wrong with a build of the gateway."""
    try:
        config, pod = settings(objects), gateway_pod(objects)
    except Unreadable as error:
        yield str(error)
        return
    for check, arguments in ((drain, (config, pod)), (memory, (config, pod)), (monitors, (objects,)), (autoscalers, (objects, config))):
        try:
            yield from check(*arguments)
        except Unreadable as error:
            yield str(error)


def drain(config, pod):
    """The grace period outlasts preStop, and preStop a whole drain."""
    delay, window = drain_times(config)
    command = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
    if "drain" not in command or "--timeout" not in command[:-1]:
        raise Unreadable("the preStop hook is not `tidegate drain --timeout TIME`; without it the pod ends before its clients are told")
    timeout = seconds(command[command.index("--timeout") + 1], "preStop's --timeout")
    needed = delay + window + CLOSE_DEADLINE_S
    if timeout <= needed:
        yield f"preStop gives up after {timeout:g} s, a drain takes {needed:g} s; raise --timeout"
    if pod["terminationGracePeriodSeconds"] <= timeout:
        yield (f"terminationGracePeriodSeconds is {pod['terminationGracePeriodSeconds']}, preStop may take {timeout:g} s; raise it, or "
               "clients are cut off untold")
    probe = pod["containers"][0].get("readinessProbe", {})
    # Kubernetes' defaults where it does not say.
    notice = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
    if delay <= notice:
        yield f"drain.delay is {delay:g} s, but the Service notices after {notice} s; raise it"


def drain_times(config):
    """Delay and longest window in seconds: where the window follows from the number of clients, its upper bound."""
    given = config.get("drain", {})
    window = given.get("window", "auto")
    return seconds(given.get("delay", "0s"), "drain.delay"), DRAIN_WINDOW_MAX_S if window == "auto" else seconds(window, "drain.window")


def memory(config, pod):
    """Memory for all that the pod admits, during a broadcast."""
    if "max_connections" not in config:
        yield "max_connections is not set; the autoscaler's threshold has nothing to be compared with"
        return
    broadcast = BASE_MIB + config["max_connections"] * (IDLE_BYTES + PAGE_BYTES) / 2**20
    resources = pod["containers"][0].get("resources", {})
    request, limit = (mebibytes(resources.get(kind, {}).get("memory"), f"the memory in resources.{kind}") for kind in ("requests", "limits"))
    if request < broadcast:
        yield f"{config['max_connections']} connections need {broadcast:.0f} MiB in a broadcast; raise the memory request"
    # Outboxes may take a tenth of it, unfinished messages a twentieth.
    if 0.85 * limit < broadcast:
        yield f"the memory limit leaves no 15 % for outboxes and unfinished messages above {broadcast:.0f} MiB; raise it"


def monitors(objects):
    """One, or the autoscaler's sum is double."""
    found = of_kind(objects, "PodMonitor", "ServiceMonitor")
    if len(found) > 1:
        yield f"{len(found)} monitors scrape the gateways, and the sum of connections counts each pod as often; keep one"
    for monitor in found:
        if "app" not in monitor["spec"].get("podTargetLabels", []):
            yield "the monitor needs podTargetLabels: [app]; every query selects by it"


def autoscalers(objects, config):
    """One, with a threshold that leaves room, and drains one at a time."""
    found = of_kind(objects, "ScaledObject", "HorizontalPodAutoscaler")
    if len(found) > 1:
        yield "two autoscalers fight over the replicas; keep one"
    for scaler in found:
        yield from room_to_grow(*sizes(scaler), config)


def sizes(scaler):
    """Threshold, fewest and most replicas, seconds between two scale-downs."""
    spec = scaler["spec"]
    try:
        if scaler["kind"] == "ScaledObject":
            behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
            threshold, least, most = spec["triggers"][0]["metadata"]["threshold"], spec["minReplicaCount"], spec["maxReplicaCount"]
        else:
            behavior = spec["behavior"]
            threshold, least, most = spec["metrics"][0]["external"]["target"]["averageValue"], spec["minReplicas"], spec["maxReplicas"]
        period = behavior["scaleDown"]["policies"][0]["periodSeconds"]
    except (KeyError, IndexError) as error:
        raise Unreadable(f"the {scaler['kind']} has no {error}; its defaults scale in faster than clients can be told") from error
    return number(threshold, "the threshold"), least, most, period


def room_to_grow(threshold, least, most, period, config):
    """The relations of an autoscaler's numbers to the gateway's."""
    admits = config.get("max_connections", 0)
    if threshold > 0.8 * admits:
        yield f"the threshold is {threshold:g}, above 0.8 × max_connections ({admits}); lower it, or pods refuse while others start"
    if least < 2 or least * threshold / (least - 1) > admits:
        yield f"the clients of a lost pod do not fit in the others ({least} pods at {threshold:g} each, {admits} at most)"
    if most < least:
        yield f"at most {most} replicas and at least {least}"
    delay, window = drain_times(config)
    if period <= delay + window:
        yield f"a pod goes every {period} s, but a drain takes {delay + window:g} s; raise periodSeconds"
