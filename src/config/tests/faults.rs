//! Each fault by its key, all at once; what is no fault but worth a look.

use super::*;
use crate::tls::server::Resumption;

#[test]
fn the_smallest_file_has_every_default() {
    let config = Operator::writes(GOOD).loads().expect("a good file");
    let listener = &config.gate.listeners[0];
    assert_eq!(&*listener.name, "default");
    assert_eq!(listener.offer.word(), "mutual-tls");
    assert_eq!(listener.trust, ["default"]);
    assert_eq!(config.gate.limits.connections, 100_000);
    assert_eq!(config.gate.limits.connect_bytes, 16_384);
    assert_eq!(config.gate.broker.dial_timeout.as_secs(), 3);
    assert_eq!(
        config.admin.expect("on by default").bind.to_string(),
        "127.0.0.1:9883"
    );
    assert_eq!(config.warnings, [""; 0]);
    let tls = listener.tls.as_ref().expect("TLS");
    assert_eq!(tls.resumption, Resumption::Off, "threats.md T5, T6");
}

#[test]
fn tickets_without_a_secret_of_their_own_are_warned_of_and_a_secret_without_tickets() {
    let warnings = |lines: &str| {
        let file = GOOD.replacen("[listener.tls]\n", &format!("[listener.tls]\n{lines}"), 1);
        let config = Operator::writes(&file).loads().expect("good");
        let tls = config.gate.listeners[0].tls.clone().expect("TLS");
        (tls.resumption, config.warnings.join("\n"))
    };
    let tickets = |secret_file: Option<&str>| Resumption::Tickets {
        secret_file: secret_file.map(Into::into),
    };
    let (resumption, told) = warnings("resumption = \"tickets\"\n");
    assert_eq!(resumption, tickets(None));
    assert!(
        told.starts_with("listener[0].tls.resumption: tickets by a secret of each start's own"),
        "{told}"
    );

    let both = "resumption = \"tickets\"\nticket_secret_file = \"/run/ticket.secret\"\n";
    assert_eq!(
        warnings(both),
        (tickets(Some("/run/ticket.secret")), String::new())
    );

    let (resumption, told) = warnings("ticket_secret_file = \"ticket.secret\"\n");
    assert_eq!(resumption, Resumption::Off);
    assert!(
        told.starts_with("listener[0].tls.ticket_secret_file: has no effect"),
        "{told}"
    );
}

