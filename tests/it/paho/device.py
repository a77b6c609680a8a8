"""A device that paho speaks for, and what the scripts share.

A script is called with MQTT version, port and folder; it says what it has done line by line, waits on its standard
input where the test has something to do, and fails with an exception.
"""

import queue
import socket
import ssl
import struct
import sys
import threading
from pathlib import Path

import paho.mqtt.client as mqtt

PATIENCE = 20
VERSIONS = {"3.1": mqtt.MQTTv31, "3.1.1": mqtt.MQTTv311, "5.0": mqtt.MQTTv5}

VERSION = VERSIONS[sys.argv[1]]
V5 = VERSION == mqtt.MQTTv5
PORT = int(sys.argv[2])
FOLDER = Path(sys.argv[3])
NAME = "meter-7"
OWN = f"devices/{NAME}"


def say(word):
    print(word, flush=True)


def wait_for(word):
    heard = sys.stdin.readline().strip()
    assert heard == word, f"heard {heard!r} instead of {word!r}"


class Device:
    """A connection of meter-7; its network thread runs until the end."""

    def __init__(self, client_id, clean=True, reconnect=False):
        clean_session = None if V5 else clean
        self.clean = clean
        self.messages = queue.Queue()
        self.connacks = queue.Queue()
        self.subacks = queue.Queue()
        self.gone = threading.Event()
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=clean_session,
            protocol=VERSION,
            reconnect_on_failure=reconnect,
        )
        self.client.tls_set(
            ca_certs=str(FOLDER / "ca.pem"),
            certfile=str(FOLDER / f"{NAME}.pem"),
            keyfile=str(FOLDER / f"{NAME}.key"),
            tls_version=ssl.PROTOCOL_TLS_CLIENT,
        )
        self.client.on_connect = lambda _c, _u, flags, code, properties: self.connacks.put(
            (flags, code, properties)
        )
        self.client.on_message = lambda _c, _u, message: self.messages.put(message)
        self.client.on_subscribe = lambda _c, _u, _m, codes, _p: self.subacks.put(codes)
        self.client.on_disconnect = lambda *_: self.gone.set()

    def dial(self, properties=None):
        more = {"clean_start": self.clean, "properties": properties} if V5 else {}
        self.gone.clear()
        self.client.connect("localhost", PORT, keepalive=60, **more)

    def connect(self, properties=None):
        """Connects; gives the flags and the properties of the CONNACK."""
        self.dial(properties)
        self.client.loop_start()
        flags, code, properties = self.connacks.get(timeout=PATIENCE)
        assert not code.is_failure, f"refused: {code}"
        return flags, properties

    def subscribe(self, topic, qos=2):
        self.client.subscribe(topic, qos)
        codes = self.subacks.get(timeout=PATIENCE)
        assert [code.value for code in codes] == [qos], codes

    def publish(self, topic, payload, qos=1, retain=False, properties=None):
        """Publishes and waits until the broker has it."""
        info = self.client.publish(topic, payload, qos, retain, properties)
        info.wait_for_publish(PATIENCE)
        assert info.is_published(), f"{topic} is not acknowledged"

    def message(self):
        return self.messages.get(timeout=PATIENCE)

    def hears(self, topic, payload, qos=1, retain=False):
        message = self.message()
        heard = (message.topic, message.payload, message.qos, message.retain)
        assert heard == (topic, payload, qos, retain), heard
        return message

    def hears_nothing_before(self, topic, payload):
        """Publishes to itself, and hears that before anything else."""
        self.publish(topic, payload)
        self.hears(topic, payload)

    def disconnect(self):
        self.client.disconnect()
        assert self.gone.wait(PATIENCE)
        self.client.loop_stop()

    def vanish(self, reset):
        """Ends the TCP connection and nothing more: no DISCONNECT, no close_notify; a FIN, or a reset."""
        sock = self.client.socket()
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        else:
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        self.client.loop_stop()
