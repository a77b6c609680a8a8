#!/usr/bin/env python3
"""Makes RabbitMQ's definitions from tidegate's devices: a user for each, with its own topics and no others.

    tidegate device list --json | ./definitions.py broker.secret > definitions.json

broker.secret is the file of `connect.password_file`: all devices have this one password, which the gates alone know. RabbitMQ
reads a dot in a topic as a slash, and names in rules as regular expressions; so a device with a dot in its id could write to
other devices' topics. Such ids, and all others that are not plain, are refused here: nothing is written, exit code 1.
"""

import base64
import hashlib
import json
import os
import re
import sys

PLAIN = re.compile(r"[A-Za-z0-9_-]{1,128}")


def hashed(password: bytes) -> str:
    """As RabbitMQ keeps it: four bytes of salt, then SHA-256 of salt and password, all in base64."""
    salt = os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password).digest()).decode()


def definitions(devices: list[str], password: bytes) -> dict:
    # One hash for all: a salt for each would hide nothing, for the password is one.
    secret = hashed(password)
    result = {
        "vhosts": [{"name": "/"}],
        "users": [],
        "permissions": [],
        "topic_permissions": [],
    }
    for device in devices:
        # The queue of its subscriptions, by client id (connect.client_id = "{device}") and QoS, and the exchange of all topics.
        queue = f"mqtt-subscription-{device}qos[01]"
        both = rf"^(amq\.topic|{queue})$"
        topics = rf"^devices\.{device}\."
        result["users"].append(
            {
                "name": device,
                "password_hash": secret,
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": [],
            }
        )
        result["permissions"].append(
            {"user": device, "vhost": "/", "configure": f"^{queue}$", "write": both, "read": both}
        )
        result["topic_permissions"].append(
            {"user": device, "vhost": "/", "exchange": "amq.topic", "write": topics, "read": topics}
        )
    return result


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: tidegate device list --json | definitions.py PASSWORD-FILE > definitions.json", file=sys.stderr)
        return 2
    with open(sys.argv[1], "rb") as file:
        password = re.sub(rb"\r?\n\Z", b"", file.read())
    if not password:
        print(f"{sys.argv[1]} is empty; write the password of connect.password_file", file=sys.stderr)
        return 1
    devices = [json.loads(line)["device"] for line in sys.stdin]
    odd = [device for device in devices if not PLAIN.fullmatch(device)]
    if odd:
        print(f"RabbitMQ would mix these up with other devices: {', '.join(odd)}", file=sys.stderr)
        return 1
    json.dump(definitions(devices, password), sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
