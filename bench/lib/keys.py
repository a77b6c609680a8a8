"""The keys of a comparison: one CA, one server certificate, and some devices, all ECDSA P-256, made by tidegate."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .processes import Trouble

KNOWN_DEVICES = 64


@dataclass(frozen=True)
class Keys:
    """Files that every server is given. The load makes the devices never seen before from `ca_folder`."""

    ca_folder: Path
    ca: Path
    certificate: Path
    key: Path
    both: Path  # chain and key in one file, as HAProxy and hitch want it
    known: Path  # a folder with the devices that have been seen before


def make(tidegate, folder):
    """Makes them all in a folder that is empty."""
    ca_folder, known = folder / "ca", folder / "known"
    said(tidegate, "ca", "init", ca_folder)
    said(tidegate, "ca", "server", "--ca", ca_folder, "--san", "localhost", "--san", "127.0.0.1", "--out", folder)
    for number in range(KNOWN_DEVICES):
        said(tidegate, "device", "add", f"known-{number:02}", "--ca", ca_folder, "--out", known)
    certificate, key, both = folder / "server.pem", folder / "server.key", folder / "both.pem"
    with os.fdopen(os.open(both, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(certificate.read_text() + key.read_text())
    return Keys(ca_folder, ca_folder / "ca.pem", certificate, key, both, known)


def said(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise Trouble(f"`{' '.join(map(str, command))}` ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout
