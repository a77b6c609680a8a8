"""Which functions a connection runs through, in the order in which they call each other, from what callgrind wrote; and the
linker script that puts them beside each other: sums alone, no processes."""

import re
from collections import defaultdict

# A pattern may bring in so many bytes that no connection runs through, and as many as it does run through.
MOST_BESIDES = 4096


class Calls:
    """Who called whom, and how often, in one run of a program: `--dump-instr=yes --demangle=no`."""

    def __init__(self, lines, program):
        self.times = defaultdict(int)  # by function of the program
        self.callees = defaultdict(list)  # by function: (address of the call, callee, times)
        self.read(lines, program)

    def read(self, lines, program):
        names, objects = {}, {}
        here = at = there = caller = callee = None
        address, times = 0, None
        for line in lines:
            key, _, rest = line.rstrip("\n").partition("=")
            if key == "ob":
                here = named(objects, rest)
            elif key == "fn":
                caller, there = named(names, rest), None
            elif key == "cob":
                there = named(objects, rest)
            elif key == "cfn":
                callee, at = named(names, rest), there or here
            elif key == "calls":
                times = int(rest.split()[0])
            elif line[:1] in set("0123456789+-*") and " " in line:
                address = moved(address, line.split()[0])
                if times is not None:
                    if at == program:
                        self.times[callee] += times
                    self.callees[caller].append((address, callee, times))
                    times, there = None, None

    def hot(self, least):
        """The functions that were called so often at least."""
        return {name for name, times in self.times.items() if times >= least}

    def walk(self, least):
        """Those, each behind whoever called it first: as a connection comes through them, about."""
        hot = self.hot(least)
        called = {callee for callees in self.callees.values() for _, callee, times in callees if times >= least}
        roots = [name for name in self.callees if name not in called] + sorted(hot)
        roots.sort(key=lambda name: -sum(times >= least for _, _, times in self.callees.get(name, ())))
        order, seen = [], set()
        waiting = roots[::-1]
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in hot:
                order.append(name)
            next_ones = sorted((address, callee) for address, callee, times in self.callees.get(name, ()) if times >= least)
            waiting += [callee for _, callee in reversed(next_ones)]
        return order


def named(table, text):
    """A name that callgrind writes out once, and then by its number; without the mark of a recursive call, which may stand behind
    either."""
    number, _, name = text.partition(" ")
    return table.setdefault(number.split("'")[0], name.split("'")[0])


def moved(address, text):
    """A position: whole, or by how much it is further."""
    if text == "*":
        return address
    return address + int(text, 0) if text[0] in "+-" else int(text, 0)


def pattern(name):
    """A mangled name without what another compiler or another release of a crate would change."""
    if name.startswith("_ZN"):
        name = re.sub(r"17h[0-9a-f]{16}E", "17h*E", name)
    elif name.startswith("_R"):
        name = re.sub(r"Cs[0-9A-Za-z]+_", "Cs*_", name)
    name = re.sub(r"aws_lc_\d+_\d+_\d+_", "aws_lc_*_", name)
    return re.sub(r"(\.(llvm|constprop|isra|part|\d+))+(\.\d+)*$", "*", name).replace("[", "?")


def patterns(names, sizes):
    """Patterns of those functions, in their order. `sizes`: (name, bytes) of every function of the program; a name may come twice.

    Those are left out that many others fit as well: what is to lie together would not any more."""
    largest, wanted, all_of_it = {}, defaultdict(int), defaultdict(int)
    for name, size in sizes:
        all_of_it[pattern(name)] += size
        largest[name] = max(size, largest.get(name, 0))
    for name in names:
        wanted[pattern(name)] += largest.get(name, 0)
    return [one for one, size in wanted.items() if all_of_it[one] - size <= max(size, MOST_BESIDES)]


def script(patterns, made_by):
    """The linker script, for GNU ld and lld. A pattern that fits nothing any more does no harm.

    All code stays in one section: debuggers and valgrind look for names in `.text` alone."""
    inputs = [*(f".text.{one}" for one in patterns), ".text .text.*"]
    listed = "".join(f"        *({one})\n" for one in inputs)
    return f"/* {made_by} */\nSECTIONS\n{{\n    .text : {{\n{listed}    }}\n}}\nINSERT AFTER .init;\n"
