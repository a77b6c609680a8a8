"""What is found, and where it goes: written after each scenario, so that an early end costs the scenario under way."""

import datetime

from . import bars, plot, report


class Results:
    """Those of one comparison. `path` None: they are only shown. `command` and `amount` stand on the page."""

    def __init__(self, path, table, scenarios, servers, described, command, amount):
        self.path, self.table, self.scenarios, self.servers = path, table, scenarios, servers
        self.described, self.command, self.amount = described, command, amount
        self.title = f"Side by side, {today()}"
        self.finished = []

    def done(self, scenario):
        """A scenario is finished."""
        self.finished.append(scenario)
        if self.path:
            self.write()

    def verdicts(self):
        """On the bars of what is finished; without tidegate there are none."""
        if "tidegate" not in [server.word for server in self.servers]:
            return []
        words = [scenario.word for scenario in self.finished]
        return [bars.judge(bar, self.table) for bar in bars.BARS if bar.scenario in words]

    def write(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        drawn = self.path.with_suffix(".svg")
        picture = plot.svg(self.table, self.finished, self.servers)
        if picture:
            drawn.write_text(picture)
        to_come = [scenario for scenario in self.scenarios if scenario not in self.finished]
        page = report.page(
            *(self.title, self.table, self.finished, self.servers, self.verdicts(), self.described),
            *(self.command, self.amount, drawn.name if picture else None, to_come),
        )
        self.path.write_text(page)

    def kept(self):
        """What there is of them when a comparison ends, in words."""
        if not self.path or not self.finished:
            return "nothing was written"
        return f"written: {self.path}, {len(self.finished)} of {len(self.scenarios)} scenarios"

    def show(self):
        for scenario in self.finished:
            if rows := report.rows(self.table, scenario, self.servers):
                print(f"\n{scenario.word}: {scenario.title}\n\n{report.text(report.heads(scenario), rows)}")
                for note in report.notes(self.table, scenario, self.servers):
                    print(f"\n{note}")
        verdicts = self.verdicts()
        if verdicts:
            print(f"\n{report.text(report.BAR_HEADS, report.bar_rows(verdicts, self.finished))}")
        print(f"\n{self.kept()}")
        if verdicts:
            print(bars.summary(verdicts))


def unused(folder, what=""):
    """DATE.md in a folder, or DATE-2.md and so on: no result is written over. `what` stands behind the date."""
    path, count = folder / f"{today()}{what}.md", 1
    while path.exists():
        count += 1
        path = folder / f"{today()}{what}-{count}.md"
    return path


def today():
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()