#[test]
fn each_fault_tells_by_its_key_with_the_way_out() {
    #[rustfmt::skip]
    let table = [
        // [[listener]]
        ("[listener.tls]", "resumption = \"ticket\"", "listener[0].tls.resumption: \"ticket\" is not known here; did you mean \"tickets\"? write one of off | tickets"),
        ("[listener.tls]", "ticket_secret_file = \"\"", "listener[0].tls.ticket_secret_file: is empty; write ticket_secret_file = \"ticket.secret\""),
        ("[[listener]]", "name = \"a b\"", "listener[0].name: \"a b\" is not 1 to 64 of A–Z a–z 0–9 . _ -; write a plain word, such as devices"),
        ("[[listener]]", "name = 7", "listener[0].name: is a whole number, where a text belongs; write name = \"devices\""),
        ("[[listener]]", "mode = \"mtls\"", "listener[0].mode: \"mtls\" is not known here; write one of mutual-tls | server-tls | mixed-tls | plain"),
        ("[[listener]]", "mode = \"mutal-tls\"", "listener[0].mode: \"mutal-tls\" is not known here; did you mean \"mutual-tls\"? write one of mutual-tls | server-tls | mixed-tls | plain"),
        ("[[listener]]", "mode = \"plain\"", "listener[0].tls: has no place on a plain listener; remove it, or choose a TLS mode"),
        ("[[listener]]", "trust = [\"defalt\"]", "listener[0].trust[0]: there is no trust group \"defalt\"; did you mean \"default\"?"),
        ("[[listener]]", "trust = [\"default\", \"default\"]", "listener[0].trust[1]: \"default\" is there twice; write it once"),
        ("[[listener]]", "trust = []", "listener[0].trust: mutual-tls needs a trust group to judge certificates by; write a [[trust]] with ca = [\"devices-ca.pem\"], or use --client-ca; with a [registry], pinned certificates need none"),
        ("[[listener]]", "trust = [1]", "listener[0].trust[0]: is a whole number, where a text belongs; write \"fleet\""),
        ("[[listener]]", "proxy_protocol = \"v1\"", "listener[0].proxy_protocol: is not a known key; did you mean proxy_protocol_from?"),
        ("[[listener]]", "proxy_protocol_from = [\"10.1.2.3/8\"]", "listener[0].proxy_protocol_from[0]: \"10.1.2.3/8\" is an address within a network; write 10.0.0.0/8 for the network, or 10.1.2.3 alone"),
        ("[[listener]]", "proxy_protocol_from = [\"10.0.0.1\", \"::ffff:10.0.0.1/128\"]", "listener[0].proxy_protocol_from[1]: \"::ffff:10.0.0.1/128\" is there twice; write it once"),
        ("[[listener]]", "proxy_protocol_from = \"lb\"", "listener[0].proxy_protocol_from: \"lb\" is no network; write 10.0.0.0/8, 2001:db8::/32 or an IP address"),
        // [listener.tls]
        ("[listener.tls]", "min_version = 1.2", "listener[0].tls.min_version: is a decimal number, where a text belongs; write min_version = \"1.2\""),
        ("[listener.tls]", "min_version = \"1.1\"", "listener[0].tls.min_version: \"1.1\" is not known here; write one of 1.2 | 1.3"),
        ("[listener.tls]", "max_record = 100", "listener[0].tls.max_record: 100 is not within 512B to 16KiB; leave it out to get 16KiB"),
        ("[listener.tls]", "max_record = \"1 Kibi\"", "listener[0].tls.max_record: \"1 Kibi\" is no size; write bytes as a number, or a text in KiB or MiB: max_record = \"16KiB\""),
        ("[listener.tls]", "alpn = [\"\"]", "listener[0].tls.alpn[0]: is not 1 to 255 bytes long; write a protocol such as \"mqtt\" (RFC 7301)"),
        ("[listener.tls]", "alpn = [\"mqtt\", \"mqtt\"]", "listener[0].tls.alpn[1]: \"mqtt\" is there twice; write it once"),
        ("[[listener.tls.also]]", "certificate = \"c\"\nkey = \"k\"\nnames = \"10.0.0.1\"", "listener[0].tls.also[0].names: \"10.0.0.1\" is no server name; write a host name such as eu.example.net or *.example.net (no IP address: SNI holds none; other scripts as xn--…)"),
        ("[[listener.tls.also]]", "certificate = \"c\"", "listener[0].tls.also[0].key: is missing; write key = \"eu.key\""),
        // [[trust]]
        ("[[trust]]", "crl_stale = \"ignore\"", "trust[0].crl_stale: \"ignore\" is not known here; write one of refuse | use"),
        ("[[trust]]", "crl = \"\"", "trust[0].crl: \"\" is no path; name a file"),
        // [connect]
        ("[connect]", "extra_characters = \":#\"", "connect.extra_characters: '#' has a meaning of its own in topics or to brokers and can never be part of a device id; leave it out: a device id with it is refused"),
        ("[connect]", "password = \"hunter2\"", "connect.password: is a text of its own, and secrets do not belong here; write the secret into a file and name it by password_file; here stands \"\" or \"{password}\""),
        ("[connect]", "asked_client_id = \"none\"", "connect.asked_client_id: \"none\" is not known here; write one of any | device"),
        ("[connect]", "user_properties = { \"\" = \"x\" }", "connect.user_properties.\"\": is no name of a user property; write 1 to 65535 bytes without NUL"),
        ("[connect]", "user_properties = { a = 1 }", "connect.user_properties.a: is a whole number, where a text belongs; write user_properties = { \"x-mode\" = \"{mode}\" }"),
        // [broker]
        ("[broker]", "dial_timeout = 3", "broker.dial_timeout: 3 has no unit of time; write the unit too: dial_timeout = \"3s\", \"3ms\""),
        ("[broker]", "dial_timeout = \"soon\"", "broker.dial_timeout: \"soon\" is no duration; write a number and a unit, ms, s, m or h: dial_timeout = \"3s\""),
        ("[broker]", "allow_plaintext = \"yes\"", "broker.allow_plaintext: is a text, where true or false belongs; write allow_plaintext = true"),
        ("[broker]", "proxy_protocol = \"on\"", "broker.proxy_protocol: \"on\" is not known here; write one of off | v1 | v2"),
        ("[broker.health]", "interval = \"1us\"", "broker.health.interval: \"1us\" is not within 100ms to 1h; leave it out to get 5s"),
        ("[broker.health]", "timeout = \"1s\"", "broker.health.timeout: is not a known key; known here: interval, probe"),
        ("[broker.health]", "probe = \"http\"", "broker.health.probe: \"http\" is not known here; write one of tcp | mqtt"),
        ("[broker]", "balance = \"least-connection\"", "broker.balance: \"least-connection\" is not known here; did you mean \"least-connections\"? write one of round-robin | least-connections | device"),
        ("[broker]", "source_addresses = [\"10.0.0.7:0\"]", "broker.source_addresses[0]: \"10.0.0.7:0\" is no IP address; write an address of this host, without a port: 10.0.0.7"),
        ("[broker]", "source_addresses = \"255.255.255.255\"", "broker.source_addresses: 255.255.255.255 is not one address of a host; write each address of this host that is to be used"),
        ("[broker]", "source_addresses = [\"::\"]", "broker.source_addresses[0]: :: is not one address of a host; write each address of this host that is to be used"),
        ("[broker]", "source_addresses = [\"10.0.0.7\", \"::ffff:10.0.0.7\"]", "broker.source_addresses[1]: 10.0.0.7 is there twice; write it once"),
        // [limits]
        ("[limits]", "connections = 0", "limits.connections: 0 is not within 1 to 10000000; leave it out to get 100000"),
        ("[limits]", "connections = 99999999999999999999", "limits.connections: a number beyond 64 bits is not within 1 to 10000000; leave it out to get 100000"),
        ("[limits]", "connections = \"5\"", "limits.connections: is a text, where a whole number belongs; write connections = 100000"),
        ("[limits]", "connections_per_address = 1000001", "limits.connections_per_address: 1000001 is not within 0 to 1000000; leave it out to get 0"),
        ("[limits]", "accepts_per_address = -1", "limits.accepts_per_address: -1 is not within 0 to 1000000; leave it out to get 0"),
        ("[limits]", "handshake_timeout = \"0s\"", "limits.handshake_timeout: \"0s\" is not within 10ms to 1h; leave it out to get 10s"),
        ("[limits]", "connect_bytes = 63", "limits.connect_bytes: 63 is not within 64B to 256MiB; leave it out to get 16KiB"),
        ("[limits]", "connect_bytes = \"1GiB\"", "limits.connect_bytes: \"1GiB\" is not within 64B to 256MiB; leave it out to get 16KiB"),
        // [admin] and [log]
        ("[admin]", "bind = \"localhost:9883\"", "admin.bind: \"localhost:9883\" is no IP address and port; write 127.0.0.1:9883, 0.0.0.0:9883 (every IPv4 address of this host) or [::]:9883"),
        ("[admin]", "bind = \"0.0.0.0:8883\"", "admin.bind: 0.0.0.0:8883 is where listener[0].bind listens; give each its own port"),
        ("[log]", "level = \"warning\"", "log.level: \"warning\" is not known here; did you mean \"warn\"? write one of error | warn | info | debug | trace"),
    ];
    for (section, line, told) in table {
        assert_eq!(
            Operator::writes(&good_with(section, line)).tells(),
            [told],
            "{section} {line}"
        );
    }
}

