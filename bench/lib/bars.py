"""The bars that tidegate is held to, and whether it meets them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """tidegate's figure in `scenario` is at most `bound` times that of `against`; `against` None: at most `bound`."""

    scenario: str
    bound: float
    against: str | None = None
    unit: str = "×"


BARS = (
    Bar("handshake-new", 1.00, "minimal"),
    Bar("handshake-new", 0.30, "haproxy"),
    Bar("handshake-known", 0.85, "minimal"),
    Bar("handshake-known", 1.10, "limit"),
    Bar("handshake-tls12", 1.00, "minimal"),
    Bar("handshake-server-tls", 1.00, "minimal"),
    Bar("handshake-resumed", 1.00, "minimal"),
    Bar("idle", 7.0, unit="KiB"),
    Bar("relay-16k", 0.85, "minimal"),
    Bar("relay-1k", 0.90, "minimal"),
    Bar("relay-64", 1.00, "minimal"),
    Bar("qos1", 0.95, "minimal"),
)


@dataclass(frozen=True)
class Verdict:
    """`met` is None when it could not be judged; `why` says why."""

    bar: Bar
    value: float | None
    met: bool | None
    why: str = ""

    @property
    def word(self):
        return {True: "met", False: "missed", None: "not judged"}[self.met]


def judge(bar, table):
    """Judges one bar. The value is not rounded before: 1.004 misses 1.00."""
    if bar.against is None:
        value = table.median(bar.scenario, "tidegate")
    else:
        value = table.ratio(bar.scenario, "tidegate", bar.against)
    if value is None:
        return Verdict(bar, None, None, missing(bar, table))
    return Verdict(bar, value, value <= bar.bound)


def missing(bar, table):
    """Which side has no figure, and why, if that is known."""
    for server in ("tidegate", bar.against):
        if server is not None and table.median(bar.scenario, server) is None:
            return f"{server}: {table.absent.get((bar.scenario, server), 'not measured')}"
    return "no figure above zero"


def summary(verdicts):
    """All of them in one line."""
    count = len(verdicts)
    missed = sum(verdict.met is False for verdict in verdicts)
    unjudged = sum(verdict.met is None for verdict in verdicts)
    if missed == unjudged == 0:
        return f"all {count} bars met"
    return f"{missed or 'none'} of {count} bars missed" + (f", {unjudged} not judged" if unjudged else "")
