"""A server that is compared, and what makes one like the others; ours.py, packaged.py and envoy.py hold them.

One worker or thread, on one core; the same chain, key and CA; logs off; tickets and session caches off unless they are
what is measured; the TLS version and the key exchange fixed. What a server cannot do is said by `absent`.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MOST_CONNECTIONS = 100_000

NO_TICKETS = """
openssl_conf = all
[all]
ssl_conf = tls
[tls]
system_default = defaults
[defaults]
NumTickets = 0
"""


@dataclass(frozen=True)
class Setting:
    """What a scenario asks of a server."""

    tls: str = "1.3"
    mutual: bool = True
    tickets: bool = False

    @property
    def key_exchange(self):
        """X25519; in TLS 1.2 P-256, because there OpenSSL serves a certificate only to those who name its curve too."""
        return "x25519" if self.tls == "1.3" else "p256"


@dataclass(frozen=True)
class Place:
    """Where a server stands in one run."""

    folder: Path  # its own, empty
    keys: object
    port: int
    broker: int  # the port of the broker behind it
    descriptors: int = MOST_CONNECTIONS

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path


class Server:
    """One program. `word` is what --servers says, `package` the one of Debian, `title` what tables say."""

    word = title = package = None
    names = ()  # of the program, the first that is there counts
    version_flag = "--version"
    version_pattern = r"(\d+\.\d+[\w.+-]*)"
    openssl = False  # it uses OpenSSL, and reads its configuration

    def __init__(self, program=None):
        self.program = program or next(filter(None, map(which, self.names)), None)

    def version(self):
        """What it says of itself, in one line; `?` if it cannot be heard or understood."""
        try:
            told = subprocess.run([self.program, self.version_flag], capture_output=True, text=True, check=False)
        except OSError:
            return "?"
        found = re.search(self.version_pattern, told.stdout + told.stderr)
        return found.group(1) if found else "?"

    def absent(self, setting, keys, folder):
        """Why it has no part in what that setting is for; None: it has."""
        return None

    def environment(self, place, setting):
        """Variables for it. OpenSSL sends two tickets in TLS 1.3 even when a server turned them off, unless told this."""
        if not self.openssl or setting.tickets:
            return {}
        return {"OPENSSL_CONF": str(place.write("openssl.cnf", NO_TICKETS))}

    def command(self, place, setting):
        """Writes its configuration into the place, and gives the command that serves from it until it is ended."""
        raise NotImplementedError


def connections(place):
    """As many as its descriptors allow: each connection of a proxy takes two."""
    return min(MOST_CONNECTIONS, (place.descriptors - 100) // 2)


def which(name):
    """The path of a program; servers lie in sbin, which is not on everybody's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")
