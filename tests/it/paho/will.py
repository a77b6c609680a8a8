"""The will is published when a device vanishes, and not when it says goodbye."""

from device import OWN, V5, Device, say, wait_for
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

watcher = Device("watcher")
watcher.connect()
watcher.subscribe(f"{OWN}/#")

properties = None
if V5:
    properties = Properties(PacketTypes.WILLMESSAGE)
    properties.ContentType = "text/plain"
    properties.UserProperty = [("cause", "unknown"), ("cause", "again")]


def mortal():
    device = Device("mortal")
    device.client.will_set(f"{OWN}/will", b"gone", qos=1, properties=properties)
    device.connect()
    return device


for reset in (False, True):
    mortal().vanish(reset)
    message = watcher.hears(f"{OWN}/will", b"gone")
    if V5:
        assert message.properties.ContentType == "text/plain"
        assert message.properties.UserProperty == [("cause", "unknown"), ("cause", "again")]
say("vanished")

mortal().disconnect()
say("said goodbye")
wait_for("both sides are closed")
watcher.hears_nothing_before(f"{OWN}/after", b"no will")
watcher.disconnect()
say("no will")
