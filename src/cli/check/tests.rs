use super::*;
use crate::config::Flags;

#[test]
fn a_report_tells_every_fault_and_counts_them() {
    let flags = Flags {
        mode: Some("mutal-tls".into()),
        ..Flags::default()
    };
    let report = Report::of(&Source {
        flags,
        ..Source::default()
    });
    let text = report.text();
    assert!(!report.ok);
    for told in [
        "fault: listener[0].bind: is missing;",
        "fault: listener[0].mode (--mode): \"mutal-tls\" is not known here; did you mean \"mutual-tls\"?",
        "fault: broker.addresses: is missing;",
        "flags and environment: not good, 3 faults, no warnings\n",
    ] {
        assert!(text.contains(told), "{told} is not in\n{text}");
    }
    let json = serde_json::to_value(&report).expect("serializable");
    assert_eq!(json["ok"], false);
    assert_eq!(json["faults"][1]["key"], "listener[0].mode");
    assert_eq!(json["faults"][1]["written"], "--mode");
}

#[test]
fn files_are_judged_beside_faults_of_other_parts() {
    let flags = Flags {
        listen: vec!["127.0.0.1:0".into()],
        mode: Some("server-tls".into()),
        certificate: Some("/nowhere/s.pem".into()),
        key: Some("/nowhere/s.key".into()),
        broker: vec!["mqtts://broker".into(), "tcp://broker".into()],
        broker_ca: Some("/nowhere/ca.pem".into()),
        broker_certificate: Some("/nowhere/gate.pem".into()),
        broker_key: Some("/nowhere/gate.key".into()),
        ..Flags::default()
    };
    let report = Report::of(&Source {
        flags,
        ..Source::default()
    });
    let keys: Vec<&str> = report.faults.iter().map(|f| f.key.as_str()).collect();
    for key in ["broker.addresses[1]", "broker.tls.ca", "broker.tls.key"] {
        assert!(keys.contains(&key), "{keys:?}");
    }
    assert!(
        keys.iter()
            .any(|key| key.starts_with("listener[default].tls.")),
        "{keys:?}"
    );
    assert!(
        report.warnings[0].contains("no token is known"),
        "{:?}",
        report.warnings
    );
}

/// Also beside faults of other parts; and nothing is made.
#[test]
fn the_registry_is_looked_at() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tidegate.toml");
    let told = |url: &str| {
        std::fs::write(&path, format!("[registry]\nurl = {url:?}\n")).expect("written");
        let report = Report::of(&Source {
            path: Some(path.clone()),
            ..Source::default()
        });
        let faults = report.faults.into_iter();
        let faults: Vec<_> = faults
            .filter(|found| found.key == "registry.url")
            .map(|found| found.line)
            .collect();
        (faults, report.warnings)
    };
    assert_eq!(told("sqlite://devices.db").0, [""; 0]);
    assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 1);
    let (faults, _) = told("sqlite://nowhere/devices.db");
    assert!(faults[0].contains("make its folder"), "{faults:?}");
    let (faults, _) = told("sqlite://tidegate.toml");
    assert!(faults[0].contains("it is no registry"), "{faults:?}");
    let (faults, warnings) = told("postgres://gate@127.0.0.1:1/tidegate");
    assert_eq!(faults, [""; 0]);
    let begin = "registry.url: it could not be looked at: PostgreSQL at 127.0.0.1:1, ";
    assert!(
        warnings.iter().any(|warning| warning.starts_with(begin)),
        "{warnings:?}"
    );
}

/// Also beside faults of other parts.
#[test]
fn the_keys_of_an_issuer_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tidegate.toml");
    let jwt = "[token.jwt]\nkeys = \"jwks.json\"\nissuer = \"i\"\naudience = \"a\"\n";
    std::fs::write(&path, jwt).expect("written");
    let told = || {
        let source = Source {
            path: Some(path.clone()),
            ..Source::default()
        };
        let faults = Report::of(&source).faults;
        let of_keys = |found: &Found| found.key == "token.jwt.keys";
        let mut found = faults.into_iter().filter(of_keys).map(|found| found.why);
        (found.next().unwrap_or_default(), found.count())
    };
    let (why, more) = told();
    assert!(why.ends_with("jwks.json: there is no such file"), "{why}");
    assert_eq!(more, 0);
    let public =
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let private = public.replace(
        '}',
        ",\"d\":\"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\"}",
    );
    let write = |key: &str| {
        let set = format!("{{\"keys\":[{key}]}}");
        std::fs::write(folder.path().join("jwks.json"), set).expect("written");
    };
    write(&private);
    let (why, _) = told();
    assert!(
        why.contains("jwks.json: key 1 of it is a private key: ") && !why.contains("nWGx"),
        "{why}"
    );
    write(public);
    assert_eq!(told(), (String::new(), 0));
}