#[test]
fn brokers_are_told_apart_from_what_is_none() {
    let told = |addresses: &str| {
        Operator::writes(&GOOD.replace("\"mqtt://127.0.0.1:1883\"", addresses)).tells()
    };
    assert_eq!(
        told("[\"mqtt://10.0.0.1\"]"),
        [
            "broker.addresses[0]: mqtt://10.0.0.1:1883 is not on this host, and the gate would speak plaintext to it; use mqtts://, put the gate beside the broker, or write broker.allow_plaintext = true if nobody else can reach that network"
        ]
    );
    assert_eq!(
        told("[\"unix:///b\", \"unix:///b\"]"),
        ["broker.addresses[1]: \"unix:///b\" is there twice; write it once"]
    );
    assert_eq!(
        told("[]"),
        [
            "broker.addresses: is missing; write [broker] with addresses = [\"mqtt://127.0.0.1:1883\"], or use --broker"
        ]
    );
    assert_eq!(
        told("\"tcp://b\""),
        [
            "broker.addresses: \"tcp://b\" is not an address of a broker: write mqtt://host:1883, mqtts://host:8883 or unix:///path/to/socket"
        ]
    );
}

#[test]
fn a_plaintext_leg_to_another_host_is_allowed_in_so_many_words_and_warned_of() {
    let file = GOOD.replace("127.0.0.1:1883\"", "10.0.0.1\"\nallow_plaintext = true");
    let config = Operator::writes(&file).loads().expect("allowed");
    assert!(
        config.warnings[0].starts_with("broker.addresses: mqtt://10.0.0.1:1883 is told"),
        "{:?}",
        config.warnings
    );
}

