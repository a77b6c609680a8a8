use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const FRONT: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn says(input: &[u8]) -> (Header, usize) {
    let read = read(input).unwrap_or_else(|fault| panic!("{fault}: {input:02x?}"));
    read.unwrap_or_else(|| panic!("it stops too soon: {input:02x?}"))
}

fn between(from: &str, to: &str) -> Header {
    Header::Proxied {
        from: from.parse().expect("an address"),
        to: to.parse().expect("an address"),
    }
}

/// A version 2 header with these bytes for command and family, and this behind its length.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("short");
    [FRONT, &[command, family], &length.to_be_bytes(), rest].concat()
}

const TCP4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xbf, 0x68, 0x22, 0xb3];

#[test]
fn a_line_of_version_1_names_both_ends() {
    for (line, from, to) in [
        (
            "PROXY TCP4 192.0.2.7 198.51.100.1 49000 8883\r\n",
            "192.0.2.7:49000",
            "198.51.100.1:8883",
        ),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            "255.255.255.255:65535",
            "255.255.255.255:65535",
        ),
        (
            "PROXY TCP6 2001:DB8::7 ::1 0 1\r\n",
            "[2001:db8::7]:0",
            "[::1]:1",
        ),
        (
            "PROXY TCP6 ::ffff:192.0.2.7 ::ffff:c633:6401 5 6\r\n",
            "192.0.2.7:5",
            "198.51.100.1:6",
        ),
    ] {
        let with_more = [line.as_bytes(), &[0x16, 3, 1]].concat();
        assert_eq!(says(&with_more), (between(from, to), line.len()), "{line}");
    }
    let longest = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(longest.len(), LONGEST_V1);
    for line in [longest, "PROXY UNKNOWN\r\n", "PROXY UNKNOWN  what ever\r\n"] {
        assert_eq!(says(line.as_bytes()), (Header::Local, line.len()));
    }
}

#[test]
fn a_line_that_is_almost_right_is_none() {
    for line in [
        "PROXY \r\n",
        "PROXY\r\n",
        "PROXY TCP4\r\n",
        "PROXY  TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
        "PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 \r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 +1 2\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 65536 2\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1 -2\r\n",
        "PROXY TCP4 192.0.2.07 198.51.100.1 1 2\r\n",
        "PROXY TCP4 192.0.2 198.51.100.1 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        "PROXY tcp4 192.0.2.7 198.51.100.1 1 2\r\n",
        "PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n",
        "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\r\n",
        "PROXY TCP4 192.0.2.7\t198.51.100.1 1 2\r\n",
        "PROXY UNKNOWN \u{e9}\r\n",
        "proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
        "GET / HTTP/1.1\r\n",
    ] {
        assert!(read(line.as_bytes()).is_err(), "{line:?}");
    }
    let endless = format!("PROXY UNKNOWN {}", " ".repeat(LONGEST_V1));
    assert_eq!(
        read(endless.as_bytes()),
        Err(Malformed::TooLong { most: LONGEST_V1 })
    );
    assert_eq!(read(&endless.as_bytes()[..LONGEST_V1 - 1]), Ok(None));
    assert!(read(&endless.as_bytes()[..LONGEST_V1]).is_err());
}

#[test]
fn a_header_of_version_2_names_both_ends() {
    let header = v2(0x21, 0x11, &TCP4);
    let expected = between("192.0.2.7:49000", "198.51.100.1:8883");
    assert_eq!(says(&header), (expected, 28));

    let six = [
        &[0; 10][..],
        &[0xff, 0xff, 192, 0, 2, 7],
        &[0; 10],
        &[0xff, 0xff, 198, 51, 100, 1],
        &TCP4[8..],
    ]
    .concat();
    assert_eq!(
        says(&v2(0x21, 0x21, &six)),
        (expected, 52),
        "IPv4 in IPv6 is IPv4"
    );

    for header in [
        v2(0x20, 0x00, b""),
        v2(0x20, 0x11, &TCP4), // LOCAL: whatever it holds is to be ignored
        v2(0x20, 0xff, b"\x03\x00"),
        v2(0x21, 0x00, b""),
        v2(0x21, 0x31, &[b'x'; 216]),
    ] {
        assert_eq!(says(&header), (Header::Local, header.len()));
    }
}

