#![allow(clippy::unwrap_used)] // a test that panics has failed

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion};

use super::*;
use crate::tls::testing::*;

/// The folder, and the settings of a listener with the files in it.
fn listener(main: &Made, also: &[(&[&str], &Made)]) -> (Folder, Settings) {
    let folder = Folder::new();
    let files = |name: &str, made: &Made| {
        (
            folder.file(&format!("{name}.pem"), &made.pem),
            folder.file(&format!("{name}.key"), made.key.serialize_pem()),
        )
    };
    let (certificate, key) = files("main", main);
    let also = also
        .iter()
        .enumerate()
        .map(|(n, (names, made))| {
            let (certificate, key) = files(&format!("also-{n}"), made);
            Also {
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                certificate,
                key,
            }
        })
        .collect();
    let settings = Settings {
        certificate,
        key,
        min_version: MinVersion::Tls12,
        max_record: None,
        alpn: vec![],
        also,
        resumption: Resumption::Off,
    };
    (folder, settings)
}

fn shows(names: &[&str], kind: &'static SignatureAlgorithm) -> Made {
    root("Server CA").issues_for(KeyPair::generate_for(kind).unwrap(), server(names), |_| ())
}

fn ecdsa(names: &[&str]) -> Made {
    shows(names, &PKCS_ECDSA_P256_SHA256)
}

fn loaded(settings: &Settings) -> ServerTls {
    ServerTls::load("devices", settings, None).unwrap()
}

const RSA_ONLY: [SignatureScheme; 2] = [
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA256,
];

#[test]
fn sni_chooses_the_certificate() {
    let main = ecdsa(&["gate.example.net"]);
    let eu = ecdsa(&["eu.example.net"]);
    let wild = ecdsa(&["*.wild.example.net"]);
    let exact = ecdsa(&["other.example.net"]);
    let also: &[(&[&str], &Made)] = &[
        (&[], &eu),
        (&["*.Wild.example.net"], &wild),
        (&["Exact.wild.example.NET"], &exact),
    ];
    let (_folder, settings) = listener(&main, also);
    let tls = loaded(&settings);
    let cases = [
        ("gate.example.net", &main),
        ("eu.example.net", &eu),
        ("EU.Example.Net", &eu),
        ("a.wild.example.net", &wild),
        ("A.WILD.example.net", &wild),
        ("exact.wild.example.net", &exact),
        ("a.b.wild.example.net", &main), // a wildcard stands for one label
        ("wild.example.net", &main),
        ("unknown.example.net", &main),
        ("192.0.2.1", &main), // an address is no SNI
    ];
    for (name, made) in cases {
        for version in [&TLS12, &TLS13] {
            let outcome = handshake(&tls.with_alpn, device_config(None, version, None), name);
            assert_eq!(outcome.server, Ok(()));
            assert_eq!(
                outcome.shown.as_ref(),
                Some(&made.der),
                "{name} {version:?}"
            );
            let sni = (!name.starts_with('1')).then(|| name.to_ascii_lowercase());
            assert_eq!(outcome.seen.sni, sni);
        }
    }
}

#[test]
fn signature_schemes_choose_among_certificates_of_one_name() {
    let main = ecdsa(&["gate.example.net"]);
    let twin = shows(&["gate.example.net"], &PKCS_RSA_SHA256);
    let eu = ecdsa(&["eu.example.net"]);
    let (_folder, settings) = listener(&main, &[(&[], &eu), (&[], &twin)]);
    let tls = loaded(&settings);
    for version in [&TLS12, &TLS13] {
        for (name, schemes, made) in [
            ("gate.example.net", None, &main),
            ("gate.example.net", Some(RSA_ONLY.to_vec()), &twin),
            ("unknown.example.net", Some(RSA_ONLY.to_vec()), &twin),
            // A certificate of another name serves a device better than none that it can check.
            ("eu.example.net", Some(RSA_ONLY.to_vec()), &twin),
            ("eu.example.net", None, &eu),
        ] {
            let outcome = handshake(&tls.with_alpn, device_config(None, version, schemes), name);
            assert_eq!(outcome.server, Ok(()), "{name}");
            assert_eq!(
                outcome.shown.as_ref(),
                Some(&made.der),
                "{name} {version:?}"
            );
        }
    }
}

/// What a device offers, and what it is answered.
type Case = (&'static [&'static [u8]], Option<&'static [u8]>);

#[test]
fn a_device_with_unknown_alpn_is_served() {
    let (_folder, mut settings) = listener(&ecdsa(&["gate.example.net"]), &[]);
    let bare = loaded(&settings);
    assert!(!bare.has_alpn());
    settings.alpn = vec!["mqtt".into(), "x-amzn-mqtt-ca".into()];
    let tls = loaded(&settings);
    let cases: [Case; 4] = [
        (&[], None),
        (&[b"mqtt"], Some(b"mqtt")),
        (&[b"h2", b"x-amzn-mqtt-ca"], Some(b"x-amzn-mqtt-ca")),
        (&[b"h2", b"http/1.1"], None),
    ];
    for (offered, answered) in cases {
        let mut device = device_config(None, &TLS13, None);
        device.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        let names = (!offered.is_empty()).then(|| offered.iter().copied());
        let outcome = handshake(tls.config_for(names, false), device, "gate.example.net");
        assert_eq!(outcome.server, Ok(()));
        assert_eq!(outcome.device.alpn_protocol(), answered);
        assert_eq!(outcome.seen.alpn_offered, !offered.is_empty());
    }
}

