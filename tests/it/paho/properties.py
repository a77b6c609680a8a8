"""MQTT 5 properties, from end to end."""

import paho.mqtt.client as mqtt
from device import OWN, PATIENCE, Device, say
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

listener = Device("listener")
asks = Properties(PacketTypes.CONNECT)
asks.ReceiveMaximum = 3
asks.TopicAliasMaximum = 7
asks.SessionExpiryInterval = 60
asks.RequestProblemInformation = 1
_, told = listener.connect(asks)
assert not hasattr(told, "AssignedClientIdentifier"), "it sent a client id"
listener.subscribe(f"{OWN}/#")

speaker = Device("speaker")
_, told = speaker.connect()
assert told.TopicAliasMaximum >= 1, "Mosquitto takes aliases, and the gate lets that through"

first = Properties(PacketTypes.PUBLISH)
first.PayloadFormatIndicator = 1
first.ContentType = "application/json"
first.ResponseTopic = f"{OWN}/answer"
first.CorrelationData = b"\x00\x01\xff"
first.MessageExpiryInterval = 600
first.UserProperty = [("b", "2"), ("a", "1"), ("b", "2"), ("", "empty name"), ("ü", "ß")]
speaker.publish(f"{OWN}/question", b"{}", properties=first)
got = listener.hears(f"{OWN}/question", b"{}").properties
assert got.PayloadFormatIndicator == 1
assert got.ContentType == "application/json"
assert got.ResponseTopic == f"{OWN}/answer"
assert got.CorrelationData == b"\x00\x01\xff"
assert 0 < got.MessageExpiryInterval <= 600
assert got.UserProperty == first.UserProperty, got.UserProperty
say("properties")

alias = Properties(PacketTypes.PUBLISH)
alias.TopicAlias = 1
speaker.publish(f"{OWN}/a/long/topic", b"named", properties=alias)
listener.hears(f"{OWN}/a/long/topic", b"named")
# paho takes no empty topic for a message of its own: it is put where paho would have written the topic.
info = mqtt.MQTTMessageInfo(speaker.client._mid_generate())
speaker.client._send_publish(info.mid, b"", b"by alias", 0, properties=alias, info=info)
listener.hears(f"{OWN}/a/long/topic", b"by alias", qos=0)
say("topic alias")

# With a Receive Maximum of 3 the broker may not have a fourth message unacknowledged (MQTT 5.0 §3.3.4).
listener.client.manual_ack_set(True)
for n in range(4):
    speaker.publish(f"{OWN}/many", str(n).encode())
three = [listener.message() for _ in range(3)]
assert [message.payload for message in three] == [b"0", b"1", b"2"]
speaker.publish(f"{OWN}/fence", b"QoS 0 is not counted", qos=0)
assert listener.message().payload == b"QoS 0 is not counted"
for message in three:
    listener.client.ack(message.mid, message.qos)
assert listener.message().payload == b"3"
listener.disconnect()
say("receive maximum")

# Session expiry: it went with the CONNECT, so the session is there; at 0, given with the goodbye, it is not.
back = Device("listener", clean=False)
flags, _ = back.connect(asks)
assert flags.session_present
end = Properties(PacketTypes.DISCONNECT)
end.SessionExpiryInterval = 0
back.client.disconnect(properties=end)
assert back.gone.wait(PATIENCE)
back.client.loop_stop()
again = Device("listener", clean=False)
flags, _ = again.connect()
assert not flags.session_present
again.disconnect()
speaker.disconnect()
say("session expiry")
