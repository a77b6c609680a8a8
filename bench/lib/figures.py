"""Pure sums: medians, ratios and their spread."""

import statistics


def median(values):
    """The median of what was measured; None if nothing was."""
    measured = [value for value in values if value is not None]
    return statistics.median(measured) if measured else None


def ratio(values, base):
    """Median by median; None where either is missing or the base is not above zero."""
    top, bottom = median(values), median(base)
    if top is None or bottom is None or bottom <= 0:
        return None
    return top / bottom


def spread(values, base):
    """The smallest and the largest ratio of one round, each round against itself; None if no round has both."""
    pairs = [(a, b) for a, b in zip(values, base) if a is not None and b is not None and b > 0]
    ratios = [a / b for a, b in pairs]
    return (min(ratios), max(ratios)) if ratios else None


class Table:
    """What was measured: for each scenario and server, one figure a round, None where a round failed."""

    def __init__(self):
        self.cells = {}  # (scenario, server) → [figure]
        self.extra = {}  # (scenario, server) → {name: [figure]}
        self.absent = {}  # (scenario, server) → why there is nothing
        self.notes = {}  # (scenario, server) → [what the load said of itself], each round after the other

    def add(self, scenario, server, figure, extra=None):
        self.cells.setdefault((scenario, server), []).append(figure)
        for name, value in (extra or {}).items():
            self.extra.setdefault((scenario, server), {}).setdefault(name, []).append(value)

    def without(self, scenario, server, why):
        self.absent[scenario, server] = why

    def note(self, scenario, server, sentences):
        self.notes.setdefault((scenario, server), []).extend(sentences)

    def values(self, scenario, server):
        return self.cells.get((scenario, server), [])

    def median(self, scenario, server):
        return median(self.values(scenario, server))

    def ratio(self, scenario, server, base):
        return ratio(self.values(scenario, server), self.values(scenario, base))

    def spread(self, scenario, server, base):
        return spread(self.values(scenario, server), self.values(scenario, base))
