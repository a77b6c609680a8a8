"""Has Grafana's own model of a dashboard read ours, and tells what of its panels got lost: what the model does not know, it drops.

    python judge.py DASHBOARD.json        with grafana-foundation-sdk
"""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def lost(written, understood, path):
    """The keys of what was written that did not get through the model; those that say nothing may."""
    if isinstance(written, dict):
        for key, value in written.items():
            if key in (understood or {}):
                yield from lost(value, understood[key], f"{path}.{key}")
            elif value not in (None, [], {}, ""):
                yield f"{path}.{key}"
    elif isinstance(written, list) and len(written) == len(understood or []):
        for position, (left, right) in enumerate(zip(written, understood)):
            yield from lost(left, right, f"{path}[{position}]")
    elif written != understood:
        yield path


def main(path):
    register_default_plugins()
    with open(path, encoding="utf-8") as file:
        ours = json.load(file)
    theirs = json.loads(json.dumps(Dashboard.from_json(ours), cls=JSONEncoder))
    gone = list(lost(ours["panels"], theirs["panels"], "panels"))
    for place in gone:
        print(f"{path}: Grafana does not know {place}", file=sys.stderr)
    if not ours["panels"]:
        print(f"{path}: no panels", file=sys.stderr)
    return 1 if gone or not ours["panels"] else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
