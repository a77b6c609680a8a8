//! Which cipher suite serves a device that offers several.
//!
//! Most devices list AES-256 first because their library does, and are served by AES-128 as well. Its handshake costs
//! the gate less: the transcript and the key schedule are SHA-256, which processors do in hardware, instead of SHA-384.
//! A device that lists ChaCha20-Poly1305 first does so for want of AES hardware: its own order is kept.

use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, SupportedCipherSuite};

use super::hello::first_record;

/// Puts the suites of `provider` into the order in which the gate takes them: the cheapest handshake first.
pub(super) fn cheapest_first(provider: &mut CryptoProvider) {
    provider.cipher_suites.sort_by_key(rank); // stable: TLS 1.3 stays in front of 1.2
}

fn rank(suite: &SupportedCipherSuite) -> u8 {
    match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => 0,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => 1,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => 2,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 3,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => 4,
        _ => 5,
    }
}

/// The name that OpenSSL has for the suite that rustls calls so; `None`: the gate does not offer it.
pub fn openssl_name(suite: &str) -> Option<&'static str> {
    Some(match suite {
        "TLS13_AES_128_GCM_SHA256" => "TLS_AES_128_GCM_SHA256",
        "TLS13_AES_256_GCM_SHA384" => "TLS_AES_256_GCM_SHA384",
        "TLS13_CHACHA20_POLY1305_SHA256" => "TLS_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" => "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => return None,
    })
}

/// Whether the first suite that a ClientHello offers is one with ChaCha20-Poly1305.
///
/// `hello` is the record that it came in, header included. What is cut short, or lies in several records, prefers nothing:
/// nothing is chosen by a part of it (threats.md T4).
///
/// Source: RFC 8446 §4.1.2, §5.1; GREASE, which some offer first, RFC 8701 §2.
pub fn prefers_chacha(hello: &[u8]) -> bool {
    /// Headers of the record (5) and of the message (4), version (2), random (32).
    const SESSION_ID: usize = 43;
    let Some(record) = first_record(hello) else {
        return false;
    };
    let Some([session_id, rest @ ..]) = record.get(SESSION_ID..) else {
        return false;
    };
    let Some([high, low, suites @ ..]) = rest.get(usize::from(*session_id)..) else {
        return false;
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let suites = suites.get(..length).unwrap_or_default().chunks_exact(2);
    let mut offered = suites.map(|pair| [pair[0], pair[1]]);
    let is_grease = |[a, b]: &[u8; 2]| a == b && a & 0x0f == 0x0a;
    // TLS_CHACHA20_POLY1305_SHA256 (RFC 8446 §B.4); ECDHE_RSA and ECDHE_ECDSA (RFC 7905 §2).
    matches!(
        offered.find(|suite| !is_grease(suite)),
        Some([0x13, 0x03] | [0xcc, 0xa8 | 0xa9])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_has_the_name_that_openssl_gives_it() {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let mut names = std::collections::BTreeSet::new();
        for suite in &provider.cipher_suites {
            let name = suite.suite().as_str().expect("a name");
            assert!(names.insert(openssl_name(name).unwrap_or_else(|| panic!("{name}"))));
        }
        assert_eq!(names.len(), provider.cipher_suites.len());
    }

    fn hello(session_id: &[u8], suites: &[[u8; 2]]) -> Vec<u8> {
        let mut hello = vec![0; 43];
        hello.push(u8::try_from(session_id.len()).expect("short"));
        hello.extend(session_id);
        hello.extend(u16::try_from(2 * suites.len()).expect("few").to_be_bytes());
        hello.extend(suites.concat());
        let length = u16::try_from(hello.len() - 5).expect("short");
        hello[3..5].copy_from_slice(&length.to_be_bytes());
        hello[7..9].copy_from_slice(&(length - 4).to_be_bytes());
        hello
    }

    #[test]
    fn a_hello_in_several_records_prefers_nothing() {
        let mut hello = hello(&[7; 32], &[[0x13, 3]]);
        assert!(prefers_chacha(&hello));
        hello[4] -= 1; // the last byte lies in another record
        assert!(!prefers_chacha(&hello));
    }

    #[test]
    fn a_device_without_aes_hardware_is_known_by_its_first_suite() {
        for first in [[0x13, 3], [0xcc, 0xa8], [0xcc, 0xa9]] {
            assert!(prefers_chacha(&hello(&[], &[first, [0x13, 1]])));
            assert!(prefers_chacha(&hello(
                &[7; 32],
                &[[0x3a, 0x3a], first, [0x13, 2]]
            )));
        }
        assert!(!prefers_chacha(&hello(&[7; 32], &[[0x13, 2], [0x13, 3]])));
        assert!(!prefers_chacha(&hello(&[7; 32], &[])));
    }

    #[test]
    fn a_hello_cut_short_prefers_nothing() {
        let whole = hello(&[7; 32], &[[0x13, 3]]);
        for length in 0..whole.len() {
            assert!(!prefers_chacha(&whole[..length]), "{length}");
        }
    }

    #[test]
    fn aes_128_comes_first_in_either_version() {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        let count = provider.cipher_suites.len();
        cheapest_first(&mut provider);
        let order: Vec<_> = provider
            .cipher_suites
            .iter()
            .map(SupportedCipherSuite::suite)
            .collect();
        assert_eq!(order.len(), count);
        assert_eq!(order[0], CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(
            order[3],
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        );
    }
}
