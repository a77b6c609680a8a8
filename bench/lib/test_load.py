"""Which reports of the load count, and which do not."""

import unittest

from .load import checked, resumed_share
from .processes import Trouble
from .scenarios import latencies
from .servers import Setting


def report(**changes):
    usual = {
        "attempts": 1000,
        "succeeded": 1000,
        "failed": 0,
        "errors": {},
        "negotiated": {"TLS 1.3 TLS13_AES_256_GCM_SHA384 X25519 full": 1000},
        "server": {"cpu_us": 5.0},
    }
    return {**usual, **changes}


class Reports(unittest.TestCase):
    def test_a_good_one_counts(self):
        good = report()
        self.assertIs(checked(good, Setting()), good)
        self.assertTrue(checked(report(succeeded=990, failed=10, errors={"reset": 10}), Setting()))

    def test_one_with_failures_does_not_and_says_which(self):
        with self.assertRaisesRegex(Trouble, "11 of 1000 attempts failed: 11 refused"):
            checked(report(succeeded=989, failed=11, errors={"refused": 11}), Setting())

    def test_one_by_another_tls_than_was_asked_for_does_not(self):
        with self.assertRaisesRegex(Trouble, "TLS 1.2"):
            checked(report(), Setting(tls="1.2"))
        with self.assertRaisesRegex(Trouble, "no TLS was asked for, and TLS 1.3"):
            checked(report(), None)
        self.assertTrue(checked(report(negotiated={}), None))

    def test_one_that_did_not_see_the_server_does_not(self):
        for server in (None, {"cpu_us": 0}):
            with self.assertRaisesRegex(Trouble, "CPU time"):
                checked(report(server=server), Setting())

    def test_the_resumed_are_counted(self):
        mixed = {"TLS 1.3 A X25519 full": 25, "TLS 1.3 A X25519 resumed": 75}
        self.assertEqual(resumed_share(report(negotiated=mixed)), 0.75)
        self.assertEqual(resumed_share(report(negotiated={})), 0)

    def test_latencies_of_a_late_load_are_not_told(self):
        def told(late):
            return latencies({"latency_us": {"puback": {"p50": 200, "p99": 1000}}, "client": {"late_p99_us": late}})

        self.assertEqual(told(100), {"p50 µs": 200, "p99 µs": 1000, "late p99 µs": 100})
        self.assertEqual(told(101), {"p50 µs": None, "p99 µs": None, "late p99 µs": 101})


if __name__ == "__main__":
    unittest.main()
