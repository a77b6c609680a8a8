use proptest::prelude::*;

use super::super::arbitrary;
use super::super::properties::{Id, Property, Value};
use super::*;

/// `hex | close, or version and code | what is wrong`; the end-to-end tests send the same packets through a gate.
const MALFORMED: &str = include_str!("../../../tests/data/malformed_connects.txt");

const CAP: usize = 16 * 1024;

/// The fields of a CONNECT that says as little as can be.
fn plain(version: Version) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive: 60,
        properties: Properties::new(),
        client_id: "m7".into(),
        will: None,
        username: None,
        password: None,
    }
}

/// As the gate reads: measure, then decode what was measured.
fn read(bytes: &[u8]) -> Result<Option<Connect>, Fault> {
    match measure(bytes, CAP)? {
        Some(length) => Connect::decode(&bytes[..length]).map(Some),
        None => Ok(None),
    }
}

#[test]
fn every_malformed_connect_gets_its_answer() {
    let lines = MALFORMED
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut count = 0;
    for line in lines {
        let [packet, wanted, what] = line.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("not three fields: {line}");
        };
        let fault = match read(&hex::decode(packet).unwrap()) {
            Err(fault) => fault,
            Ok(other) => panic!("{what}: taken as {other:?}"),
        };
        let answer = match fault.answer() {
            None => "close".to_owned(),
            Some((version, code)) => format!("{version} 0x{code:02x}"),
        };
        assert_eq!(answer, wanted, "{what}: {fault}");
        count += 1;
    }
    assert!(count >= 70, "{count}");
}

#[test]
fn the_smallest_packets_are_written_as_the_standard_draws_them() {
    let packets: [(Version, &[u8]); 3] = [
        (
            Version::V31,
            b"\x10\x10\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x02m7",
        ),
        (
            Version::V311,
            b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02m7",
        ),
        (
            Version::V5,
            b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x02m7",
        ),
    ];
    for (version, packet) in packets {
        assert_eq!(plain(version).encode().unwrap(), packet);
        assert_eq!(Connect::decode(packet), Ok(plain(version)));
    }
}

#[test]
fn a_packet_with_everything_goes_through_to_the_byte() {
    let packet = b"\x10\x46\x00\x04MQTT\x05\xee\x00\x0a\
        \x13\x22\x00\x0a\x26\x00\x01a\x00\x01b\x11\x00\x00\x00\x78\x15\x00\x01K\
        \x00\x02m7\
        \x12\x26\x00\x01c\x00\x01d\x18\x00\x00\x00\x05\x09\x00\x01\xff\x01\x01\x00\x03a/b\x00\x02\x00\xff\
        \x00\x01u\x00\x03p\x00w";
    let connect = Connect::decode(packet).unwrap();

    assert_eq!(connect.encode().unwrap(), packet);
    assert!(connect.clean_start);
    assert_eq!(connect.keep_alive, 10);
    assert_eq!(
        connect.properties.get(Id::SessionExpiryInterval),
        Some(&Value::Four(120))
    );
    assert_eq!(
        connect.properties.get(Id::AuthenticationMethod),
        Some(&Value::Text("K".into()))
    );
    assert_eq!(connect.username.as_deref(), Some("u"));
    assert_eq!(
        connect.password.as_ref().map(Password::reveal),
        Some(&b"p\0w"[..])
    );
    let will = connect.will.unwrap();
    assert_eq!((will.qos, will.retain), (1, true));
    assert_eq!(
        (will.topic.as_str(), &will.payload[..]),
        ("a/b", &b"\0\xff"[..])
    );
    assert_eq!(will.properties.users().collect::<Vec<_>>(), [("c", "d")]);
}

#[test]
fn empty_user_name_and_password_are_not_missing_ones() {
    let packet = b"\x10\x12\x00\x04MQTT\x04\xc2\x00\x3c\x00\x02m7\x00\x00\x00\x00";
    let connect = Connect::decode(packet).unwrap();
    assert_eq!(connect.username.as_deref(), Some(""));
    assert_eq!(
        connect.password.as_ref().map(Password::reveal),
        Some(&b""[..])
    );
    assert_eq!(connect.encode().unwrap(), packet);
}

