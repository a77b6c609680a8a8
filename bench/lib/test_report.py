"""What the tables, the page and the plot say of a small comparison."""

import unittest
import xml.etree.ElementTree as xml
from types import SimpleNamespace

from . import plot, report
from .bars import BARS, judge
from .figures import Table
from .scenarios import SCENARIOS

SERVERS = [
    SimpleNamespace(word="tidegate", title="tidegate"),
    SimpleNamespace(word="minimal", title="minimal proxy"),
    SimpleNamespace(word="hitch", title="hitch & co"),
]
QOS1 = next(scenario for scenario in SCENARIOS if scenario.word == "qos1")


def small():
    table = Table()
    for own, base in [(8, 10), (9, 10), (10, 10)]:
        table.add("qos1", "tidegate", own, {"p99 µs": 120})
        table.add("qos1", "minimal", base, {"p99 µs": 150})
    table.without("qos1", "hitch", "it does not listen")
    return table


class Tables(unittest.TestCase):
    def test_a_row_has_median_spread_and_both_ratios(self):
        own, base, hitch = report.rows(small(), QOS1, SERVERS)
        self.assertEqual(own, ["tidegate", "9.00", "8.00 to 10.0", "1.00", "0.90", "p99 µs 120"])
        self.assertEqual(base[3:5], ["1.11", "1.00"])
        self.assertEqual(hitch, ["hitch & co", "n/a", "", "", "", "it does not listen"])

    def test_numbers_keep_three_figures(self):
        told = [report.number(value) for value in (1234.5, 99.96, 12.34, 0.126, -3, None)]
        self.assertEqual(told, ["1234", "100.0", "12.3", "0.13", "-3.00", "–"])

    def test_a_table_for_the_terminal_is_aligned(self):
        rows = [["a", "1.00", ""], ["long name", "12.0", "why"]]
        self.assertEqual(report.text(["", "µs", ""], rows).splitlines()[1:], ["a          1.00", "long name  12.0  why"])

    def test_the_page_holds_bars_table_and_plot(self):
        table = small()
        verdicts = [judge(bar, table) for bar in BARS if bar.scenario == "qos1"]
        page = report.page("T", table, [QOS1], SERVERS, verdicts, [("CPU", "a|b")], "c", "3 rounds of 7", "d.svg")
        self.assertIn("| ≤ 0.95 × minimal | 0.900 | met |", page)
        self.assertIn("| CPU | a\\|b |", page)
        self.assertIn("](d.svg)", page)
        self.assertIn("Medians of 3 rounds of 7, taken in turn", page)


class Notes(unittest.TestCase):
    def test_each_kind_is_told_once_with_its_largest_number_and_its_rounds(self):
        table = small()
        for server, used in [("tidegate", (91, 99.5)), ("minimal", (97,))]:
            for percent in used:
                table.note("qos1", server, [f"a thread used {percent} % of its core: give it more --threads"])
        table.note("qos1", "hitch", ["process 7 ended"])
        told = report.notes(table, QOS1, SERVERS)
        self.assertEqual(
            told,
            [
                "The load: a thread used 99.5 % of its core. Rounds: tidegate 2, minimal proxy 1.",
                "The load: process 7 ended. Rounds: hitch & co 1.",
            ],
        )
        page = report.page("T", table, [QOS1], SERVERS, [], [], "c", "a", None)
        self.assertIn("\n\n" + told[0] + "\n\n", page)
        self.assertEqual(report.notes(small(), QOS1, SERVERS), [])

    def test_latencies_that_were_not_told_are_a_dash(self):
        table = Table()
        table.add("qos1", "tidegate", 8, {"p99 µs": None, "late p99 µs": 90})
        self.assertEqual(report.rows(table, QOS1, SERVERS)[0][-1], "p99 µs –, late p99 µs 90.0")


class Plot(unittest.TestCase):
    def test_it_is_a_picture_with_a_bar_for_each_that_was_measured(self):
        picture = xml.fromstring(plot.svg(small(), [QOS1], SERVERS))
        bars = picture.findall("{*}rect[@class]")
        self.assertEqual([bar.get("class") for bar in bars], ["own", "bar"])
        own, base = (float(bar.get("width")) for bar in bars)
        self.assertLess(own, base)

    def test_where_tidegate_has_no_part_the_minimal_proxy_is_one(self):
        table = Table()
        table.add("qos1", "minimal", 4)
        table.add("qos1", "hitch", 8)
        text = plot.svg(table, [QOS1], SERVERS)
        self.assertIn("ratios to the minimal proxy", text)
        self.assertIn(">2.00<", text)
        self.assertIn("hitch &amp; co", text)

    def test_without_a_ratio_there_is_no_picture(self):
        self.assertIsNone(plot.svg(Table(), [QOS1], SERVERS))


if __name__ == "__main__":
    unittest.main()
