"""What a storm asks of the load, what its reports come to, and what the bars and the tables make of them."""

import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace

from . import memory, storm_report
from .figures import Table
from .share import Share
from .storm_bars import BARS, judge
from .storm_cells import latencies
from .storms import QUICK, STORMS, Lengths, Storm, figures, lagging, recovery

LENGTHS = Lengths(storm=4, recovery=4)


def steps(shares, begin=4.0):
    """A hundred arrivals in each quarter of a second."""
    return [
        {"at": begin + n / 4, "begun": 100, "succeeded": round(100 * share)} for n, share in enumerate(shares)
    ]


def report(**changes):
    usual = {
        "phases": [
            {"begin": 0, "seconds": 4, "begun": 1200, "succeeded": 320, "p50_us": 250_000, "p99_us": None},
            {"begin": 4, "seconds": 4, "begun": 200, "succeeded": 200, "p50_us": 900, "p99_us": 1000},
        ],
        "timeline": [{"second": second, "succeeded": 80} for second in range(9)],
        "arrivals": steps([1] * 16),
        "client": {"late_p99_us": 9000, "busiest_thread": 0.6},
    }
    return {**usual, **changes}


class Asked(unittest.TestCase):
    def test_devices_that_go_away_come_at_one_rate_and_then_at_half_of_the_peak(self):
        flags = Storm("3x", 3).flags(100, LENGTHS)
        expected = "--rate 300.0 --duration 4s --then 50.0:4s --give-up 2s"
        self.assertEqual(" ".join(flags), expected)

    def test_a_fleet_comes_in_one_period_and_comes_back_until_the_storm_is_over(self):
        flags = " ".join(Storm("r", 8, returning=True).flags(100, LENGTHS))
        self.assertTrue(flags.startswith("--rate 800.0 --duration 3s --then 0:1s --then 50.0:4s"), flags)
        self.assertIn("--retry --retry-after 1s --return-after 3s", flags)

    def test_no_more_devices_than_the_registry_knows(self):
        self.assertEqual(Storm("8x", 8).devices(10_000, LENGTHS), 99_000)
        self.assertEqual(Storm("8x", 8, mixed=True).devices(10_000, LENGTHS), 30_000)
        self.assertEqual(Storm("3x", 3).devices(100, LENGTHS), 1400)
        self.assertEqual(Storm("r", 8, returning=True).devices(500, LENGTHS), 13_000)

    def test_every_storm_has_time_for_its_fleet_to_come(self):
        for lengths in (QUICK, Lengths()):
            self.assertGreater(lengths.storm, 3)
            self.assertGreater(lengths.recovery, 2)


class Found(unittest.TestCase):
    def test_goodput_is_what_got_in_while_the_storm_lasted(self):
        found = figures(report(), 100, LENGTHS)
        self.assertEqual((found["offered"], found["goodput"], found["ratio"]), (3, 80, 0.8))
        self.assertEqual((found["p50 ms"], found["p99 ms"]), (250, None))

    def test_recovery_is_judged_from_two_seconds_on(self):
        self.assertEqual(recovery(steps([0] * 8 + [1] * 8), 4, 4), (1, 2.0))
        self.assertEqual(recovery(steps([1] * 16), 4, 4), (1, 0.0))
        share, seconds = recovery(steps([0] * 8 + [0.9] * 8), 4, 4)
        self.assertEqual((share, seconds), (0.9, None))
        self.assertEqual(recovery([], 4, 4), (None, None))

    def test_a_load_that_kept_no_schedule_does_not_count(self):
        self.assertEqual(lagging(report()), [])
        late = lagging(report(client={"late_p99_us": 80_000, "busiest_thread": 1.0}))
        self.assertEqual(late, ["its tries began 80 ms late at p99, with 100% of its core in use"])
        busy = lagging(report(client={"late_p99_us": 9000, "busiest_thread": 0.98}))
        self.assertEqual(busy, ["it used 98% of its core"])
        self.assertTrue(lagging(report(client={"late_p99_us": None, "busiest_thread": 0.1})))

    def test_latencies_of_a_late_sender_are_its_own(self):
        def told(late):
            return latencies({"latency_us": {"puback": {"p50": 2000, "p99": 20_000}}, "client": {"late_p99_us": late}})

        self.assertEqual(told(2000), ({"ping p50 ms": 2, "ping p99 ms": 20}, []))
        self.assertEqual(told(2001)[0], {"ping p50 ms": None, "ping p99 ms": None})


class Told(unittest.TestCase):
    def table(self):
        table = Table()
        for ratio in (0.92, 0.95, 0.89):
            table.add("3x", "tidegate", ratio, {"p50 ms": 300, "recovered": 1.0, "ping × calm": 3.2})
        table.add("8x", "tidegate", None)
        return table

    def test_bars_are_judged_by_the_median(self):
        words = {}
        for bar in BARS:
            if bar.storm in ("3x", "8x"):
                words[bar.storm, bar.name] = judge(bar, self.table()).word
        self.assertEqual(words["3x", None], "met")
        self.assertEqual(words["3x", "p50 ms"], "met")
        self.assertEqual(words["3x", "recovered"], "met")
        self.assertEqual(words["3x", "ping × calm"], "missed")
        self.assertEqual(words["8x", None], "not judged")

    def test_every_bar_is_of_a_storm_that_there_is(self):
        self.assertLessEqual({bar.storm for bar in BARS}, {storm.word for storm in STORMS})

    def test_the_page_has_bars_tables_and_why_there_is_no_figure(self):
        table, servers = self.table(), [SimpleNamespace(word="tidegate", title="tidegate")]
        table.note("8x", "tidegate", ["it lagged"])
        wanted = [storm for storm in STORMS if storm.word in ("3x", "8x")]
        page = storm_report.page("T", table, wanted, servers, [("CPU", "one")], "c", "3 rounds")
        self.assertIn("| 3x | goodput, × peak | ≥ 0.9 | 0.920 | met |", page)
        self.assertIn("| tidegate | 0.92 | 0.89 to 0.95 |", page)
        self.assertIn("the load lagged |", page)
        self.assertIn("\n\ntidegate: it lagged.\n", page)


class Shared(unittest.TestCase):
    def test_a_whole_core_needs_no_group(self):
        with Share.make(1) as share:
            share.lift()
            share.impose()
            self.assertEqual((share.wrap(["a"]), str(share)), (["a"], "the whole of its core"))

    def test_both_versions_of_the_kernels_interface_are_written(self):
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder)
            Share(0.2, at, 2).impose()
            self.assertEqual((at / "cpu.max").read_text(), "4000 20000")
            Share(0.2, at, 2).lift()
            self.assertEqual((at / "cpu.max").read_text(), "max 20000")
            Share(0.2, at, 1).impose()
            self.assertEqual((at / "cpu.cfs_quota_us").read_text(), "4000")
            self.assertIn("20% of its core, 4 ms of each 20 ms", str(Share(0.2, at, 1)))

    def test_memory_is_read_of_a_process_that_is_there(self):
        with tempfile.NamedTemporaryFile("w") as status:
            status.write("Name:\tone\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
            status.flush()
            path = Path(status.name)
            self.assertEqual(memory.in_status(path, "VmHWM"), 2048)
        self.assertEqual(memory.in_status(Path("/proc/0/status"), "VmRSS"), 0)


if __name__ == "__main__":
    unittest.main()
