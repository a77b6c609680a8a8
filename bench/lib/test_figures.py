"""Medians, ratios, spreads; and what the bars make of them."""

import unittest

from .bars import BARS, Bar, Verdict, judge, summary
from .figures import Table, median, ratio, spread


class Figures(unittest.TestCase):
    def test_a_median_is_of_what_was_measured(self):
        self.assertEqual(median([3, 1, 2]), 2)
        self.assertEqual(median([4, None, 1, 3, 2]), 2.5)
        self.assertIsNone(median([None]))
        self.assertIsNone(median([]))

    def test_a_ratio_is_of_medians_and_needs_both(self):
        self.assertEqual(ratio([10, 30, 20], [5, 4, 400]), 4)
        self.assertIsNone(ratio([1], []))
        self.assertIsNone(ratio([], [1]))
        self.assertIsNone(ratio([1], [0]), "no growth of memory is no base")
        self.assertIsNone(ratio([1], [-2]))

    def test_a_spread_sets_each_round_against_itself(self):
        self.assertEqual(spread([10, 40], [10, 20]), (1, 2))
        self.assertEqual(spread([10, None, 30], [10, 10, None]), (1, 1))
        self.assertIsNone(spread([1], [None]))


class Bars(unittest.TestCase):
    def table(self, **servers):
        table = Table()
        for server, figures in servers.items():
            for figure in figures:
                table.add("qos1", server, figure)
        return table

    def test_a_bar_is_met_up_to_its_bound_and_not_a_hair_beyond(self):
        bar = Bar("qos1", 0.5, "minimal")
        for own, met in [(49, True), (50, True), (50.01, False)]:
            verdict = judge(bar, self.table(tidegate=[own], minimal=[100]))
            self.assertEqual((verdict.met, verdict.word), (met, "met" if met else "missed"), own)

    def test_a_bar_against_nobody_is_an_amount(self):
        bar = Bar("qos1", 7.0, unit="KiB")
        self.assertTrue(judge(bar, self.table(tidegate=[6, 7, 9])).met)
        self.assertFalse(judge(bar, self.table(tidegate=[7.1])).met)

    def test_what_is_missing_is_neither_met_nor_missed(self):
        bar = Bar("qos1", 0.5, "minimal")
        table = self.table(minimal=[1])
        table.without("qos1", "tidegate", "it has not landed")
        verdict = judge(bar, table)
        self.assertIsNone(verdict.met)
        self.assertEqual((verdict.word, verdict.why), ("not judged", "tidegate: it has not landed"))
        self.assertEqual(judge(bar, self.table(tidegate=[1])).why, "minimal: not measured")

    def test_the_last_line_counts_them(self):
        bar = BARS[0]
        met, missed, unjudged = Verdict(bar, 1, True), Verdict(bar, 1, False), Verdict(bar, None, None)
        self.assertEqual(summary([met, met]), "all 2 bars met")
        self.assertEqual(summary([met, missed, missed]), "2 of 3 bars missed")
        self.assertEqual(summary([met, missed, unjudged]), "1 of 3 bars missed, 1 not judged")
        self.assertEqual(summary([met, unjudged]), "none of 2 bars missed, 1 not judged")

    def test_every_bar_is_of_a_scenario_that_there_is(self):
        from .scenarios import SCENARIOS

        self.assertLessEqual({bar.scenario for bar in BARS}, {scenario.word for scenario in SCENARIOS})


if __name__ == "__main__":
    unittest.main()
