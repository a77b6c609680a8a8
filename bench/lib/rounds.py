"""The runs: each server in turn, a fresh process each time, round after round."""

import json
import sys
import tempfile
from pathlib import Path

from .load import Load
from .processes import Trouble, free_port
from .servers import Place

LIMIT = "limit"


def progress(text):
    print(text, file=sys.stderr, flush=True)


class Rounds:
    """Measures scenarios on servers into a table."""

    def __init__(self, programs, processes, keys, folder, sizes, table):
        self.programs, self.processes, self.keys, self.folder = programs, processes, keys, folder
        self.sizes, self.table = sizes, table

    def run(self, scenarios, servers, rounds, with_limit, descriptors, done):
        """Measures all of it; `done` is told each scenario that is finished."""
        for scenario in scenarios:
            progress(f"\n{scenario.word}: {scenario.title}, {scenario.unit}")
            taking_part = [server for server in servers if self.takes_part(scenario, server)]
            for number in range(1, rounds + 1):
                for server in list(taking_part):
                    if not self.cell(scenario, server, number, descriptors):
                        taking_part.remove(server)
                if with_limit and scenario.limit:
                    self.limit_cell(scenario, number)
            done(scenario)

    def takes_part(self, scenario, server):
        why = server.absent(scenario.setting, self.keys, self.folder)
        if why:
            self.leave_out(scenario, server, why)
        return not why

    def leave_out(self, scenario, server, why):
        self.table.without(scenario.word, server.word, why.partition("; ")[0])
        progress(f"  {server.title}: left out: {why}")

    def cell(self, scenario, server, number, descriptors):
        """One figure; False if there is none and there will be none."""
        try:
            figure, extra, notes = self.measure(scenario, server, descriptors)
        except Trouble as why:
            if not self.table.values(scenario.word, server.word):
                self.leave_out(scenario, server, str(why))
                return False
            progress(f"  round {number}  {server.title}: {why}")
            figure, extra, notes = None, {}, []
        self.table.add(scenario.word, server.word, figure, extra)
        self.table.note(scenario.word, server.word, notes)
        if figure is not None:
            progress(told(number, server.title, figure, extra))
        return True

    def measure(self, scenario, server, descriptors):
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            place = Place(Path(folder), self.keys, free_port(), free_port(), descriptors)
            load = Load(self.programs.tidegate, self.processes, self.keys, place.folder)
            sink = load.sink(place.broker)
            command = server.command(place, scenario.setting)
            variables, cores = server.environment(place, scenario.setting), self.processes.cores.server
            running = self.processes.start(server.title, command, cores, place.folder / "log", variables)
            try:
                running.wait_for_port(place.port)
                warm_up(load, running, place.port, scenario.setting)
                running.wait_for_rest()
                load.notes.clear()
                return *scenario.measure(load, running, place.port, scenario.setting, self.sizes), load.notes
            except Trouble as why:
                said = "" if "log:" in str(why) else running.tail()
                raise Trouble(f"{why}{said}") from None
            finally:
                self.processes.stop(running)
                self.processes.stop(sink)

    def limit_cell(self, scenario, number):
        """Handshakes in memory, and the minimal proxy without TLS: both in the round that they are compared in."""
        try:
            in_memory, plain = self.in_memory(scenario.limit), self.without_tls(scenario)
        except Trouble as why:
            progress(f"  round {number}  {LIMIT}: {why}")
            self.table.add(scenario.word, LIMIT, None)
            self.table.without(scenario.word, LIMIT, str(why).partition("; ")[0])
            return
        parts = {"in memory": in_memory, "without TLS": plain}
        self.table.add(scenario.word, LIMIT, in_memory + plain, parts)
        progress(told(number, LIMIT, in_memory + plain, parts))

    def in_memory(self, case):
        """The figure of a case of handshake-limit, in microseconds."""
        command = [self.programs.limit, "--json", "--rounds", 1, "--handshakes", self.sizes.handshakes, "--case", case]
        cores = self.processes.cores.server
        out = self.processes.run("handshake-limit", command, cores, self.folder / "limit.log", 600)
        return json.loads(out)["cpu_us"][case]

    def without_tls(self, scenario):
        """CPU time of the minimal proxy for a connection without TLS, with CONNECT and CONNACK, in microseconds."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            place = Place(Path(folder), self.keys, free_port(), free_port())
            load = Load(self.programs.tidegate, self.processes, self.keys, place.folder)
            sink = load.sink(place.broker)
            command = self.programs.minimal_proxy.plain_command(place)
            running = self.processes.start("minimal proxy", command, self.processes.cores.server, place.folder / "log")
            try:
                running.wait_for_port(place.port)
                load.plain(running, place.port, 128)
                load.notes.clear()
                report = load.plain(running, place.port, self.sizes.handshakes)
                self.table.note(scenario.word, LIMIT, load.notes)
                return report["server"]["cpu_us_each"]
            finally:
                self.processes.stop(running)
                self.processes.stop(sink)


def told(number, title, figure, extra):
    further = "".join(f"   {name} {'–' if value is None else format(value, '.0f')}" for name, value in extra.items())
    return f"  round {number}  {title:<20} {figure:9.2f}{further}"


def warm_up(load, running, port, setting):
    """Shows the server every known device twice, so that allocators, caches and branch predictors are no part of it."""
    devices = load.known() if setting.mutual else load.with_token(64)
    load.handshakes(running, port, setting, devices, 128)