/// As AWS's balancers send it: with a checksum in front, an endpoint's name, and padding. From ranch's own tests.
#[test]
fn what_a_balancer_of_aws_sends_is_read() {
    let fields = [
        &b"\x03\x00\x04\xe8\xd6\x89\x2d\xea\x00\x17\x01vpce-08d2bf15fac5001c9\x04\x00\x24"[..],
        &[0; 36],
    ];
    let block = [
        &b"\xac\x1f\x07\x71\xac\x1f\x0a\x1f\xc8\xf2\x00\x50"[..],
        &fields.concat(),
    ]
    .concat();
    let mut header = v2(0x21, 0x11, &block);
    assert_eq!(
        says(&header).0,
        between("172.31.7.113:51442", "172.31.10.31:80")
    );
    header[20] ^= 1;
    let fault = read(&header).expect_err("another address");
    assert!(fault.to_string().contains("checksum is wrong"), "{fault}");
}

#[test]
fn a_binary_header_that_is_almost_right_is_none() {
    let with = |fields: &[u8]| v2(0x21, 0x11, &[&TCP4, fields].concat());
    for (header, why) in [
        (v2(0x11, 0x11, &TCP4), "version is not 2"),
        (v2(0x22, 0x11, &TCP4), "neither LOCAL nor PROXY"),
        (v2(0x21, 0x12, &TCP4), "something else than a TCP stream"),
        (v2(0x21, 0x10, &TCP4), "something else than a TCP stream"),
        (v2(0x21, 0x41, &TCP4), "something else than a TCP stream"),
        (v2(0x21, 0x11, &TCP4[..11]), "no room for its addresses"),
        (v2(0x21, 0x21, &[0; 35]), "no room for its addresses"),
        (v2(0x21, 0x31, &[0; 215]), "no room for its addresses"),
        (with(&[1]), "beyond its end"),
        (with(&[1, 0]), "beyond its end"),
        (with(&[1, 0, 2, b'a']), "beyond its end"),
        (with(&[3, 0, 3, 0, 0, 0]), "not 4 bytes"),
        (with(&[3, 0, 4, 0, 0, 0, 0]), "checksum is wrong"),
        (with(&[&[5, 0, 129][..], &[0; 129]].concat()), "128 bytes"),
        (with(&[0x20, 0, 4, 1, 0, 0, 0]), "SSL field is too short"),
        (
            with(&[0x20, 0, 8, 1, 0, 0, 0, 0, 0x21, 0, 1]),
            "beyond its end",
        ),
    ] {
        let fault = read(&header).expect_err(why).to_string();
        assert!(fault.contains(why), "{fault}, not {why}");
    }
    let huge = [FRONT, &[0x21, 0x11, 0x10, 0x00]].concat();
    assert_eq!(read(&huge), Err(Malformed::TooLong { most: LONGEST_V2 }));
    assert_eq!(read(b"\x16\x03\x01"), Err(Malformed::Missing));
}

/// The same bytes, as another implementation reads them.
#[test]
fn what_is_sent_is_what_others_read() {
    use proxy_header::{ParseConfig, ProxyHeader, SslInfo, Tlv};
    let told = Told {
        tls: Some(Tls {
            version: Some("TLSv1.3"),
            cipher: Some("TLS_AES_128_GCM_SHA256"),
            signature: Some("ecdsa-with-SHA256"),
            key: Some("EC256"),
            certificate: Some(Certificate {
                shown_now: true,
                common_name: Some("meter-7"),
            }),
        }),
        alpn: Some("mqtt"),
        authority: Some("gate.example.net"),
        unique_id: Some("0123456789abcdef"),
        ..Told::ends(
            "[::ffff:192.0.2.7]:49000".parse().expect("one"),
            "198.51.100.1:8883".parse().expect("one"),
        )
    };
    let bytes = told.header(Version::V2);
    let config = ParseConfig {
        include_tlvs: true,
        allow_v1: false,
        allow_v2: true,
    };
    let (header, length) = ProxyHeader::parse(&bytes, config).expect("they read it");
    assert_eq!(length, bytes.len());
    let ends = header.proxied_address().expect("proxied");
    assert_eq!(ends.source.to_string(), "192.0.2.7:49000");
    assert_eq!(ends.destination.to_string(), "198.51.100.1:8883");
    assert_eq!(
        (header.authority(), header.alpn()),
        (Some("gate.example.net"), Some(&b"mqtt"[..]))
    );
    assert_eq!(header.unique_id(), Some(&b"0123456789abcdef"[..]));
    let ssl: SslInfo<'_> = header.ssl().expect("over TLS").clone();
    assert!(ssl.client_ssl() && ssl.client_cert_conn() && ssl.client_cert_sess());
    assert_eq!(
        (ssl.verify(), ssl.version(), ssl.cn()),
        (0, Some("TLSv1.3"), Some("meter-7"))
    );
    assert_eq!(
        (ssl.cipher(), ssl.sig_alg(), ssl.key_alg()),
        (
            Some("TLS_AES_128_GCM_SHA256"),
            Some("ecdsa-with-SHA256"),
            Some("EC256")
        )
    );
    assert!(header.tlvs().all(|tlv| tlv.is_ok()), "{bytes:02x?}");
    assert!(
        header
            .tlvs()
            .flatten()
            .any(|tlv| matches!(tlv, Tlv::Crc32c(_)))
    );

    let line = told.header(Version::V1);
    assert_eq!(line, b"PROXY TCP4 192.0.2.7 198.51.100.1 49000 8883\r\n");
}

