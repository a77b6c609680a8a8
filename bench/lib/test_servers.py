"""What servers say of themselves, and what they have no part in."""

import json
import re
import tempfile
import unittest
from pathlib import Path

from .envoy import Envoy
from .keys import Keys
from .ours import Tidegate, why_not
from .packaged import Mosquitto, Stunnel
from .servers import Place, Server, Setting


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


class Absent(unittest.TestCase):
    def why(self, faults=(), warnings=()):
        return why_not(json.dumps({"faults": list(faults), "warnings": list(warnings)}))

    def test_a_fault_or_a_listener_that_refuses_everybody_is_why(self):
        fault = {"key": "listener[0].tls.resumption", "why": "is not a known key"}
        self.assertEqual(self.why([fault]), "listener[0].tls.resumption: is not a known key")
        refuses = "mode: it knows no tokens: every device is refused here"
        self.assertEqual(self.why(warnings=["broker: no TLS", refuses]), refuses)

    def test_other_warnings_are_no_reason(self):
        self.assertIsNone(self.why(warnings=["broker: no TLS"]))

    def test_an_answer_that_is_none_is_told(self):
        self.assertIn("does not understand", why_not(""))


class Registered(unittest.TestCase):
    def test_each_run_of_tidegate_has_a_copy_of_the_registry_unless_there_is_to_be_none(self):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            registry = folder / "made.db"
            registry.write_text("devices")
            run = folder / "run"
            run.mkdir()
            for given in (None, registry):
                files = dict.fromkeys(Keys.__dataclass_fields__, folder / "file")
                place = Place(run, Keys(**{**files, "registry": given}), 1, 2)
                Tidegate("tidegate").command(place, Setting())
                self.assertEqual("[registry]" in (run / "tidegate.toml").read_text(), given is not None)
                self.assertEqual((run / "registry.db").exists(), given is not None)

    def test_it_is_asked_whether_it_would_serve_by_a_configuration_that_makes_sense(self):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            asked = folder / "asked.toml"
            program = folder / "tidegate"
            program.write_text(f'#!/bin/sh\ncp "$4" "{asked}"\necho \'{{"faults": [], "warnings": []}}\'\n')
            program.chmod(0o755)
            keys = Keys(**{**dict.fromkeys(Keys.__dataclass_fields__, folder / "file"), "registry": None})
            self.assertIsNone(Tidegate(program).absent(Setting(), keys, folder))
            ports = re.findall(r"127\.0\.0\.1:(\d+)", asked.read_text())
            self.assertEqual(len(ports), len(set(ports)), "the gate would call itself")


if __name__ == "__main__":
    unittest.main()
