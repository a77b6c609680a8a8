"""tidegate, and the minimal proxy that it is measured against."""

import subprocess

from .servers import Place, Server


class Tidegate(Server):
    word = title = "tidegate"

    def absent(self, setting, keys, folder):
        if not setting.mutual:
            return "it does not admit a device without a certificate yet: tokens have not landed"
        if setting.tickets:
            path = folder / "resumption.toml"
            path.write_text(self.configuration(Place(folder, keys, 1, 1), setting))
            asked = [self.program, "check", "--config", path]
            if subprocess.run(asked, capture_output=True, check=False).returncode != 0:
                return "it gives out no tickets yet: `listener.tls.resumption` has not landed"
        return None

    def command(self, place, setting):
        path = place.write("tidegate.toml", self.configuration(place, setting))
        return [self.program, "run", "--config", path]

    def configuration(self, place, setting):
        keys = place.keys
        return f"""
[[listener]]
name = "devices"
bind = "127.0.0.1:{place.port}"
mode = "mutual-tls"
[listener.tls]
certificate = "{keys.certificate}"
key = "{keys.key}"
{'resumption = "tickets"' if setting.tickets else ""}
[[trust]]
name = "fleet"
ca = "{keys.ca}"
[broker]
addresses = "mqtt://127.0.0.1:{place.broker}"
[admin]
bind = "127.0.0.1:0"
[log]
level = "error"
"""


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