#[test]
fn the_cheapest_suite_is_taken_unless_the_devices_order_counts() {
    let (_folder, settings) = listener(&ecdsa(&["gate.example.net"]), &[]);
    let tls = loaded(&settings);
    let taken = |own_order, version| {
        let config = tls.config_for(None::<std::iter::Empty<&[u8]>>, own_order);
        let outcome = handshake(config, device_config(None, version, None), "a.b");
        outcome.device.negotiated_cipher_suite().unwrap().suite()
    };
    let cases = [
        (false, &TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
        (true, &TLS13, CipherSuite::TLS13_AES_256_GCM_SHA384),
        (
            false,
            &TLS12,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ),
        (
            true,
            &TLS12,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        ),
    ];
    for (own_order, version, suite) in cases {
        assert_eq!(taken(own_order, version), suite);
    }
}

#[test]
fn the_oldest_version_is_the_configured_one() {
    let (_folder, mut settings) = listener(&ecdsa(&["gate.example.net"]), &[]);
    settings.min_version = MinVersion::Tls13;
    let tls = loaded(&settings);
    let outcome = handshake(&tls.with_alpn, device_config(None, &TLS12, None), "a.b");
    assert!(outcome.server.is_err());
    assert_eq!(
        outcome.alert,
        Some(rustls::AlertDescription::ProtocolVersion)
    );
    let outcome = handshake(&tls.with_alpn, device_config(None, &TLS13, None), "a.b");
    let version = outcome.device.protocol_version();
    assert_eq!(version, Some(ProtocolVersion::TLSv1_3));
}

/// T5, T6: nothing optional is sent, and nothing is resumed.
#[test]
fn no_tickets_no_resumption_no_early_data() {
    let (_folder, settings) = listener(&ecdsa(&["gate.example.net"]), &[]);
    let tls = loaded(&settings);
    let config = &tls.with_alpn;
    assert!(config.cert_compressors.is_empty() && config.cert_decompressors.is_empty());
    assert_eq!(
        (config.max_early_data_size, config.send_tls13_tickets),
        (0, 0)
    );
    for version in [&TLS12, &TLS13] {
        let device = device_config(None, version, None); // its store is shared by the clones
        for _ in 0..2 {
            let outcome = handshake(config, device.clone(), "gate.example.net");
            assert_eq!(outcome.device.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(outcome.device.tls13_tickets_received(), 0);
        }
    }
}

#[test]
fn max_record_is_the_plaintext_of_a_record() {
    let (_folder, mut settings) = listener(&ecdsa(&["gate.example.net"]), &[]);
    settings.max_record = Some(16 * 1024);
    assert_eq!(
        loaded(&settings).with_alpn.max_fragment_size,
        Some(16 * 1024 + 5)
    );
    settings.max_record = Some(512);
    let tls = loaded(&settings);
    let outcome = handshake(&tls.with_alpn, device_config(None, &TLS13, None), "a.b");
    assert_eq!(outcome.server, Ok(()));
    settings.max_record = Some(63);
    settings.alpn = vec![String::new()];
    let faults = ServerTls::load("devices", &settings, None).expect_err("faults");
    let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["max_record", "alpn"]);
}

#[test]
fn every_fault_is_told_at_once_by_its_key() {
    let (main, other) = (ecdsa(&["gate.example.net"]), ecdsa(&[]));
    let (folder, mut settings) = listener(&main, &[(&[], &other), (&["not a name"], &main)]);
    settings.key = folder.file("other.key", other.key.serialize_pem());
    settings.also[1].key = folder.path().join("missing.key");
    let faults = ServerTls::load("devices", &settings, None).expect_err("faults");
    let told: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(
        told[0].starts_with("key: ") && told[0].contains("is not the key of the first certificate")
    );
    assert!(told[1].starts_with("also[0].names: ") && told[1].contains("no DNS names"));
    assert!(told[2].starts_with("also[1].key: ") && told[2].contains("no such file"));
    let (_folder, settings) = listener(&main, &[(&["not a name", "a.*.b"], &main)]);
    let faults = ServerTls::load("devices", &settings, None).expect_err("faults");
    assert_eq!(faults.len(), 2);
    assert!(faults.iter().all(|fault| fault.key == "also[0].names"));
}

#[test]
fn what_runs_out_or_is_out_of_order_is_warned_of() {
    let ca = root("Server CA");
    let sub = ca.sub_ca("Sub");
    let soon = sub.issues(server(&["gate.example.net"]), |s| {
        s.not_after = now() + days(20);
    });
    let (folder, mut settings) = listener(&soon, &[]);
    let tls = loaded(&settings);
    let day = 24 * 3600;
    assert_eq!(
        tls.certificates(),
        [("gate.example.net".to_owned(), NOW + 20 * day)]
    );
    let warnings = tls.warnings(NOW);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("certificate: \"gate.example.net\" ends on 2026-01-21"));
    assert!(tls.warnings(NOW + 21 * day)[0].contains("ended on"));
    assert!(tls.warnings(NOW - 11 * day)[0].contains("begins on"));
    let chain = format!("{}{}{}", soon.pem, ca.pem, sub.pem);
    settings.certificate = folder.file("main.pem", chain);
    assert!(loaded(&settings).warnings(NOW)[1].contains("put it in order"));
    let nameless = ecdsa(&[]);
    let (_folder, settings) = listener(&nameless, &[]);
    assert!(loaded(&settings).warnings(NOW)[0].contains("no DNS name"));
}

mod resumption;
