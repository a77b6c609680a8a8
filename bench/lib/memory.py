"""The resident memory of processes and of all that descends from them, and the most that it was."""

import re
from pathlib import Path

from .processes import descendants


def resident(pid):
    """Now, in KiB."""
    return told(pid, "VmRSS")


def most(pid):
    """At its most since `forget`, in KiB: of each process its own most, and these together."""
    return told(pid, "VmHWM")


def forget(pid):
    """From now on the most is that of what follows (proc_pid_clear_refs(5))."""
    for one in [pid, *descendants(pid)]:
        Path(f"/proc/{one}/clear_refs").write_text("5")


def told(pid, name):
    found = (in_status(Path(f"/proc/{one}/status"), name) for one in [pid, *descendants(pid)])
    return sum(found)


def in_status(path, name):
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB$", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found.group(1)) if found else 0
