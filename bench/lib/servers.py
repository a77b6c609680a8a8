"""The servers that are compared, each with the settings that make it like the others.

One worker or thread, on one core; the same chain, key and CA; logs off; tickets and session caches off unless they are
what is measured; the TLS version and the key exchange fixed. What a server cannot do is said by `absent`.
"""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MOST_CONNECTIONS = 100_000

NO_TICKETS = """
openssl_conf = all
[all]
ssl_conf = tls
[tls]
system_default = defaults
[defaults]
NumTickets = 0
"""


@dataclass(frozen=True)
class Setting:
    """What a scenario asks of a server."""

    tls: str = "1.3"
    mutual: bool = True
    tickets: bool = False

    @property
    def key_exchange(self):
        """X25519; in TLS 1.2 P-256, because there OpenSSL serves a certificate only to those who name its curve too."""
        return "x25519" if self.tls == "1.3" else "p256"


@dataclass(frozen=True)
class Place:
    """Where a server stands in one run."""

    folder: Path  # its own, empty
    keys: object
    port: int
    broker: int  # the port of the broker behind it
    descriptors: int = MOST_CONNECTIONS

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path


class Server:
    """One program. `word` is what --servers says, `package` the one of Debian, `title` what tables say."""

    word = title = package = None
    names = ()  # of the program, the first that is there counts
    version_flag = "--version"
    openssl = False  # it uses OpenSSL, and reads its configuration

    def __init__(self, program=None):
        self.program = program or next(filter(None, map(which, self.names)), None)

    def version(self):
        """What it says of itself, in one line."""
        told = subprocess.run([self.program, self.version_flag], capture_output=True, text=True, check=False)
        found = re.search(r"\d+\.\d+[\w.+-]*", told.stdout + told.stderr)
        return found.group() if found else "?"

    def absent(self, setting, keys, folder):  # noqa: ARG002: some servers look
        """Why it has no part in what that setting is for; None: it has."""
        return None

    def environment(self, place, setting):
        """Variables for it. OpenSSL sends two tickets in TLS 1.3 even when a server turned them off, unless told this."""
        if not self.openssl or setting.tickets:
            return {}
        return {"OPENSSL_CONF": str(place.write("openssl.cnf", NO_TICKETS))}

    def command(self, place, setting):
        """Writes its configuration into the place, and gives the command that serves from it until it is ended."""
        raise NotImplementedError


class Tidegate(Server):
    word = title = "tidegate"

    def absent(self, setting, keys, folder):
        if not setting.mutual:
            return "it does not admit a device without a certificate yet: tokens have not landed"
        if setting.tickets:
            path = folder / "resumption.toml"
            path.write_text(self.configuration(Place(folder, keys, 1, 1), setting))
            asked = [self.program, "check", "--config", path]
            if subprocess.run(asked, capture_output=True, check=False).returncode != 0:
                return "it gives out no tickets yet: `listener.tls.resumption` has not landed"
        return None

    def command(self, place, setting):
        path = place.write("tidegate.toml", self.configuration(place, setting))
        return [self.program, "run", "--config", path]

    def configuration(self, place, setting):
        keys = place.keys
        return f"""
[[listener]]
name = "devices"
bind = "127.0.0.1:{place.port}"
mode = "mutual-tls"
[listener.tls]
certificate = "{keys.certificate}"
key = "{keys.key}"
{'resumption = "tickets"' if setting.tickets else ""}
[[trust]]
name = "fleet"
ca = "{keys.ca}"
[broker]
addresses = "mqtt://127.0.0.1:{place.broker}"
[admin]
bind = "127.0.0.1:0"
[log]
level = "error"
"""


class Minimal(Server):
    word, title = "minimal", "minimal proxy"

    def version(self):
        return "this source"

    def command(self, place, setting):
        keys = place.keys
        return [
            self.program,
            *("--listen", f"127.0.0.1:{place.port}", "--broker", f"127.0.0.1:{place.broker}"),
            *("--certificate", keys.certificate, "--key", keys.key, "--tls", setting.tls),
            *(["--client-ca", keys.ca] if setting.mutual else []),
            *(["--tickets"] if setting.tickets else []),
        ]

    def plain_command(self, place):
        return [
            *(self.program, "--plain"),
            *("--listen", f"127.0.0.1:{place.port}", "--broker", f"127.0.0.1:{place.broker}"),
        ]


