//! Flags over environment over file; paths and secrets.

use super::*;

#[test]
fn flags_win_over_environment_over_file_over_default() {
    let connections = |operator: Operator| operator.loads().expect("good").gate.limits.connections;
    let file = || Operator::writes(&format!("{GOOD}[limits]\nconnections = 1_000\n"));
    assert_eq!(connections(Operator::writes(GOOD)), 100_000);
    assert_eq!(connections(file()), 1_000);
    assert_eq!(
        connections(file().sets("TIDEGATE_LIMITS__CONNECTIONS", "2_000")),
        2_000
    );

    let admin = |operator: Operator| {
        operator
            .loads()
            .expect("good")
            .admin
            .map(|admin| admin.bind.port())
    };
    let env = || Operator::writes(GOOD).sets("TIDEGATE_ADMIN__BIND", "127.0.0.1:2");
    assert_eq!(admin(env()), Some(2));
    let flags = |bind: &str| Flags {
        admin: Some(bind.into()),
        ..Flags::default()
    };
    assert_eq!(admin(env().types(flags("127.0.0.1:3"))), Some(3));
    assert_eq!(admin(env().types(flags("off"))), None);
}

/// What was written is a wish, also where it is the default.
#[test]
fn a_limit_that_is_the_default_may_have_been_written() {
    let written = |operator: Operator| operator.loads().expect("good").connections_written;
    assert!(!written(Operator::writes(GOOD)));
    let other = format!("{GOOD}[limits]\nhandshakes = 5\n");
    assert!(!written(Operator::writes(&other)));
    let default = format!("{GOOD}[limits]\nconnections = 100_000\n");
    assert!(written(Operator::writes(&default)));
    let by_environment = Operator::writes(GOOD).sets("TIDEGATE_LIMITS__CONNECTIONS", "100_000");
    assert!(written(by_environment));
}

#[test]
fn the_environment_reaches_every_kind_of_value() {
    let config = Operator::writes(GOOD)
        .sets("TIDEGATE_LISTENER__0__BIND", "[::]:8884")
        .sets(
            "TIDEGATE_LISTENER__0__TLS__ALPN",
            "[\"mqtt\", \"x-amzn-mqtt-ca\"]",
        )
        .sets(
            "TIDEGATE_LISTENER__1__BIND",
            "[\"127.0.0.1:1\", \"127.0.0.1:2\"]",
        )
        .sets("TIDEGATE_LISTENER__1__NAME", "local")
        .sets("TIDEGATE_LISTENER__1__MODE", "plain")
        .sets("TIDEGATE_BROKER__ADDRESSES__1", "unix:///run/b.sock")
        .sets("TIDEGATE_BROKER__ALLOW_PLAINTEXT", "true")
        .sets(
            "TIDEGATE_CONNECT__USER_PROPERTIES",
            "{ \"x-mode\" = \"{mode}\" }",
        )
        .sets("TIDEGATE_LIMITS__CONNECT_BYTES", "4096")
        .sets("TIDEGATE_LIMITS__DRAIN_TIMEOUT", "1m 30s")
        .loads()
        .expect("good");
    assert_eq!(config.gate.listeners[0].bind[0].to_string(), "[::]:8884");
    assert_eq!(
        config.gate.listeners[0]
            .tls
            .as_ref()
            .expect("TLS")
            .alpn
            .len(),
        2
    );
    assert_eq!(config.gate.listeners[1].bind.len(), 2);
    assert_eq!(config.gate.broker.addresses.len(), 2);
    assert_eq!(config.gate.connect.user_properties[0].0, "x-mode");
    assert_eq!(config.gate.limits.connect_bytes, 4096);
    assert_eq!(config.gate.limits.drain_timeout.as_secs(), 90);
}

#[test]
fn a_misspelt_variable_tells_and_a_service_link_of_kubernetes_is_not() {
    let told = |name: &str| Operator::writes(GOOD).sets(name, "5").tells();
    assert_eq!(
        told("TIDEGATE_LIMITS_CONNECTIONS"),
        [
            "limits_connections (environment variable TIDEGATE_LIMITS_CONNECTIONS): is not the name of a key; write the section, two underscores and the key: TIDEGATE_LIMITS__CONNECTIONS"
        ]
    );
    assert_eq!(
        told("TIDEGATE_LIMITS__CONECTIONS"),
        [
            "limits.conections (environment variable TIDEGATE_LIMITS__CONECTIONS): is not a known key; did you mean connections?"
        ]
    );
    assert_eq!(
        told("TIDEGATE_LISTENER__3__BIND"),
        [
            "listener.3.bind (environment variable TIDEGATE_LISTENER__3__BIND): leaves a gap in a list of 1; count from 0; the next position is 1"
        ]
    );
    assert_eq!(
        told("TIDEGATE_LOG__LEVEL")[0].split(':').next(),
        Some("log.level (environment variable TIDEGATE_LOG__LEVEL)")
    );
    let no_number = Operator::writes(GOOD).sets("TIDEGATE_LIMITS__CONNECTIONS", "many");
    assert_eq!(
        no_number.tells(),
        [
            "limits.connections (environment variable TIDEGATE_LIMITS__CONNECTIONS): \"many\" is no whole number; leave it out to get 100000"
        ]
    );
    for link in [
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_MQTTS",
        "PORT",
        "PORT_8883_TCP",
        "PORT_8883_TCP_ADDR",
        "EDGE_SERVICE_HOST",
        "EDGE_PORT_9883_TCP_PROTO",
    ] {
        assert_eq!(told(&format!("TIDEGATE_{link}")), [""; 0], "{link}");
    }
    assert_eq!(told("TIDEGATE"), [""; 0]);
}