/// [`GOOD`] with another address, and these lines behind it.
fn broker(address: &str, lines: &str) -> Operator {
    Operator::writes(&GOOD.replace("mqtt://127.0.0.1:1883\"", &format!("{address}\"\n{lines}")))
}

#[test]
fn tls_to_the_broker_needs_its_ca_a_name_and_whole_pairs() {
    let ca = "broker.tls.ca: is missing; write ca = \"broker-ca.pem\", the CA of the broker's certificate, or use --broker-ca";
    #[rustfmt::skip]
    let table: [(&str, &str, &[&str]); 7] = [
        ("mqtts://localhost:8884", "", &[ca]),
        ("mqtts://localhost:8884", "[broker.tls]\ncertificate = \"c\"", &[ca, "broker.tls.key: is missing beside the certificate; write key = \"gate.key\", or use --broker-key"]),
        ("mqtts://localhost:8884", "tls = { ca = \"ca\", key = \"k\" }", &["broker.tls.certificate: is missing beside the key; write certificate = \"gate.pem\", or use --broker-certificate"]),
        ("mqtts://localhost:8884", "tls = { ca = \"ca\", server_name = \"a b\" }", &["broker.tls.server_name: \"a b\" is no name of a server; write a host name such as broker.internal, or an IP address"]),
        ("mqtts://localhost:8884", "tls = { ca = \"ca\", cert = \"c\" }", &["broker.tls.cert: is not a known key; did you mean certificate?"]),
        ("mqtts://a..b", "allow_plaintext = true\ntls = { ca = \"ca\" }", &["broker.addresses: no certificate can be for \"a..b\"; write the name that the broker's is for as broker.tls.server_name"]),
        ("mqtts://a..b", "allow_plaintext = true\ntls = { ca = \"ca\", server_name = \"b\" }", &[]),
    ];
    for (address, lines, told) in table {
        assert_eq!(broker(address, lines).tells(), told, "{address} {lines}");
    }
    let unused = broker("mqtt://127.0.0.1", "tls = { server_name = \"b\" }").loads();
    assert_eq!(
        unused.expect("good").warnings,
        ["broker.tls: has no effect: no address in broker.addresses is mqtts://"]
    );
}

