"""The bars that a storm is held to."""

from dataclasses import dataclass

from .bars import Verdict
from .figures import median
from .storms import STORMS


@dataclass(frozen=True)
class Bar:
    """tidegate's figure in `storm` is at least, or at most, `bound`; `name` None: its goodput as part of the peak."""

    storm: str
    name: str | None
    bound: float
    at_least: bool

    @property
    def title(self):
        return TITLES[self.name]

    def met(self, value):
        return value >= self.bound if self.at_least else value <= self.bound


TITLES = {
    None: "goodput, × peak",
    "p50 ms": "p50 of those that succeed, ms",
    "recovered": "share that gets in 2 s after its end",
    "ping × calm": "p99 of 200 established connections, × without a storm",
}


def bars():
    for storm in STORMS:
        if storm.times in (3, 8):
            yield Bar(storm.word, None, 0.90 if storm.times == 3 else 0.75, True)
            yield Bar(storm.word, "p50 ms", 400, False)
        yield Bar(storm.word, "recovered", 0.98, True)
        yield Bar(storm.word, "ping × calm", 3, False)


BARS = tuple(bars())


def judge(bar, table):
    """Judges one bar for tidegate by the median, unrounded."""
    if bar.name is None:
        value = table.median(bar.storm, "tidegate")
    else:
        value = median(table.extra.get((bar.storm, "tidegate"), {}).get(bar.name, []))
    if value is None:
        return Verdict(bar, None, None, table.absent.get((bar.storm, "tidegate"), "no figure that counts"))
    return Verdict(bar, value, bar.met(value))
