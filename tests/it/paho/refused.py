"""MQTT 5: what the gate does not do is said by its code."""

from device import PATIENCE, Device, say
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

asks = Properties(PacketTypes.CONNECT)
asks.AuthenticationMethod = "SCRAM-SHA-1"
asks.AuthenticationData = b"n,,n=user,r=nonce"
device = Device("a")
device.dial(asks)
device.client.loop_start()
_, code, _ = device.connacks.get(timeout=PATIENCE)
assert code.value == 0x8C, code  # Bad authentication method
device.client.loop_stop()
say("bad authentication method")
