"""A session that outlives its connection: subscriptions stay, and what was missed is told, in order."""

import paho.mqtt.client as mqtt
from device import OWN, V5, VERSION, Device, say
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

properties = None
if V5:
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600


def sleeper():
    return Device("sleeper", clean=False)


device = sleeper()
flags, _ = device.connect(properties)
assert not flags.session_present, "it is the first time"
device.subscribe(f"{OWN}/mail/#")
device.disconnect()

other = Device("other")
other.connect()
for n in range(100):
    for qos in (1, 2):
        other.publish(f"{OWN}/mail/{qos}", str(n).encode(), qos)
other.disconnect()

device = sleeper()
flags, _ = device.connect(properties)
# MQTT 3.1 has no word for it in its CONNACK.
assert flags.session_present or VERSION == mqtt.MQTTv31, "the session is there"
missed = [device.message() for _ in range(200)]
for qos in (1, 2):  # each in its own order: a message of QoS 2 is told once the broker has released it
    payloads = [int(message.payload) for message in missed if message.qos == qos]
    assert payloads == list(range(100)), payloads
device.disconnect()
say("heard what it missed")

device = Device("sleeper", clean=True)
flags, _ = device.connect()
assert not flags.session_present, "it asked for a clean one"
device.disconnect()
say("forgotten")
