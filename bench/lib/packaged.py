"""The servers that Debian has."""

import os

from .servers import Server, connections

# Connections that stand while bench/storm measures.
ESTABLISHED = 200


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
    {self.limits(place, setting)}
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen devices
    bind 127.0.0.1:{place.port} ssl crt {keys.both} {verify} {tickets} {version} curves X25519:P-256 {self.queue}
    server broker 127.0.0.1:{place.broker}
""",
        )
        return [self.program, "-db", "-q", "-f", path]

    queue = ""

    def limits(self, place, setting):
        return f"maxconn {connections(place)}\n    tune.ssl.cachesize {20000 if setting.tickets else 0}"


class HAProxyDefault(HAProxy):
    """As it is when nobody set a limit."""

    word, title = "haproxy-default", "HAProxy, defaults"

    def limits(self, place, setting):
        return ""


class HAProxyTuned(HAProxy):
    """As somebody sets it who knows the storm to come: few at once beside those that are established, a short queue."""

    word, title = "haproxy-tuned", "HAProxy, by hand"
    queue = "backlog 128"

    def limits(self, place, setting):
        return f"maxconn {ESTABLISHED + 64}"


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
    version_flag, version_pattern = "-version", r"stunnel (\S+)"

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
    version_flag, version_pattern = "-h", r"version (\S+)"

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


PACKAGED = (HAProxy, Nginx, Hitch, Stunnel, Mosquitto)
