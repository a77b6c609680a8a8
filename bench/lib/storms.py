"""What a storm is, and what its reports come to: sums alone, no processes."""

from dataclasses import dataclass

# As the issue of every storm has it: a device waits so long, and the storm is over by itself after so long.
PATIENCE = 2
STORM = 15
RECOVERY = 7

# What is offered when the storm is over, as part of the peak; and how soon the server is to have recovered.
CALM = 0.5
SOON = 2
IN_TIME = 0.98

# Who comes back does so a second later; who got in comes as often as who did not.
AGAIN_AFTER = 1
PERIOD = PATIENCE + AGAIN_AFTER

# A load whose first tries begin later than this after their time, at p99, kept no schedule; of a patience of 2 s it is 2.5 %.
LATEST_US = 50_000
BUSIEST = 0.97


@dataclass(frozen=True)
class Lengths:
    """How long everything is, in seconds."""

    storm: int = STORM
    recovery: int = RECOVERY
    peak: int = 5

    def __str__(self):
        return f"{self.storm} s of storm and {self.recovery} s after it, {self.peak} s for each try at the peak"


QUICK = Lengths(storm=8, recovery=5, peak=3)


@dataclass(frozen=True)
class Storm:
    """`times` the peak is offered; `mixed`: half of the devices come with a ticket; `returning`: who fails comes back."""

    word: str
    times: int
    mixed: bool = False
    returning: bool = False

    @property
    def title(self):
        more = ["half with tickets"] * self.mixed + ["devices that come back"] * self.returning
        return f"{self.times}× the peak" + "".join(f", {one}" for one in more)

    def flags(self, peak, lengths):
        """What the load is told."""
        calm = [*("--then", f"{peak * CALM:.1f}:{lengths.recovery}s")]
        rate = ["--rate", f"{peak * self.times:.1f}"]
        patience = ["--give-up", f"{PATIENCE}s"]
        if not self.returning:
            return [*rate, "--duration", f"{lengths.storm}s", *calm, *patience]
        # A fleet, all of which has come after one period, and each of which comes once a period from then on.
        rest = ["--then", f"0:{lengths.storm - PERIOD}s"]
        again = ["--retry", "--retry-after", f"{AGAIN_AFTER}s", "--return-after", f"{PERIOD}s"]
        return [*rate, "--duration", f"{PERIOD}s", *rest, *calm, *patience, *again]

    def devices(self, peak, lengths):
        """How many there are: each comes once, as far as the registry knows so many; of a fleet, until it returns."""
        storm = peak * self.times * (PERIOD if self.returning else lengths.storm)
        most = MOST_WITH_TICKETS if self.mixed else MOST_DEVICES
        return max(1000, min(most, round(storm + peak * CALM * lengths.recovery)))


# As many as the registry knows, but for those that stand.
MOST_DEVICES = 99_000

# They are all seen before they come, to be given tickets, which takes time.
MOST_WITH_TICKETS = 30_000

STORMS = (
    Storm("1x", 1),
    Storm("2x", 2),
    Storm("3x", 3),
    Storm("4x", 4),
    Storm("8x", 8),
    Storm("mixed-3x", 3, mixed=True),
    Storm("mixed-8x", 8, mixed=True),
    Storm("returning-3x", 3, returning=True),
    Storm("returning-8x", 8, returning=True),
)


def figures(report, peak, lengths):
    """The figures of one storm, from the load's report; those that nothing can be said of are None."""
    storm = [phase for phase in report["phases"] if phase["begin"] < lengths.storm]
    # A fleet comes, and then comes back: times are those of the part in which more got in.
    most = max(storm, key=lambda phase: phase["succeeded"])
    got_in = sum(second["succeeded"] for second in report["timeline"] if second["second"] < lengths.storm)
    share, seconds = recovery(report["arrivals"], lengths.storm, lengths.recovery)
    goodput = got_in / lengths.storm
    return {
        "offered": sum(phase["begun"] for phase in storm) / lengths.storm / peak,
        "goodput": goodput,
        "ratio": goodput / peak,
        "p50 ms": thousandth(most["p50_us"]),
        "p99 ms": thousandth(most["p99_us"]),
        "recovered": share,
        "recovery s": seconds,
    }


def recovery(arrivals, end, length):
    """The share that gets in of what comes from SOON after the storm's end on; and after how long IN_TIME of all that is
    still to come does, to a quarter of a second. None: never, or nobody came."""
    after = [step for step in arrivals if end <= step["at"] < end + length]
    late = [step for step in after if step["at"] >= end + SOON]
    for step in after:
        rest = part([one for one in after if one["at"] >= step["at"]])
        if rest is not None and rest >= IN_TIME:
            return part(late), step["at"] - end
    return part(late), None


def part(steps):
    begun = sum(step["begun"] for step in steps)
    return sum(step["succeeded"] for step in steps) / begun if begun else None


def lagging(report):
    """Why a storm's figures do not count: the load did not keep its schedule; empty: it did."""
    late, busy = report["client"]["late_p99_us"], report["client"]["busiest_thread"]
    why = []
    if late is None or late > LATEST_US:
        behind = "?" if late is None else round(late / 1000)
        why.append(f"its tries began {behind} ms late at p99, with {busy:.0%} of its core in use")
    elif busy > BUSIEST:
        why.append(f"it used {busy:.0%} of its core")
    return why


def thousandth(micros):
    return None if micros is None else micros / 1000
