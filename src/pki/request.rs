//! A request for a certificate (PKCS #10): the way of a device, or a secure element in it, that never gives its key away.

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::AlgorithmIdentifier;
use x509_parser::asn1_rs::{Any, FromDer as _};
use x509_parser::public_key::PublicKey;

/// The only version there is (RFC 2986 §4.1), as INTEGER.
const VERSION: &[u8] = &[2, 1, 0];
const BIT_STRING: u32 = 3;
const SEQUENCE: u32 = 16;
/// No request is longer: an RSA key of 8 192 bits and its signature have some 2 KiB together.
const LARGEST: usize = 64 * 1024;

/// A request whose sender has proved that it holds the key. Only the key is kept: what else it asks for is the CA's to say.
#[derive(Debug)]
pub struct Request {
    pub(super) key: SubjectPublicKeyInfo,
}

/// Why nothing is signed for a request.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadRequest {
    /// The bytes are something else, or cut short.
    #[error(
        "it holds no request for a certificate (PKCS #10); make one by `openssl req -new -key FILE -subj /CN=ID`"
    )]
    Garbled,
    /// Whoever sent it does not hold the key, or the bytes were changed on their way.
    #[error(
        "its signature is not by the key in it, so nobody has shown that they hold that key; make the request anew, on the device that holds it"
    )]
    BadSignature,
    /// The signature is of a kind that nothing here verifies, SHA-1 among them.
    #[error(
        "its signature is of a kind that is not taken; sign it by SHA-256 or stronger, as `openssl req -new -sha256` does"
    )]
    UnknownSignature,
    /// The key is of a kind that no certificate is issued for.
    #[error(
        "its key is of a kind that is not taken; use ECDSA on P-256, P-384 or P-521, Ed25519, or RSA of 2048 to 8192 bits"
    )]
    UnknownKey,
    /// The key can be broken. Holds what it is.
    #[error(
        "its key is {0}, which is weak or out of bounds; use ECDSA on P-256, or RSA of 2048 to 8192 bits with the exponent 65537"
    )]
    WeakKey(String),
}

impl Request {
    /// Reads a request in DER, and verifies that it was signed by the key that it holds.
    ///
    /// # Errors
    /// [`BadRequest`], with the way out.
    ///
    /// Source: RFC 2986 §4.2.
    pub fn read(der: &[u8]) -> Result<Self, BadRequest> {
        let Parts {
            info,
            key,
            key_algorithm,
            key_bits,
            algorithm,
            signature,
        } = parts(der).ok_or(BadRequest::Garbled)?;
        refuse_weak(key)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let known = provider.signature_verification_algorithms.all;
        let is = |own: AlgorithmIdentifier, told: &[u8]| own.as_ref() == told;
        if !known
            .iter()
            .any(|one| is(one.public_key_alg_id(), key_algorithm))
        {
            return Err(BadRequest::UnknownKey);
        }
        let mut fitting = known
            .iter()
            .filter(|one| {
                is(one.public_key_alg_id(), key_algorithm) && is(one.signature_alg_id(), algorithm)
            })
            .peekable();
        if fitting.peek().is_none() {
            return Err(BadRequest::UnknownSignature);
        }
        if !fitting.any(|one| one.verify_signature(key_bits, info, signature).is_ok()) {
            return Err(BadRequest::BadSignature);
        }
        let key = SubjectPublicKeyInfo::from_der(key).map_err(|_| BadRequest::UnknownKey)?;
        Ok(Self { key })
    }
}

/// Where the parts of a request are.
struct Parts<'d> {
    /// What is signed.
    info: &'d [u8],
    /// The whole SubjectPublicKeyInfo.
    key: &'d [u8],
    key_algorithm: &'d [u8],
    key_bits: &'d [u8],
    algorithm: &'d [u8],
    signature: &'d [u8],
}

fn parts(der: &[u8]) -> Option<Parts<'_>> {
    if der.len() > LARGEST {
        return None;
    }
    let mut outer = der;
    let (_, mut request) = take(&mut outer, SEQUENCE)?;
    let (info, mut inner) = take(&mut request, SEQUENCE)?;
    let (_, algorithm) = take(&mut request, SEQUENCE)?;
    let (_, signature) = take(&mut request, BIT_STRING)?;
    inner = inner.strip_prefix(VERSION)?;
    let _subject = take(&mut inner, SEQUENCE)?;
    let (key, mut of_key) = take(&mut inner, SEQUENCE)?;
    let (_, key_algorithm) = take(&mut of_key, SEQUENCE)?;
    let (_, key_bits) = take(&mut of_key, BIT_STRING)?;
    let whole = [outer, request, of_key].iter().all(|rest| rest.is_empty());
    whole.then_some(Parts {
        info,
        key,
        key_algorithm,
        // The first octet tells the bits that are unused in the last one; there are none in keys and signatures.
        key_bits: key_bits.strip_prefix(&[0])?,
        algorithm,
        signature: signature.strip_prefix(&[0])?,
    })
}

