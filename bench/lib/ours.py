"""tidegate, and the minimal proxy that it is measured against."""

import json
import shutil
import subprocess

from .servers import Place, Server


class Tidegate(Server):
    word = title = "tidegate"

    def absent(self, setting, keys, folder):
        path = folder / "asked.toml"
        path.write_text(self.configuration(Place(folder, keys, 1, 2), setting))
        asked = [self.program, "check", "--json", "--config", path]
        told = subprocess.run(asked, capture_output=True, text=True, check=False)
        return why_not(told.stdout)

    def command(self, place, setting):
        if place.keys.registry:
            # Each run has a copy: the gate notes in it when devices were seen.
            shutil.copyfile(place.keys.registry, place.folder / "registry.db")
        path = place.write("tidegate.toml", self.configuration(place, setting))
        return [self.program, "run", "--config", path]

    def configuration(self, place, setting):
        keys = place.keys
        registry = f'[registry]\nurl = "sqlite://registry.db"\nunknown = "refuse"\n[token]\nkey_file = "{keys.token_key}"'
        trust = f'[[trust]]\nname = "fleet"\nca = "{keys.ca}"'
        return f"""
[[listener]]
name = "devices"
bind = "127.0.0.1:{place.port}"
mode = "{'mutual-tls' if setting.mutual else 'server-tls'}"
[listener.tls]
certificate = "{keys.certificate}"
key = "{keys.key}"
{'resumption = "tickets"' if setting.tickets else ""}
{trust if setting.mutual else ""}
{registry if keys.registry else ""}
[broker]
addresses = "mqtt://127.0.0.1:{place.broker}"
[admin]
bind = "127.0.0.1:0"
[log]
level = "error"
"""


def why_not(report):
    """Why tidegate would not serve by a configuration, from what `check --json` told of it; None: it would."""
    try:
        report = json.loads(report)
    except ValueError:
        return "`tidegate check` does not understand the question"
    refusing = [warning for warning in report["warnings"] if "every device is refused" in warning]
    faults = [f"{fault['key']}: {fault['why']}" for fault in report["faults"]]
    return next(iter(faults + refusing), None)


class Minimal(Server):
    word, title = "minimal", "minimal proxy"

    def version(self):
        return "this source"

    def command(self, place, setting):
        keys = place.keys
        return [
            self.program,
            *("--listen", f"127.0.0.1:{place.port}", "--broker", f"127.0.0.1:{place.broker}"),
            *("--certificate", keys.certificate, "--key", keys.key, "--tls", setting.tls),
            *(["--client-ca", keys.ca] if setting.mutual else []),
            *(["--tickets"] if setting.tickets else []),
        ]

    def plain_command(self, place):
        return [
            *(self.program, "--plain"),
            *("--listen", f"127.0.0.1:{place.port}", "--broker", f"127.0.0.1:{place.broker}"),
        ]
