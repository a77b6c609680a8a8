//! The keys that are told, against those that rustls gives up.
#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{ActiveKeyExchange, SharedSecret, SupportedKxGroup};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig,
    ServerConnection,
};
use rustls_pki_types::ServerName;

use super::*;
use crate::tls::server::Resumption;
use crate::tls::testing::*;
use crate::tls::witness::{Seen, witness};

/// A key as bytes, what its nonces are made of, and the number of the next record.
type Told = (Vec<u8>, Vec<u8>, u64);

/// A handshake: how it went, and the keys of both directions, theirs first: as they were told, and as rustls gives them up.
fn keys(server: &ServerConfig, device: &Arc<ClientConfig>) -> (HandshakeKind, [[Told; 2]; 2]) {
    let mut server = server.clone();
    server.enable_secret_extraction = true;
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let name = ServerName::try_from("gate.example.net").unwrap();
    let mut device = ClientConnection::new(device.clone(), name).unwrap();
    let mut seen = Seen::default();
    while device.is_handshaking() || server.is_handshaking() {
        let mut came = Vec::new();
        while device.wants_write() {
            device.write_tls(&mut came).unwrap();
        }
        server.read_tls(&mut came.as_slice()).unwrap();
        witness(&mut seen, || server.process_new_packets().map(drop)).unwrap();
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).unwrap();
        }
        device.read_tls(&mut answer.as_slice()).unwrap();
        device.process_new_packets().unwrap();
    }
    let kind = server.handshake_kind().unwrap();
    let is_13 = server.protocol_version() == Some(ProtocolVersion::TLSv1_3);
    let agreed = *seen.agreed.unwrap();
    let told = [agreed.theirs, agreed.ours].map(|key| {
        let key = key.unwrap();
        assert_eq!(key.is_13, is_13);
        let bytes = key.bytes[..key.algorithm.key_len()].to_vec();
        assert_eq!(key.bytes[bytes.len()..], [0; 32][bytes.len()..]);
        (bytes, key.iv.to_vec(), key.number)
    });
    let secrets = server.dangerous_extract_secrets().unwrap();
    let mut given_up =
        [secrets.rx, secrets.tx].map(|(number, secrets)| {
            use ConnectionTrafficSecrets as S;
            let (S::Aes128Gcm { key, iv }
            | S::Aes256Gcm { key, iv }
            | S::Chacha20Poly1305 { key, iv }) = secrets
            else {
                panic!("a cipher that the gate does not know")
            };
            (key.as_ref().to_vec(), iv.as_ref().to_vec(), number)
        });
    // Of theirs, each record of AES-GCM tells the rest in TLS 1.2 (RFC 5288 §3).
    if !is_13 && told[0].1.ends_with(&[0; 8]) {
        given_up[0].1[4..].fill(0);
    }
    (kind, [told, given_up])
}

fn kind_of_key(suite: SupportedCipherSuite) -> &'static rcgen::SignatureAlgorithm {
    if suite.suite().as_str().unwrap().contains("RSA") {
        &rcgen::PKCS_RSA_SHA256
    } else {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

#[test]
fn the_keys_that_are_told_are_those_that_rustls_would_give_up() {
    for suite in ALL_CIPHER_SUITES {
        let tls = server_tls_resuming(
            kind_of_key(*suite),
            Resumption::Tickets { secret_file: None },
        );
        let mut provider = default_provider();
        provider.cipher_suites = vec![*suite];
        let device = Arc::new(device_config_by(provider, None, suite.version(), None));
        let server = tls.config_for(None::<std::iter::Empty<&[u8]>>, false);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let (kind, [told, given_up]) = keys(server, &device);
            assert_eq!(kind, expected, "{suite:?}");
            assert_eq!(told, given_up, "{suite:?}, {kind:?}");
        }
    }
}

/// A device whose first share is of a group that the gate does not have is asked for another (RFC 8446 §4.1.4): the keys are of the second.
#[test]
fn the_keys_that_are_told_after_a_second_client_hello_are_those_that_rustls_would_give_up() {
    let tls = server_tls_resuming(
        &rcgen::PKCS_ECDSA_P256_SHA256,
        Resumption::Tickets { secret_file: None },
    );
    let mut provider = default_provider();
    provider.kx_groups.insert(0, &Strange);
    let device = Arc::new(device_config_by(provider, None, &TLS13, None));
    let server = tls.config_for(None::<std::iter::Empty<&[u8]>>, false);
    let (kind, [told, given_up]) = keys(server, &device);
    assert_eq!(kind, HandshakeKind::FullWithHelloRetryRequest);
    assert_eq!(told, given_up);
}

/// A group that rustls does not have.
#[derive(Debug)]
struct Strange;

impl SupportedKxGroup for Strange {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(Self))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

impl ActiveKeyExchange for Strange {
    fn complete(self: Box<Self>, _peer: &[u8]) -> Result<SharedSecret, Error> {
        unreachable!("it was taken")
    }

    fn pub_key(&self) -> &[u8] {
        &[4; 133]
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

#[test]
fn a_listener_offers_all_suites_of_rustls_and_tells_the_keys_of_each() {
    let mut provider = default_provider();
    let before: Vec<_> = provider
        .cipher_suites
        .iter()
        .map(SupportedCipherSuite::suite)
        .collect();
    tell_keys(&mut provider);
    let after: Vec<_> = provider
        .cipher_suites
        .iter()
        .map(SupportedCipherSuite::suite)
        .collect();
    assert_eq!(before, after);
}

#[test]
fn keys_do_not_print() {
    assert_eq!(format!("{:?}", Agreed::default()), "Agreed");
}

/// What no handshake was witnessed for has no keys, and is no connection.
#[test]
fn without_keys_there_are_no_records() {
    let refused = Agreed::default().protections().map(drop);
    assert_eq!(refused, Err(Error::HandshakeNotComplete));
}

#[test]
fn a_key_that_does_not_fit_its_cipher_is_none() {
    let mut seen = Seen::default();
    witness(&mut seen, || {
        let key = || AeadKey::from([7; 32]);
        Whose::Theirs.begins(&AES_256_GCM, true, &key(), [&[1; 12], &[]]);
        Whose::Ours.begins(&AES_256_GCM, true, &key(), [&[1; 12], &[]]);
    });
    assert!(seen.agreed.as_ref().unwrap().protections().is_ok());
    for (algorithm, iv) in [(&AES_128_GCM, [1; 12].as_slice()), (&AES_256_GCM, &[1; 4])] {
        witness(&mut seen, || {
            Whose::Ours.begins(algorithm, true, &AeadKey::from([7; 32]), [iv, &[]]);
        });
        assert!(seen.agreed.as_ref().unwrap().protections().is_err());
    }
}
