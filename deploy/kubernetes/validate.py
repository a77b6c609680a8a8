"""Judges what was rendered: Kubernetes' objects by its own schemas, those of cert-manager and of the Prometheus operator by models
made of their definitions. Strictly: a key that nobody knows is a fault.

    python validate.py FILE.yaml …
"""

import sys

import kubernetes_validate
import yaml
from cloudcoil.models.cert_manager import v1 as cert_manager
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator

# The oldest that the manifests are for (preStop.sleep), and the newest that is known here.
VERSIONS = ["1.30", "1.34", "1.37"]

DEFINED = {"cert-manager.io/v1": cert_manager, "monitoring.coreos.com/v1": prometheus_operator}


def unknown(written, understood, path=""):
    """The keys of what was written that did not get through the model."""
    if isinstance(written, dict) and isinstance(understood, dict):
        for key, value in written.items():
            if key in understood:
                yield from unknown(value, understood[key], f"{path}.{key}")
            else:
                yield f"{path}.{key} is not known"
    elif isinstance(written, list) and isinstance(understood, list):
        for position, (left, right) in enumerate(zip(written, understood)):
            yield from unknown(left, right, f"{path}[{position}]")


def faults(thing):
    """What is wrong with one object, in sentences."""
    models = DEFINED.get(thing["apiVersion"])
    if models:
        try:
            model = getattr(models, thing["kind"])
            understood = model.model_validate(thing).model_dump(by_alias=True, exclude_unset=True, mode="json")
        except Exception as fault:  # pydantic's, or a kind that is not there
            return [str(fault)]
        return list(unknown(thing, understood))
    found = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except Exception as fault:  # one of several: no schema for the kind, no such version, not valid
            found.append(f"{version}: {str(fault).splitlines()[0]}")
    return found


def main(paths):
    count, bad = 0, 0
    for path in paths:
        with open(path, encoding="utf-8") as file:
            things = [thing for thing in yaml.safe_load_all(file) if thing]
        names = [(thing["kind"], thing["metadata"]["name"]) for thing in things]
        twice = {name for name in names if names.count(name) > 1}
        if twice or not things:
            bad += 1
            print(f"{path}: twice: {sorted(twice)}" if twice else f"{path}: nothing in it", file=sys.stderr)
        for thing, (kind, name) in zip(things, names):
            count += 1
            for fault in faults(thing):
                bad += 1
                print(f"{path}: {kind} {name}: {fault}", file=sys.stderr)
    print(f"{count} objects in {len(paths)} renderings, Kubernetes {', '.join(VERSIONS)}: {bad} faults")
    return 1 if bad or not count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
