"""The keys of a comparison: one CA, one server certificate, and some devices, all ECDSA P-256, made by tidegate; its registry."""

import contextlib
import os
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .processes import Trouble

KNOWN_DEVICES = 64

# In the registry: those, and bench-000001 and so on, as the load calls itself.
DEVICES = 100_000


@dataclass(frozen=True)
class Keys:
    """Files that every server is given. The load makes the devices never seen before from `ca_folder`."""

    ca_folder: Path
    ca: Path
    certificate: Path
    key: Path
    both: Path  # chain and key in one file, as HAProxy and hitch want it
    known: Path  # a folder with the devices that have been seen before
    token: Path  # of all devices that come by token
    token_key: Path
    registry: Path | None  # a file of SQLite, to be copied; None: tidegate has none


def make(programs, folder, with_registry=True, devices=DEVICES):
    """Makes them all in a folder that is empty."""
    tidegate = programs.tidegate
    ca_folder, known = folder / "ca", folder / "known"
    said(tidegate, "ca", "init", ca_folder)
    said(tidegate, "ca", "server", "--ca", ca_folder, "--san", "localhost", "--san", "127.0.0.1", "--out", folder)
    names = [f"known-{number:02}" for number in range(KNOWN_DEVICES)]
    for name in names:
        said(tidegate, "device", "add", name, "--ca", ca_folder, "--out", known)
    registry = make_registry(programs, folder, names, devices)
    certificate, key, both = folder / "server.pem", folder / "server.key", folder / "both.pem"
    with os.fdopen(os.open(both, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(certificate.read_text() + key.read_text())
    return Keys(
        *(ca_folder, ca_folder / "ca.pem", certificate, key, both, known),
        *(folder / "token", folder / "token.key", registry if with_registry else None),
    )


def make_registry(programs, folder, names, devices):
    """Makes registry, token and the key of its hash; gives the registry, one file that nobody has open."""
    known = [word for name in names for word in ("--known", name)]
    said(programs.fill_registry, "--out", folder, "--devices", devices, *known)
    path = folder / "registry.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def said(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise Trouble(f"`{' '.join(map(str, command))}` ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout
