"""What is measured: each scenario is one figure of the server, smaller being better."""

from dataclasses import dataclass, field

from .load import resumed_share
from .processes import Trouble
from .servers import Setting


@dataclass(frozen=True)
class Sizes:
    """How much of everything one round has."""

    handshakes: int = 2000
    idle: int = 5000
    most_idle: int = 9000
    seconds: int = 5

    def __str__(self):
        return f"{self.handshakes} handshakes, {self.idle} idle connections, {self.seconds} s of relay each"


QUICK = Sizes(handshakes=400, idle=1000, most_idle=2000, seconds=2)


@dataclass(frozen=True)
class Scenario:
    """`measure(load, server, port, setting, sizes)` gives the figure in `unit`, and further ones by name."""

    word: str
    title: str
    unit: str
    measure: object
    setting: Setting = field(default_factory=Setting)
    limit: str | None = None  # the case of handshake-limit that is its limit


def new(load, server, port, setting, sizes):
    devices = load.unknown(sizes.handshakes)
    return each(load.handshakes(server, port, setting, devices, sizes.handshakes))


def known(load, server, port, setting, sizes):
    # The warm-up has shown the server every one of them.
    return each(load.handshakes(server, port, setting, load.known(), sizes.handshakes))


def by_token(load, server, port, setting, sizes):
    devices = load.with_token(sizes.handshakes)
    return each(load.handshakes(server, port, setting, devices, sizes.handshakes))


def resumed(load, server, port, setting, sizes):
    # The load gets the first tickets before it begins. A device that comes twice at once may have none left.
    devices = load.unknown(64)
    report = load.handshakes(server, port, setting, devices, sizes.handshakes, resume=1)
    if (share := resumed_share(report)) < 0.9:
        raise Trouble(f"only {share:.0%} of its handshakes were resumed")
    return each(report)


def each(report):
    return report["server"]["cpu_us_each"], {}


def idle(load, server, port, setting, sizes, count=None):
    count = count or sizes.idle
    flags = [*load.unknown(count), "--connections", count, "--hold", "2s", "--keep-alive", "0s"]
    report = load.bench("connections", server, port, setting, flags)
    return report["server"]["resident_kib_each"], {}


def idle_most(load, server, port, setting, sizes):
    return idle(load, server, port, setting, sizes, sizes.most_idle)


def relay(size):
    def measure(load, server, port, setting, sizes):
        flags = [*load.unknown(16), "--connections", 16, "--size", size, "--qos", 0]
        report = load.bench("relay", server, port, setting, [*flags, "--duration", f"{sizes.seconds}s"])
        return report["server"]["cpu_ns_per_byte"], {}

    return measure


def qos1(load, server, port, setting, sizes):
    flags = [*load.unknown(200), "--connections", 200, "--size", 64, "--qos", 1, "--rate", 200 * 25]
    report = load.bench("relay", server, port, setting, [*flags, "--duration", f"{sizes.seconds}s"])
    further = latencies(report)
    if further["p99 µs"] is None:
        load.notes.append("it began its messages late, by more than a tenth of their p99: latencies would be its own")
    return report["server"]["cpu_us_each"], further


def latencies(report):
    """Of round trips, in µs; None where the load was too late itself for them to say anything of the server."""
    times, late = report["latency_us"]["puback"], report["client"]["late_p99_us"]
    own = late is None or times["p99"] is None or late * 10 > times["p99"]  # None: too few to know
    return {"p50 µs": None if own else times["p50"], "p99 µs": None if own else times["p99"], "late p99 µs": late}


MICROS, KIB, PER_BYTE = "µs of CPU", "KiB", "ns of CPU a byte"

SCENARIOS = (
    Scenario(
        "handshake-new", "full mTLS 1.3 handshake, CONNECT, CONNACK; devices never seen before", MICROS, new, limit="mtls13"
    ),
    Scenario("handshake-known", "the same, 64 devices seen before", MICROS, known, limit="mtls13_known"),
    Scenario("handshake-tls12", "mTLS 1.2, devices never seen before", MICROS, new, Setting(tls="1.2"), "mtls12"),
    Scenario("handshake-server-tls", "server-TLS 1.3 with a token", MICROS, by_token, Setting(mutual=False), "server_tls13"),
    Scenario("handshake-resumed", "resumed mTLS 1.3", MICROS, resumed, Setting(tickets=True), "mtls13_resumed"),
    Scenario("idle", "growth of resident memory for an idle mTLS connection", KIB, idle),
    Scenario("idle-max", "the same, as many as descriptors allow", KIB, idle_most),
    Scenario("relay-16k", "relay of 16 KB messages", PER_BYTE, relay("16KiB")),
    Scenario("relay-1k", "relay of 1 KB messages", PER_BYTE, relay("1KiB")),
    Scenario("relay-64", "relay of 64 B messages, one a TLS record", PER_BYTE, relay("64")),
    Scenario("qos1", "QoS 1 publish and its PUBACK, 200 connections at 25/s each", MICROS, qos1),
)
