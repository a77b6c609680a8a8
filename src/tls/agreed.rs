//! The keys of a handshake, told as rustls makes them.
//!
//! After the handshake the gate seals and opens records itself, and rustls is let go (see [`super::records`]). rustls would give
//! the keys up, but it has not kept them: it would make them once more, a sixth of its key schedule. So the suites of a listener
//! have ciphers here that note each key in the scope of [`super::witness`], and then are rustls's own. What was noted last for a
//! direction is the key that data goes by: there is none after it but by a KeyUpdate (RFC 8446 §4.6.3, §7.3; RFC 5246 §6.3).

use std::sync::LazyLock;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305, NONCE_LEN};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, KeyBlockShape, MessageDecrypter,
    MessageEncrypter, OutboundOpaqueMessage, OutboundPlainMessage, Tls12AeadAlgorithm,
    Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::{
    CipherSuite, CipherSuiteCommon, ConnectionTrafficSecrets, Error, SupportedCipherSuite,
    Tls12CipherSuite, Tls13CipherSuite,
};
use zeroize::Zeroizing;

use super::protection::{Protection, Protections};
use super::witness::note;

/// What is agreed upon of the nonces of AES-GCM in TLS 1.2, in bytes (RFC 5288 §3).
const SALT: usize = 4;

/// The key of one direction.
struct Key {
    algorithm: &'static Algorithm,
    is_13: bool,
    /// As many of them as the algorithm needs.
    bytes: Zeroizing<[u8; 32]>,
    /// What the nonces are made of. In TLS 1.2, of AES-GCM, theirs tell the rest of it with each record: that is zero here.
    iv: Zeroizing<[u8; NONCE_LEN]>,
    /// Of the next record.
    number: u64,
}

/// The keys of both directions, so far.
#[derive(Default)]
pub(super) struct Agreed {
    theirs: Option<Key>,
    ours: Option<Key>,
}

impl std::fmt::Debug for Agreed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Agreed")
    }
}

impl Agreed {
    /// What protects the records from here on.
    ///
    /// # Errors
    /// When the handshake did not get that far.
    pub(super) fn protections(&self) -> Result<Protections, Error> {
        let protection = |key: &Option<Key>| {
            let key = key.as_ref().ok_or(Error::HandshakeNotComplete)?;
            let bytes = &key.bytes[..key.algorithm.key_len()];
            Protection::of(key.algorithm, (bytes, &*key.iv), key.number, key.is_13)
        };
        Ok(Protections {
            theirs: protection(&self.theirs)?,
            ours: protection(&self.ours)?,
        })
    }
}

/// One of the two directions.
#[derive(Clone, Copy, Debug)]
enum Whose {
    Theirs,
    Ours,
}

impl Whose {
    fn of(self, agreed: &mut Agreed) -> &mut Option<Key> {
        match self {
            Self::Theirs => &mut agreed.theirs,
            Self::Ours => &mut agreed.ours,
        }
    }

    /// A new key; `iv` in one or two parts. One that does not fit its cipher is none: the connection ends where it would be used.
    fn begins(self, algorithm: &'static Algorithm, is_13: bool, key: &AeadKey, iv: [&[u8]; 2]) {
        note(|seen| {
            let place = self.of(seen.agreed.get_or_insert_default());
            *place = None;
            let (key, length) = (key.as_ref(), iv[0].len() + iv[1].len());
            let is_salt = !is_13 && matches!(self, Self::Theirs) && length == SALT;
            if key.len() != algorithm.key_len() || !(is_salt || length == NONCE_LEN) {
                return;
            }
            // Filled where it stays: what is moved leaves itself behind.
            let noted = place.insert(Key {
                algorithm,
                is_13,
                bytes: Zeroizing::default(),
                iv: Zeroizing::default(),
                number: 0,
            });
            noted.bytes[..key.len()].copy_from_slice(key);
            noted.iv[..iv[0].len()].copy_from_slice(iv[0]);
            noted.iv[iv[0].len()..length].copy_from_slice(iv[1]);
        });
    }

    /// A record of that number went by the newest key.
    fn went(self, number: u64) {
        note(|seen| {
            let agreed = seen.agreed.get_or_insert_default();
            if let Some(key) = self.of(agreed) {
                key.number = number + 1;
            }
        });
    }
}