#[test]
fn an_empty_client_id_is_taken_where_the_version_allows() {
    assert!(Connect::decode(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00").is_ok());
    for flags in [0x00, 0x02] {
        let mut packet = *b"\x10\x0d\x00\x04MQTT\x05\x00\x00\x3c\x00\x00\x00";
        packet[9] = flags;
        assert!(Connect::decode(&packet).is_ok());
    }
}

#[test]
fn only_mqtt_5_takes_a_password_alone() {
    let packet = b"\x10\x13\x00\x04MQTT\x05\x42\x00\x3c\x00\x00\x02m7\x00\x02pw";
    let connect = Connect::decode(packet).unwrap();
    assert_eq!(
        (connect.username.as_deref(), connect.encode().unwrap()),
        (None, packet.to_vec())
    );
}

#[test]
fn what_mqtt_31_leaves_open_is_taken_and_not_written_again() {
    let body = |flags, rest: &[u8]| {
        let mut packet = b"\x10\x00\x00\x06MQIsdp\x03\x00\x00\x3c\x00\x02m7".to_vec();
        packet[11] = flags;
        packet.extend_from_slice(rest);
        packet[1] = u8::try_from(packet.len() - 2).unwrap();
        packet
    };
    let same = |packet: &[u8]| {
        let connect = Connect::decode(packet).unwrap();
        assert_eq!(connect, plain(Version::V31));
        assert_eq!(connect.encode().unwrap(), body(0x02, b""));
    };
    same(&body(0x2a, b"")); // will retain and will QoS 1 without a will
    same(&body(0x82, b"")); // a user name flagged, and missing
    same(&body(0xc2, b"")); // and the password too

    let named = Connect::decode(&body(0xc2, b"\x00\x01u")).unwrap();
    assert_eq!(
        (named.username.as_deref(), named.password),
        (Some("u"), None)
    );
}

#[test]
fn a_longer_spelling_of_the_length_is_taken_before_mqtt_5_only() {
    let packet = b"\x10\x8e\x80\x00\x00\x04MQTT\x04\x02\x00\x3c\x00\x02m7";
    let connect = Connect::decode(packet).unwrap();
    assert_eq!(connect.encode().unwrap()[..2], [0x10, 0x0e]);
}

/// A CONNECT of MQTT 3.1.1 that is `length` bytes after its fixed header, by way of its payload.
fn of_length(length: usize) -> Connect {
    let will = Will {
        qos: 0,
        retain: false,
        properties: Properties::new(),
        topic: "t".into(),
        payload: vec![b'x'; (length - 19).min(65_535)],
    };
    let mut connect = plain(Version::V311);
    let left = length - 19 - will.payload.len();
    connect.will = Some(will);
    if left > 0 {
        connect.username = Some("u".repeat(left - 2));
    }
    connect
}

#[test]
fn lengths_at_their_edges_are_exact() {
    let edges: [(usize, &[u8]); 8] = [
        (126, b"\x10\x7e"),
        (127, b"\x10\x7f"),
        (128, b"\x10\x80\x01"),
        (129, b"\x10\x81\x01"),
        (16_383, b"\x10\xff\x7f"),
        (16_384, b"\x10\x80\x80\x01"),
        (65_535, b"\x10\xff\xff\x03"),
        (65_556, b"\x10\x94\x80\x04"),
    ];
    for (length, header) in edges {
        let connect = of_length(length);
        let packet = connect.encode().unwrap();
        assert_eq!(packet.len(), header.len() + length);
        assert!(packet.starts_with(header), "{length}");
        assert_eq!(measure(&packet, packet.len()), Ok(Some(packet.len())));
        assert_eq!(measure(&packet[..packet.len() - 1], packet.len()), Ok(None));
        assert!(measure(&packet, packet.len() - 1).is_err());
        assert_eq!(Connect::decode(&packet), Ok(connect));
    }
}

#[test]
fn fields_of_65_535_bytes_fit_and_no_longer_ones() {
    let mut connect = plain(Version::V5);
    connect.client_id = "c".repeat(65_535);
    connect
        .properties
        .push(Property::user("n".repeat(65_535), "v".repeat(65_535)));
    connect.password = Some(Password::new(vec![0; 65_535]));
    let packet = connect.encode().unwrap();
    assert_eq!(Connect::decode(&packet).as_ref(), Ok(&connect));

    connect.client_id.push('c');
    let too_long = connect.encode().unwrap_err();
    assert_eq!(
        too_long.to_string(),
        "the client id has 65536 bytes, and 65535 fit"
    );
}

#[test]
fn property_lengths_at_their_edges_are_exact() {
    let edges: [(usize, &[u8]); 4] = [
        (127, b"\x7f\x26"),
        (128, b"\x80\x01\x26"),
        (16_383, b"\xff\x7f\x26"),
        (16_384, b"\x80\x80\x01\x26"),
    ];
    for (length, bytes) in edges {
        let mut connect = plain(Version::V5);
        connect
            .properties
            .push(Property::user("", "v".repeat(length - 5)));
        let packet = connect.encode().unwrap();
        let header = if packet[2] & 0x80 == 0 { 3 } else { 4 };
        let header = if packet.len() < 130 { 2 } else { header };
        assert!(packet[header + 10..].starts_with(bytes), "{length}");
        assert_eq!(Connect::decode(&packet), Ok(connect));
    }
}

#[test]
fn a_foreign_protocol_is_refused_at_its_first_byte() {
    assert_eq!(measure(b"", CAP), Ok(None));
    let fault = measure(b"G", CAP).unwrap_err();
    assert_eq!(fault.malformed, Malformed::NotConnect { first: b'G' });
    assert_eq!(fault.answer(), None);
}

#[test]
fn a_packet_too_large_is_refused_with_its_twelfth_byte() {
    let opening = b"\x10\xff\xff\xff\x7f\x00\x04MQTT\x05";
    for end in 0..opening.len() {
        assert_eq!(measure(&opening[..end], CAP), Ok(None));
    }
    let fault = measure(opening, CAP).unwrap_err();
    assert_eq!(fault.answer(), Some((Version::V5, 0x95)));
    assert_eq!(
        fault.to_string(),
        "the packet is 268435460 bytes long, and 16384 are allowed"
    );

    let fault = measure(b"\x10\xff\xff\xff\x7f\x00\x06", CAP).unwrap_err();
    assert_eq!(
        fault.answer(),
        None,
        "MQIsdp is told apart with its second byte"
    );
}

#[test]
fn a_packet_that_ends_before_its_version_is_refused_under_any_cap() {
    assert!(measure(b"\x10\x03\x00\x04M", 2).is_err());
    assert!(measure(b"\x10\x00", 1).is_err());
}

#[test]
fn two_packets_at_once_are_measured_as_one() {
    let bytes = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02m7\x10";
    assert_eq!(measure(bytes, CAP), Ok(Some(16)));
    let surplus = Connect::decode(bytes).unwrap_err();
    assert_eq!(surplus.malformed, Malformed::Surplus { bytes: 1 });
}

#[test]
fn a_password_does_not_print() {
    let mut connect = plain(Version::V5);
    connect.password = Some(Password::new(b"hunter2".to_vec()));
    let printed = format!("{connect:?}");
    assert!(printed.contains("Password(…)"), "{printed}");
    assert!(
        !printed.contains("hunter2") && !printed.contains("104"),
        "{printed}"
    );
}

/// A CONNECT of any version, written, and perhaps damaged in one byte or cut.
fn perhaps_damaged() -> impl Strategy<Value = Vec<u8>> {
    let connect = arbitrary::version().prop_flat_map(arbitrary::connect);
    (
        connect,
        proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())),
    )
        .prop_map(|(connect, damage)| {
            let mut packet = connect.encode().unwrap();
            if let Some((at, byte)) = damage {
                let at = at.index(packet.len().min(200));
                packet[at] = byte;
            }
            packet
        })
}

proptest! {
    #[test]
    fn what_is_written_is_read(connect in arbitrary::version().prop_flat_map(arbitrary::connect)) {
        let packet = connect.encode().unwrap();
        prop_assert_eq!(measure(&packet, usize::MAX), Ok(Some(packet.len())));
        prop_assert_eq!(Connect::decode(&packet), Ok(connect));
    }

    #[test]
    fn what_is_read_is_written_to_the_byte(packet in perhaps_damaged()) {
        if let Ok(connect) = Connect::decode(&packet) {
            let written = connect.encode().unwrap();
            if connect.version == Version::V31 {
                prop_assert_eq!(Connect::decode(&written), Ok(connect));
                prop_assert!(written.len() <= packet.len());
            } else {
                prop_assert_eq!(written, packet);
            }
        }
    }

    #[test]
    fn a_packet_cut_anywhere_asks_for_more(
        connect in arbitrary::version().prop_flat_map(arbitrary::connect),
        at: proptest::sample::Index,
    ) {
        let packet = connect.encode().unwrap();
        prop_assert_eq!(measure(&packet[..at.index(packet.len())], usize::MAX), Ok(None));
        prop_assert!(Connect::decode(&packet[..at.index(packet.len())]).is_err());
    }
}