/// A gate that called itself would go on until it has nothing left.
#[test]
fn the_gate_is_no_broker_of_its_own() {
    for here in ["127.0.0.1", "127.9.9.9", "LOCALHOST.", "0.0.0.0"] {
        let told = broker(&format!("mqtt://{here}:8883"), "allow_plaintext = true").tells();
        let fault = format!(
            "broker.addresses: mqtt://{here}:8883 is where listener[0].bind listens; name the broker's own address and port: the gate would call itself"
        );
        assert_eq!(told, [fault]);
    }
    for other in ["127.0.0.1:8884", "[::1]:8883", "192.0.2.7:8883", "b:8883"] {
        let told = broker(&format!("mqtt://{other}"), "allow_plaintext = true").tells();
        assert_eq!(told, [""; 0], "{other}");
    }
}

/// threats.md K2: a key that every user of the host can read is warned of, and one that is its owner's alone is not.
#[test]
fn keys_that_everybody_can_read_are_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let tickets = "[listener.tls]\nresumption = \"tickets\"\nticket_secret_file = \"t\"\n";
    let also = "also = [{ certificate = \"c\", key = \"a\" }]\n";
    let file = GOOD
        .replace("[listener.tls]\n", &format!("{tickets}{also}"))
        .replace("mqtt://127.0.0.1:1883", "mqtts://127.0.0.1:8884");
    let file = format!("{file}[broker.tls]\nca = \"ca\"\ncertificate = \"c\"\nkey = \"k\"\n");
    let keys = [
        ("server.key", "listener[0].tls.key"),
        ("t", "listener[0].tls.ticket_secret_file"),
        ("a", "listener[0].tls.also[0].key"),
        ("k", "broker.tls.key"),
    ];
    for (mode, open) in [(0o644, true), (0o640, false), (0o600, false)] {
        for (name, _) in keys {
            let path = folder.path().join(name);
            std::fs::write(&path, "a key").expect("written");
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, mode).expect("ours");
        }
        let config = Operator::writes(&file).loads_in(folder.path());
        let told = config.expect("good").warnings;
        for (name, key) in keys {
            let path = folder.path().join(name);
            let warning = format!(
                "{key}: {} can be read by every user of this host; chmod 600 it",
                path.display()
            );
            assert_eq!(told.contains(&warning), open, "{warning}: {told:?}");
        }
    }
}

/// threats.md N3: on another host a broker must be able to tell the gate from others, by a certificate or by a password.
#[test]
fn a_broker_on_another_host_must_know_the_gate() {
    let ca = "[broker.tls]\nca = \"ca\"";
    let own = format!("{ca}\ncertificate = \"c\"\nkey = \"k\"");
    let fault = "broker.addresses: mqtts://b.example.net:8883 is not on this host, and could not tell the gate from others, who could be any device; write broker.tls.certificate and key, or connect.password_file, or broker.allow_plaintext = true if nobody else can reach that network";
    assert_eq!(broker("mqtts://b.example.net", ca).tells(), [fault]);
    assert_eq!(broker("mqtts://127.0.0.1:8884", ca).tells(), [""; 0]);
    let config = broker("mqtts://b.example.net", &own).loads();
    assert_eq!(config.expect("good").warnings, [""; 0]);

    let allowed = format!("allow_plaintext = true\n{ca}");
    let config = broker("mqtts://b.example.net", &allowed).loads();
    assert_eq!(
        config.expect("allowed").warnings,
        [
            "broker.addresses: mqtts://b.example.net:8883 cannot tell the gate from others; nobody else may reach the broker's port"
        ]
    );

    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("s"), "hunter2").expect("written");
    let secret = format!("{ca}\n[connect]\npassword_file = \"s\"");
    let config = broker("mqtts://b.example.net", &secret).loads_in(folder.path());
    assert!(config.is_ok(), "{config:?}");
    // A password in plaintext is everybody's.
    let plain = "[connect]\npassword_file = \"s\"";
    let faults = broker("mqtt://b.example.net", plain).loads_in(folder.path());
    let faults = faults.expect_err("plaintext");
    assert!(faults[0].what.contains("plaintext"), "{faults:?}");
}

