//! Signatures of certificates. They are verified by the few keys of CAs, again and again: each is read once, not for every device.
//!
//! Reading a key costs 1.4 µs of the 50 that a signature of ECDSA P-256 takes, and 2.4 of 18 with RSA 2048. A key is kept when rustls's
//! own algorithm has found a signature of it good. What is kept is public, and whether a signature is good is found out each time; so
//! it matters to nothing but the time who pushed out whom.

use std::cell::RefCell;
use std::sync::LazyLock;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512,
};
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};
use webpki::aws_lc_rs as rustls_own;

use super::verify;

/// So many keys each thread keeps, those that verified something last.
const MOST: usize = 8;

thread_local! {
    /// Those that verified a signature last, the newest first; with the address of the algorithm that they are for.
    static KEYS: RefCell<Vec<(usize, ParsedPublicKey)>> = const { RefCell::new(Vec::new()) };
}

/// Reads the key in a SubjectPublicKeyInfo, without what says of which kind it is.
type Read = fn(&[u8]) -> Option<ParsedPublicKey>;

/// An algorithm that reads keys once.
#[derive(Debug)]
struct ReadOnce {
    /// What it does, otherwise.
    own: &'static dyn SignatureVerificationAlgorithm,
    read: Read,
}

/// The algorithms of [`verify::algorithms`], for the certificates of a chain.
pub(super) fn algorithms() -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    static ALGORITHMS: LazyLock<Vec<&'static dyn SignatureVerificationAlgorithm>> =
        LazyLock::new(|| {
            verify::algorithms()
                .all
                .iter()
                .map(|own| once(*own))
                .collect()
        });
    &ALGORITHMS
}

/// The same algorithm, by keys that are read once, if it is one of those that most CAs sign by.
fn once(
    own: &'static dyn SignatureVerificationAlgorithm,
) -> &'static dyn SignatureVerificationAlgorithm {
    let all: [(&dyn SignatureVerificationAlgorithm, Read); 7] = [
        (rustls_own::ECDSA_P256_SHA256, |key| {
            ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).ok()
        }),
        (rustls_own::ECDSA_P256_SHA384, |key| {
            ParsedPublicKey::new(&ECDSA_P256_SHA384_ASN1, key).ok()
        }),
        (rustls_own::ECDSA_P384_SHA256, |key| {
            ParsedPublicKey::new(&ECDSA_P384_SHA256_ASN1, key).ok()
        }),
        (rustls_own::ECDSA_P384_SHA384, |key| {
            ParsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, key).ok()
        }),
        (rustls_own::RSA_PKCS1_2048_8192_SHA256, |key| {
            ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).ok()
        }),
        (rustls_own::RSA_PKCS1_2048_8192_SHA384, |key| {
            ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA384, key).ok()
        }),
        (rustls_own::RSA_PKCS1_2048_8192_SHA512, |key| {
            ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA512, key).ok()
        }),
    ];
    let same = |other: &dyn SignatureVerificationAlgorithm| {
        other.public_key_alg_id() == own.public_key_alg_id()
            && other.signature_alg_id() == own.signature_alg_id()
    };
    match all.into_iter().find(|(other, _)| same(*other)) {
        Some((_, read)) => Box::leak(Box::new(ReadOnce { own, read })),
        None => own,
    }
}

impl SignatureVerificationAlgorithm for ReadOnce {
    fn verify_signature(
        &self,
        key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let us = std::ptr::from_ref(self).addr();
        KEYS.with_borrow_mut(|keys| {
            let is_it =
                |(whose, known): &(usize, ParsedPublicKey)| *whose == us && known.as_ref() == key;
            if let Some(place) = keys.iter().position(is_it) {
                keys[..=place].rotate_right(1);
                let (_, known) = &keys[0];
                return known
                    .verify_sig(message, signature)
                    .map_err(|_| InvalidSignature);
            }
            // Whether it is a key at all is rustls's to say: it takes fewer spellings than the library below.
            self.own.verify_signature(key, message, signature)?;
            if let Some(known) = (self.read)(key) {
                keys.truncate(MOST - 1);
                keys.insert(0, (us, known));
            }
            Ok(())
        })
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.own.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.own.signature_alg_id()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PublicKeyData as _, SignatureAlgorithm, SigningKey as _};

