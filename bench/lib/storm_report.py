"""What bench/storm tells at the end: tables for the terminal, and a dated page in Markdown."""

from . import report, storm_bars
from .bars import summary
from .figures import median
from .report import markdown, number, text

PEAK_HEADS = ["", "CONNACKs/s", "smallest to largest", "at once", "busy", "ping p50 ms", "ping p99 ms", ""]
STORM = (
    *("offered", "goodput", "p50 ms", "p99 ms", "recovered", "recovery s"),
    *("resumed", "ping p50 ms", "ping p99 ms", "ping × calm", "MiB before", "MiB most", "MiB after"),
)
STORM_HEADS = ["", "× peak", "smallest to largest", *STORM, ""]
BAR_HEADS = ["storm", "what", "bar", "found", "", ""]


def rows(table, word, servers, names):
    """One row a server: title, median, span, the medians of further figures, why there is nothing."""
    found = []
    for server in servers:
        values = [value for value in table.values(word, server.word) if value is not None]
        extra = table.extra.get((word, server.word), {})
        if values:
            span = f"{number(min(values))} to {number(max(values))}"
            further = [number(median(extra.get(name, []))) for name in names]
            found.append([server.title, number(median(values)), span, *further, ""])
        elif table.values(word, server.word):
            why = table.absent.get((word, server.word), "the load lagged")
            found.append([server.title, "n/a", *[""] * (len(names) + 1), why])
    return found


def bar_rows(verdicts):
    found = []
    for verdict in verdicts:
        bar = verdict.bar
        bound = f"{'≥' if bar.at_least else '≤'} {bar.bound:g}"
        value = "–" if verdict.value is None else f"{verdict.value:.3f}"
        found.append([bar.storm, bar.title, bound, value, verdict.word, verdict.why])
    return found


def sections(table, wanted, servers):
    """Title, heads, rows and notes of each table that has something to tell."""
    for mixed, words in ((False, "peak"), (True, "mixed-peak")):
        title = "the peak in closed loop" + (", half of the handshakes resumed" if mixed else ", full handshakes")
        yield words, title, PEAK_HEADS, rows(table, words, servers, PEAK_HEADS[3:-1]), notes(table, words, servers)
        for storm in wanted:
            if storm.mixed == mixed:
                told = rows(table, storm.word, servers, STORM)
                yield storm.word, storm.title, STORM_HEADS, told, notes(table, storm.word, servers)


def notes(table, word, servers):
    said = {server.title: table.notes.get((word, server.word), []) for server in servers}
    return [f"{title}: {sentence}." for title, sentences in said.items() for sentence in sentences]


def verdicts(table, wanted, servers):
    if "tidegate" not in [server.word for server in servers]:
        return []
    words = [storm.word for storm in wanted]
    return [storm_bars.judge(bar, table) for bar in storm_bars.BARS if bar.storm in words]


def page(title, table, wanted, servers, machine, command, amount):
    """The dated page."""
    judged = verdicts(table, wanted, servers)
    parts = [
        f"# {title}",
        f"`{command}`",
        f"Medians of {amount}, taken in turn; one server process on one core, load and broker on the others. "
        "How to read this: [../README.md](../README.md#storms).",
        markdown(["", ""], [list(row) for row in machine]),
    ]
    if judged:
        parts += ["## Bars", markdown(BAR_HEADS, bar_rows(judged)), summary(judged) + "."]
    for word, what, heads, rows_, notes_ in sections(table, wanted, servers):
        if rows_:
            parts += [f"## {word}: {what}", markdown(heads, rows_), *notes_]
    return "\n\n".join(parts) + "\n"


def show(table, wanted, servers):
    """The same for the terminal."""
    for word, what, heads, rows_, notes_ in sections(table, wanted, servers):
        if rows_:
            print(f"\n{word}: {what}\n\n{text(heads, rows_)}")
            print("".join(f"\n{note}" for note in notes_), end="\n" if notes_ else "")
    if judged := verdicts(table, wanted, servers):
        print(f"\n{report.text(BAR_HEADS, bar_rows(judged))}\n\n{summary(judged)}")
