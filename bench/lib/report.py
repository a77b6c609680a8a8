"""What is told at the end: tables for the terminal, and a dated page in Markdown."""

import re
from collections import Counter

from .bars import summary
from .figures import median
from .rounds import LIMIT

TITLE_OF_LIMIT = "limit"


def rows(table, scenario, servers):
    """One row a server: title, median, smallest and largest, ratio to tidegate, ratio to the minimal proxy; as text."""
    found = []
    for word, title in titled(servers):
        values = [value for value in table.values(scenario.word, word) if value is not None]
        if values:
            ratios = [ratio(table.ratio(scenario.word, word, base)) for base in ("tidegate", "minimal")]
            extra = table.extra.get((scenario.word, word), {})
            further = [f"{name} {number(median(all_))}" for name, all_ in extra.items()]
            span = f"{number(min(values))} to {number(max(values))}"
            found.append([title, number(median(values)), span, *ratios, ", ".join(further)])
        elif why := table.absent.get((scenario.word, word)):
            found.append([title, "n/a", "", "", "", why])
    return found


def titled(servers):
    return [(server.word, server.title) for server in servers] + [(LIMIT, TITLE_OF_LIMIT)]


def notes(table, scenario, servers):
    """What the load said of itself: each kind of sentence once, where its numbers were largest, and in which rounds.

    Of a sentence that goes on after a colon or semicolon, with what it means and what to do, only the first part.
    """
    kinds = {}
    for word, title in titled(servers):
        for sentence in table.notes.get((scenario.word, word), []):
            told = re.split("[:;]", sentence)[0]
            kinds.setdefault(NUMBER.sub("#", told), []).append((told, title))
    return [note(told) for told in kinds.values()]


NUMBER = re.compile(r"\d+(?:\.\d+)?")


def note(told):
    worst = max((sentence for sentence, _ in told), key=lambda text: [float(one) for one in NUMBER.findall(text)])
    rounds = Counter(title for _, title in told)
    return f"The load: {worst}. Rounds: " + ", ".join(f"{title} {count}" for title, count in rounds.items()) + "."


def number(value):
    """Three figures that count, and no fewer digits before the point."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def ratio(value):
    return "–" if value is None else f"{value:.2f}"


def heads(scenario):
    return ["", scenario.unit, "smallest to largest", "× tidegate", "× minimal proxy", ""]


def bar_rows(verdicts, scenarios):
    """One row a bar: scenario, bar, found, verdict."""
    titles = {scenario.word: scenario.title for scenario in scenarios}
    found = []
    for verdict in verdicts:
        bar = verdict.bar
        bound = f"≤ {bar.bound:.2f} × {bar.against}" if bar.against else f"≤ {bar.bound:g} {bar.unit}"
        value = "–" if verdict.value is None else f"{verdict.value:.3f}"
        found.append([titles[bar.scenario], bound, value, verdict.word, verdict.why])
    return found


BAR_HEADS = ["scenario", "bar", "found", "", ""]


def text(heads_, rows_):
    """A table for the terminal."""
    widths = [max(len(row[column]) for row in [heads_, *rows_]) for column in range(len(heads_))]
    numeric = range(1, len(heads_) - 1)
    lines = []
    for row in [heads_, *rows_]:
        cells = [
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(heads_, rows_):
    """A table for a page; a `|` in a cell is set off."""

    def line(cells):
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    marks = [":--"] + ["--:"] * (len(heads_) - 2) + [":--"]
    return "\n".join([line(heads_), line(marks), *map(line, rows_)])


def page(title, table, scenarios, servers, verdicts, machine, command, amount, plot, to_come=()):
    """The dated page; `amount` says of how much, `to_come` which scenarios are not in it yet."""
    parts = [
        f"# {title}",
        f"`{command}`",
        f"Medians of {amount}, taken in turn; one server process on one core, load and broker on the others. "
        "How to read this: [../README.md](../README.md).",
        markdown(["", ""], [list(row) for row in machine]),
    ]
    if to_come:
        parts.insert(2, f"**Not finished.** To come: {', '.join(scenario.word for scenario in to_come)}.")
    if verdicts:
        parts += ["## Bars", markdown(BAR_HEADS, bar_rows(verdicts, scenarios)), summary(verdicts) + "."]
    if plot:
        parts.append(f"![Ratios to tidegate, with the smallest and the largest of a round]({plot})")
    for scenario in scenarios:
        if found := rows(table, scenario, servers):
            parts += [f"## {scenario.word}: {scenario.title}", markdown(heads(scenario), found)]
            parts += notes(table, scenario, servers)
    return "\n\n".join(parts) + "\n"