    use super::*;

    fn keys_kept() -> usize {
        KEYS.with_borrow(Vec::len)
    }

    /// The key in the SubjectPublicKeyInfo of a pair, and an algorithm's answer by it: ours, which has to be rustls's.
    fn answer(place: usize, pair: &KeyPair, message: &[u8], signature: &[u8]) -> bool {
        let [own, ours] = [verify::algorithms().all[place], algorithms()[place]].map(|one| {
            one.verify_signature(pair.der_bytes(), message, signature)
                .is_ok()
        });
        assert_eq!(own, ours, "{:?}", verify::algorithms().all[place]);
        ours
    }

    /// T2: a key that was read before makes no signature good that is not.
    #[test]
    fn a_key_that_is_known_answers_as_one_that_is_read_anew() {
        let kinds: [&'static SignatureAlgorithm; 6] = [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_RSA_SHA256,
            &rcgen::PKCS_RSA_SHA384,
            &rcgen::PKCS_RSA_SHA512,
            &rcgen::PKCS_ED25519,
        ];
        let mut good = 0;
        for kind in kinds {
            let pairs = [(); 2].map(|()| KeyPair::generate_for(kind).expect("a key"));
            let signature = pairs[0].sign(b"said").expect("a signature");
            let broken: Vec<u8> = signature.iter().rev().copied().collect();
            for place in 0..algorithms().len() {
                for _ in 0..2 {
                    good += usize::from(answer(place, &pairs[0], b"said", &signature));
                    assert!(!answer(place, &pairs[0], b"not said", &signature));
                    assert!(!answer(place, &pairs[0], b"said", &broken));
                    assert!(!answer(place, &pairs[1], b"said", &signature));
                }
            }
        }
        // RSA has two spellings, with parameters and without.
        assert_eq!(good, 2 * (kinds.len() + 3), "each kind by one algorithm");
    }

    /// A key in a spelling that rustls does not take is not taken here, either: a hybrid point, a key inside of a key, none.
    #[test]
    fn a_key_that_rustls_does_not_take_stays_refused() {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let signature = pair.sign(b"said").expect("a signature");
        let mut hybrid = pair.der_bytes().to_vec();
        hybrid[0] = 6 | (hybrid[64] & 1);
        let nested = pair.subject_public_key_info();
        for key in [hybrid.as_slice(), &nested, &[0], &[]] {
            for (own, ours) in verify::algorithms().all.iter().zip(algorithms()) {
                for one in [*own, *ours, *ours] {
                    assert!(one.verify_signature(key, b"said", &signature).is_err());
                }
            }
        }
    }

    #[test]
    fn a_thread_keeps_few_keys_and_none_of_strangers() {
        let kind = &rcgen::PKCS_ECDSA_P256_SHA256;
        let pairs: Vec<_> = (0..2 * MOST)
            .map(|_| KeyPair::generate_for(kind).expect("a key"))
            .collect();
        let place = algorithms()
            .iter()
            .position(|one| {
                one.signature_alg_id() == rustls_own::ECDSA_P256_SHA256.signature_alg_id()
            })
            .expect("ECDSA");
        let signature = pairs[0].sign(b"said").expect("a signature");
        assert!(answer(place, &pairs[0], b"said", &signature));
        let before = keys_kept();
        for stranger in &pairs[1..] {
            assert!(!answer(place, stranger, b"said", &signature));
        }
        assert_eq!(keys_kept(), before);
        for pair in &pairs {
            assert!(answer(
                place,
                pair,
                b"said",
                &pair.sign(b"said").expect("a signature")
            ));
        }
        assert!(keys_kept() <= MOST);
    }
}
