"""A payload of 1 MB goes to the broker and comes back as it was."""

import random

from device import OWN, Device, say

payload = random.Random(1).randbytes(1_000_000)
device = Device("a")
device.connect()
device.subscribe(f"{OWN}/big")
for qos in (0, 1, 2):
    device.publish(f"{OWN}/big", payload, qos)
    device.hears(f"{OWN}/big", payload, qos)
device.disconnect()
say("1 MB both ways")
