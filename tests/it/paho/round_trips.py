"""QoS 0, 1 and 2 to itself, and what is retained."""

from device import OWN, Device, say

device = Device("a")
device.connect()
device.subscribe(f"{OWN}/now/#")
for qos in (0, 1, 2):
    for payload in (b"", b"x", b"\x00\xff" * 100):
        device.publish(f"{OWN}/now/{qos}", payload, qos)
        device.hears(f"{OWN}/now/{qos}", payload, qos)
say("round trips")

for qos in (0, 1, 2):
    device.publish(f"{OWN}/kept/{qos}", b"kept", qos, retain=True)
device.disconnect()

later = Device("a")
later.connect()
for qos in (0, 1, 2):
    later.subscribe(f"{OWN}/kept/{qos}", qos)
    later.hears(f"{OWN}/kept/{qos}", b"kept", qos, retain=True)
    later.publish(f"{OWN}/kept/{qos}", b"", 1, retain=True)
    later.hears(f"{OWN}/kept/{qos}", b"", min(qos, 1))
later.disconnect()
say("retained")