#[test]
fn no_two_listeners_share_a_name_or_an_address() {
    let two = |bind: &str| {
        let more = "name = \"b\"\nmode = \"plain\"\n";
        format!(
            "{}\n[[listener]]\nbind = {bind}\n{more}",
            GOOD.replacen("[[listener]]\n", "[[listener]]\nname = \"a\"\n", 1)
        )
    };
    assert_eq!(
        Operator::writes(&two("\"0.0.0.0:8883\"")).tells(),
        [
            "listener[b].bind: 0.0.0.0:8883 is the address of listener[a].bind too; give each its own address or port (port 0 takes a free one)"
        ]
    );
    assert_eq!(
        Operator::writes(&two("[\"[::1]:1\", \"[::1]:1\"]")).tells(),
        [
            "listener[b].bind[1]: [::1]:1 is the address of listener[b].bind[0] too; give each its own address or port (port 0 takes a free one)"
        ]
    );
    assert_eq!(
        Operator::writes(&two("\"127.0.0.1:8883\"")).tells(),
        [
            "listener[b].bind: 127.0.0.1:8883 overlaps with 0.0.0.0:8883 of listener[a].bind; give each its own address or port (port 0 takes a free one)"
        ]
    );
    assert_eq!(
        Operator::writes(&two("[\"0.0.0.0:0\", \"0.0.0.0:0\"]")).tells(),
        [""; 0]
    );
    let twins = two("\"0.0.0.0:1\"").replace("\"b\"", "\"a\"");
    assert_eq!(
        Operator::writes(&twins).tells(),
        [
            "listener[1].name: \"a\" is the name of listener[0].name too; give each listener a name of its own"
        ]
    );
}

#[test]
fn no_two_trust_groups_share_a_name() {
    let told = Operator::writes(&format!("{GOOD}[[trust]]\nca = \"b.pem\"\n")).tells();
    assert_eq!(
        told,
        [
            "trust[1].name: \"default\" is the name of trust[0].name too; give each trust group a name of its own"
        ]
    );
}

#[test]
fn a_listener_without_trust_takes_every_group() {
    let file = format!(
        "{GOOD}[[trust]]\nname = \"vendor\"\nca = [\"b.pem\"]\n[connect]\nclient_id = \"{{trust}}:{{device}}\"\nusername = \"{{device}}/{{trust}}\"\n"
    );
    let config = Operator::writes(&file).loads().expect("good");
    assert_eq!(config.gate.listeners[0].trust, ["default", "vendor"]);
}

/// threats.md I3, I7: a CA of one group could issue a certificate with the name of another group's device.
#[test]
fn where_several_groups_count_a_name_must_tell_the_group() {
    let two = format!("{GOOD}[[trust]]\nname = \"vendor\"\nca = [\"b.pem\"]\n");
    assert_eq!(
        Operator::writes(&two).tells(),
        ["client_id", "username"].map(|key| format!(
            "connect.{key}: \"{{device}}\" could name devices of different trust groups alike: default, vendor count at \
             this gate, and each can issue any device id; write {key} = \"{{trust}}:{{device}}\", or give one group all \
             CAs that speak for one fleet"
        ))
    );
    // Also when no listener takes both; and with a `:` in device ids another character is proposed.
    let apart = two.replacen("[[listener]]\n", "[[listener]]\ntrust = \"default\"\n", 1)
        + "[[listener]]\nname = \"b\"\nbind = \"127.0.0.1:1\"\ntrust = \"vendor\"\n\
           tls = { certificate = \"s.pem\", key = \"s.key\" }\n\
           [connect]\nextra_characters = \":\"\nclient_id = \"{trust}/{device}\"\n";
    let told = Operator::writes(&apart).tells();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("username = \"{trust}@{device}\""),
        "{told:?}"
    );
    // A group that counts nowhere mints nothing.
    let idle = two.replacen("[[listener]]\n", "[[listener]]\ntrust = \"default\"\n", 1);
    assert_eq!(Operator::writes(&idle).tells(), [""; 0]);
}