/// The next element of `input`, whole, and its contents.
fn take<'d>(input: &mut &'d [u8], tag: u32) -> Option<(&'d [u8], &'d [u8])> {
    let (rest, element) = Any::from_der(input).ok()?;
    let whole = &input[..input.len() - rest.len()];
    *input = rest;
    (element.tag().0 == tag).then_some((whole, element.data))
}

/// RSA keys that can be factored, or whose exponent makes signatures that can be forged (FIPS 186-5 §A.1.1).
fn refuse_weak(key: &[u8]) -> Result<(), BadRequest> {
    let (_, key) = x509_parser::prelude::SubjectPublicKeyInfo::from_der(key)
        .map_err(|_| BadRequest::Garbled)?;
    let Ok(PublicKey::RSA(rsa)) = key.parsed() else {
        return Ok(());
    };
    let bits = bits(rsa.modulus);
    if !(2048..=8192).contains(&bits) {
        return Err(BadRequest::WeakKey(format!("RSA of {bits} bits")));
    }
    match rsa.try_exponent() {
        Ok(exponent) if exponent >= 65_537 && exponent % 2 == 1 => Ok(()),
        Ok(exponent) => Err(BadRequest::WeakKey(format!(
            "RSA with the exponent {exponent}"
        ))),
        Err(_) => Err(BadRequest::WeakKey(
            "RSA with an exponent beyond 64 bits".into(),
        )),
    }
}

/// The bits of a number, without leading zeros.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = &number[zeros..];
    let first = number
        .first()
        .map_or(0, |byte| byte.leading_zeros() as usize);
    number.len() * 8 - first
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use x509_parser::prelude::X509Certificate;

    use super::*;
    use crate::pki::{Authority, Order};

    fn request(key: &KeyPair) -> Vec<u8> {
        let request = CertificateParams::default().serialize_request(key);
        request.expect("a request").der().to_vec()
    }

    #[test]
    fn a_request_gives_its_key_and_nothing_else() {
        let kinds = [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ECDSA_P521_SHA512,
            &rcgen::PKCS_ED25519,
            &rcgen::PKCS_RSA_SHA256,
        ];
        let ca = Authority::new("trial").expect("a CA");
        let device = "meter-7".parse().expect("a device id");
        for kind in kinds {
            let key = KeyPair::generate_for(kind).expect("a key");
            let mut asks =
                CertificateParams::new(["elsewhere.example.net".into()]).expect("a name");
            asks.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let asks = asks.serialize_request(&key).expect("a request");

            let read = Request::read(asks.der()).expect("a good request");
            let certified = ca
                .certify(Order::device(&device), &read)
                .expect("certified");
            let (_, it) =
                X509Certificate::from_der(certified.certificate()).expect("a certificate");
            assert_eq!(
                it.public_key().subject_public_key.data,
                key.public_key_raw()
            );
            assert!(!it.is_ca());
            let names = it.subject_alternative_name().expect("one").expect("there");
            assert_eq!(
                names.value.general_names.len(),
                1,
                "the URI of the device alone"
            );
        }
    }

    #[test]
    fn who_does_not_hold_the_key_gets_no_certificate() {
        let good = request(&KeyPair::generate().expect("a key"));
        assert!(Request::read(&good).is_ok());
        let other = request(&KeyPair::generate().expect("a key"));
        let at = |der: &[u8]| parts(der).expect("whole").key.to_vec();
        let text = |bytes: &[u8]| hex::encode(bytes);
        let swapped = text(&good).replace(&text(&at(&good)), &text(&at(&other)));
        let swapped = hex::decode(swapped).expect("hex");
        assert_eq!(
            Request::read(&swapped).err(),
            Some(BadRequest::BadSignature)
        );
        for cut in 0..good.len() {
            assert!(Request::read(&good[..cut]).is_err(), "cut at {cut}");
        }
        let longer = [&good[..], &[0]].concat();
        assert_eq!(Request::read(&longer).err(), Some(BadRequest::Garbled));
    }

    proptest::proptest! {
        #[test]
        fn noise_is_no_request(der in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..256)) {
            proptest::prop_assert!(Request::read(&der).is_err());
        }
    }
}
