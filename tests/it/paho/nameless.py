"""An MQTT 5 device that sends no client id is told the one it got (MQTT 5.0 §3.1.3.1)."""

from device import NAME, OWN, Device, say

device = Device("")
_, told = device.connect()
assert told.AssignedClientIdentifier == NAME, told
device.subscribe(f"{OWN}/#")
device.publish(f"{OWN}/x", b"hello")
device.hears(f"{OWN}/x", b"hello")
device.disconnect()
say("told its name")
