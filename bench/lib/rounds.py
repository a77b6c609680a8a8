"""The runs: each server in turn, a fresh process each time, round after round."""

import json
import sys
import tempfile
import time
from pathlib import Path

from . import load as loads
from .load import Load
from .processes import Trouble, cpu_seconds, free_port
from .servers import Place

LIMIT = "limit"


def progress(text):
    print(text, file=sys.stderr, flush=True)


class Rounds:
    """Measures scenarios on servers into a table."""

    def __init__(self, programs, processes, keys, folder, sizes, table):
        self.programs, self.processes, self.keys, self.folder = programs, processes, keys, folder
        self.sizes, self.table = sizes, table
        self.limits = Limits(self)

    def run(self, scenarios, servers, rounds, with_limit, descriptors):
        for scenario in scenarios:
            progress(f"\n{scenario.word}: {scenario.title}, {scenario.unit}")
            taking_part = [server for server in servers if self.takes_part(scenario, server)]
            for number in range(1, rounds + 1):
                for server in list(taking_part):
                    if not self.cell(scenario, server, number, descriptors):
                        taking_part.remove(server)
                if with_limit and scenario.limit:
                    self.limit_cell(scenario, number)

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
            figure, extra = self.measure(scenario, server, descriptors)
        except Trouble as why:
            if not self.table.values(scenario.word, server.word):
                self.leave_out(scenario, server, str(why))
                return False
            progress(f"  round {number}  {server.title}: {why}")
            figure, extra = None, {}
        self.table.add(scenario.word, server.word, figure, extra)
        if figure is not None:
            further = "".join(f"   {name} {value:.0f}" for name, value in extra.items())
            progress(f"  round {number}  {server.title:<20} {figure:9.2f}{further}")
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
                return scenario.measure(load, running, place.port, scenario.setting, self.sizes)
            except Trouble as why:
                said = "" if "log:" in str(why) else running.tail()
                raise Trouble(f"{why}{said}") from None
            finally:
                self.processes.stop(running)
                self.processes.stop(sink)

    def limit_cell(self, scenario, number):
        figure = self.limits.figure(scenario.limit, number)
        self.table.add(scenario.word, LIMIT, figure)
        progress(f"  round {number}  {'limit':<20} {figure:9.2f}")


def warm_up(load, running, port, setting):
    """Shows the server every known device twice, so that allocators, caches and branch predictors are no part of it."""
    devices = load.known() if setting.mutual else load.nameless()
    load.handshakes(running, port, setting, devices, 128)


class Limits:
    """Handshakes in memory, and the minimal proxy without TLS: once a round, whichever scenario asks first."""

    def __init__(self, rounds):
        self.rounds = rounds
        self.in_memory, self.plain = {}, {}

    def figure(self, case, number):
        """The limit of a case of handshake-limit, in microseconds."""
        if number not in self.in_memory:
            self.in_memory[number] = self.measure_in_memory()
            self.plain[number] = self.measure_plain()
            progress(f"  round {number}  {'without TLS':<20} {self.plain[number]:9.2f}")
        return self.in_memory[number][case] + self.plain[number]

    def measure_in_memory(self):
        rounds = self.rounds
        command = [rounds.programs.limit, "--json", "--rounds", 1, "--handshakes", rounds.sizes.handshakes]
        cores = rounds.processes.cores.server
        out = rounds.processes.run("handshake-limit", command, cores, rounds.folder / "limit.log", 600)
        return json.loads(out)["cpu_us"]

    def measure_plain(self):
        rounds, processes = self.rounds, self.rounds.processes
        place = Place(rounds.folder, rounds.keys, free_port(), free_port())
        sink = Load(rounds.programs.tidegate, processes, rounds.keys, rounds.folder).sink(place.broker)
        command = rounds.programs.minimal_proxy.plain_command(place)
        running = processes.start("minimal proxy", command, processes.cores.server, rounds.folder / "plain.log")
        try:
            running.wait_for_port(place.port)
            loads.plain(place.port, 200)
            before = cpu_seconds(running.pid)
            loads.plain(place.port, rounds.sizes.handshakes)
            time.sleep(0.1)  # the last connections close
            return (cpu_seconds(running.pid) - before) / rounds.sizes.handshakes * 1e6
        finally:
            processes.stop(running)
            processes.stop(sink)
