"""What is kept of a comparison, also of one that ends early."""

import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace

from .figures import Table
from .results import Results, today, unused
from .scenarios import SCENARIOS

SERVERS = [SimpleNamespace(word=word, title=word) for word in ("tidegate", "minimal")]
QOS1, RELAY = (next(one for one in SCENARIOS if one.word == word) for word in ("qos1", "relay-64"))


class Kept(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.table = Table()

    def results(self, path):
        return Results(path, self.table, [RELAY, QOS1], SERVERS, [("CPU", "x")], "c", "1 round")

    def test_each_scenario_is_on_disk_once_it_is_done(self):
        path = self.folder / "new" / "page.md"
        found = self.results(path)
        self.assertEqual(found.kept(), "nothing was written")
        for server, figure in [("tidegate", 2), ("minimal", 1)]:
            self.table.add("relay-64", server, figure)
        found.done(RELAY)
        page = path.read_text()
        self.assertIn("**Not finished.** To come: qos1.", page)
        self.assertIn("| ≤ 1.00 × minimal | 2.000 | missed |", page)
        self.assertIn("1 of 1 bars missed.", page)
        self.assertTrue(path.with_suffix(".svg").exists())
        self.assertEqual(found.kept(), f"written: {path}, 1 of 2 scenarios")
        found.done(QOS1)
        self.assertNotIn("Not finished", path.read_text())

    def test_without_a_path_nothing_is_written(self):
        found = self.results(None)
        found.done(RELAY)
        self.assertEqual(found.kept(), "nothing was written")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_no_page_is_written_over(self):
        first = unused(self.folder)
        self.assertEqual(first.name, f"{today()}.md")
        first.touch()
        self.assertEqual(unused(self.folder).name, f"{today()}-2.md")


if __name__ == "__main__":
    unittest.main()
