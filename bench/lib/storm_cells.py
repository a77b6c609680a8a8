"""The runs of bench/storm: each server in turn, a fresh process each time, round after round."""

import contextlib
import tempfile
from pathlib import Path

from . import memory, storms, together
from .figures import median
from .load import Load, checked, resumed_share, told
from .packaged import ESTABLISHED
from .processes import Trouble, free_port, give_way, precede
from .rounds import progress, warm_up
from .servers import Place, Setting

# How many come at once in closed loop. The peak is found with the best of them; established connections are compared with
# the first.
AT_ONCE = (16, 64, 256)

# A whole core takes fewer devices than that in a second: so many are there that none comes twice, at the peak as in a storm.
MOST_PER_SECOND = 10_000

# Runs until whoever started it ends it or is no more, and touches nothing.
SPIN = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", "while :; do :; done"]

# Messages of each established connection per second, on a whole core.
EACH = 25

# On the core that they share, what tells latencies goes before what makes the storm, and that before strangers.
FIRST, SECOND = None, -10


class Cells:
    """Measures peaks and storms into a table."""

    def __init__(self, programs, processes, keys, folder, share, lengths, table, descriptors):
        self.programs, self.processes, self.keys, self.folder = programs, processes, keys, folder
        self.share, self.lengths, self.table, self.descriptors = share, lengths, table, descriptors

    def round(self, number, wanted, servers):
        """One round of everything."""
        for mixed in (False, True):
            kind = [storm for storm in wanted if storm.mixed == mixed]
            peaks = {}
            for server in servers if kind else []:
                peaks[server.word] = self.cell(number, peak_word(mixed), server, lambda: self.peak(server, mixed))
            for storm in kind:
                for server in servers:
                    if peak := peaks[server.word]:
                        self.cell(number, storm.word, server, lambda: self.storm(storm, server, peak))

    def cell(self, number, word, server, measure):
        """Notes one figure; gives it, None if there is none."""
        try:
            figure, extra, notes = measure()
        except Trouble as why:
            self.table.add(word, server.word, None)
            self.table.without(word, server.word, str(why).partition("; ")[0])
            progress(f"  round {number}  {word:<13} {server.title:<20} {why}")
            return None
        self.table.add(word, server.word, figure, extra)
        self.table.note(word, server.word, notes)
        further = "".join(f"   {name} {short(value)}" for name, value in extra.items())
        progress(f"  round {number}  {word:<13} {server.title:<20} {short(figure)}{further}" + "".join(f"\n      {n}" for n in notes))
        return figure

    def peak(self, server, mixed):
        """The most CONNACKs per second in closed loop; 200 connections stand meanwhile.

        How many at once do best is found first, and then measured by itself, twice: the best of several tries is luck, in part."""
        tried = {many: self.closed_loop(server, mixed, many) for many in AT_ONCE}
        many = max(AT_ONCE, key=lambda many: tried[many][0]["per_second"])
        reports = [self.closed_loop(server, mixed, many)[0] for _ in range(2)]
        used = [report["server"]["cpu_us"] / 1e6 / report["seconds"] / self.share.part for report in reports]
        busy = sum(used) / len(used)
        notes = [] if busy > 0.9 else [f"at its peak it used {busy:.0%} of its share: the load may be the limit"]
        calm, _ = latencies(tried[AT_ONCE[0]][1])
        rate = sum(report["per_second"] for report in reports) / len(reports)
        return rate, {"at once": many, "busy": busy, **calm}, notes

    def closed_loop(self, server, mixed, many):
        """The reports of devices that come `many` at once, none of them twice, and of established connections."""
        seconds = self.lengths.peak
        with self.up(server, mixed) as (load, running, port):
            flags = ["--concurrency", many, "--duration", f"{seconds}s", *self.resuming(mixed)]
            devices = load.unknown(round(MOST_PER_SECOND * self.share.part * seconds))
            ping, report = self.both(load, running, port, mixed, [*devices, *flags], seconds)
            return checked(report, Setting(tickets=mixed)), ping

    def storm(self, storm, server, peak):
        with self.up(server, storm.mixed) as (load, running, port):
            before = memory.resident(running.pid)
            flags = [*storm.flags(peak, self.lengths), *self.resuming(storm.mixed)]
            devices = load.unknown(storm.devices(peak, self.lengths))
            ping, report = self.both(load, running, port, storm.mixed, [*devices, *flags], self.lengths.storm)
            most, after = memory.most(running.pid), memory.resident(running.pid)
        found = storms.figures(report, peak, self.lengths)
        late = storms.lagging(report)
        pings, notes = latencies(ping)
        calm = median(self.table.extra.get((peak_word(storm.mixed), server.word), {}).get("ping p99 ms", [])[-1:])
        times = pings["ping p99 ms"] / calm if calm and pings["ping p99 ms"] else None
        extra = {
            **{name: value for name, value in found.items() if name != "ratio"},
            **{"resumed": resumed_share(report) if storm.mixed else None, **pings, "ping × calm": times},
            **{"MiB before": before / 1024, "MiB most": most / 1024, "MiB after": after / 1024},
        }
        if late:
            return None, {}, [f"it lagged, which does not count: {', '.join(late)}"]
        if lost := ping["attempts"] - ping["succeeded"]:
            notes = [*notes, f"{lost} of {ping['attempts']} messages of established connections were lost: {told(ping['errors'])}"]
        return found["ratio"], extra, notes

    @contextlib.contextmanager
    def up(self, server, mixed):
        """The server and a broker behind it, fresh, warm and at rest; without its limit until the load is ready."""
        setting = Setting(tickets=mixed)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder, self.awake(Path(folder) / "awake.log"):
            place = Place(Path(folder), self.keys, free_port(), free_port(), self.descriptors)
            load = Load(self.programs.tidegate, self.processes, self.keys, place.folder)
            sink = load.sink(place.broker)
            precede(sink.pid, FIRST)
            self.share.lift()
            command = self.share.wrap(server.command(place, setting))
            variables, cores = server.environment(place, setting), self.processes.cores.server
            running = self.processes.start(server.title, command, cores, place.folder / "log", variables)
            try:
                running.wait_for_port(place.port)
                warm_up(load, running, place.port, setting)
                running.wait_for_rest()
                yield load, running, place.port
            except Trouble as why:
                said = "" if "log:" in str(why) else running.tail()
                raise Trouble(f"{why}{said}") from None
            finally:
                self.processes.stop(running)
                self.processes.stop(sink)

    @contextlib.contextmanager
    def awake(self, log):
        """Keeps the server's core from resting where the server gets a part of it."""
        if self.share.part >= 1:
            yield
            return
        spin = self.processes.start("what keeps the core awake", SPIN, self.processes.cores.server, log)
        try:
            give_way(spin.pid)
            yield
        finally:
            self.processes.stop(spin)

    def both(self, load, running, port, mixed, flags, seconds):
        """Established connections that send, and devices that come, at the same time; their reports."""
        setting = Setting(tickets=mixed)
        rate = ESTABLISHED * EACH * self.share.part
        sending = ["--connections", ESTABLISHED, "--size", 64, "--qos", 1, "--rate", f"{rate:g}", "--duration", f"{seconds}s"]
        ping = load.command("relay", running, port, setting, [*load.unknown(ESTABLISHED), *sending])
        came = load.command("handshake", running, port, setting, ["--connect", *flags])
        harnesses = [
            together.Harness(self.processes, "relay", ping, load.folder, FIRST),
            together.Harness(self.processes, "handshake", came, load.folder, SECOND),
        ]

        def prepared():
            running.wait_for_rest()
            self.share.impose()
            memory.forget(running.pid)

        return together.run(harnesses, prepared, 120)

    def resuming(self, mixed):
        return ["--resume", 0.5] if mixed else []


def latencies(report):
    """Of the round trips of established connections, in ms; None where the load came too late itself to tell."""
    times, late = report["latency_us"].get("puback", {}), report["client"]["late_p99_us"]
    p50, p99 = times.get("p50"), times.get("p99")
    own = late is None or p99 is None or late * 10 > p99
    notes = ["established connections sent late, by more than a tenth of their p99"] if own else []
    return {"ping p50 ms": None if own else p50 / 1000, "ping p99 ms": None if own else p99 / 1000}, notes


def peak_word(mixed):
    return "mixed-peak" if mixed else "peak"


def short(value):
    return "–" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
