#!/usr/bin/env python3
"""The figures of benchmark runs beside their targets.

  report.py RESULTS.jsonl...             prints them, and writes every row of these runs to target/benchmarks/report.md (OUT: elsewhere)
  report.py --publish RESULTS.jsonl...   keeps these runs in docs/results, each in the place of its script's last one, and --write
  report.py --write                      writes the tables of docs/benchmarks.md, and README's plots, from docs/results
  report.py --check                      exits with 1 where they are not what --write would write
  report.py --half-load RESULTS.jsonl SERVER   prints half of the publications a second of the server's best flat-out row"""

import os
import pathlib
import sys

import plots
from results import Results, publish, published, spoken
from targets import CPU_DELIVERY, CPU_MESSAGE, CPU_UPGRADE, judged

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
BEGIN, END = "<!-- {}: written by benches/report/report.py -->\n", "<!-- end -->"
# Column, figure, form, and the row of a server that docs/benchmarks.md shows; None: its best window.
COLUMNS = [
    ("idle, user memory", ["user_bytes"], "{:,.0f} B", "idle-10000"), ("idle, kernel memory", ["kernel_bytes"], "{:,.0f} B", "idle-10000"),
    ("CPU of a million idle", ["idle_cores_per_million"], "{:.2f} cores", "idle-10000"),
    ("CPU per upgrade", [CPU_UPGRADE], "{:.1f} µs", "upgrade"), ("CPU per echo", [CPU_MESSAGE], "{:.2f} µs", "echo-1000"),
    ("CPU per delivery", [CPU_DELIVERY], "{:.2f} µs", "fanout-10000"), ("deliveries/s", ["deliveries_per_s"], "{:,.0f}", None),
    ("p99", ["latency", "p99_us"], "{:,.0f} µs", None),
]
HEADINGS = [column[0] for column in COLUMNS]


def table(*rows):
    """A table in Markdown from a heading and rows."""
    return [f"| {' | '.join(row)} |" + ("\n" + "|---" * len(row) + "|" if row is rows[0] else "") for row in rows]


def figures(results, label):
    """The columns of one row: its figure or a dash; what idle connections cost only where they were pinged."""
    found = [(results.figure(label(row), *path), form, "idle" in path[0] and not results.figure(label(row), "pings")) for _, path, form, row in COLUMNS]
    return ["–" if value is None or unknown else form.format(value) for value, form, unknown in found]


def targets(results):
    """Each target with the figures of all drivers or gateways; what is missed says so."""
    columns = judged(results)
    rows = [[row[0].name, row[0].target, *map(str, row)] for row in zip(*columns.values())]
    return table(["row", "target", *columns], *rows) if rows else []


def servers(results):
    """Each server's main figures, of those with more than a few; a run of one row has them all in that."""
    row = next(iter(results.rows)).split("/")[0] if len(results.rows) == 1 else None
    rows = [[who, *figures(results, lambda column: f"{row or column or results.best_window(who)}/{who}")] for who in results.subjects()]
    return table(["server", *HEADINGS], *(row for row in rows if row.count("–") < 5))


def machine(results):
    """Where and of what the figures are."""
    told = {"script": "?", "commit": "?", "cpu": "?", "cpus": "?", "memory_kb": 0, "kernel": "?"} | results.described
    bare = results.figure("echo-64/floor", CPU_MESSAGE)
    return "`{script}` at commit {commit}: {cpu}, {cpus} cores, {memory_kb:,} kB of memory, Linux {kernel}".format(**told) + (
        f"; the bare echo of 64 B takes {bare:.2f} µs of CPU." if bare else ".")


def every_row(results):
    """The long form: the targets, then each row with its figures, its command, and what was not measured."""
    rows, heading = [], [f"## {results.path}", "", machine(results), "", *targets(results), ""]
    for label, row in results.rows.items():
        turn = f"{results.turns[label]['loop_lag_us']:,.0f} µs" if label in results.turns else "–"
        bound = "yes" if row["client_bound"] else "no"
        rows.append([label, *figures(results, lambda _: label), turn, results.account(label) or "exact", bound, f"`{spoken(row['command'])}`"])
    missing = [f"- {label}: {why}" for label, row in results.rows.items() for why in row["not_measured"]]
    missing += [f"- {who}: {why}" for who, why in (results.about | results.missing).items()]
    return heading + [*table(["row", *HEADINGS, "longest turn", "messages", "the load is the limit", "command"], *rows), "", *missing, ""]


def written(runs):
    """docs/benchmarks.md and the plots as these runs make them: path and text."""
    bench, peers, crowd = (runs.get(script) for script in ("bench.sh", "bench-peers.sh", "million.sh"))
    parts = {"targets": bench and [machine(bench), "", *targets(bench)], "peers": peers and [machine(peers), "", *targets(peers)],
             "servers": peers and servers(peers), "million": crowd and [machine(crowd), "", *servers(crowd)]}
    page = DOCS.joinpath("benchmarks.md").read_text(encoding="utf-8")
    for name, lines in parts.items():
        before, _, rest = page.partition(BEGIN.format(name))
        page = before + BEGIN.format(name) + "\n" + "\n".join(lines or ["not measured"]) + "\n\n" + END + rest.partition(END)[2]
    yield DOCS / "benchmarks.md", page
    yield DOCS / "plots/echo.svg", plots.plot("Server CPU per echoed message", "connections", "µs", plots.lines_of(peers, "echo-", CPU_MESSAGE))
    yield DOCS / "plots/delivery.svg", plots.plot("Server CPU per delivery", "members", "µs", plots.lines_of(bench, "fanout-", CPU_DELIVERY))


def main():
    match sys.argv[1:]:
        case ["--half-load", path, server]:
            results = Results(path)
            found = results.rows.get(f"{results.best_window(server)}/{server}") or sys.exit(f"no flat-out row of {server} in {path}")
            print(max(found["results"]["published"] / found["results"]["delivered"] * found["results"]["deliveries_per_s"] / 2, 1))
        case ["--write"] | ["--publish", _, *_]:
            for path in sys.argv[2:]:
                publish(Results(path), DOCS / "results")
            for path, text in written(published(DOCS / "results")):
                path.write_text(text, encoding="utf-8")
        case ["--check"]:
            files = written(published(DOCS / "results"))
            stale = [path.name for path, text in files if not path.exists() or path.read_text(encoding="utf-8") != text]
            sys.exit(f"not what docs/results makes them: {', '.join(stale)}; run benches/report/report.py --write" if stale else 0)
        case [first, *_] if not first.startswith("-"):
            runs, out = [Results(path) for path in sys.argv[1:]], pathlib.Path(os.environ.get("OUT", ROOT / "target/benchmarks"))
            out.mkdir(parents=True, exist_ok=True)
            out.joinpath("report.md").write_text("\n".join(line for results in runs for line in every_row(results)), encoding="utf-8")
            print("\n".join(line for results in runs for line in targets(results)), f"every row: {out / 'report.md'}", sep="\n")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
