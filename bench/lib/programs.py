"""The programs: ours are built, Debian's are installed if that is asked for."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .envoy import Envoy
from .ours import Minimal, Tidegate
from .packaged import PACKAGED
from .processes import Trouble

EVERY = (Tidegate, Minimal, *PACKAGED, Envoy)


# What is built from this source, in the order of the fields of Programs.
NAMES = ("tidegate", "minimal-proxy", "handshake-limit", "fill-registry")


@dataclass(frozen=True)
class Programs:
    """Where each of them is."""

    tidegate: Path
    minimal: Path
    limit: Path
    fill_registry: Path

    @property
    def minimal_proxy(self):
        return Minimal(self.minimal)


def build(root):
    """Builds them with cargo as they are handed out, and says where they are.

    The same features for all, so that both sides of a ratio have the same of every dependency; and no examples, which
    would have those that tests ask for, such as the pausing clock of tokio.
    """
    script = root / "deploy/layout.ld"
    program = target_directory(root) / "dist" / NAMES[0]
    if program.exists() and program.stat().st_mtime < script.stat().st_mtime:
        (root / "src/main.rs").touch()  # cargo does not know of the script
    alike = ["--profile", "dist", "--locked", "--features", "bench-tools,jemalloc"]
    ours, *others = NAMES
    for command in (
        ["build", *alike, *(word for name in others for word in ("--bin", name))],
        ["rustc", *alike, "--bin", ours, "--", "-C", "link-arg=-Wl,-T,deploy/layout.ld"],
    ):
        if subprocess.run(["cargo", *command], cwd=root, check=False).returncode != 0:
            raise Trouble("cargo could not build tidegate; what it said is above")
    return built(target_directory(root) / "dist")


def target_directory(root):
    """Where cargo puts what it builds."""
    asked = ["cargo", "metadata", "--format-version", "1", "--no-deps", "--locked"]
    told = subprocess.run(asked, cwd=root, check=True, capture_output=True, text=True).stdout
    return Path(json.loads(told)["target_directory"])


def built(folder):
    """They lie in that folder, as cargo lays them out."""
    folder = Path(folder).resolve()
    paths = [folder / name for name in NAMES]
    for path in paths:
        if not path.exists():
            raise Trouble(f"{path} is not there; bench/compare without --binaries builds it")
    return Programs(*paths)


def servers(programs, words, envoy):
    """The servers that can be run, of those asked for; and a sentence for each that cannot."""
    ours = {Tidegate: programs.tidegate, Minimal: programs.minimal, Envoy: envoy}
    found, missing = [], []
    for kind in EVERY:
        if kind.word not in words:
            continue
        server = kind(ours.get(kind))
        if server.program is None:
            missing.append(f"{kind.title} is left out: " + way_out(kind))
        else:
            found.append(server)
    return found, missing


def way_out(kind):
    if kind is Envoy:
        return "it is given by --envoy PATH"
    return f"it is not installed; `bench/compare --install`, or the package {kind.package.split()[0]}"


def install():
    """Installs Debian's packages of the servers."""
    packages = [name for kind in PACKAGED for name in kind.package.split()]
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    for words in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        if subprocess.run([*as_root, *quiet, *words], check=False).returncode != 0:
            raise Trouble(f"apt-get could not install {' '.join(packages)}; what it said is above")
