"""The report against runs that are made up: what is judged, what is scaled, what counts as fastest, what is not known."""

import json
import pathlib
import tempfile
import unittest

import half_load
import million
import peers
import publication
import ratios
import readme
import report
from results import Results


def line(label, command=("tideload", "echo"), **results):
    """A row as tideload writes it."""
    return {
        "tool": "tideload",
        "label": label,
        "mode": "echo",
        "command": list(command),
        "host": {"scheduled": None},
        "parameters": {"common": {"server_pid": [1, 2]}},
        "results": results,
        "client_bound": False,
        "not_measured": [],
    }


def run(*lines, script="bench.sh", whole=True):
    """Results of these lines."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("\n".join(json.dumps(each) for each in ({"tool": "bench", "script": script, "whole": whole, "commit": "c0ffee"}, *lines)))
        file.flush()
        return Results(file.name)


def row(rows, beginning):
    return next(row for row in rows if row.name.startswith(beginning))


def delivering(label, rate, lost=0):
    counts = {"lost": lost, "duplicate": 0, "reordered": 0, "misdirected": 0, "refused": 0, "ended": {}}
    latency = {"p50_us": 1000.0, "p99_us": 2000.0}
    return line(label, deliveries_per_s=rate, delivered=1000, published=10, server_cpu_us_per_delivery=1.0, latency=latency, **counts)


class Targets(unittest.TestCase):
    def test_an_absolute_target_is_kept_and_stands_beside_itself_scaled_to_the_host(self):
        results = run(
            line("echo-64/floor", server_cpu_us_per_message=2 * ratios.BARE_ECHO_THERE_US),
            line("echo-64/epoll", server_cpu_us_per_message=6.0),
            line("upgrade/epoll", connections_per_s=9_000.0, server_cpu_us_per_upgrade=1e6 / 30_000),
            line("upgrade/floor", connections_per_s=9_500.0, server_cpu_us_per_upgrade=1e6 / 32_000),
            line("idle-19000/epoll", idle_cores_per_million=0.7, user_bytes=90.0, total_bytes=4200.0),
            line("idle-19000/floor", idle_cores_per_million=0.5, user_bytes=6.0, total_bytes=4000.0),
        )
        rows = ratios.ratios(results, "epoll")
        upgrades = row(rows, "upgrades/s")
        self.assertEqual((upgrades.target, upgrades.met), ("≥ 50,000", False))
        self.assertEqual((upgrades.scaled, upgrades.scaled_met), ("≥ 25,000", True))
        self.assertEqual(upgrades.shown, "30,000 (9,000 seen; bare 32,000, by CPU)")
        heartbeats = row(rows, "idle-19000: heartbeats")
        self.assertEqual((heartbeats.met, heartbeats.scaled, heartbeats.scaled_met), (False, "≤ 0.60 cores", False))
        self.assertEqual(report.verdict(heartbeats.met, heartbeats.bare_met), "**no**, nor by the bare loop")
        # Memory is as large on any host.
        self.assertEqual((row(rows, "idle-19000: user").scaled, row(rows, "idle-19000: user").met), ("", True))

    def test_without_the_bare_echo_nothing_is_scaled(self):
        upgrades = row(ratios.ratios(run(line("upgrade/epoll", server_cpu_us_per_upgrade=1e6 / 60_000)), "epoll"), "upgrades/s")
        self.assertEqual((upgrades.met, upgrades.scaled, upgrades.scaled_met), (True, "", None))

    def test_of_a_row_that_was_repeated_the_median_run_counts_with_all_its_figures(self):
        results = run(*(line("echo-64/epoll", server_cpu_us_per_message=cost, count=cost * 10) for cost in (9.0, 2.0, 3.0)))
        self.assertEqual(results.figure("echo-64/epoll", "server_cpu_us_per_message"), 3.0)
        self.assertEqual(results.figure("echo-64/epoll", "count"), 30.0)

    def test_a_repeated_row_is_held_to_the_bare_loop_of_the_run_beside_it(self):
        # The host was twice as slow in the second turn, for both.
        costs = [("epoll", 4.0), ("floor", 4.0), ("epoll", 9.0), ("floor", 8.0), ("epoll", 5.0), ("floor", 4.0)]
        results = run(*(line(f"echo-64/{who}", server_cpu_us_per_message=cost) for who, cost in costs))
        found = ratios.ratio(results, "echo-64", "epoll", ratios.CPU_MESSAGE)
        self.assertEqual(found, (9.0, 9.0 / 8.0, "1.12 × (9.00 µs / 8.00 µs)"))
        alone = run(*(line(f"echo-64/{who}", server_cpu_us_per_message=cost) for who, cost in costs[:3]))
        self.assertIsNone(ratios.ratio(alone, "echo-64", "epoll", ratios.CPU_MESSAGE))

    def test_a_turn_in_which_one_failed_is_left_out_and_the_others_stay_pairs(self):
        failed = {"tool": "bench", "label": "echo-64/epoll", "not_measured": ["it did not start"]}
        floors = [line("echo-64/floor", server_cpu_us_per_message=cost) for cost in (1.0, 2.0, 4.0)]
        ours = [line("echo-64/epoll", server_cpu_us_per_message=cost) for cost in (3.0, 6.0)]
        results = run(floors[0], failed, floors[1], ours[0], floors[2], ours[1])
        self.assertEqual(results.pairs("echo-64", "epoll", "floor", *ratios.CPU_MESSAGE), [(3.0, 2.0), (6.0, 4.0)])

    def test_of_many_pairs_the_middle_half_is_told(self):
        costs = [cost for ours in (1.3, 0.8, 1.0, 1.2, 1.1) for cost in (("epoll", ours), ("floor", 1.0))]
        results = run(*(line(f"echo-64/{who}", server_cpu_us_per_message=cost) for who, cost in costs))
        found = ratios.ratio(results, "echo-64", "epoll", ratios.CPU_MESSAGE)
        self.assertEqual(found[2], "1.10 × (1.10 µs / 1.00 µs; half of 5 pairs within 1.00 to 1.20)")

    def test_what_was_not_measured_is_neither_met_nor_missed(self):
        results = run(line("echo-64/epoll", server_cpu_us_per_message=6.0))
        self.assertTrue(all(found.met is None for found in ratios.ratios(results, "epoll")))

    def test_the_bystander_is_told_beside_what_the_load_side_adds_by_itself(self):
        def calm(when, who, p99_us):
            return line(f"bystander-{when}/{who}", latency={"p99_us": p99_us})

        results = run(
            calm("alone", "epoll", 200.0), calm("beside", "epoll", 1500.0), calm("alone", "floor", 100.0), calm("beside", "floor", 400.0)
        )
        found = row(ratios.ratios(results, "epoll"), "bystander")
        self.assertTrue(found.met)
        self.assertIn("+1.30 ms", found.shown)
        self.assertIn("+0.30 ms without a gateway", found.shown)


class Fastest(unittest.TestCase):
    def test_the_best_window_is_the_one_with_most_deliveries(self):
        results = run(delivering("flat-out-64/uwebsockets", 100.0), delivering("flat-out-640/uwebsockets", 300.0))
        self.assertEqual(results.best_window("uwebsockets"), "flat-out-640")
        # 10 publications are 1,000 deliveries: 300 a second are 3 publications, half of which is 1.5.
        self.assertEqual(half_load.half(results, "uwebsockets"), 1.5)
        self.assertIsNone(half_load.half(results, "nobody"))

    def test_who_drops_messages_is_not_fastest(self):
        results = run(delivering("flat-out-64/a", 100.0), delivering("flat-out-640/a", 300.0, lost=1))
        self.assertEqual(results.best_window("a"), "flat-out-64")


class Peers(unittest.TestCase):
    def test_many_rooms_are_judged_at_four_fifths_of_the_peer_to_beat(self):
        for ours, bare, told in ((8.0, 9.0, "yes"), (8.1, 8.0, "**no**"), (8.1, 9.0, "**no**, nor by the bare loop")):
            results = run(
                line("fanout-1000-rooms/tidegate-epoll", server_cpu_us_per_delivery=ours),
                line("fanout-1000-rooms/uwebsockets", server_cpu_us_per_delivery=10.0),
                line("fanout-1000-rooms/floor", server_cpu_us_per_delivery=bare),
                script="bench-peers.sh",
            )
            found = next(row for row in peers.beside(results, "tidegate-epoll") if row[0].startswith("fanout-1000-rooms"))
            self.assertEqual((found[1], found[4], report.verdict(*found[-2:])), ("≤ 0.8 ×", f"{bare:.2f} µs", told))

    def test_deliveries_are_judged_at_each_ones_best(self):
        results = run(
            delivering("flat-out-64/tidegate-epoll", 90.0),
            delivering("flat-out-640/tidegate-epoll", 210.0),
            delivering("flat-out-64/uwebsockets", 200.0),
            delivering("flat-out-640/uwebsockets", 100.0),
        )
        found = next(row for row in peers.beside(results, "tidegate-epoll") if row[0].endswith("deliveries/s"))
        self.assertEqual((found[2], found[3], found[-2]), ("210", "200", True))

    def test_an_account_that_does_not_hold_is_told(self):
        results = run(delivering("flat-out-64/a", 100.0, lost=7))
        self.assertEqual(peers.account(results, "flat-out-64", "a"), "7 lost")
        self.assertIsNone(peers.account(results, "flat-out-64", "nobody"))


class Publication(unittest.TestCase):
    def test_a_published_run_names_nothing_of_the_host_and_reads_the_same(self):
        command = ["/home/somebody/tideload", "echo", "ws://127.0.0.1:1/", "--server-pid", "7", "--label", "l", "--json", "/home/somebody/r"]
        results = run(line("echo-64/epoll", command, server_cpu_us_per_message=1.23456789))
        with tempfile.TemporaryDirectory() as directory:
            directory = pathlib.Path(directory)
            publication.keep(results, directory)
            self.assertNotIn("somebody", (directory / "bench.jsonl").read_text())
            (kept,) = publication.runs(directory)
        self.assertEqual(kept.figure("echo-64/epoll", "server_cpu_us_per_message"), 1.2346)
        self.assertEqual(report.commands(kept), report.commands(results))
        self.assertEqual(publication.servers(kept.rows["echo-64/epoll"]), 2)

    def test_a_run_that_is_not_whole_is_refused(self):
        with tempfile.TemporaryDirectory() as directory, self.assertRaises(SystemExit):
            publication.keep(run(whole=False), pathlib.Path(directory))

    def test_a_run_of_another_script_is_refused(self):
        with tempfile.TemporaryDirectory() as directory, self.assertRaises(SystemExit):
            publication.keep(run(script="other.sh"), pathlib.Path(directory))

    def test_the_readmes_figures_stand_between_its_markers(self):
        text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
        self.assertEqual(readme.inserted(text, ["", "new"]), f"before\n{readme.BEGIN}\n\nnew\n\n{readme.END}\nafter\n")
        with self.assertRaises(ValueError):
            readme.inserted("no markers", [])

    def test_a_million_is_told_with_its_account(self):
        last = {"max_us": 9e6}
        latency = {"p50_us": 4e6, "p99_us": 8e6}
        exact = {"lost": 0, "ended": {}, "ended_while_idle": {}}
        rows = dict(million.held(run(line("million-9/tidegate", connections=9, latency=latency, last_member=last, **exact), script="million.sh")))
        self.assertEqual((rows["gateways on one port"], rows["exactly once, and nobody lost"]), ("2", "yes"))
        wrong = {"lost": 3, "ended": {}, "ended_while_idle": {}}
        rows = dict(million.held(run(line("million-9/tidegate", latency=latency, last_member=last, **wrong), script="million.sh")))
        self.assertEqual(rows["exactly once, and nobody lost"], "3 lost")


if __name__ == "__main__":
    unittest.main()
