//! The gate's records after real handshakes in memory: against rustls, and against records of the other side.
#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use proptest::prelude::*;
use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, cipher_suite, default_provider};
use rustls::{ClientConnection, ServerConnection};
use rustls_pki_types::ServerName;

use super::*;
use crate::tls::testing::*;
use crate::tls::witness::{Seen, witness};

const TLS13: SupportedCipherSuite = cipher_suite::TLS13_AES_128_GCM_SHA256;
const TLS12: SupportedCipherSuite = cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;

/// What was learnt by a server of the gate's, and a device: they have agreed upon `suite`.
fn meet(suite: SupportedCipherSuite) -> (Seen, ClientConnection) {
    let name = suite.suite().as_str().unwrap();
    let kind = if name.contains("RSA") {
        &rcgen::PKCS_RSA_SHA256
    } else {
        &rcgen::PKCS_ECDSA_P256_SHA256
    };
    let tls = server_tls(kind);
    let mut provider = default_provider();
    provider.cipher_suites = vec![suite];
    let mut config = device_config_by(provider, None, suite.version(), None);
    config.enable_secret_extraction = true;
    let name = ServerName::try_from("gate.example.net").unwrap();
    let mut device = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut server = ServerConnection::new(tls.without_alpn.clone()).unwrap();
    let mut seen = Seen::default();
    while device.is_handshaking() || server.is_handshaking() {
        let came = said(&mut device);
        server.read_tls(&mut came.as_slice()).unwrap();
        witness(&mut seen, || server.process_new_packets().map(drop)).unwrap();
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).unwrap();
        }
        heard(&mut device, &answer).unwrap();
    }
    (seen, device)
}