#[test]
fn every_fault_tells_at_once() {
    let told = Operator::writes(
        r#"
        limit = 5
        [[listener]]
        name = "devices"
        bind = [":8883", "0.0.0.0"]
        moed = "plain"
        trust = "fleet"
        [listener.tls]
        certificate = 1
        [[trust]]
        device = "cn"
        [connect]
        password = "hunter2"
        [broker]
        addresses = ["mqtt://user:hunter2@broker"]
        [limits]
        conections = 100
        connect_timeout = 10
        "#,
    )
    .sets("TIDEGATE_LOG__FORMAT", "xml")
    .types(Flags {
        admin: Some("here".into()),
        ..Flags::default()
    })
    .tells();
    let told = told.join("\n");
    for begin in [
        "listener[devices].bind[0]: ",
        "listener[devices].bind[1]: ",
        "listener[devices].moed: is not a known key; did you mean mode?",
        "listener[devices].trust: there is no trust group \"fleet\"",
        "listener[devices].tls.certificate: ",
        "listener[devices].tls.key: is missing",
        "trust[0].ca: is missing",
        "trust[0].device: \"cn\" is not known here",
        "connect.password: ",
        "broker.addresses[0]: holds a username or a password",
        "limits.conections: is not a known key; did you mean connections?",
        "limits.connect_timeout: 10 has no unit of time",
        "admin.bind (--admin): \"here\" is no IP address and port",
        "log.format (environment variable TIDEGATE_LOG__FORMAT): \"xml\" is not known here",
        "limit: is not a known key; did you mean limits?",
    ] {
        assert!(
            told.lines().any(|line| line.starts_with(begin)),
            "{begin} is not in\n{told}"
        );
    }
    assert_eq!(told.lines().count(), 15, "and nothing else:\n{told}");
    assert!(
        !told.contains("hunter2"),
        "a secret in the wrong place is not told:\n{told}"
    );
}

#[test]
fn an_empty_file_tells_what_is_needed() {
    let told = Operator::writes("").tells();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].starts_with("listener: is missing")
            && told[1].starts_with("broker.addresses: is missing")
    );
}

#[test]
fn what_is_no_toml_tells_by_line_without_the_line() {
    let told = Operator::writes("a = 1\npassword = \"hunter2\nb = [\n").tells();
    assert!(
        told.iter().any(|fault| fault.contains("line 2, column")),
        "{told:?}"
    );
    assert!(!told.concat().contains("hunter2"), "{told:?}");
    let twice = Operator::writes("[limits]\n[limits]\n").tells();
    assert!(
        twice[0].contains("line 2, column 2 is not TOML: duplicate key"),
        "{twice:?}"
    );
}

#[test]
fn a_file_that_is_not_there_tells_with_the_way_out() {
    let faults = load(&Source {
        path: Some("/nowhere/tidegate.toml".into()),
        ..Source::default()
    });
    let told = faults.expect_err("not there")[0].to_string();
    assert_eq!(
        told,
        "/nowhere/tidegate.toml: cannot read the configuration: no such file or directory; write one, name another by --config FILE, or use flags alone (tidegate run --help)"
    );
}

#[test]
fn one_section_in_place_of_a_list_tells_by_its_header() {
    let told = Operator::writes(&GOOD.replace("[[trust]]", "[trust]")).tells();
    assert_eq!(
        told,
        ["trust: is a table, where a list of sections belongs; write [[trust]]"]
    );
}

#[test]
fn what_works_but_should_be_looked_at_is_warned_of() {
    let file = format!(
        "{GOOD}[[trust]]\nname = \"idle\"\nca = \"x\"\ncrl_stale = \"use\"\n[[listener]]\nname = \"open\"\nbind = \"127.0.0.1:1\"\nmode = \"plain\"\ntrust = \"idle\"\n[admin]\nbind = \"0.0.0.0:9883\"\n"
    );
    let file = file.replacen("[[listener]]\n", "[[listener]]\ntrust = \"default\"\n", 1);
    let warnings = Operator::writes(&file)
        .loads()
        .expect("good")
        .warnings
        .join("\n");
    for begin in [
        "admin.bind: 0.0.0.0:9883 can be reached from other hosts",
        "listener[open].mode: a device in plain is known by its token, and without [registry] or [token.jwt] no token is known",
        "listener[open].trust: has no effect",
        "trust[idle].name: no listener",
        "trust[idle].crl_stale: has no effect without crl",
    ] {
        assert!(
            warnings.lines().any(|line| line.starts_with(begin)),
            "{begin} is not in\n{warnings}"
        );
    }
}