/// Puts suites that tell their keys in the place of rustls's.
pub(super) fn tell_keys(provider: &mut CryptoProvider) {
    for suite in &mut provider.cipher_suites {
        let telling = SUITES.iter().find(|one| one.suite() == suite.suite());
        *suite = *telling.expect("rustls has no suites but these");
    }
}

/// rustls wants what it can refer to for ever, so they are made once.
static SUITES: LazyLock<Vec<SupportedCipherSuite>> = LazyLock::new(|| {
    ALL_CIPHER_SUITES
        .iter()
        .map(|suite| match suite {
            SupportedCipherSuite::Tls13(theirs) => {
                SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                    common: common(&theirs.common),
                    hkdf_provider: theirs.hkdf_provider,
                    aead_alg: Box::leak(Box::new(Telling {
                        algorithm: algorithm(theirs.common.suite),
                        cipher: theirs.aead_alg,
                    })),
                    quic: None,
                })))
            }
            SupportedCipherSuite::Tls12(theirs) => {
                SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                    common: common(&theirs.common),
                    prf_provider: theirs.prf_provider,
                    kx: theirs.kx,
                    sign: theirs.sign,
                    aead_alg: Box::leak(Box::new(Telling {
                        algorithm: algorithm(theirs.common.suite),
                        cipher: theirs.aead_alg,
                    })),
                })))
            }
        })
        .collect()
});

fn common(theirs: &CipherSuiteCommon) -> CipherSuiteCommon {
    CipherSuiteCommon {
        suite: theirs.suite,
        hash_provider: theirs.hash_provider,
        confidentiality_limit: theirs.confidentiality_limit,
    }
}

fn algorithm(suite: CipherSuite) -> &'static Algorithm {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => &AES_128_GCM,
        CipherSuite::TLS13_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => &AES_256_GCM,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => &CHACHA20_POLY1305,
        other => unreachable!("rustls has no {other:?}"),
    }
}

/// A cipher of rustls's that tells its keys.
struct Telling<C: ?Sized + 'static> {
    algorithm: &'static Algorithm,
    cipher: &'static C,
}

impl Tls13AeadAlgorithm for Telling<dyn Tls13AeadAlgorithm> {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Whose::Ours.begins(self.algorithm, true, &key, [iv.as_ref(), &[]]);
        Box::new(Sealing(self.cipher.encrypter(key, iv)))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Whose::Theirs.begins(self.algorithm, true, &key, [iv.as_ref(), &[]]);
        Box::new(Opening(self.cipher.decrypter(key, iv)))
    }

    fn key_len(&self) -> usize {
        self.cipher.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.cipher.extract_keys(key, iv)
    }
}

impl Tls12AeadAlgorithm for Telling<dyn Tls12AeadAlgorithm> {
    fn encrypter(&self, key: AeadKey, iv: &[u8], explicit: &[u8]) -> Box<dyn MessageEncrypter> {
        Whose::Ours.begins(self.algorithm, false, &key, [iv, explicit]);
        Box::new(Sealing(self.cipher.encrypter(key, iv, explicit)))
    }

    fn decrypter(&self, key: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        Whose::Theirs.begins(self.algorithm, false, &key, [iv, &[]]);
        Box::new(Opening(self.cipher.decrypter(key, iv)))
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        self.cipher.key_block_shape()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: &[u8],
        explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.cipher.extract_keys(key, iv, explicit)
    }
}

/// Seals records, and tells their numbers.
struct Sealing(Box<dyn MessageEncrypter>);

/// Opens records, and tells their numbers.
struct Opening(Box<dyn MessageDecrypter>);

impl MessageEncrypter for Sealing {
    fn encrypt(
        &mut self,
        record: OutboundPlainMessage<'_>,
        number: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let sealed = self.0.encrypt(record, number)?;
        Whose::Ours.went(number);
        Ok(sealed)
    }

    fn encrypted_payload_len(&self, plain: usize) -> usize {
        self.0.encrypted_payload_len(plain)
    }
}

impl MessageDecrypter for Opening {
    fn decrypt<'a>(
        &mut self,
        record: InboundOpaqueMessage<'a>,
        number: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let opened = self.0.decrypt(record, number)?;
        Whose::Theirs.went(number);
        Ok(opened)
    }
}

#[cfg(test)]
mod tests;
