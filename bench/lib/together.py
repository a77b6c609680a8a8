"""Several harnesses that begin at the same moment, each when all of them are ready."""

import json
import subprocess
import time

from .processes import Running, Trouble, pinned, precede

LONGEST_TO_PREPARE = 300


class Harness:
    """One `tidegate bench … --begin-on-line --json`, on the cores of the load, where it goes before others by `nice`."""

    def __init__(self, processes, name, command, folder, nice):
        self.processes = processes
        self.out, log = folder / f"{name}.json", folder / f"{name}.log"
        with open(self.out, "wb") as out, open(log, "wb") as err:
            popen = subprocess.Popen(
                pinned([*command, "--begin-on-line", "--json"], processes.cores.load),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        precede(popen.pid, nice)
        self.running = Running(f"the load ({name})", popen, log)
        processes.started.append(self.running)

    def wait_until_ready(self):
        until = time.monotonic() + LONGEST_TO_PREPARE
        while "ready" not in self.running.log.read_text(errors="replace").splitlines():
            if self.running.popen.poll() is not None:
                raise Trouble(f"{self.running.name} ended before it was ready{self.running.tail()}")
            if time.monotonic() > until:
                raise Trouble(f"{self.running.name} is not ready after {LONGEST_TO_PREPARE} s{self.running.tail()}")
            time.sleep(0.05)

    def begin(self):
        self.running.popen.stdin.write(b"\n")
        self.running.popen.stdin.close()

    def report(self, seconds):
        """Its report, when it has ended. That no attempt succeeded (1) is a result too."""
        try:
            code = self.running.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Trouble(f"{self.running.name} is not done after {seconds} s{self.running.tail()}") from None
        finally:
            self.processes.stop(self.running)
        try:
            return json.loads(self.out.read_text())
        except ValueError:
            raise Trouble(f"{self.running.name} ended with {code}{self.running.tail()}") from None


def run(harnesses, prepared, seconds):
    """Lets all of them begin together, once `prepared` has been called; gives their reports, in order."""
    try:
        for harness in harnesses:
            harness.wait_until_ready()
        prepared()
        for harness in harnesses:
            harness.begin()
        return [harness.report(seconds) for harness in harnesses]
    finally:
        for harness in harnesses:
            if harness.running in harness.processes.started:
                harness.processes.stop(harness.running)
