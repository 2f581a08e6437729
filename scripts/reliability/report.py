#!/usr/bin/env python3
"""The outcome of a run, written beside the map of promises and tests, docs/reliability.md.

    report.py            writes target/reliability/report.md: the map, with what scripts/reliability.sh and the other test scripts left
                         under target/
    report.py --names    prints the names of all Rust tests in the map, as a regular expression
"""

import re
import subprocess
import sys
import tarfile
from collections import defaultdict
from pathlib import Path

import bounds

ROOT = Path(__file__).resolve().parents[2]
STORIES = ROOT / "target/reliability/stories.log"
MAP = ROOT / "docs/reliability.md"
REPORT = ROOT / "target/reliability/report.md"


def sections():
    """The map's sections with the rows of their tables: what it is about, its tests as (file, function), and what else its last cell says."""
    for title, text in re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", MAP.read_text(), re.M):
        # A heading is followed by a line of dashes.
        rows = re.findall(r"^\| (.+) \|$(?!\n\|--)", text, re.M)
        if rows:
            yield title, [row_of(row.split(" | ")) for row in rows]


def row_of(cells):
    file, tests = None, []
    for name in re.findall(r"`([^`]+)`", cells[-1]):
        if "/" in name:
            file = name
        else:
            tests.append((file, name))
    rest = re.search(r"` (\(.*\))$", cells[-1])
    return cells[0], tests, rest[1] if rest else "" if tests else cells[-1]


def outcomes():
    """Of each test function in the last run of the stories: how many times it passed and failed."""
    found = defaultdict(lambda: {"PASS": 0, "FAIL": 0})
    if STORIES.exists():
        # The status of a story that failed is printed again at the end.
        lines = set(re.findall(r"^ *(PASS|FAIL|TIMEOUT|SIG\w+) \[[^]]*\] (?:\([^)]*\) )?(\S+ \S+)", STORIES.read_text(), re.M))
        for status, test in lines:
            found[test.split("::")[-1].split(" ")[-1]]["PASS" if status == "PASS" else "FAIL"] += 1
    return found


def verdict(seen):
    if not seen:
        return "not run"
    return f"FAILED {seen['FAIL']} of {sum(seen.values())}" if seen["FAIL"] else f"passed {seen['PASS']}×"


def shown_by(tests, rest, ran):
    cells = [f"`{file}` `{function}`: {verdict(ran.get(function))}" for file, function in tests]
    return "<br>".join([*cells, *([rest] if rest else [])])


def table(head, body):
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in body:
        yield "| " + " | ".join(str(cell) for cell in row) + " |"


def mapped():
    """The map's sections, each test with its outcome."""
    ran = outcomes()
    for title, rows in sections():
        yield title, table(("what", "shown by"), ((about, shown_by(tests, rest, ran)) for about, tests, rest in rows))


def losses():
    """The first line: `told` in the log is reported to the client, `untold` is silent."""
    found = re.findall(r"^ *told losses (\d+), untold losses (\d+); failed (\d+), twice (\d+), out of order (\d+), unexpected closes (\d+)", log(), re.M)
    if not found:
        return "Reported and silent losses: not run (`scripts/reliability.sh`)."
    told, untold, failed, twice, disordered, closes = (sum(int(row[n]) for row in found) for n in range(6))
    return (
        f"Losses reported {told}, **silent losses {untold}**; failed, delivered to no member and reported to the publisher, {failed}; "
        f"twice {twice}, out of order {disordered}, unexpected closes {closes}; "
        f"in {len(found)} verdicts of the load checker under faults."
    )


def log():
    return STORIES.read_text() if STORIES.exists() else ""


def recoveries():
    """What the stories saw: the longest of all times, in ms, for each fault and driver."""
    seen = defaultdict(lambda: [0, None, 0])
    pattern = r"recovered: (.+?) \| (epoll|io_uring) \| (nothing to detect|detected in (\d+) ms) \| recovered in (\d+) ms"
    for fault, driver, _, detected, recovered in set(re.findall(pattern, log())):
        entry = seen[fault, driver]
        entry[0] += 1
        if detected:
            entry[1] = max(entry[1] or 0, int(detected))
        entry[2] = max(entry[2], int(recovered))
    if not seen:
        yield "not run (`scripts/reliability.sh`)"
        return
    body = ((f, d, "–" if t is None else f"{t} ms", f"{r} ms") for (f, d), (_, t, r) in sorted(seen.items()))
    yield from table(("fault", "driver", "detected after", "recovered after"), body)


def neighbours():
    found = bounds.measurements(log())
    if not found:
        yield "not run (`scripts/reliability.sh`)"
        return
    body = (
        (m.what, m.driver, f"{m.without} µs", f"{m.elsewhere} µs", f"{m.beside} µs", f"{m.ratio:.2f}", f"{m.bound:g}",
         "yes" if m.beside <= m.without * 1.1 else "**no**", "yes" if m.ratio <= m.bound else "**no**")
        for m in found
    )
    head = ("hostile client", "driver", "p99 without", "p99, it is at another gateway", "p99, it is at this one",
            "ratio to the larger", "at most", "within 10 %", "within its bound")
    yield from table(head, body)
    for what, (bound, reason) in bounds.KNOWN_EXCESS.items():
        yield f"\nKnown excess, up to {bound:g}: {what}: {reason}."


