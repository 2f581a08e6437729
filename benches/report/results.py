"""Reads the results of a run: one JSON value a line, as tideload, floor and the scripts write them."""

import json

COSTS = ("server_cpu_us_per_message", "server_cpu_us_per_delivery", "server_cpu_us_per_upgrade", "idle_cores")


# Rows that are about what somebody waits for, not about what it costs.
WAITS = ("bystander-", "cross-node")


def median(label, repeats):
    """Of a row that was run several times, the run whose cost is the middle one, or whose p99 is: all of its figures belong together.
    The costlier of two in the middle, and the last where the row has no cost."""

    def cost(value):
        results = value.get("results", {})
        if label.startswith(WAITS):
            return results.get("latency", {}).get("p99_us")
        return next((results[key] for key in COSTS if key in results), None)

    if any(cost(value) is None for value in repeats):
        return repeats[-1]
    return sorted(repeats, key=cost)[len(repeats) // 2]


class Results:
    """Rows by label; a label is ROW/SUBJECT, such as echo-64/floor. Of a row that was repeated, the median one."""

    def __init__(self, path):
        self.path = path
        self.lines = []
        self.repeats = {}
        # The same with None for each time that came to nothing, so that turns can be told apart.
        self.tries = {}
        self.described = {}
        self.rows = {}
        self.missing = {}
        self.turns = {}
        self.about = {}
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                value = json.loads(line)
                self.lines.append(value)
                label = value.get("label")
                if "script" in value:
                    self.described = value
                elif value["tool"] == "about":
                    self.about[value["peer"]] = value["about"]
                elif label and value["tool"] == "turns":
                    self.turns[label] = value
                elif label and value["tool"] == "bench":
                    self.missing[label] = value["not_measured"][0]
                    self.tries.setdefault(label, []).append(None)
                elif label:
                    self.repeats.setdefault(label, []).append(value)
                    self.tries.setdefault(label, []).append(value)
                    self.rows[label] = median(label, self.repeats[label])

    @staticmethod
    def _figure(run, *path):
        value = run.get("results")
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def figure(self, label, *path):
        """A figure of a row, or None."""
        return self._figure(self.rows.get(label, {}), *path)

    def pairs(self, row, subject, other, *path):
        """A figure of two subjects in runs of the same turn, so that what the host does for longer than that falls on both; in ascending
        order of the first over the second. Turns in which one came to nothing are left out. Empty where the two were not tried equally
        often, for then it is not known whose partner is whose."""

        def figures(label):
            return [value and self._figure(value, *path) for value in self.tries.get(label, [])]

        ours, others = figures(f"{row}/{subject}"), figures(f"{row}/{other}")
        if len(ours) != len(others):
            return []
        return sorted((both for both in zip(ours, others) if all(both)), key=lambda both: both[0] / both[1])

    def why_not(self, label):
        """Why a row has no figure."""
        if label in self.missing:
            return self.missing[label]
        return "; ".join(self.rows.get(label, {}).get("not_measured", [])) or "not run"

    def named(self, prefix):
        """Row names that begin so, in the order of the run."""
        names = [label.split("/")[0] for label in (*self.rows, *self.missing)]
        return list(dict.fromkeys(name for name in names if name.startswith(prefix)))

    def sizes(self, prefix):
        """The N of rows that are called PREFIX + N, in ascending order."""
        ends = [name.removeprefix(prefix) for name in self.named(prefix)]
        return sorted(int(end) for end in ends if end.isdigit())

    def wrongs(self, label):
        """What the account of a row's messages finds wrong: names and counts."""
        for what in ("lost", "duplicate", "reordered", "misdirected", "refused"):
            count = self.figure(label, what)
            if count:
                yield what, count
        for how, count in (self.figure(label, "ended") or {}).items():
            yield f"ended ({how})", count

    def best_window(self, subject):
        """The flat-out row in which somebody made the most deliveries, or None. Rows whose account does not hold come last: who drops
        messages is not fast."""
        reached = {row: self.figure(f"{row}/{subject}", "deliveries_per_s") for row in self.named("flat-out-")}
        rows = [row for row, rate in reached.items() if rate]
        return max(rows, key=lambda row: (not any(self.wrongs(f"{row}/{subject}")), reached[row]), default=None)

    def drivers(self):
        """The wires that were measured."""
        return [driver for driver in ("epoll", "io_uring") if driver in self.subjects()]

    def gateways(self):
        """The gateways among the peers."""
        return [subject for subject in self.subjects() if subject.startswith("tidegate")]

    def subjects(self):
        """Everything that was measured, in the order of the run."""
        return list(dict.fromkeys(label.split("/", 1)[1] for label in (*self.rows, *self.missing) if "/" in label))