/// All that the device has to say, in ciphertext.
fn said(device: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while device.wants_write() {
        device.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// What the device makes of ciphertext.
fn heard(device: &mut ClientConnection, mut bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let mut plain = Vec::new();
    while !bytes.is_empty() {
        device.read_tls(&mut bytes).unwrap();
        let state = device.process_new_packets()?;
        let mut more = vec![0; state.plaintext_bytes_to_read()];
        device.reader().read_exact(&mut more).unwrap();
        plain.append(&mut more);
    }
    Ok(plain)
}

fn next(suite: SupportedCipherSuite, traffic: Option<Box<Traffic>>) -> Next {
    match suite {
        SupportedCipherSuite::Tls12(_) => Next::Never { is_server: true },
        SupportedCipherSuite::Tls13(suite) => Next::Secrets(traffic.unwrap(), suite),
    }
}

fn gates(seen: Seen, suite: SupportedCipherSuite) -> Records {
    let agreed = seen.agreed.unwrap().protections().unwrap();
    Records::new(agreed, suite, next(suite, seen.traffic), LARGEST)
}

/// The gate's records, and a device by rustls.
fn gate(suite: SupportedCipherSuite) -> (Records, ClientConnection) {
    let (seen, device) = meet(suite);
    (gates(seen, suite), device)
}

/// The gate's records and the device's, which can be made to say anything.
fn pair(suite: SupportedCipherSuite) -> (Records, Records) {
    let (seen, device) = meet(suite);
    let secrets = device.dangerous_extract_secrets().unwrap();
    let swapped = seen.traffic.as_ref().map(|traffic| {
        Box::new(Traffic {
            device: traffic.gate.clone(),
            gate: traffic.device.clone(),
        })
    });
    let is_13 = swapped.is_some();
    let protection = |secrets| Protection::new(secrets, is_13).unwrap();
    let agreed = Protections {
        theirs: protection(secrets.rx),
        ours: protection(secrets.tx),
    };
    let device = Records::new(agreed, suite, next(suite, swapped), LARGEST);
    (gates(seen, suite), device)
}

/// What opening came to.
#[derive(Debug)]
struct Came {
    opened: Result<Opened, Error>,
    plain: Vec<u8>,
    answers: Vec<u8>,
}

impl Records {
    fn hears(&mut self, mut bytes: Vec<u8>) -> Came {
        let (mut plain, mut answers) = (Vec::new(), Vec::new());
        let opened = self.open(&mut bytes, &mut plain, &mut answers);
        Came {
            opened,
            plain,
            answers,
        }
    }

    /// One record of that kind with that inside.
    fn record(&mut self, kind: u8, inside: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.ours.seal(kind, inside, &mut bytes).unwrap();
        bytes
    }

    fn sealed(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.seal(plain, &mut bytes).unwrap();
        bytes
    }
}

/// threats.md M6: a device that speaks TLS by the book notices nothing, whichever suite it speaks.
#[test]
fn each_suite_carries_both_ways_what_rustls_seals_and_opens() {
    for suite in ALL_CIPHER_SUITES {
        let (mut gate, mut device) = gate(*suite);
        for length in [0, 1, 100, LARGEST - 1, LARGEST, LARGEST + 1, 50_000] {
            let text: Vec<u8> = (0..=250).cycle().take(length).collect();
            let sealed = gate.sealed(&text);
            assert_eq!(heard(&mut device, &sealed).unwrap(), text, "{suite:?}");

            let mut came = Vec::new();
            let mut rest = text.as_slice();
            while !rest.is_empty() {
                let taken = device.writer().write(rest).unwrap();
                rest = &rest[taken..];
                came.extend(said(&mut device));
            }
            let bytes = came.len();
            let came = gate.hears(came);
            let whole = Opened {
                used: bytes,
                ended: false,
            };
            assert_eq!(came.opened, Ok(whole), "{suite:?}");
            assert!(came.plain == text && came.answers.is_empty(), "{suite:?}");
        }
    }
}

#[test]
fn either_side_says_that_it_closes() {
    for suite in [TLS12, TLS13] {
        let (mut gate, mut device) = gate(suite);
        device.writer().write_all(b"last").unwrap();
        device.send_close_notify();
        let mut came = said(&mut device);
        came.extend_from_slice(&[23, 3, 3, 0, 1, 0]); // behind the end nothing counts (RFC 8446 §6.1)
        let bytes = came.len();
        let came = gate.hears(came);
        let end = Opened {
            used: bytes,
            ended: true,
        };
        assert_eq!(came.opened, Ok(end), "{suite:?}");
        assert_eq!(came.plain, b"last");

        let mut close = Vec::new();
        gate.close_notify(&mut close).unwrap();
        device.read_tls(&mut close.as_slice()).unwrap();
        assert!(device.process_new_packets().unwrap().peer_has_closed());
    }
}

/// RFC 8446 §4.6.3, by rustls on the other side.
#[test]
fn keys_are_renewed_by_either_side_as_often_as_it_likes() {
    let (mut gate, mut device) = gate(TLS13);
    for round in 0..5 {
        device.refresh_traffic_keys().unwrap();
        device.writer().write_all(b"new").unwrap();
        let came = gate.hears(said(&mut device));
        assert_eq!(came.plain, b"new", "{round}: {came:?}");

        let mut bytes = came.answers; // rustls asks for one, too
        gate.renew_ours(&mut bytes).unwrap();
        bytes.extend(gate.sealed(b"newer"));
        assert_eq!(heard(&mut device, &bytes).unwrap(), b"newer", "{round}");
    }
}

/// RFC 8446 §4.6.3: who is asked for a new key answers before it says more; once, however often it was asked meanwhile.
#[test]
fn a_new_key_is_made_when_it_is_asked_for() {
    let (mut gate, mut device) = pair(TLS13);
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked.extend(device.record(kind::HANDSHAKE, &[24, 0, 0, 1, 1]));
        device.ours = device.renewed(Towards::Them).unwrap();
    }
    asked.extend(device.sealed(b"ask"));
    let came = gate.hears(asked);
    assert_eq!(came.plain, b"ask");
    assert_eq!(came.answers.len(), 5 + 5 + 1 + 16, "one KeyUpdate");

    let mut bytes = came.answers;
    bytes.extend(gate.sealed(b"told"));
    let came = device.hears(bytes);
    assert!(came.opened.is_ok() && came.answers.is_empty(), "{came:?}");
    assert_eq!(came.plain, b"told");
}

/// threats.md V7: who asks again and again and reads nothing makes no answers pile up; what it asked for comes before more is said.
#[test]
fn answers_that_nobody_reads_do_not_pile_up() {
    let (mut gate, mut device) = pair(TLS13);
    let (mut plain, mut unread) = (Vec::new(), b"not taken yet".to_vec());
    for _ in 0..1000 {
        let mut asked = device.record(kind::HANDSHAKE, &[24, 0, 0, 1, 1]);
        device.ours = device.renewed(Towards::Them).unwrap();
        asked.extend(device.sealed(b"x"));
        gate.open(&mut asked, &mut plain, &mut unread).unwrap();
    }
    assert_eq!(
        (plain.len(), unread.as_slice()),
        (1000, &b"not taken yet"[..])
    );
    let said = gate.sealed(b"told");
    assert_eq!(device.hears(said).plain, b"told");
    assert_eq!(device.theirs.number(), 1, "under a new key");

    let (mut gate, mut device) = pair(TLS12);
    for _ in 0..1000 {
        let mut asked = device.record(kind::HANDSHAKE, &[1, 0, 0, 2, 3, 3]);
        asked.extend(device.sealed(b"x"));
        gate.open(&mut asked, &mut plain, &mut unread).unwrap();
    }
    assert_eq!(unread, b"not taken yet");
    let many = [1, 0, 0, 0].repeat(4096);
    let came = gate.hears(device.record(kind::HANDSHAKE, &many));
    assert_eq!(
        came.answers.len(),
        5 + 8 + 2 + 16,
        "one for all in a record"
    );
}

/// One that came in pieces is one all the same.
#[test]
fn a_key_update_may_come_in_pieces() {
    let (mut gate, mut device) = pair(TLS13);
    let mut bytes = device.record(kind::HANDSHAKE, &[24, 0]);
    bytes.extend(device.record(kind::HANDSHAKE, &[0, 1, 0]));
    device.ours = device.renewed(Towards::Them).unwrap();
    bytes.extend(device.sealed(b"new"));
    assert_eq!(gate.hears(bytes).plain, b"new");
    assert_eq!(gate.message.capacity(), 0, "nothing of it is kept");
}

/// No key seals more than its cipher bears: TLS 1.3 takes a new one, TLS 1.2 has none.
#[test]
fn a_key_that_has_sealed_enough_seals_no_more() {
    let (mut gate, mut device) = gate(TLS13);
    gate.uses = gate.ours.number() + 2;
    let sealed: Vec<u8> = (0..5).flat_map(|_| gate.sealed(b"x")).collect();
    assert_eq!(heard(&mut device, &sealed).unwrap(), b"xxxxx");
    assert!(gate.ours.number() < gate.uses);

    let (mut gate, _) = pair(TLS12);
    gate.uses = gate.ours.number() + 1;
    gate.sealed(b"x");
    assert_eq!(gate.seal(b"x", &mut Vec::new()), Err(Error::EncryptError));
}

#[test]
fn records_of_ours_are_no_longer_than_was_asked() {
    for suite in [TLS12, TLS13] {
        let (mut gate, mut device) = gate(suite);
        gate.most = 512;
        let sealed = gate.sealed(&[7; 1200]);
        let mut rest = sealed.as_slice();
        let mut lengths = Vec::new();
        while let Some(record) = Record::at(rest).unwrap() {
            lengths.push(record.length);
            rest = &rest[record.length..];
        }
        assert_eq!(lengths.len(), 3);
        assert!(lengths.iter().all(|length| *length <= 5 + 512 + 24));
        assert_eq!(heard(&mut device, &sealed).unwrap(), [7; 1200]);
    }
}

/// threats.md T3: what is no good is told by the alert that fits, and ends the connection with its plaintext before it intact.
#[test]
fn what_is_out_of_order_is_told_by_its_alert() {
    type Says = fn(&mut Records) -> Vec<u8>;
    let forged: Says = |device| {
        let mut record = device.record(kind::DATA, b"abc");
        *record.last_mut().unwrap() ^= 1;
        record
    };
    let again: Says = |device| [device.record(kind::DATA, b"").repeat(2)].concat();
    let clear: Says = |_| vec![kind::ALERT, 3, 3, 0, 2, 1, 0];
    let foreign: Says = |_| b"GET / HTTP/1.1\r\n".to_vec();
    let other_version: Says = |_| vec![23, 9, 9, 0, 1, 0];
    let too_long: Says = |_| vec![23, 3, 3, 0xff, 0xff];
    let unknown: Says = |device| device.record(99, b"abc");
    let no_kind: Says = |device| device.record(0, &[0; 20]);
    let no_alert: Says = |device| device.record(kind::ALERT, &[1]);
    let empty: Says = |device| device.record(kind::HANDSHAKE, b"");
    let hello: Says = |device| device.record(kind::HANDSHAKE, &[1, 0, 0, 2, 3, 3]);
    let ticket: Says = |device| device.record(kind::HANDSHAKE, &[4, 0, 0, 1, 0]);
    let finished: Says = |device| device.record(kind::HANDSHAKE, &[20, 0, 0, 1, 0]);
    let endless: Says = |device| device.record(kind::HANDSHAKE, &[24, 255, 255, 255]);
    let no_update: Says = |device| device.record(kind::HANDSHAKE, &[24, 0, 0, 1, 2]);
    let two_keys: Says = |device| device.record(kind::HANDSHAKE, &[24, 0, 0, 1, 0, 24]);
    let between: Says = |device| {
        let mut bytes = device.record(kind::HANDSHAKE, &[24]);
        bytes.extend(device.record(kind::DATA, b"abc"));
        bytes
    };
    let change: Says = |device| device.record(kind::CHANGE_CIPHER_SPEC, &[1]);
    let idle: Says = |device| {
        (0..=MOST_IDLE)
            .flat_map(|_| device.record(kind::DATA, b""))
            .collect()
    };
    let short: Says = |_| vec![23, 3, 3, 0, 3, 1, 2, 3];
    let (bad_mac, overflow, unexpected, decode, illegal) = (20, 22, 10, 50, 47);
    let cases: [(&str, Says, [Option<u8>; 2]); 20] = [
        ("forged", forged, [Some(bad_mac); 2]),
        ("again", again, [Some(bad_mac); 2]),
        ("in the clear", clear, [Some(bad_mac), Some(unexpected)]),
        ("no TLS", foreign, [Some(decode); 2]),
        ("another version", other_version, [Some(decode); 2]),
        ("too long", too_long, [Some(overflow); 2]),
        ("too short", short, [Some(bad_mac); 2]),
        ("no known kind", unknown, [Some(decode), Some(unexpected)]),
        ("only zeros", no_kind, [Some(decode), Some(unexpected)]),
        ("half an alert", no_alert, [Some(decode); 2]),
        ("an empty message", empty, [Some(unexpected); 2]),
        ("another hello", hello, [None, Some(unexpected)]),
        ("a ticket", ticket, [Some(unexpected); 2]),
        ("another Finished", finished, [Some(unexpected); 2]),
        ("an endless message", endless, [Some(decode); 2]),
        (
            "no key update",
            no_update,
            [Some(unexpected), Some(illegal)],
        ),
        ("a message under two keys", two_keys, [Some(unexpected); 2]),
        ("data inside of a message", between, [Some(unexpected); 2]),
        ("another cipher", change, [Some(unexpected); 2]),
        ("nothing, endlessly", idle, [Some(unexpected); 2]),
    ];
    for (what, says, alerts) in cases {
        for (suite, told) in [TLS12, TLS13].into_iter().zip(alerts) {
            let (mut gate, mut device) = pair(suite);
            let mut bytes = device.sealed(b"before");
            bytes.extend(says(&mut device));
            let came = gate.hears(bytes);
            assert_eq!(came.plain, b"before", "{what}, {suite:?}");
            assert_eq!(
                came.opened.is_err(),
                told.is_some(),
                "{what}, {suite:?}: {came:?}"
            );
            if let Some(told) = told {
                let fault = device.hears(came.answers).opened.unwrap_err();
                assert_eq!(
                    fault,
                    Error::AlertReceived(told.into()),
                    "{what}, {suite:?}"
                );
            }
        }
    }
}

/// What the other side ends by an alert is not answered by another one.
#[test]
fn an_alert_ends_the_connection_and_a_warning_does_not() {
    for suite in [TLS12, TLS13] {
        let (mut gate, mut device) = pair(suite);
        let came = gate.hears(device.record(kind::ALERT, &[FATAL, 48]));
        assert_eq!(
            came.opened.unwrap_err(),
            Error::AlertReceived(AlertDescription::UnknownCA)
        );
        assert!(came.answers.is_empty());

        let (mut gate, mut device) = pair(suite);
        let mut bytes = device.record(kind::ALERT, &[WARNING, 90]); // user_canceled
        bytes.extend(device.sealed(b"on"));
        assert_eq!(gate.hears(bytes).plain, b"on", "{suite:?}");

        let came = gate.hears(device.record(kind::ALERT, &[WARNING, 41])); // no_certificate
        assert_eq!(came.opened.is_ok(), suite == TLS12);

        let (mut gate, mut device) = pair(suite);
        let came = gate.hears(device.record(kind::ALERT, &[FATAL, 90]));
        assert_eq!(
            came.opened.is_ok(),
            suite == TLS13,
            "levels say nothing there"
        );
    }
}

/// RFC 5246 §7.2.2; threats.md T2: who asks again and again is let go.
#[test]
fn nobody_shakes_hands_twice() {
    let (mut gate, mut device) = pair(TLS12);
    let hello = [1, 0, 0, 2, 3, 3];
    let mut bytes = device.record(kind::HANDSHAKE, &hello);
    bytes.extend(device.sealed(b"on"));
    let came = gate.hears(bytes);
    assert_eq!(came.plain, b"on");
    let mut answer = came.answers;
    let (kind, told) = device.theirs.open(kind::ALERT, &mut answer).unwrap();
    assert_eq!((kind, told), (kind::ALERT, &[WARNING, 100][..])); // no_renegotiation

    let many = (0..=MOST_IDLE)
        .flat_map(|_| device.record(kind::HANDSHAKE, &hello))
        .collect();
    assert!(gate.hears(many).opened.is_err());
}

/// TLS 1.2 makes no next keys: nothing of its secrets is kept for any.
#[test]
fn no_secret_of_tls_1_2_is_kept() {
    assert!(meet(TLS12).0.traffic.is_none() && meet(TLS13).0.traffic.is_some());
}

/// No secret is shown (threats.md K2).
#[test]
fn secrets_are_not_shown() {
    let traffic = Traffic {
        device: Some(OkmBlock::new(&[0x5a; 32])),
        gate: None,
    };
    assert_eq!(format!("{traffic:?}"), "Traffic");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// threats.md M3: however the network cuts them, the same bytes come out in the same order.
    #[test]
    fn records_may_come_in_any_pieces(
        texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 1..8),
        cuts in prop::collection::vec(1_usize..200, 1..40),
    ) {
        let (mut gate, mut device) = pair(TLS13);
        let sealed: Vec<u8> = texts.iter().flat_map(|text| device.sealed(text)).collect();
        let mut pieces = cuts.iter().cycle();
        let (mut at, mut held, mut plain) = (0, Vec::new(), Vec::new());
        while at < sealed.len() {
            let end = sealed.len().min(at + pieces.next().unwrap());
            held.extend_from_slice(&sealed[at..end]);
            at = end;
            let opened = gate.open(&mut held, &mut plain, &mut Vec::new()).unwrap();
            held.drain(..opened.used);
        }
        prop_assert!(held.is_empty());
        prop_assert_eq!(plain, texts.concat());
    }

    /// threats.md T2, V9: whatever a device seals, the gate neither panics nor holds more than a message.
    #[test]
    fn whatever_is_inside_is_judged(
        said in prop::collection::vec((20_u8..25, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
    ) {
        for suite in [TLS12, TLS13] {
            let (mut gate, mut device) = pair(suite);
            for (kind, inside) in &said {
                let came = gate.hears(device.record(*kind, inside));
                prop_assert!(gate.message.len() <= LONGEST_MESSAGE + LARGEST);
                if came.opened.is_err() {
                    break;
                }
            }
        }
    }
}
