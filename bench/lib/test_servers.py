"""What servers say of themselves."""

import tempfile
import unittest
from pathlib import Path

from .envoy import Envoy
from .packaged import Mosquitto, Stunnel
from .servers import Server


class Versions(unittest.TestCase):
    def said(self, kind, text):
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "program"
            program.write_text(f"#!/bin/sh\necho '{text}' >&2\n")
            program.chmod(0o700)
            return kind(program).version()

    def test_each_is_found_in_what_its_program_says(self):
        self.assertEqual(self.said(Server, "HAProxy version 3.0.8-1 2025"), "3.0.8-1")
        self.assertEqual(self.said(Envoy, "envoy  version: abcdef/1.40.0/Clean/RELEASE"), "1.40.0")
        self.assertEqual(self.said(Stunnel, "stunnel 5.68 on x86_64"), "5.68")
        self.assertEqual(self.said(Mosquitto, "mosquitto version 2.0.11"), "2.0.11")

    def test_one_that_says_something_else_or_nothing_costs_no_result(self):
        for kind in (Server, Envoy, Stunnel, Mosquitto):
            self.assertEqual(self.said(kind, "hello"), "?")
            self.assertEqual(kind("/nowhere/program").version(), "?")


if __name__ == "__main__":
    unittest.main()
