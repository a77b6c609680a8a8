"""A device whose broker goes away is told so, and comes back by itself."""

from device import OWN, PATIENCE, V5, Device, say, wait_for

device = Device("a", reconnect=True)
device.client.reconnect_delay_set(1, 1)
device.connect()
device.subscribe(f"{OWN}/#")
device.publish(f"{OWN}/before", b"before")
device.hears(f"{OWN}/before", b"before")
say("there")
wait_for("the broker is away")
assert device.gone.wait(PATIENCE), "the device sees the end"
_, code, _ = device.connacks.get(timeout=PATIENCE)
# 0x03 of MQTT 3.x, which paho tells by its MQTT 5 name.
assert code.is_failure and code.value == 0x88, code
say("told so")
wait_for("the broker is back")
while code.is_failure:
    _, code, _ = device.connacks.get(timeout=PATIENCE)
    assert code.value in (0, 0x88), code
device.subscribe(f"{OWN}/#")
device.publish(f"{OWN}/after", b"after")
device.hears(f"{OWN}/after", b"after")
device.disconnect()
say("back")
