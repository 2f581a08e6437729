"""The report against made-up runs: what is judged, what is scaled, which run of several counts, what is not known."""

import json
import pathlib
import tempfile
import unittest

import plots
import report
import targets
from results import Results, publish, published

MESSAGE = targets.CPU_MESSAGE
COMMAND = ["/home/user/tideload", "echo", "--server-pid", "7", "--json", "/home/user/results"]


def line(label, **results):
    """A row as tideload writes it."""
    return {"tool": "tideload", "label": label, "command": COMMAND, "results": results, "client_bound": False, "not_measured": []}


def run(*lines, script="bench.sh", whole=True):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        about = {"tool": "bench", "script": script, "whole": whole, "commit": "c0ffee"}
        file.write("\n".join(map(json.dumps, (about, *lines))))
        file.flush()
        return Results(file.name)


def turns(*costs):
    """Runs of echo-64 in turns: (subject, cost)."""
    return run(*(line(f"echo-64/{who}", **{MESSAGE: cost}) for who, cost in costs))


class Targets(unittest.TestCase):
    def test_a_target_that_a_slow_host_misses_is_judged_again_scaled_to_the_host(self):
        found = {row.name: row for row in targets.against_floor(run(
            line("echo-64/floor", **{MESSAGE: 2 * targets.BARE_ECHO_THERE_US}),
            line("upgrade/epoll", server_cpu_us_per_upgrade=1e6 / 30_000),
            line("upgrade/floor", server_cpu_us_per_upgrade=1e6 / 32_000),
            line("idle-9/epoll", idle_cores_per_million=0.7, user_bytes=90.0),
            line("idle-9/floor", idle_cores_per_million=0.5, user_bytes=6.0),
        ), "epoll")}
        upgrades = str(found["upgrade: upgrades/s of a core, by CPU"])
        self.assertEqual(upgrades, "30,000 (bare 32,000) **missed** (met scaled to this host, nor met by the bare loop)")
        heartbeats = found["idle: CPU of heartbeats, by a million"]
        self.assertEqual((heartbeats.met, heartbeats.scaled_met), (False, False))
        memory = found["idle: user memory"]
        self.assertEqual((memory.met, memory.scaled_met), (True, None))
        self.assertIsNone(found["echo-64: CPU per message"].met, "what was not measured is neither met nor missed")

    def test_a_row_is_held_to_the_bare_loop_of_the_same_turn(self):
        # The host was twice as slow in the second turn, for both.
        costs = [("epoll", 4.0), ("floor", 4.0), ("epoll", 9.0), ("floor", 8.0), ("epoll", 5.0), ("floor", 4.0)]
        found = targets.multiple(turns(*costs), "CPU per message", "echo-64", "epoll", "floor", MESSAGE, 1.05)
        self.assertEqual(str(found), "1.12 × (9.00 µs / 8.00 µs) **missed**")
        self.assertEqual(turns(*costs[:3]).pairs("echo-64", "epoll", "floor", MESSAGE), [])
        self.assertEqual(turns(*costs).figure("echo-64/epoll", MESSAGE), 5.0, "of a repeated row the median run counts")

    def test_a_turn_in_which_one_server_failed_is_left_out(self):
        failed = {"tool": "bench", "label": "echo-64/epoll", "not_measured": ["it did not start"]}
        floors = [line("echo-64/floor", **{MESSAGE: cost}) for cost in (1.0, 2.0)]
        results = run(floors[0], failed, floors[1], line("echo-64/epoll", **{MESSAGE: 3.0}))
        self.assertEqual(results.pairs("echo-64", "epoll", "floor", MESSAGE), [(3.0, 2.0)])

    def test_many_rooms_are_judged_at_four_fifths_of_the_peer(self):
        for ours, bare, verdict in ((8.0, 9.0, ""), (8.1, 8.0, " **missed**"), (8.1, 9.0, " **missed** (nor met by the bare loop)")):
            costs = {"tidegate-epoll": ours, "uwebsockets": 10.0, "floor": bare}
            rows = [line(f"fanout-9-rooms/{who}", server_cpu_us_per_delivery=cost) for who, cost in costs.items()]
            (found,) = report.targets(run(*rows, script="bench-peers.sh"))[-1:]
            self.assertIn(f"| ≤ 0.80 × uwebsockets | {ours / 10:.2f} × ({ours:.2f} µs / 10.00 µs){verdict} |", found)

    def test_a_server_is_judged_at_its_best_window_and_losing_messages_is_not_speed(self):
        rows = [("flat-out-64/a", 100.0, 0), ("flat-out-640/a", 300.0, 1), ("flat-out-9/a", 90.0, 0)]
        results = run(*(line(label, deliveries_per_s=rate, lost=lost) for label, rate, lost in rows))
        self.assertEqual((results.best_window("a"), results.account("flat-out-640/a")), ("flat-out-64", "1 lost"))


class Publication(unittest.TestCase):
    def test_a_published_run_names_nothing_of_the_host_and_reads_the_same(self):
        results = run(line("echo-64/epoll", latency_curve=[1], **{MESSAGE: 1.23456789}))
        with tempfile.TemporaryDirectory() as directory:
            publish(results, pathlib.Path(directory))
            text = pathlib.Path(directory, "bench.jsonl").read_text()
            kept = published(pathlib.Path(directory))["bench.sh"]
        self.assertFalse([word for word in ("/home", "pid", "curve") if word in text])
        self.assertEqual(kept.figure("echo-64/epoll", MESSAGE), 1.2346)
        self.assertEqual(report.every_row(kept)[1:], report.every_row(results)[1:])

    def test_a_run_that_is_not_whole_or_of_another_script_is_refused(self):
        for results in (run(whole=False), run(script="other.sh")):
            with self.assertRaises(SystemExit):
                publish(results, pathlib.Path("/nonexistent"))

    def test_a_plot_has_a_line_for_each_server_with_two_sizes(self):
        lines = plots.lines_of(run(*(line(f"echo-{size}/a", cpu=1.0) for size in (1, 10)), line("echo-1/b", cpu=1.0)), "echo-", "cpu")
        self.assertEqual((list(lines), plots.plot("t", "x", "y", lines).count("<polyline")), (["a"], 1))
