//! The configuration in force, printed and loaded again.

use super::*;

/// Every key, none at its default.
const FULL: &str = r#"
[[listener]]
name = "devices"
bind = ["0.0.0.0:8883", "[::1]:0"]
mode = "mixed-tls"
trust = ["fleet"]
proxy_protocol_from = ["10.0.0.0/8", "::1"]
[listener.tls]
certificate = "dir with \"quotes\"/server.pem"
key = 'C:\server.key'
min_version = "1.3"
max_record = "1KiB"
alpn = ["mqtt"]
resumption = "tickets"
ticket_secret_file = "ticket.secret"
[[listener.tls.also]]
names = ["EU.example.net", "*.example.net"]
certificate = "eu.pem"
key = "eu.key"
[[listener]]
name = "local"
bind = "127.0.0.1:1883"
mode = "plain"
[[trust]]
name = "fleet"
ca = "ca.pem"
intermediates = ["i.pem"]
crl = ["a.crl", "b.crl"]
crl_stale = "use"
device = "san.uri"
pattern = '^urn:device:(?<device>.+)$'
[[trust]]
ca = "other.pem"
[token]
in = "username"
key_file = "keys/token.key"
[registry]
url = "postgres://gate@db.example.net:5433/devices?sslmode=verify-full&sslrootcert=my ca.pem"
password_file = "db.secret"
unknown = "register"
register_quota = 7
register_approval = true
grace = "2h"
cache = "8MiB"
[token.jwt]
keys = "https://issuer.example/jwks.json"
ca = "issuer-ca.pem"
issuer = "https://issuer.example"
audience = "mqtt"
algorithms = ["PS256"]
device_claim = "client_id"
[connect]
client_id = "{listener}/{device}"
username = "{device}"
password = "{password}"
asked_client_id = "device"
user_properties = { "x-mode" = "{mode}", b = "{{é\\" }
extra_characters = ":@"
[broker]
addresses = ["mqtt://10.0.0.1:1884", "unix:///run/b.sock", "mqtts://10.0.0.2"]
dial_timeout = "1500ms"
proxy_protocol = "v2"
allow_plaintext = true
health = { interval = "1m" }
[broker.tls]
ca = "broker-ca.pem"
certificate = "gate.pem"
key = "gate.key"
server_name = "broker.internal"
[limits]
connections = 1_000
handshakes = 64
handshake_timeout = "8s"
connect_timeout = "9s"
connect_bytes = 1000
drain_delay = "5s"
drain_timeout = "0s"
connections_per_address = 50
accepts_per_address = 5
[drain]
tell = "use-another-server"
server_reference = "gate-2.example.net:8883 [2001:db8::1]"
[admin]
bind = "[::1]:0"
allow_plaintext = true
[log]
format = "json"
level = "debug"
"#;

/// What is obeyed; warnings told apart, as some speak of what was written.
fn obeyed(config: &Config) -> String {
    format!(
        "{:#?}",
        Config {
            warnings: Vec::new(),
            connections_written: true, // as all of what is printed is
            ..config.clone()
        }
    )
}

#[test]
fn the_configuration_in_force_can_be_loaded_again() {
    for file in [
        GOOD,
        FULL,
        &FULL.replace("\"[::1]:0\"\n[log]", "\"off\"\n[log]"),
        &good_with(
            "[registry]",
            "url = \"sqlite://devices.db\"\nunknown = \"admit\"",
        ),
    ] {
        let first = Operator::writes(file).loads().expect("good");
        let printed = first.to_toml();
        let again = Operator::writes(&printed)
            .loads()
            .unwrap_or_else(|faults| panic!("{faults:?}\n{printed}"));
        assert_eq!(obeyed(&again), obeyed(&first));
        assert_eq!(again.to_toml(), printed);
    }
}

#[test]
fn the_configuration_in_force_is_complete() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("s"), "hunter2").expect("written");
    std::fs::write(folder.path().join("t"), "hunter2".repeat(5)).expect("written");
    let file = FULL
        .replace("password = \"{password}\"", "password_file = \"s\"")
        .replace("[log]", "token_file = \"t\"\n[log]");
    let with_file = Operator::writes(&file)
        .loads_in(folder.path())
        .expect("good")
        .to_toml();
    let printed = Operator::writes(FULL).loads().expect("good").to_toml() + &with_file;
    assert!(!printed.contains("hunter2"), "threats.md K2");
    for key in keys() {
        let leaf = key.rsplit('.').next().expect("a last word");
        assert!(
            printed.contains(&format!("\n{leaf} = ")),
            "{key} is not printed"
        );
    }
}