#[test]
fn what_does_not_fit_is_left_out_whole() {
    let long = "n".repeat(253);
    let mut told = Told {
        tls: Some(Tls {
            version: Some("TLSv1.2"),
            cipher: Some("ECDHE-ECDSA-CHACHA20-POLY1305"),
            signature: Some("ecdsa-with-SHA384"),
            key: Some("RSA4096"),
            certificate: Some(Certificate {
                shown_now: false,
                common_name: Some(&long[..128]),
            }),
        }),
        alpn: Some(&long[..32]),
        authority: Some(&long),
        unique_id: Some(&long[..32]),
        ..Told::ends(
            "[2001:db8::1]:1".parse().expect("one"),
            "[2001:db8::2]:2".parse().expect("one"),
        )
    };
    let bytes = told.header(Version::V2);
    assert!(bytes.len() <= 16 + LONGEST_SENT);
    let holds = |bytes: &[u8], text: &str| {
        bytes
            .windows(text.len())
            .any(|some| some == text.as_bytes())
    };
    assert!(holds(&bytes, &long[..128]) && !holds(&bytes, &long[..129]));

    told.tls = None;
    assert!(
        holds(&told.header(Version::V2), &long),
        "there is room for it now"
    );
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| IpAddr::V4(Ipv4Addr::from(ip))),
        any::<[u8; 16]>().prop_map(|ip| IpAddr::V6(Ipv6Addr::from(ip))),
        any::<[u8; 4]>().prop_map(|ip| IpAddr::V6(Ipv4Addr::from(ip).to_ipv6_mapped())),
    ]
}

fn any_end() -> impl Strategy<Value = SocketAddr> {
    (any_ip(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn any_header() -> impl Strategy<Value = (SocketAddr, SocketAddr, Vec<u8>)> {
    let versions = select(vec![Version::V1, Version::V2]);
    (
        any_end(),
        any_end(),
        versions,
        "[a-z.]{0,300}",
        any::<bool>(),
    )
        .prop_map(|(from, to, version, name, tls)| {
            let tls = tls.then_some(Tls {
                version: Some("TLSv1.3"),
                cipher: None,
                signature: None,
                key: None,
                certificate: Some(Certificate {
                    shown_now: true,
                    common_name: Some(&name),
                }),
            });
            let told = Told {
                tls,
                authority: Some(&name),
                ..Told::ends(from, to)
            };
            (from, to, told.header(version))
        })
}

proptest! {
    #[test]
    fn what_is_sent_reads_as_it_was_meant((from, to, header) in any_header(), more in any::<Vec<u8>>()) {
        let length = header.len();
        let expected = Header::Proxied { from: canonical(from), to: canonical(to) };
        let sent = [header, more].concat();
        prop_assert_eq!(read(&sent), Ok(Some((expected, length))));
    }

    /// And however it comes in pieces, no byte behind it is looked at.
    #[test]
    fn every_beginning_of_a_good_header_waits_for_more((_, _, header) in any_header()) {
        for end in 0..header.len() {
            prop_assert_eq!(read(&header[..end]), Ok(None));
        }
    }

    #[test]
    fn a_changed_byte_breaks_nothing((_, _, header) in any_header(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut header = header;
        let at = at.index(header.len());
        header[at] = to;
        if let Ok(Some((_, length))) = read(&header) {
            prop_assert!(length <= header.len());
        }
    }

    #[test]
    fn whatever_comes_is_answered(bytes in any::<Vec<u8>>(), front in select(vec![&b""[..], V1, V2, b"\r\n\r\n\0\r\nQUIT\n\x21\x11"])) {
        let input = [front, &bytes].concat();
        match read(&input) {
            Ok(Some((_, length))) => prop_assert!(length <= input.len()),
            Ok(None) => prop_assert!(input.len() < LONGEST_V2),
            Err(_) => {}
        }
    }
}
