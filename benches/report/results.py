"""Runs of the benchmark scripts: one JSON value a line, as tideload, floor and the scripts write them."""

import json
import pathlib
import re

COSTS = ("server_cpu_us_per_message", "server_cpu_us_per_delivery", "server_cpu_us_per_upgrade", "idle_cores")
WAITS = ("bystander-", "cross-node")  # rows that are about a latency, not about a cost
SCRIPTS = ("bench.sh", "bench-peers.sh", "million.sh")
DIGITS = 5


def median(label, repeats):
    """Of a row that was run several times, the run with the middle cost or p99 (the costlier of two): its figures belong together."""

    def cost(run):
        if label.startswith(WAITS):
            return figure_of(run, "latency", "p99_us") or 0
        return next((run["results"][key] for key in COSTS if key in run["results"]), 0)

    return sorted(repeats, key=cost)[len(repeats) // 2]


def figure_of(run, *path):
    value = run.get("results")
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


class Results:
    """Rows by label; a label is ROW/SUBJECT, such as echo-64/floor. Of a row that was repeated, the median one."""

    def __init__(self, path):
        self.path, self.described = path, {}
        # Every run of a row, with None for one that failed, so that turns can be told apart.
        self.tries, self.rows, self.missing, self.turns, self.about = {}, {}, {}, {}, {}
        self.lines = [json.loads(line) for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines()]
        for value in self.lines:
            match value:
                case {"script": _}:
                    self.described = value
                case {"tool": "about"}:
                    self.about[value["peer"]] = value["about"]
                case {"tool": "turns", "label": label}:
                    self.turns[label] = value
                case {"tool": "bench", "label": label}:
                    self.missing[label] = value["not_measured"][0]
                    self.tries.setdefault(label, []).append(None)
                case {"label": label}:
                    self.tries.setdefault(label, []).append(value)
                    self.rows[label] = median(label, [run for run in self.tries[label] if run])

    def figure(self, label, *path):
        """A figure of a row, or None."""
        return figure_of(self.rows.get(label, {}), *path)

    def pairs(self, row, subject, other, *path):
        """A figure of two subjects in runs of the same turn, so that a slow phase of the host falls on both; in ascending order of the first
        over the second. Without turns in which one failed; empty where the two were not tried equally often, for then pairs are not known."""
        ours, others = ([run and figure_of(run, *path) for run in self.tries.get(f"{row}/{who}", [])] for who in (subject, other))
        if len(ours) != len(others):
            return []
        return sorted((both for both in zip(ours, others) if all(both)), key=lambda both: both[0] / both[1])

    def named(self, prefix):
        """Row names that begin so, in the order of the run."""
        names = dict.fromkeys(label.split("/")[0] for label in (*self.rows, *self.missing))
        return [name for name in names if name.startswith(prefix)]

    def sizes(self, prefix):
        """The N of rows that are called PREFIX + N, in ascending order."""
        return sorted(int(end) for end in (name.removeprefix(prefix) for name in self.named(prefix)) if end.isdigit())

    def subjects(self):
        """Every server that was measured, in the order of the run."""
        return list(dict.fromkeys(label.split("/", 1)[1] for label in (*self.rows, *self.missing) if "/" in label))

    def account(self, label):
        """What is wrong with the messages of a row, such as "7 lost"; empty where each came once and in order."""
        counts = {what: self.figure(label, what) for what in ("lost", "duplicate", "reordered", "misdirected", "refused")}
        counts |= {f"ended ({how})": count for how, count in (self.figure(label, "ended") or {}).items()}
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)

    def best_window(self, subject):
        """The flat-out row with the most deliveries, or None. Rows with a wrong account come last: losing messages is not speed."""
        rates = {row: self.figure(f"{row}/{subject}", "deliveries_per_s") for row in self.named("flat-out-")}
        rows = [row for row, rate in rates.items() if rate]
        return max(rows, key=lambda row: (not self.account(f"{row}/{subject}"), rates[row]), default=None)


def spoken(command):
    """A command in a line, without this host's paths, process numbers and what only names the run."""
    line = command if isinstance(command, str) else " ".join([pathlib.Path(command[0]).name, *command[1:]])
    return re.sub(r" --(json|label|server-pid) \S+", "", line)


def cleaned(value):
    """The same as it is published: with DIGITS significant digits, without curves and what belongs to the host."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, list):
        return [cleaned(inner) for inner in value]
    if isinstance(value, dict):
        value = {key: inner for key, inner in value.items() if not key.endswith("_curve") and key not in ("failures", "parameters", "host")}
        return {key: spoken(inner) if key == "command" else cleaned(inner) for key, inner in value.items()}
    return value


def publish(results, directory):
    """Puts a run in the place of the last one of its script."""
    script = results.described.get("script")
    if script not in SCRIPTS or results.described.get("whole") is not True:
        raise SystemExit(f"{results.path} is not a whole run of {', '.join(SCRIPTS)}: nothing is published")
    lines = [json.dumps(cleaned(line), sort_keys=True, ensure_ascii=False) for line in results.lines]
    (directory / script.replace(".sh", ".jsonl")).write_text("\n".join(lines) + "\n", encoding="utf-8")


def published(directory):
    """The published runs by their script."""
    paths = {script: directory / script.replace(".sh", ".jsonl") for script in SCRIPTS}
    return {script: Results(path) for script, path in paths.items() if path.exists()}
