"""MQTT 5: a goodbye may ask for the will (0x04), and a will may wait; one that comes back in time keeps it."""

from device import OWN, PATIENCE, Device, say
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

watcher = Device("watcher")
watcher.connect()
watcher.subscribe(f"{OWN}/#")

mortal = Device("mortal")
mortal.client.will_set(f"{OWN}/will", b"asked for", qos=1)
mortal.connect()
mortal.client.disconnect(ReasonCode(PacketTypes.DISCONNECT, identifier=4))
assert mortal.gone.wait(PATIENCE)
mortal.client.loop_stop()
watcher.hears(f"{OWN}/will", b"asked for")
say("asked for")


def delayed(delay):
    will = Properties(PacketTypes.WILLMESSAGE)
    will.WillDelayInterval = delay
    session = Properties(PacketTypes.CONNECT)
    session.SessionExpiryInterval = 3600
    device = Device("sleeper", clean=False)
    device.client.will_set(f"{OWN}/late", b"late", qos=1, properties=will)
    device.connect(session)
    return device


delayed(3600).vanish(reset=False)
back = delayed(1)
watcher.hears_nothing_before(f"{OWN}/fence", b"it came back in time")
back.vanish(reset=False)
watcher.hears(f"{OWN}/late", b"late")
watcher.disconnect()
say("late")