class HAProxy(Server):
    word, title, package, names, version_flag = "haproxy", "HAProxy", "haproxy", ("haproxy",), "-v"
    openssl = True

    def command(self, place, setting):
        keys = place.keys
        verify = f"ca-file {keys.ca} verify required" if setting.mutual else ""
        tickets = "" if setting.tickets else "no-tls-tickets"
        version = f"ssl-min-ver TLSv{setting.tls} ssl-max-ver TLSv{setting.tls}"
        path = place.write(
            "haproxy.cfg",
            f"""
global
    nbthread 1
    maxconn {connections(place)}
    tune.ssl.cachesize {20000 if setting.tickets else 0}
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen devices
    bind 127.0.0.1:{place.port} ssl crt {keys.both} {verify} {tickets} {version} curves X25519:P-256
    server broker 127.0.0.1:{place.broker}
""",
        )
        return [self.program, "-db", "-q", "-f", path]


class Nginx(Server):
    word, title, package, names, version_flag = "nginx", "nginx (stream)", "nginx libnginx-mod-stream", ("nginx",), "-v"
    openssl = True
    modules = ("/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so")

    def command(self, place, setting):
        keys = place.keys
        module = next(filter(os.path.exists, self.modules), None)
        verify = f"ssl_client_certificate {keys.ca}; ssl_verify_client on;" if setting.mutual else ""
        path = place.write(
            "nginx.conf",
            f"""
{f"load_module {module};" if module else ""}
{"user root;" if os.geteuid() == 0 else ""}
daemon off;
worker_processes 1;
pid {place.folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections {2 * connections(place)}; }}
stream {{
    access_log off;
    server {{
        listen 127.0.0.1:{place.port} ssl backlog=4096;
        ssl_certificate {keys.certificate};
        ssl_certificate_key {keys.key};
        {verify}
        ssl_protocols TLSv{setting.tls};
        ssl_ecdh_curve X25519:P-256;
        ssl_session_tickets {"on" if setting.tickets else "off"};
        ssl_session_cache off;
        tcp_nodelay on;
        proxy_timeout 1h;
        proxy_pass 127.0.0.1:{place.broker};
    }}
}}
""",
        )
        return [self.program, "-p", place.folder, "-e", "stderr", "-c", path]


class Hitch(Server):
    word, title, package, names = "hitch", "hitch", "hitch", ("hitch",)
    openssl = True

    def command(self, place, setting):
        keys = place.keys
        verify = f'client-verify = required\nclient-verify-ca = "{keys.ca}"' if setting.mutual else ""
        not_root = 'user = "nobody"\ngroup = "nogroup"' if os.geteuid() == 0 else ""
        path = place.write(
            "hitch.conf",
            f"""
frontend = {{ host = "127.0.0.1" port = "{place.port}" }}
backend = "[127.0.0.1]:{place.broker}"
pem-file = "{keys.both}"
{not_root}
workers = 1
daemon = off
log-level = 1
ocsp-dir = ""
backend-refresh = 0
tls-protos = TLSv{setting.tls}
ecdh-curve = "X25519:P-256"
{verify}
""",
        )
        return [self.program, f"--config={path}"]


class Stunnel(Server):
    word, title, package, names = "stunnel", "stunnel", "stunnel4", ("stunnel4", "stunnel")
    openssl = True
    version_flag = "-version"

    def version(self):
        told = subprocess.run([self.program, self.version_flag], capture_output=True, text=True, check=False)
        return re.search(r"stunnel (\S+)", told.stdout + told.stderr).group(1)

    def command(self, place, setting):
        keys = place.keys
        verify = f"CAfile = {keys.ca}\nverifyChain = yes\nrequireCert = yes" if setting.mutual else ""
        tickets = "" if setting.tickets else "options = NO_TICKET\nsessionResume = no"
        path = place.write(
            "stunnel.conf",
            f"""
foreground = yes
pid =
debug = crit
syslog = no
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[devices]
accept = 127.0.0.1:{place.port}
connect = 127.0.0.1:{place.broker}
cert = {keys.certificate}
key = {keys.key}
{verify}
sslVersion = TLSv{setting.tls}
curves = X25519:P-256
{tickets}
""",
        )
        return [self.program, path]