def compressed_clients():
    found = bounds.shares(log())
    if not found:
        yield "not run (`scripts/reliability.sh`)"
        return
    most = bounds.MOST_OF_A_CORE
    body = ((s.what, s.driver, f"{s.share:.1%}", f"{most:.0%}", "yes" if s.share <= most else "**no**") for s in found)
    yield from table(("what one compressed client sends", "driver", "of a core", "at most", "within its bound"), body)


def conformance():
    """The line that each of the last runs ended with."""
    results = sorted(ROOT.glob("target/conformance/*/result.txt"))
    for result in results:
        yield f"- {result.parent.name}: {result.read_text().strip()}"
    if not results:
        yield "- not run (`scripts/conformance.sh --all`)"


def saved(folder, head, script):
    """Rows that another script left in target/FOLDER/summary.tsv."""
    path = ROOT / f"target/{folder}/summary.tsv"
    if path.exists() and path.stat().st_size:
        yield from table(head, (line.split("\t") for line in path.read_text().splitlines()))
    else:
        yield f"not run (`scripts/{script}`)"


def count(pattern, folder):
    return sum(len(re.findall(pattern, path.read_text())) for top in folder for path in (ROOT / top).rglob("*.rs"))


def unsafe_lines():
    """Lines inside unsafe blocks and functions, their first and last ones included."""
    total = 0
    for path in (ROOT / "src").rglob("*.rs"):
        depth = 0
        for line in path.read_text().splitlines():
            code = line.split("//")[0]
            if depth == 0 and not re.search(r"\bunsafe\s*(\{|impl|fn)", code):
                continue
            start = code if depth else code[re.search(r"\bunsafe\b", code).start():]
            total += 1
            depth = max(0, depth + start.count("{") - start.count("}"))
    return total


def tree():
    dependencies = subprocess.run(
        ["cargo", "tree", "--locked", "-e", "normal", "--prefix", "none"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    simulator = (ROOT / "tests/simulator/main.rs").read_text()
    seeds = re.search(r"^const SEEDS: u64 = (\d+);", simulator, re.M)
    corpus = [name for path in (ROOT / "fuzz/corpus").glob("*.tar") for name in tarfile.open(path).getnames()]
    unsafe, tests = count(r"unsafe (?:\{|impl|fn)", ["src"]), count(r"#\[test\]", ["src", "tests"])
    yield f"- `unsafe` in src: {unsafe} blocks, {unsafe_lines()} lines"
    yield f"- dependencies of the gateway: {len({line for line in dependencies[1:] if line and not line.endswith('(*)')})}"
    yield f"- simulator seeds on every test run: {seeds and seeds[1]} for each of {simulator.count('#[test]')} stories"
    stories = sum(text.count("(driver: Driver) {") for text in (p.read_text() for p in (ROOT / "tests/e2e").glob("*.rs")))
    yield f"- test functions: {tests}, and {stories} end-to-end stories on each of two drivers"
    yield f"- fuzz targets: {len(list((ROOT / 'fuzz/targets').glob('*.rs')))}, with {len(corpus)} committed inputs that every test run replays"


def inputs():
    """How many bad inputs the tables hold, counted where the stories print them."""
    found = sorted(set(re.findall(r"bad inputs: (\d+) (.+)", log())), key=lambda pair: pair[1])
    if not found:
        return "Inputs tried: not run (`scripts/reliability.sh`)."
    return "Inputs tried, each with its expected answer: " + ", ".join(f"{number} {what}" for number, what in found) + "."


def report():
    yield "# Report of a run"
    yield ""
    yield losses()
    yield ""
    yield inputs()
    yield ""
    yield '"not run" means what it says; "passed 2×" is once on each driver.'
    for title, lines in (
        *mapped(),
        ("Detection and recovery", recoveries()),
        ("Neighbours", neighbours()),
        ("Compressed clients", compressed_clients()),
        ("Conformance", conformance()),
        ("Fuzzing", saved("fuzz", ("target", "executions", "seconds", "corpus files", "corpus bytes", "verdict"), "fuzz.sh")),
        ("Sanitizers", saved("sanitize", ("check", "outcome"), "sanitize.sh")),
        ("The tree", tree()),
    ):
        yield f"\n## {title}\n"
        yield from PREFACES.get(title, [])
        yield from lines


PREFACES = {
    "Detection and recovery": [
        "The longest of what the stories saw, on the machine that ran them, tests in parallel; figures, not promises. Detection counts",
        "from the fault, recovery from the end of its cause where it has one, else from the fault.",
        "",
    ],
    "Neighbours": [
        "Round trips of two connected clients of one shard, at most 1,000 a second, and upgrades: without a hostile client, while one is",
        "at another gateway on the load's core, and while it is at this one, by turns; of round trips the median of eleven 99th percentiles,",
        "of upgrades the 99th percentile of 330, of the release build, which has a core of its own. Both cores are kept awake where the",
        "host permits it. What hostility takes of the host is in both of the latter: what they differ by is the gateway's doing. Beside",
        "the reader that has stopped, the first is with one that reads. G7 aims at 10 %; `scripts/reliability/bounds.py` fails the run",
        "where the ratio exceeds its bound.",
        "",
    ],
}

def main(arguments):
    if arguments == ["--names"]:
        names = {function for _, rows in sections() for _, tests, _ in rows for file, function in tests if file.endswith(".rs")}
        print("|".join(sorted(names)))
    elif not arguments:
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        REPORT.write_text("\n".join(report()) + "\n")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
