"""MQTT 5: an alias that the broker did not allow makes it say goodbye, and why."""

import queue

from device import OWN, PATIENCE, Device, say
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

device = Device("a")
codes = queue.Queue()
device.client.on_disconnect = lambda _c, _u, _f, code, _p: codes.put(code)
_, told = device.connect()
alias = Properties(PacketTypes.PUBLISH)
alias.TopicAlias = told.TopicAliasMaximum + 1
device.client.publish(f"{OWN}/x", b"x", 0, properties=alias)
code = codes.get(timeout=PATIENCE)
assert code.value == 0x94, code
device.client.loop_stop()
say("invalid topic alias")
