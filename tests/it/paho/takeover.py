"""The same client id twice: the broker ends the first connection, and the second stays."""

from device import OWN, PATIENCE, Device, say

first = Device("twin")
first.connect()
second = Device("twin")
second.connect()
assert first.gone.wait(PATIENCE)
second.subscribe(f"{OWN}/#")
second.publish(f"{OWN}/x", b"still there")
second.hears(f"{OWN}/x", b"still there")
second.disconnect()
say("taken over")