#[test]
fn a_sidecar_needs_no_file() {
    let flags = Flags {
        listen: vec!["0.0.0.0:8883".into()],
        mode: Some("mutual-tls".into()),
        certificate: Some("s.pem".into()),
        key: Some("s.key".into()),
        client_ca: vec!["ca.pem".into(), "/old-ca.pem".into()],
        crl: vec!["ca.crl".into()],
        broker: vec!["mqtts://broker.example.net".into()],
        broker_ca: Some("broker-ca.pem".into()),
        broker_certificate: Some("gate.pem".into()),
        broker_key: Some("gate.key".into()),
        broker_name: Some("broker.internal".into()),
        device_field: Some("san.uri".into()),
        admin: None,
    };
    let config = Operator::default().types(flags).loads().expect("good");
    let here = std::env::current_dir().expect("a working directory");
    let group = &config.gate.trust[0];
    assert_eq!(
        (group.name.as_str(), group.naming.field.word()),
        ("default", "san.uri")
    );
    assert_eq!(group.ca, [here.join("ca.pem"), "/old-ca.pem".into()]);
    assert_eq!(
        config.gate.listeners[0].tls.as_ref().expect("TLS").key,
        here.join("s.key")
    );
    let tls = config.gate.broker.tls.expect("TLS to the broker");
    let identity = tls.identity.expect("a certificate");
    assert_eq!(tls.ca, here.join("broker-ca.pem"));
    assert_eq!(identity.certificate, here.join("gate.pem"));
    assert_eq!(identity.key, here.join("gate.key"));
    assert_eq!(tls.server_name.expect("a name").to_str(), "broker.internal");
}

#[test]
fn paths_of_the_file_start_from_its_folder_and_others_from_the_working_directory() {
    let folder = tempfile::tempdir().expect("a folder");
    let operator = Operator::writes(GOOD).sets("TIDEGATE_LISTENER__0__TLS__KEY", "other.key");
    let config = operator.loads_in(folder.path()).expect("good");
    let tls = config.gate.listeners[0].tls.clone().expect("TLS");
    assert_eq!(tls.certificate, folder.path().join("server.pem"));
    assert_eq!(
        tls.key,
        std::env::current_dir().expect("one").join("other.key")
    );
}

#[test]
fn the_secret_of_all_devices_comes_from_a_file_and_is_never_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("broker.secret");
    let file = good_with("[connect]", "password_file = \"broker.secret\"");

    let told = Operator::writes(&file)
        .loads_in(folder.path())
        .expect_err("not there")[0]
        .to_string();
    assert!(
        told.starts_with("connect.password_file: cannot read ") && told.contains("no such file"),
        "{told}"
    );

    std::fs::write(&secret, "\n").expect("written");
    let told = Operator::writes(&file)
        .loads_in(folder.path())
        .expect_err("empty")[0]
        .to_string();
    assert!(told.contains("holds 0 bytes; write a secret"), "{told}");

    std::fs::write(&secret, "hunter2\r\n").expect("written");
    let config = Operator::writes(&file)
        .loads_in(folder.path())
        .expect("good");
    let crate::rules::policy::Password::Fixed(fixed) = &config.gate.connect.password else {
        panic!("the secret of the file");
    };
    assert_eq!(fixed.reveal(), b"hunter2");
    let printed = config.to_toml();
    assert!(
        printed.contains("password_file = ")
            && !printed.contains("hunter2")
            && !format!("{config:?}").contains("hunter2")
    );
    assert!(
        config.warnings[0].contains("chmod 600"),
        "{:?}",
        config.warnings
    );

    let both = file.replace("password_file", "password = \"{password}\"\npassword_file");
    let told = Operator::writes(&both)
        .loads_in(folder.path())
        .expect_err("both");
    assert_eq!(
        told[0].to_string(),
        "connect.password_file: cannot stand beside password = \"{password}\"; choose one of the two"
    );
}