class Mosquitto(Server):
    """The broker itself: it ends TLS and does the broker's work too, so it is no proxy among proxies."""

    word, title, package, names = "mosquitto", "Mosquitto's own TLS", "mosquitto", ("mosquitto",)
    openssl = True

    def version(self):
        told = subprocess.run([self.program, "-h"], capture_output=True, text=True, check=False)
        return re.search(r"version (\S+)", told.stdout).group(1)

    def command(self, place, setting):
        keys = place.keys
        mutual = "require_certificate true\nuse_identity_as_username true" if setting.mutual else ""
        path = place.write(
            "mosquitto.conf",
            f"""
{"user root" if os.geteuid() == 0 else ""}
log_type none
log_dest stderr
persistence false
set_tcp_nodelay true
max_queued_messages 0
allow_anonymous true
listener {place.port} 127.0.0.1
max_connections -1
cafile {keys.ca}
certfile {keys.certificate}
keyfile {keys.key}
tls_version tlsv{setting.tls}
{mutual}
""",
        )
        return [self.program, "-c", path]


class Envoy(Server):
    word, title = "envoy", "Envoy"

    def version(self):
        told = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=False)
        return re.search(r"/(\d+\.\d+\.\d+)/", told.stdout).group(1)

    def command(self, place, setting):
        path = place.write("envoy.json", json.dumps(self.configuration(place, setting), indent=1))
        flags = ["--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
        return [self.program, "-c", path, *flags]

    def configuration(self, place, setting):
        keys = place.keys
        version = f"TLSv{setting.tls.replace('.', '_')}"
        tls = {
            "common_tls_context": {
                "tls_params": {
                    "tls_minimum_protocol_version": version,
                    "tls_maximum_protocol_version": version,
                    "ecdh_curves": ["X25519", "P-256"],
                },
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": str(keys.certificate)},
                        "private_key": {"filename": str(keys.key)},
                    }
                ],
            },
            "require_client_certificate": setting.mutual,
            "disable_stateful_session_resumption": True,
        }
        if setting.mutual:
            tls["common_tls_context"]["validation_context"] = {"trusted_ca": {"filename": str(keys.ca)}}
        if not setting.tickets:
            tls["disable_stateless_session_resumption"] = True
        proxy = {"stat_prefix": "devices", "cluster": "broker", "idle_timeout": "0s"}
        listener = {
            "name": "devices",
            "address": address(place.port),
            "tcp_backlog_size": 4096,
            "filter_chains": [
                {
                    "transport_socket": typed(
                        "envoy.transport_sockets.tls", "transport_sockets.tls.v3.DownstreamTlsContext", tls
                    ),
                    "filters": [
                        typed("envoy.filters.network.tcp_proxy", "filters.network.tcp_proxy.v3.TcpProxy", proxy)
                    ],
                }
            ],
        }
        cluster = {
            "name": "broker",
            "type": "STATIC",
            "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [dict.fromkeys(
                ("max_connections", "max_pending_requests", "max_requests"), MOST_CONNECTIONS)]},
            "load_assignment": {
                "cluster_name": "broker",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(place.broker)}}]}],
            },
        }
        return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def typed(name, kind, config):
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.{kind}", **config}}


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def connections(place):
    """As many as its descriptors allow: each connection of a proxy takes two."""
    return min(MOST_CONNECTIONS, (place.descriptors - 100) // 2)


def which(name):
    """The path of a program; servers lie in sbin, which is not on everybody's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")


PACKAGED = (HAProxy, Nginx, Hitch, Stunnel, Mosquitto)
EVERY = (Tidegate, Minimal, *PACKAGED, Envoy)
