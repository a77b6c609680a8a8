"""The plot: one bar a server and scenario, its ratio to tidegate, with whiskers from the smallest to the largest."""

import math
from html import escape

from .rounds import LIMIT

WIDTH, LEFT, RIGHT = 860, 170, 60
ROW, GAP, HEAD = 18, 30, 24
TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #222 } .head { font-weight: 600 } .small { fill: #666; font-size: 11px }
.bar { fill: #9db4c8 } .own { fill: #d9822b } .limit { fill: #c9c9c9 } .whisker { stroke: #333; stroke-width: 1.2 }
.grid { stroke: #e4e4e4 } .one { stroke: #888; stroke-dasharray: 3 2 }
"""


def svg(table, scenarios, servers):
    """The picture as text; None if no scenario has a ratio."""
    words = [(server.word, server.title) for server in servers] + [(LIMIT, "limit")]
    groups = [(scenario, *bars(table, scenario, words)) for scenario in scenarios]
    groups = [group for group in groups if group[2]]
    if not groups:
        return None
    every = [value for _, _, rows in groups for _, _, *values in rows for value in values]
    scale = Scale(min(every), max(every))
    parts, top = [], 10
    for scenario, base, rows in groups:
        parts.append(group(scenario, base, rows, top, scale))
        top += HEAD + ROW * len(rows) + GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}" '
        'role="img" aria-label="Ratios to tidegate; smaller is better">'
    )
    return f'{head}<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"


def bars(table, scenario, words):
    """To whom the ratios of a scenario are, tidegate or where it has no part the minimal proxy; and its bars: word, title,
    ratio, smallest, largest."""
    base = "tidegate" if table.median(scenario.word, "tidegate") else "minimal"
    found = []
    for word, title in words:
        ratio, spread = table.ratio(scenario.word, word, base), table.spread(scenario.word, word, base)
        if ratio is not None and ratio > 0 and spread is not None and spread[0] > 0:
            found.append((word, title, ratio, *spread))
    return base, found


class Scale:
    """A logarithmic axis, from a power of two below the smallest to one above the largest; 1 is always on it."""

    def __init__(self, smallest, largest):
        self.low = math.floor(math.log2(min(smallest, 0.9)))
        self.high = math.ceil(math.log2(max(largest, 1.1)))

    def x(self, ratio):
        part = (math.log2(ratio) - self.low) / (self.high - self.low)
        return round(LEFT + part * (WIDTH - LEFT - RIGHT), 1)

    def ticks(self):
        return [tick for tick in TICKS if self.low <= math.log2(tick) <= self.high]


def group(scenario, base, rows, top, scale):
    bottom = top + HEAD + ROW * len(rows)
    to_whom = "" if base == "tidegate" else " · ratios to the minimal proxy"
    parts = [f'<text class="head" x="8" y="{top + 14}">{escape(scenario.title)} ({escape(scenario.unit)}){to_whom}</text>']
    for tick in scale.ticks():
        x, kind = scale.x(tick), "one" if tick == 1 else "grid"
        parts.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="{top + HEAD - 2}" y2="{bottom}"/>')
        parts.append(f'<text class="small" x="{x}" y="{bottom + 12}" text-anchor="middle">{tick:g} ×</text>')
    for place, row in enumerate(rows):
        parts.append(bar(*row, top + HEAD + ROW * place, scale))
    return "\n".join(parts)


def bar(word, title, ratio, smallest, largest, y, scale):
    kind = {"tidegate": "own", LIMIT: "limit"}.get(word, "bar")
    start, end = scale.x(2**scale.low), scale.x(ratio)
    low, high, middle = scale.x(smallest), scale.x(largest), y + ROW / 2 - 1
    return (
        f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(title)}</text>'
        f'<rect class="{kind}" x="{start}" y="{y + 2}" width="{round(end - start, 1)}" height="{ROW - 6}"/>'
        f'<line class="whisker" x1="{low}" x2="{high}" y1="{middle}" y2="{middle}"/>'
        f'<line class="whisker" x1="{low}" x2="{low}" y1="{middle - 3}" y2="{middle + 3}"/>'
        f'<line class="whisker" x1="{high}" x2="{high}" y1="{middle - 3}" y2="{middle + 3}"/>'
        f'<text class="small" x="{max(end, high) + 6}" y="{y + 12}">{ratio:.2f}</text>'
    )
