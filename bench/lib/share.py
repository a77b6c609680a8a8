"""A server's share of its core, by a control group of the kernel (cgroup v2 cpu.max, or v1 cpu.cfs_quota_us).

One core of load cannot offer eight times of what one core of a server takes: a device's part of a handshake costs as much as
the server's. With a fifth of the core the ratio is right, and the same for every server.
"""

import contextlib
import os
import time
from pathlib import Path

# The kernel takes stock once a tick (4 ms at 250 Hz): a period of five ticks keeps a fifth to the point.
PERIOD_US = 20_000

JOIN = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


class Share:
    """A group whose processes get `part` of one core together (1: all of it, and no group is made). Use it in a `with`."""

    def __init__(self, part, folder, version):
        self.part, self.folder, self.version = part, folder, version

    @classmethod
    def make(cls, part):
        """A group of its own; None: this process may not make one."""
        if part >= 1:
            return cls(1, None, None)
        for parent, version in parents():
            folder = parent / f"tidegate-storm-{os.getpid()}"
            with contextlib.suppress(OSError):
                folder.mkdir()
                share = cls(part, folder, version)
                try:
                    share.impose()
                except OSError:
                    share.__exit__()
                    continue
                return share
        return None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.folder is None:
            return
        for _ in range(100):
            with contextlib.suppress(OSError):
                self.folder.rmdir()
                return
            time.sleep(0.05)  # whoever was in it is being buried

    def wrap(self, command):
        """The command that enters the group and becomes `command`, with the same pid."""
        return ["sh", "-c", JOIN, self.folder, *command] if self.folder else command

    def impose(self):
        """From now on it is held to its share."""
        self.write(round(PERIOD_US * self.part))

    def lift(self):
        """From now on it has the whole core: for preparations."""
        self.write(None)

    def write(self, quota):
        if self.folder is None:
            return
        # Where others run on the core, it gets what it is due before they get theirs.
        if self.version == 2:
            (self.folder / "cpu.weight").write_text("5000")
            (self.folder / "cpu.max").write_text(f"{'max' if quota is None else quota} {PERIOD_US}")
        else:
            (self.folder / "cpu.shares").write_text("51200")
            (self.folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self.folder / "cpu.cfs_quota_us").write_text(str(-1 if quota is None else quota))

    def __str__(self):
        if self.folder is None:
            return "the whole of its core"
        file = "cpu.max" if self.version == 2 else "cpu.cfs_quota_us"
        return f"{self.part:.0%} of its core, {PERIOD_US * self.part / 1000:g} ms of each {PERIOD_US / 1000:g} ms (cgroup v{self.version}, {file})"


def parents():
    """Folders in which groups with a limit of CPU time may be made, and the version of the interface."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, at, kind, options, *_ = line.split()
        if kind == "cgroup2":
            own = Path(at + own_group())
            above = [path for path in (own, *own.parents) if path == Path(at) or Path(at) in path.parents]
            yield from ((path, 2) for path in above if gives_cpu(path))
        elif kind == "cgroup" and "cpu" in options.split(","):
            yield Path(at), 1


def own_group():
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:].rstrip("/")
    return ""


def gives_cpu(folder):
    try:
        return "cpu" in (folder / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False
