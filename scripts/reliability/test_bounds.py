"""The judgement itself, on logs that are written here: python3 -m unittest scripts/reliability/test_bounds.py"""

import contextlib
import io
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import bounds


def log(**changed):
    """A log in which all was measured and is within its bound, but for what is changed: DRIVER_PLACE=times, and
    DRIVER_share_PLACE=times for what one client took of a core.
    """
    lines = []
    for place, what in enumerate(bounds.MEASURED):
        for driver in bounds.DRIVERS:
            times = changed.get(f"{driver}_{place}", (100, 100, 100))
            if times:
                lines.append("  measured: {} | {} | {} | {} | {}".format(what, driver, *map(int, times)))
    for place, what in enumerate(bounds.SHARES):
        for driver in bounds.DRIVERS:
            times = changed.get(f"{driver}_share_{place}", (10, 1000))
            if times:
                lines.append("  share of a core: {} | {} | {} | {}".format(what, driver, *times))
    return "told losses 0, untold losses 0\n" + "\n".join(lines) + "\n"


@mock.patch.dict(bounds.KNOWN_EXCESS, clear=True)
class Judgement(unittest.TestCase):
    def test_times_that_are_as_without_a_hostile_client_are_within_the_bound(self):
        self.assertEqual(list(bounds.complaints(log())), [])

    def test_a_p99_over_its_bound_is_named_with_its_driver_and_ratio(self):
        [complaint] = bounds.complaints(log(io_uring_2=(100, 80, 100 * bounds.BOUND + 1)))
        self.assertIn(f"over its bound of {bounds.BOUND:g}: {bounds.MEASURED[2]} | io_uring", complaint)
        self.assertEqual(list(bounds.complaints(log(io_uring_2=(100, 80, 100 * bounds.BOUND)))), [])

    def test_what_the_same_does_to_the_host_at_another_gateway_raises_the_bound(self):
        self.assertEqual(list(bounds.complaints(log(epoll_0=(100, 300, 300 * bounds.BOUND)))), [])
        self.assertEqual(len(list(bounds.complaints(log(epoll_0=(100, 300, 300 * bounds.BOUND + 1))))), 1)

    def test_a_time_that_is_allowed_is_a_bound_where_it_is_the_larger(self):
        allowed = bounds.ALLOWED[bounds.MEASURED[5]]
        self.assertEqual(list(bounds.complaints(log(epoll_5=(100, 100, allowed)))), [])
        self.assertEqual(len(list(bounds.complaints(log(epoll_5=(100, 100, allowed + 1))))), 1)
        self.assertEqual(list(bounds.complaints(log(epoll_5=(allowed, 100, allowed * bounds.BOUND)))), [])

    def test_what_was_not_measured_is_a_failure(self):
        self.assertEqual(list(bounds.complaints(log(epoll_4=None))), [f"not measured: {bounds.MEASURED[4]} | epoll"])
        self.assertEqual(len(list(bounds.complaints(""))), (len(bounds.MEASURED) + len(bounds.SHARES)) * len(bounds.DRIVERS))

    def test_a_client_that_takes_more_of_a_core_than_its_bound_is_named_with_its_driver_and_share(self):
        [complaint] = bounds.complaints(log(epoll_share_1=(51, 1000)))
        self.assertIn(f"over its bound of 5%: {bounds.SHARES[1]} | epoll: 51 of 1000 ms is 5.1% of a core", complaint)
        self.assertEqual(list(bounds.complaints(log(epoll_share_1=(50, 1000)))), [])

    def test_a_share_of_a_core_that_was_not_measured_is_a_failure(self):
        expected = [f"not measured: {bounds.SHARES[0]} | io_uring"]
        self.assertEqual(list(bounds.complaints(log(io_uring_share_0=None))), expected)

    def test_a_known_excess_has_a_bound_of_its_own_and_cannot_get_worse(self):
        with mock.patch.dict(bounds.KNOWN_EXCESS, {bounds.MEASURED[4]: (50.0, "a fault")}):
            self.assertEqual(list(bounds.complaints(log(epoll_4=(100, 100, 5000)))), [])
            [complaint] = bounds.complaints(log(epoll_4=(100, 100, 5001)))
            self.assertIn("over its bound of 50", complaint)

    def test_a_known_excess_that_is_repaired_has_to_go(self):
        with mock.patch.dict(bounds.KNOWN_EXCESS, {bounds.MEASURED[4]: (50.0, "a fault")}):
            [complaint] = bounds.complaints(log())
            self.assertIn("delete its row", complaint)

    def test_the_exit_code_is_1_where_a_bound_is_exceeded(self):
        for text, code in ((log(), 0), (log(epoll_1=(100, 100, 10_000)), 1), ("", 1)):
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as said:
                path = Path(folder) / "stories.log"
                path.write_text(text)
                with contextlib.redirect_stderr(io.StringIO()) as complained:
                    self.assertEqual(bounds.main([str(path)]), code)
            self.assertEqual(bool(complained.getvalue()), code == 1)
            self.assertEqual("at most" in said.getvalue(), bool(text))


class Names(unittest.TestCase):
    def test_every_name_is_one_that_the_stories_print(self):
        story = (Path(__file__).parents[2] / "tests/e2e/neighbours.rs").read_text()
        for what in (*bounds.MEASURED, *bounds.KNOWN_EXCESS, *bounds.ALLOWED):
            self.assertIn(f'"{what}"', story)
        story = (Path(__file__).parents[2] / "tests/e2e/inflating.rs").read_text()
        for what in bounds.SHARES:
            self.assertIn(f'"{what}"', story)
        self.assertEqual(set(bounds.KNOWN_EXCESS) - set(bounds.MEASURED), set())


if __name__ == "__main__":
    unittest.main()
