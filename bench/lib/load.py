"""The load: `tidegate bench` on the cores that the server does not have, and what its JSON says."""

import json

from .processes import Trouble

# The only one offered: servers choose differently among several, and SHA-384 costs more than SHA-256.
CIPHER = "aes128"
AT_ONCE = 16


class Load:
    """Makes load with one program, one set of keys, and a log in one folder."""

    def __init__(self, tidegate, processes, keys, folder):
        self.tidegate, self.processes, self.keys, self.folder = tidegate, processes, keys, folder
        self.notes = []  # why its figures may be its own, in sentences

    def sink(self, port):
        """Starts the broker that admits whoever comes, acknowledges, and forgets."""
        command = [self.tidegate, "bench", "sink", f"127.0.0.1:{port}"]
        cores = self.processes.cores.load
        running = self.processes.start("the sink broker", command, cores, self.folder / "sink.log")
        running.wait_for_port(port)
        return running

    def handshakes(self, server, port, setting, devices, count, resume=None):
        """Full handshakes and CONNECTs, some at once, each closed after its CONNACK; `devices`: flags."""
        flags = ["--connect", "--concurrency", AT_ONCE, "--count", count]
        if resume is not None:
            flags += ["--resume", resume]
        return self.bench("handshake", server, port, setting, [*devices, *flags])

    def plain(self, server, port, count):
        """The same without TLS."""
        flags = ["--devices", 64, "--connect", "--concurrency", AT_ONCE, "--count", count]
        return self.bench("handshake", server, port, None, flags)

    def bench(self, what, server, port, setting, flags):
        """Runs it to its end against a server and gives its report, if it is one that counts. `setting` None: no TLS."""
        command = [*self.command(what, server, port, setting, flags), "--json"]
        cores = self.processes.cores.load
        out = self.processes.run(f"tidegate bench {what}", command, cores, self.folder / "load.log", 600)
        report = checked(json.loads(out), setting)
        self.notes += report["client"]["bottlenecks"]
        return report

    def command(self, what, server, port, setting, flags):
        return [
            *(self.tidegate, "bench", what, f"127.0.0.1:{port}"),
            *(self.tls(setting) if setting else ["--plain"]),
            *("--threads", 1, "--pid", server.pid),
            *flags,
        ]

    def tls(self, setting):
        """Flags: how TLS is spoken."""
        return ["--ca", self.keys.ca, "--tls", setting.tls, "--key-exchange", setting.key_exchange, "--cipher", CIPHER]

    def known(self):
        """Flags: the devices that have been seen before."""
        return ["--device-dir", self.keys.known]

    def with_token(self, count):
        """Flags: that many devices without a certificate; each tells its name and the token."""
        return ["--devices", count, "--username", "{device}", "--password-file", self.keys.token]

    def unknown(self, count):
        """Flags: that many devices that nobody has ever seen."""
        return ["--device-ca", self.keys.ca_folder, "--devices", count]


def checked(report, setting):
    """Gives the report back if nearly all attempts succeeded, by the TLS that was asked for, and the server was seen."""
    if report["failed"] * 100 > report["attempts"]:
        raise Trouble(f"{report['failed']} of {report['attempts']} attempts failed: {told(report['errors'])}")
    if not report["succeeded"]:
        raise Trouble("no attempt succeeded")
    for negotiated in report["negotiated"]:
        asked = f"TLS {setting.tls}" if setting else "no TLS"
        if not negotiated.startswith(f"{asked} "):
            raise Trouble(f"{asked} was asked for, and {negotiated} agreed on")
    if report["server"] is None or not report["server"]["cpu_us"]:
        raise Trouble("the server's CPU time was not seen")
    return report


def resumed_share(report):
    """Which part of the handshakes was resumed: 0.0 to 1.0."""
    counts = report["negotiated"]
    resumed = sum(count for negotiated, count in counts.items() if "resumed" in negotiated)
    return resumed / max(1, sum(counts.values()))


def told(errors):
    return ", ".join(f"{count} {word}" for word, count in errors.items()) or "no word why"
