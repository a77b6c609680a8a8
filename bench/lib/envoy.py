"""Envoy, given by its path."""

import json

from .servers import MOST_CONNECTIONS, Server


class Envoy(Server):
    word, title = "envoy", "Envoy"
    version_pattern = r"/(\d+\.\d+\.\d+)/"

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
