"""The runs that are published: docs/results has one file for each script, without what belongs to the host that ran it (its paths and
process numbers) and with figures of as many digits as mean something."""

import json
import pathlib

from results import Results

# In the order of the report.
SCRIPTS = ["bench.sh", "bench-peers.sh", "million.sh"]
DIGITS = 5


def words(command):
    """A command as somebody else would type it: without this host's paths, process numbers and what only names the run."""
    kept = [pathlib.Path(command[0]).name]
    rest = iter(command[1:])
    for word in rest:
        if word in ("--json", "--label"):
            next(rest, None)
        elif word == "--server-pid":
            next(rest, None)
            if "PID" not in kept:
                kept += [word, "PID"]
        else:
            kept.append(word)
    return kept


def spoken(row):
    """A row's command as one line, with the priority that it ran at."""
    line = " ".join(word if " " not in word else f"'{word}'" for word in words(row["command"]))
    scheduled = row.get("host", {}).get("scheduled")
    return f"chrt {scheduled} {line}" if scheduled else line


def rounded(value):
    """The same with DIGITS significant digits, however deep."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return value


def cleaned(line):
    """A line of a run as it is published."""
    if "command" not in line:
        return line
    kept = {key: rounded(line[key]) for key in ("tool", "label", "mode", "results", "client_bound", "not_measured")}
    kept["command"] = words(line["command"])
    kept["host"] = {"scheduled": line.get("host", {}).get("scheduled")}
    kept["servers"] = servers(line)
    return kept


def servers(row):
    """How many processes served the row."""
    return row.get("servers", len(row.get("parameters", {}).get("common", {}).get("server_pid", [])))


def keep(results, directory):
    """Puts a run where its script's last one was."""
    script = results.described.get("script")
    if script not in SCRIPTS:
        raise SystemExit(f"{results.path} is no run of {', '.join(SCRIPTS)}: nothing is published")
    if results.described.get("whole") is not True:
        raise SystemExit(f"{results.path} is a quick run, or one of a few rows: only a whole one is published")
    directory.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(cleaned(line), sort_keys=True, ensure_ascii=False) for line in results.lines]
    (directory / script.replace(".sh", ".jsonl")).write_text("\n".join(lines) + "\n", encoding="utf-8")


def runs(directory):
    """The published runs, in the report's order."""
    paths = [directory / script.replace(".sh", ".jsonl") for script in SCRIPTS]
    return [Results(path) for path in paths if path.exists()]
