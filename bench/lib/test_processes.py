"""What is started here is seen, counted and ended, with all that it started itself."""

import os
import socket
import tempfile
import time
import unittest
from pathlib import Path

from .processes import Cores, Processes, Trouble, began, cores_in, descendants, free_port, listens


class Started(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.log = Path(folder.name) / "log"
        self.core = [min(os.sched_getaffinity(0))]
        self.processes = Processes(None)
        self.addCleanup(self.processes.__exit__)

    def start(self, script):
        return self.processes.start("the script", ["sh", "-c", script], self.core, self.log)

    def test_a_family_ends_even_if_it_does_not_listen(self):
        running = self.start("trap '' TERM; sleep 60 & sleep 60 & wait; wait")
        until = time.monotonic() + 10
        while len(family := descendants(running.pid)) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        self.assertEqual(len(family), 2)
        running.stop(seconds=0.1)
        self.assertIsNotNone(running.popen.returncode)
        while any(map(alive, family)) and time.monotonic() < until:
            time.sleep(0.01)  # whoever adopts them takes a moment to bury them
        self.assertEqual([pid for pid in family if alive(pid)], [])

    def test_one_that_ends_early_is_told_with_its_log(self):
        running = self.start("echo no such key; exit 3")
        with self.assertRaisesRegex(Trouble, r"(?s)the script ended with 3 before it listened.*no such key"):
            running.wait_for_port(free_port())

    def test_one_that_is_busy_comes_to_rest_when_its_work_is_done(self):
        running = self.start("timeout 0.7 sh -c 'while :; do :; done'; sleep 60")
        began_at = time.monotonic()
        running.wait_for_rest()
        self.assertGreater(time.monotonic() - began_at, 0.7)
        with self.assertRaisesRegex(Trouble, "the script does not come to rest"):
            self.start("while :; do :; done").wait_for_rest(seconds=0.6)

    def test_a_command_gives_what_it_said_or_says_why_not(self):
        said = self.processes.run("echo", ["echo", "hello"], self.core, self.log, 10)
        self.assertEqual(said, "hello\n")
        with self.assertRaisesRegex(Trouble, "false ended with 1; it said nothing"):
            self.processes.run("false", ["false"], self.core, self.log, 10)
        self.assertEqual(self.processes.started, [])


class Seen(unittest.TestCase):
    def test_a_listener_is_seen_without_a_connection(self):
        port = free_port()
        self.assertFalse(listens(port))
        with socket.create_server(("127.0.0.1", port)) as server:
            self.assertTrue(listens(port))
            server.settimeout(0)
            with self.assertRaises(BlockingIOError):
                server.accept()


class Cored(unittest.TestCase):
    def test_a_list_of_the_kernel_is_read(self):
        self.assertEqual(cores_in("0,4-6\n"), {0, 4, 5, 6})
        self.assertEqual(cores_in("3"), {3})
        self.assertEqual(cores_in("\n"), set())

    def test_a_hyper_thread_of_the_servers_core_is_told(self):
        cores = Cores.__new__(Cores)
        cores.server, cores.load, cores.shared = [0], [1, 2], []
        self.assertEqual(str(cores), "server on 0, load and broker on 1, 2")
        cores.shared = [1]
        self.assertIn("OF WHICH 1 IS A HYPER-THREAD", str(cores))


def alive(pid):
    """Whether it still runs: one that nobody has buried yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return began(pid) is not None and state != "Z"


if __name__ == "__main__":
    unittest.main()
