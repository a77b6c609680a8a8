"""What bench/compare starts: on which cores, what it costs, and its end. Everything ends by its pid, never by a name."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path


class Trouble(Exception):
    """A server or the load did not do what it should; one sentence, and the end of its log where there is one."""


class Cores:
    """The first core that this process may use is the server's; load and broker have the others."""

    def __init__(self):
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            raise Trouble("two cores are needed, one for the server and one for the load; this process may use one")
        self.server, self.load = allowed[:1], allowed[1:]
        self.shared = sorted(siblings(self.server[0]) & set(self.load))

    def __str__(self):
        told = f"server on {listed(self.server)}, load and broker on {listed(self.load)}"
        if not self.shared:
            return told
        return f"{told}, OF WHICH {listed(self.shared)} IS A HYPER-THREAD OF THE SERVER'S: the load slows the server down"


def siblings(core):
    """The hyper-threads of one core; empty where the kernel does not tell."""
    try:
        return cores_in(Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text())
    except OSError:
        return set()


def cores_in(text):
    """`0,4-6` is 0, 4, 5 and 6."""
    ends = [part.partition("-")[::2] for part in text.strip().split(",") if part]
    return {core for first, last in ends for core in range(int(first), int(last or first) + 1)}


def listed(cores):
    return ", ".join(map(str, cores))


class Running:
    """A process that was started here."""

    def __init__(self, name, popen, log):
        self.name, self.popen, self.log = name, popen, log

    @property
    def pid(self):
        return self.popen.pid

    def wait_for_port(self, port, seconds=10):
        """Returns once somebody listens on the port, without connecting to it."""
        until = time.monotonic() + seconds
        while not listens(port):
            if self.popen.poll() is not None:
                raise Trouble(f"{self.name} ended with {self.popen.returncode} before it listened{self.tail()}")
            if time.monotonic() > until:
                raise Trouble(f"{self.name} does not listen on port {port} after {seconds} s{self.tail()}")
            time.sleep(0.02)

    def wait_for_rest(self, seconds=30):
        """Returns once it and its children do nothing, so that what a server does beside its connections is not in a figure."""
        until, used = time.monotonic() + seconds, None
        while used != (used := cpu_ticks([self.pid, *descendants(self.pid)])):
            if time.monotonic() > until:
                raise Trouble(f"{self.name} does not come to rest within {seconds} s{self.tail()}")
            time.sleep(0.5)

    def tail(self, lines=12):
        """The end of its log, each line set in, with a line break in front; a word if it said nothing."""
        text = self.log.read_text(errors="replace").strip() if self.log.exists() else ""
        if not text:
            return "; it said nothing"
        return "; the end of its log:" + "".join(f"\n    {line}" for line in text.splitlines()[-lines:])

    def stop(self, seconds=3):
        """Ends it and its children: asked first, then made to."""
        family = [(pid, began(pid)) for pid in descendants(self.pid)]
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        for pid, since in family:
            if since is not None and began(pid) == since:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


class Processes:
    """Starts processes, and ends on leaving what has not ended yet. Use it in a `with`."""

    def __init__(self, cores):
        self.cores = cores
        self.started = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for running in reversed(self.started):
            running.stop()
        self.started.clear()

    def start(self, name, command, cores, log, environment=None):
        """Starts a command on `cores`, with its output in the file `log`, and variables beside those of compare."""
        with open(log, "wb") as out:
            popen = subprocess.Popen(
                pinned(command, cores),
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for compare, which ends the rest in order
            )
        running = Running(name, popen, Path(log))
        self.started.append(running)
        return running

    def stop(self, running):
        running.stop()
        self.started.remove(running)

    def run(self, name, command, cores, log, seconds):
        """Runs a command to its end; gives what it wrote to stdout. Its stderr is in `log`."""
        with open(log, "wb") as err:
            popen = subprocess.Popen(
                pinned(command, cores),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=err,
                start_new_session=True,
            )
        running = Running(name, popen, Path(log))
        self.started.append(running)
        try:
            out, _ = popen.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Trouble(f"{name} is not done after {seconds} s{running.tail()}") from None
        finally:
            self.stop(running)
        if popen.returncode != 0:
            raise Trouble(f"{name} ended with {popen.returncode}{running.tail()}")
        return out.decode()


def pinned(command, cores):
    return ["taskset", "--cpu-list", ",".join(map(str, cores)), *map(str, command)]


def precede(pid, nice):
    """Lets a process that has just begun go before others, where this one may do that: before all (None: real-time, SCHED_FIFO),
    or by its nice value, and that of the group that the kernel makes of each session (sched(7), autogroup), within
    which alone the first counts."""
    if nice is None:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))
        return
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def give_way(pid):
    """Lets a process that has just begun have what nobody else wants of its core (sched(7), SCHED_IDLE and autogroup)."""
    try:
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    except OSError as why:
        raise Trouble(f"a loop cannot be made to give way to everybody (SCHED_IDLE): {why.strerror}") from None
    precede(pid, 19)


def raise_descriptors():
    """As many descriptors as the system lets this process have; what it starts inherits them. Gives the number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


GIVEN = set()


def free_port():
    """A port of 127.0.0.1 that nobody listens on, and that was not given before."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port not in GIVEN:
            GIVEN.add(port)
            return port


def listens(port):
    """Whether somebody listens on that port of 127.0.0.1 or of all addresses."""
    wanted = {f"0100007F:{port:04X}", f"00000000:{port:04X}"}
    with open("/proc/net/tcp") as table:
        rows = (line.split() for line in table)
        return any(row[1] in wanted and row[3] == "0A" for row in rows)


def descendants(pid):
    """The children of a process, their children, and so on; without itself."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue  # the thread has ended
        for child in children:
            found += [child, *descendants(child)]
    return found


def cpu_ticks(pids):
    """CPU time of these processes, in ticks of mostly 10 ms."""
    return sum(int(fields[11]) + int(fields[12]) for fields in filter(None, map(stat, pids)))


def stat(pid):
    """What /proc tells of a process, from its state on; None once it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def began(pid):
    """When a process began, in ticks since the machine did; None once it has ended."""
    return fields[19] if (fields := stat(pid)) else None
