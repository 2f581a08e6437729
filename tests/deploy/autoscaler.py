"""A model of what KEDA and the HorizontalPodAutoscaler do with one AverageValue metric, small enough to read beside their documentation.

`Autoscaler.decide(now, replicas, answer)` is one round of the HPA's loop (every 15 s in a cluster): it takes the time in seconds, the
replicas that there are and what Prometheus answered, and gives the replicas that there should be. What it follows:

- desired = ceil(sum / threshold), and the replicas as they are while sum / (threshold × replicas) is within 10 % of 1;
- stabilisation: up to the smallest, down to the largest recommendation within the direction's window;
- policies: how much may change within a period, counted from the replicas at its start; of several the most generous one
  (or the least, or none: selectPolicy);
- minimum and maximum;
- KEDA: an empty answer is 0 or an error (ignoreNullValues), errors leave everything as it is until failureThreshold in a row, then
  the fallback counts as the answer.

It leaves out what one metric does not need: pods that are not ready, missing samples, several metrics, scaling to zero.
"""

import math
from dataclasses import dataclass, field

SYNC_PERIOD_S = 15
TOLERANCE = 0.1


@dataclass
class Rules:
    """One direction of `behavior`."""

    stabilization_s: float
    policies: list
    select: str = "Max"

    @classmethod
    def up(cls, spec):
        """scaleUp, with Kubernetes' defaults: at once, 4 pods or 100 % in 15 s."""
        defaults = [{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]
        return cls(spec.get("stabilizationWindowSeconds", 0), spec.get("policies", defaults), spec.get("selectPolicy", "Max"))

    @classmethod
    def down(cls, spec):
        """scaleDown, with Kubernetes' defaults: after five minutes, all that is too much."""
        defaults = [{"type": "Percent", "value": 100, "periodSeconds": 15}]
        return cls(spec.get("stabilizationWindowSeconds", 300), spec.get("policies", defaults), spec.get("selectPolicy", "Max"))


@dataclass
class Fallback:
    """KEDA's fallback."""

    failure_threshold: int
    replicas: int
    behavior: str = "static"

    def chosen(self, replicas):
        """The replicas that count while the metric cannot be read."""
        return {
            "static": self.replicas,
            "currentReplicas": replicas,
            "currentReplicasIfHigher": max(replicas, self.replicas),
            "currentReplicasIfLower": min(replicas, self.replicas),
        }[self.behavior]


@dataclass
class Autoscaler:
    """The state of one autoscaler between its rounds."""

    threshold: float
    least: int
    most: int
    up: Rules
    down: Rules
    fallback: Fallback = None
    null_is_zero: bool = True
    tolerance: float = TOLERANCE
    failures: int = 0
    recommendations: list = field(default_factory=list)
    changes: list = field(default_factory=list)

    @classmethod
    def of_scaled_object(cls, manifest):
        """From KEDA's manifest."""
        spec = manifest["spec"]
        trigger = spec["triggers"][0]
        behavior = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("behavior", {})
        fallback = spec.get("fallback")
        return cls(
            float(trigger["metadata"]["threshold"]), spec.get("minReplicaCount", 0), spec.get("maxReplicaCount", 100),
            Rules.up(behavior.get("scaleUp", {})), Rules.down(behavior.get("scaleDown", {})),
            fallback and Fallback(fallback["failureThreshold"], fallback["replicas"], fallback.get("behavior", "static")),
            trigger["metadata"].get("ignoreNullValues", "true") == "true")

    @classmethod
    def of_hpa(cls, manifest):
        """From an HPA's manifest with one external AverageValue metric."""
        spec = manifest["spec"]
        behavior = spec.get("behavior", {})
        return cls(float(spec["metrics"][0]["external"]["target"]["averageValue"]), spec.get("minReplicas", 1), spec["maxReplicas"],
                   Rules.up(behavior.get("scaleUp", {})), Rules.down(behavior.get("scaleDown", {})), null_is_zero=False)

    def decide(self, now, replicas, answer):
        """The replicas that there should be. `answer` is the query's value, None for an empty answer, "error" for none."""
        value = self._value(replicas, answer)
        if value is None:
            return replicas
        if replicas < self.least or replicas > self.most:
            # Out of its bounds it is put back at once, whatever the metric says.
            return self._changed(now, replicas, min(max(replicas, self.least), self.most))
        desired = self._stabilized(now, replicas, self._desired(replicas, value))
        if desired > replicas:
            return self._changed(now, replicas, min(desired, self._limit_up(now, replicas), self.most))
        if desired < replicas:
            return self._changed(now, replicas, max(desired, self._limit_down(now, replicas), self.least))
        return replicas

    def _value(self, replicas, answer):
        if answer is None and self.null_is_zero:
            answer = 0.0
        if answer is None or answer == "error":
            self.failures += 1
            if self.fallback is None or self.failures < self.fallback.failure_threshold:
                return None
            return self.threshold * self.fallback.chosen(replicas)
        self.failures = 0
        return float(answer)

    def _desired(self, replicas, value):
        ratio = value / (self.threshold * replicas)
        if abs(ratio - 1) <= self.tolerance:
            return replicas
        return math.ceil(value / self.threshold)

    def _stabilized(self, now, replicas, desired):
        self.recommendations.append((now, desired))
        longest = max(self.up.stabilization_s, self.down.stabilization_s)
        self.recommendations = [(at, r) for at, r in self.recommendations if at > now - longest or at == now]
        up = min([desired] + [r for at, r in self.recommendations if at > now - self.up.stabilization_s])
        down = max([desired] + [r for at, r in self.recommendations if at > now - self.down.stabilization_s])
        return min(max(replicas, up), down)

    def _at_period_start(self, now, replicas, period_s):
        """The replicas before this period's own changes."""
        return replicas - sum(change for at, change in self.changes if at > now - period_s)

    def _limit_up(self, now, replicas):
        limits = []
        for policy in self.up.policies:
            start = self._at_period_start(now, replicas, policy["periodSeconds"])
            grown = start + policy["value"] if policy["type"] == "Pods" else math.ceil(start * (1 + policy["value"] / 100))
            limits.append(grown)
        return max(replicas, self._selected(self.up, replicas, limits, max, min))

    def _limit_down(self, now, replicas):
        limits = []
        for policy in self.down.policies:
            start = self._at_period_start(now, replicas, policy["periodSeconds"])
            shrunk = start - policy["value"] if policy["type"] == "Pods" else math.floor(start * (1 - policy["value"] / 100))
            limits.append(shrunk)
        return min(replicas, self._selected(self.down, replicas, limits, min, max))

    @staticmethod
    def _selected(rules, replicas, limits, generous, strict):
        if rules.select == "Disabled":
            return replicas
        return (generous if rules.select == "Max" else strict)(limits)

    def _changed(self, now, replicas, wanted):
        if wanted != replicas:
            self.changes.append((now, wanted - replicas))
        periods = [p["periodSeconds"] for rules in (self.up, self.down) for p in rules.policies]
        self.changes = [(at, change) for at, change in self.changes if at > now - max(periods)]
        return wanted
