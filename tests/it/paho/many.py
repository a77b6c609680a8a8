"""A thousand messages of QoS 1, all sent before one acknowledgement is read, arrive once each and in order."""

from device import OWN, PATIENCE, Device, say

MANY = 1000

listener = Device("listener")
listener.connect()
listener.subscribe(f"{OWN}/many", 1)

speaker = Device("speaker")
speaker.client.max_inflight_messages_set(MANY)
speaker.client.max_queued_messages_set(0)
speaker.connect()
# With its network thread at rest, paho sends and does not read.
speaker.client.loop_stop()
sent = [speaker.client.publish(f"{OWN}/many", str(n).encode(), 1) for n in range(MANY)]
assert not any(info.is_published() for info in sent), "all are in flight"
speaker.client.loop_start()

for n in range(MANY):
    message = listener.hears(f"{OWN}/many", str(n).encode())
    assert not message.dup
for info in sent:
    info.wait_for_publish(PATIENCE)
    assert info.is_published()
speaker.disconnect()
listener.disconnect()
say("a thousand in order")
