"""What a comparison ran on."""

import os
import platform
import re
import subprocess
from pathlib import Path


def description(servers, cores, source):
    """Names and values, in the order to be shown; `source` is what ours were built from, as `built_here` tells."""
    rows = [
        ("CPU", f"{cpu_model()}, {os.cpu_count()} cores seen, {frequency()}"),
        ("cores", str(cores)),
        ("memory", memory()),
        ("kernel", platform.release()),
        ("system", system()),
        ("load before", " ".join(f"{load:.2f}" for load in os.getloadavg())),
        *source,
        ("OpenSSL", said("openssl", "version")),
    ]
    return rows + [(server.title, server.version()) for server in servers if server.word != "minimal"]


def built_here(root):
    return [("source", commit(root)), ("rustc", said("rustc", "--version"))]


# Neither the tree nor the compiler of today says anything of them.
GIVEN = [("source", "binaries given")]


def cpu_model():
    found = re.search(r"^model name\s*:\s*(.+)$", read("/proc/cpuinfo"), re.MULTILINE)
    return found.group(1) if found else platform.machine()


def frequency():
    governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
    hypervisor = "hypervisor" in read("/proc/cpuinfo")
    return ", ".join([governor or "frequency not told", *(["a virtual machine"] if hypervisor else [])])


def memory():
    found = re.search(r"^MemTotal:\s*(\d+) kB$", read("/proc/meminfo"), re.MULTILINE)
    return f"{int(found.group(1)) / 1024 / 1024:.1f} GiB" if found else "?"


def system():
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)', read("/etc/os-release"), re.MULTILINE)
    return found.group(1) if found else platform.system()


def commit(root):
    """The commit that was built, and whether the tree holds changes that are in none."""
    name = said("git", "-C", root, "rev-parse", "--short=12", "HEAD")
    changed = said("git", "-C", root, "status", "--porcelain", "--untracked-files=no")
    return name + (" and changes that are not committed" if changed not in ("", "?") else "")


def said(*command):
    """What a command says on stdout, `?` if it cannot."""
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "?"
    return done.stdout.strip()


def read(path):
    try:
        return Path(path).read_text()
    except OSError:
        return ""