#[test]
fn the_admin_address_is_found_beside_any_fault_elsewhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tidegate.toml");
    let asked = |text: &str| {
        std::fs::write(&path, text).expect("written");
        admin_address(&Source {
            path: Some(path.clone()),
            ..Source::default()
        })
    };
    assert_eq!(
        asked("nonsense = 1")
            .expect("the default")
            .expect("on")
            .port(),
        9883
    );
    assert_eq!(asked("[admin]\nbind = \"off\"").expect("good"), None);
    assert!(asked("[admin]\nbin = 1").is_err() && asked("[admin").is_err());
}

/// threats.md K2, N2: what is no token is a fault that does not tell it; who could read or overhear one is warned of.
#[test]
fn an_admin_token_is_long_and_nobody_elses() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("admin.token");
    let told = |token: &str, mode: u32, bind: &str| {
        std::fs::write(&file, token).expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("set");
        let admin = format!("bind = \"{bind}\"\ntoken_file = \"admin.token\"");
        let config = Operator::writes(&good_with("[admin]", &admin)).loads_in(folder.path());
        config.map_err(|faults| faults.iter().map(ToString::to_string).collect::<String>())
    };
    let good = "hunter2-".repeat(4);
    for (token, way_out) in [
        ("", "holds 0 bytes"),
        ("\n", "holds 0 bytes"),
        ("hunter2", "openssl rand -hex 32"),
        (&good[1..], "holds 31 bytes"),
        (&format!("{good}\n{good}"), "more than one line"),
        (&good.repeat(200), "4096 at the most"),
    ] {
        let fault = told(token, 0o600, "127.0.0.1:0").expect_err("no token");
        assert!(
            fault.starts_with("admin.token_file: ") && fault.contains(way_out),
            "{fault}"
        );
        assert!(!fault.contains("unter2"), "{fault}");
    }
    for token in [good.clone(), format!("{good}\n"), format!("{good}\r\n")] {
        let config = told(&token, 0o600, "127.0.0.1:0").expect("good");
        assert_eq!(config.warnings, [""; 0]);
        assert!(config.admin.is_some_and(|admin| admin.token.is_some()));
    }
    let warned = |mode, bind: &str| told(&good, mode, bind).expect("good").warnings.join("\n");
    assert!(warned(0o604, "127.0.0.1:0").contains("chmod 600"));
    for bind in ["0.0.0.0:0", "[::]:0", "192.0.2.7:0"] {
        let fault = told(&good, 0o600, bind).expect_err("overheard");
        assert!(fault.starts_with("admin.token_file: "), "{fault}");
        assert!(fault.contains("in the clear; bind to 127.0.0.1"), "{fault}");
        assert!(
            fault.contains("write admin.allow_plaintext = true"),
            "{fault}"
        );
        let refused = format!("{bind}\"\nallow_plaintext = \"yes");
        let fault = told(&good, 0o600, &refused).expect_err("no boolean");
        assert!(fault.starts_with("admin.allow_plaintext: ") && !fault.contains("in the clear"));
        let allowed = format!("{bind}\"\nallow_plaintext = true #\"");
        let warnings = warned(0o600, &allowed);
        assert!(warnings.contains("admin.token_file: ") && warnings.contains("in the clear"));
    }
    assert_eq!(warned(0o600, "[::1]:0"), "");
    assert!(warned(0o600, "off").contains("admin.token_file: has no effect"));
    std::fs::remove_file(&file).expect("removed");
    let admin = "token_file = \"admin.token\"";
    let gone = Operator::writes(&good_with("[admin]", admin)).loads_in(folder.path());
    assert_eq!(gone.expect_err("gone").len(), 1);
    // A health check needs no token, and may not be allowed to read it.
    let source = Source {
        path: Some(folder.path().join("tidegate.toml")),
        ..Source::default()
    };
    assert!(admin_address(&source).is_ok());
}
