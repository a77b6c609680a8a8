//! An issuer of tokens, for tests: keys of every algorithm, by aws-lc-rs alone.

use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// Bytes as a part of a token.
pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// One key of an issuer.
pub(crate) struct Issuer {
    pub(crate) kid: String,
    pub(crate) alg: &'static str,
    key: Key,
}

enum Key {
    Rsa(Arc<RsaKeyPair>, &'static dyn RsaEncoding),
    Ec(Box<EcdsaKeyPair>, &'static str),
    Ed(Box<Ed25519KeyPair>),
}

impl Issuer {
    /// A new key for this algorithm, by the word that tokens use.
    pub(crate) fn new(kid: &str, alg: &'static str) -> Self {
        let key = match alg {
            "ES256" => Key::Ec(
                Box::new(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key")),
                "P-256",
            ),
            "ES384" => Key::Ec(
                Box::new(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key")),
                "P-384",
            ),
            "EdDSA" => Key::Ed(Box::new(Ed25519KeyPair::generate().expect("a key"))),
            _ => Key::Rsa(
                Arc::new(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key")),
                encoding(alg),
            ),
        };
        Self {
            kid: kid.into(),
            alg,
            key,
        }
    }

    /// An issuer with the same RSA key that signs by another algorithm.
    pub(crate) fn with_alg(&self, alg: &'static str) -> Self {
        let Key::Rsa(key, _) = &self.key else {
            panic!("only RSA")
        };
        Self {
            kid: self.kid.clone(),
            alg,
            key: Key::Rsa(key.clone(), encoding(alg)),
        }
    }

    /// The public key as a JWK, with kid and no alg.
    pub(crate) fn jwk(&self) -> Value {
        match &self.key {
            Key::Rsa(key, _) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(key.public_key());
                json!({"kty": "RSA", "kid": self.kid, "use": "sig", "n": base64(public.n), "e": base64(public.e)})
            }
            Key::Ec(key, crv) => {
                let (x, y) =
                    key.public_key().as_ref()[1..].split_at(key.public_key().as_ref().len() / 2);
                json!({"kty": "EC", "kid": self.kid, "crv": crv, "x": base64(x), "y": base64(y)})
            }
            Key::Ed(key) => {
                json!({"kty": "OKP", "kid": self.kid, "crv": "Ed25519", "x": base64(key.public_key().as_ref())})
            }
        }
    }

    /// The public key as PEM, for an RSA key.
    pub(crate) fn public_pem(&self) -> String {
        let Key::Rsa(key, _) = &self.key else {
            panic!("only RSA")
        };
        let der: PublicKeyX509Der<'_> = key.public_key().as_der().expect("a key");
        let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(64)
            .filter_map(|line| str::from_utf8(line).ok())
            .collect();
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            lines.join("\n")
        )
    }

    /// A header for this key.
    pub(crate) fn header(&self) -> Value {
        json!({"typ": "JWT", "alg": self.alg, "kid": self.kid})
    }

    /// A token with this header and these claims.
    pub(crate) fn token(&self, header: &Value, claims: &Value) -> String {
        self.token_of(&header.to_string(), &claims.to_string())
    }

    /// A token with header and claims exactly as they are written here.
    pub(crate) fn token_of(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64(header), base64(claims));
        let signature = self.sign(message.as_bytes());
        format!("{message}.{}", base64(signature))
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let chance = SystemRandom::new();
        match &self.key {
            Key::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*encoding, &chance, message, &mut signature)
                    .expect("signed");
                signature
            }
            Key::Ec(key, _) => key
                .sign(&chance, message)
                .expect("signed")
                .as_ref()
                .to_vec(),
            Key::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }
}

fn encoding(alg: &str) -> &'static dyn RsaEncoding {
    match alg {
        "RS256" => &RSA_PKCS1_SHA256,
        "RS384" => &RSA_PKCS1_SHA384,
        "RS512" => &RSA_PKCS1_SHA512,
        "PS256" => &RSA_PSS_SHA256,
        "PS384" => &RSA_PSS_SHA384,
        "PS512" => &RSA_PSS_SHA512,
        _ => panic!("{alg} is no algorithm of RSA keys"),
    }
}

/// A key set of these keys.
pub(crate) fn jwks(keys: &[Value]) -> Vec<u8> {
    json!({"keys": keys}).to_string().into_bytes()
}
