//! Certificates and revocation lists that no tool of ours makes any more: DER by hand, signed with a CA's P-256 key.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, ML_DSA_44_SIGNING,
    ML_DSA_65_SIGNING, ML_DSA_87_SIGNING, PqdsaKeyPair, PqdsaSigningAlgorithm,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tidegate::pki::Authority;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::shown::Shown;

/// ecdsa-with-SHA256 (RFC 5758 §3.2), as an AlgorithmIdentifier.
const ALGORITHM: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

/// One DER element.
pub fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = body.len();
    let mut der = vec![tag];
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => der.push(short),
        _ => {
            let length = u32::try_from(length).expect("short").to_be_bytes();
            let used = &length[length.iter().take_while(|byte| **byte == 0).count()..];
            der.push(0x80 | u8::try_from(used.len()).expect("at most 4"));
            der.extend_from_slice(used);
        }
    }
    der.extend(body);
    der
}

/// `body` with the signature of `authority` around it.
fn signed(authority: &Authority, body: &[u8]) -> Vec<u8> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(authority.key_pem().as_bytes()).expect("PKCS #8");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.secret_pkcs8_der())
        .expect("a P-256 key");
    let signature = key.sign(&SystemRandom::new(), body).expect("signed");
    tlv(
        0x30,
        &[body, ALGORITHM, &tlv(3, &[&[0], signature.as_ref()])],
    )
}

/// The certificate again, as version 1: without extensions (RFC 5280 §4.1).
pub fn version_1(authority: &Authority, der: &CertificateDer<'_>) -> CertificateDer<'static> {
    let (_, parsed) = X509Certificate::from_der(der).expect("a certificate");
    let ends = [parsed.validity().not_before, parsed.validity().not_after];
    let ends = ends.map(|end| time(end.timestamp()));
    let body = [
        tlv(2, &[parsed.raw_serial()]),
        ALGORITHM.to_vec(),
        parsed.issuer().as_raw().to_vec(),
        tlv(0x30, &[&ends[0], &ends[1]]),
        parsed.subject().as_raw().to_vec(),
        parsed.public_key().raw.to_vec(),
    ];
    signed(authority, &tlv(0x30, &[&body.concat()])).into()
}

/// The kinds of ML-DSA keys (FIPS 204), and their numbers below 2.16.840.1.101.3.4.3 (RFC 9881 §2).
pub const ML_DSA: [(&str, MlDsa); 3] = [
    ("ML-DSA-44", (17, &ML_DSA_44_SIGNING)),
    ("ML-DSA-65", (18, &ML_DSA_65_SIGNING)),
    ("ML-DSA-87", (19, &ML_DSA_87_SIGNING)),
];

pub type MlDsa = (u8, &'static PqdsaSigningAlgorithm);

/// The certificate again, with an ML-DSA key instead of its own; and that key.
pub fn ml_dsa(authority: &Authority, der: &CertificateDer<'_>, kind: MlDsa) -> Shown {
    let (number, algorithm) = kind;
    let key = PqdsaKeyPair::generate(algorithm).expect("a key");
    let algorithm = tlv(
        0x30,
        &[&tlv(6, &[&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, number]])],
    );
    let point = key.public_key().as_ref();
    let public = tlv(0x30, &[&algorithm, &tlv(3, &[&[0], point])]);

    let (_, parsed) = X509Certificate::from_der(der).expect("a certificate");
    let old = parsed.public_key().raw;
    let whole: &[u8] = parsed.tbs_certificate.as_ref();
    let find = |part: &[u8]| whole.windows(part.len()).position(|window| window == part);
    let version_3 = find(&[0xa0, 3, 2, 1, 2]).expect("its first element");
    let at = find(old).expect("its key");
    let (before, after) = (&whole[version_3..at], &whole[at + old.len()..]);
    let body = tlv(0x30, &[before, &public, after]);
    let secret = key.to_pkcs8v1().expect("PKCS #8");
    let secret = PrivatePkcs8KeyDer::from(secret.as_ref().to_vec());
    Shown::new(vec![signed(authority, &body).into()], secret.into())
}

/// A moment as GeneralizedTime; `at` in seconds since 1970.
fn time(at: i64) -> Vec<u8> {
    let at = ::time::OffsetDateTime::from_unix_timestamp(at).expect("a date");
    let text = format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    tlv(0x18, &[text.as_bytes()])
}

/// A revocation list as it shall be.
#[derive(Default)]
pub struct List {
    /// Version 2, which extensions need.
    pub is_v2: bool,
    pub revoked: Vec<Vec<u8>>,
    pub this_update: i64,
    pub next_update: Option<i64>,
    /// `Extension`s, whole.
    pub extensions: Vec<Vec<u8>>,
    /// The extensions of each entry.
    pub entry_extensions: Vec<Vec<u8>>,
}

impl List {
    /// The list, signed by `authority`.
    pub fn by(&self, authority: &Authority) -> Vec<u8> {
        let (_, parsed) = X509Certificate::from_der(authority.certificate()).expect("a CA");
        let mut body = Vec::new();
        if self.is_v2 {
            body.extend(tlv(2, &[&[1]]));
        }
        body.extend_from_slice(ALGORITHM);
        body.extend_from_slice(parsed.subject().as_raw());
        body.extend(time(self.this_update));
        body.extend(self.next_update.map(time).unwrap_or_default());
        let entries: Vec<u8> = self
            .revoked
            .iter()
            .flat_map(|serial| {
                let extensions = match self.entry_extensions.as_slice() {
                    [] => Vec::new(),
                    all => tlv(0x30, &[&all.concat()]),
                };
                tlv(
                    0x30,
                    &[&tlv(2, &[serial]), &time(self.this_update), &extensions],
                )
            })
            .collect();
        if !entries.is_empty() {
            body.extend(tlv(0x30, &[&entries]));
        }
        if !self.extensions.is_empty() {
            body.extend(tlv(0xa0, &[&tlv(0x30, &[&self.extensions.concat()])]));
        }
        signed(authority, &tlv(0x30, &[&body]))
    }
}

/// An `Extension` (RFC 5280 §4.1); `id` and `value` are contents.
pub fn extension(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let flag: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    tlv(0x30, &[&tlv(6, &[id]), flag, &tlv(4, &[value])])
}
