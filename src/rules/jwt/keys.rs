//! The keys of an issuer: a JSON Web Key Set, read strictly (threats.md T8).
//!
//! Source: RFC 7517 (JWK), RFC 7518 §6 (RSA and EC), RFC 8037 (Ed25519), RFC 7638 (thumbprints).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;

use super::Bad;
use super::json::{self, Json, NoObject, Object};
use crate::rules::record::Print;

/// A signature algorithm with a public key. There is no name for `none`, nor for any by which the verifier could sign, too.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256,
    /// RSA PKCS #1 v1.5 with SHA-384.
    Rs384,
    /// RSA PKCS #1 v1.5 with SHA-512.
    Rs512,
    /// RSA PSS with SHA-256.
    Ps256,
    /// RSA PSS with SHA-384.
    Ps384,
    /// RSA PSS with SHA-512.
    Ps512,
    /// Ed25519. Ed448 goes by the same word, and is not known here.
    EdDsa,
}

impl Algorithm {
    /// Every one, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::Es256,
        Self::Es384,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::EdDsa,
    ];

    /// The word of RFC 7518 §3.1 and RFC 8037 §3.1: for configuration, in `alg` of a token and of a key.
    pub fn word(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Reads the word, exactly; `None` for any other.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.word() == word)
    }

    /// The one kind of key that it goes with.
    fn kind(self) -> Kind {
        match self {
            Self::Es256 => Kind::P256,
            Self::Es384 => Kind::P384,
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => {
                Kind::Rsa
            }
            Self::EdDsa => Kind::Ed25519,
        }
    }

    fn library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Es384 => jsonwebtoken::Algorithm::ES384,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Rs384 => jsonwebtoken::Algorithm::RS384,
            Self::Rs512 => jsonwebtoken::Algorithm::RS512,
            Self::Ps256 => jsonwebtoken::Algorithm::PS256,
            Self::Ps384 => jsonwebtoken::Algorithm::PS384,
            Self::Ps512 => jsonwebtoken::Algorithm::PS512,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// The keys whose word counts.
#[derive(Debug, Default)]
pub struct Keys {
    all: Vec<Key>,
    /// Places in `all`.
    by_kid: BTreeMap<String, usize>,
    prints: BTreeSet<Print>,
}

/// Bytes that are no set of keys to go by. Holds nothing of the keys but their number in the set, from 1.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadKeys {
    /// It is no JSON.
    #[error("it is not JSON, from line {line} on")]
    NotJson {
        /// From 1.
        line: usize,
    },
    /// One object holds a member twice.
    #[error(
        "an object in it holds a member twice, and readers differ in which of the two they take"
    )]
    Twice,
    /// It is JSON of something else.
    #[error("it is no JWKS: that is an object with a list `keys`")]
    NotASet,
    /// One key cannot be used.
    #[error("key {number} of it {what}")]
    Key {
        /// Its place in the set, from 1.
        number: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// There is nothing in it that a token could be checked with.
    #[error("it has no key for {wanted}")]
    NoneFits {
        /// The algorithms that are taken.
        wanted: String,
    },
}

impl Keys {
    /// Reads a JWKS, of which at least one key must fit one of `algorithms`.
    ///
    /// Keys of kinds and curves that are not known here, and those that say that they are not for signatures, are passed over
    /// (RFC 7517 §5).
    ///
    /// # Errors
    /// [`BadKeys`], when anything else is in it that is not a whole public key: then nothing of the set is used.
    pub fn read(jwks: &[u8], algorithms: &[Algorithm]) -> Result<Self, BadKeys> {
        let set = json::object(jwks).map_err(|why| match why {
            NoObject::NotJson { line } => BadKeys::NotJson { line },
            NoObject::Twice => BadKeys::Twice,
            NoObject::Other => BadKeys::NotASet,
        })?;
        let Some(Json::List(items)) = set.get("keys") else {
            return Err(BadKeys::NotASet);
        };
        let mut keys = Self::default();
        for (i, item) in items.iter().enumerate() {
            let read = Key::read(item).and_then(|key| key.map_or(Ok(()), |key| keys.add(key)));
            read.map_err(|what| BadKeys::Key {
                number: i + 1,
                what,
            })?;
        }
        let fits = |algorithm: &Algorithm| keys.all.iter().any(|key| key.fits(*algorithm));
        if algorithms.iter().any(fits) {
            return Ok(keys);
        }
        let wanted: Vec<_> = algorithms.iter().map(|one| one.word()).collect();
        Err(BadKeys::NoneFits {
            wanted: wanted.join(", "),
        })
    }

    fn add(&mut self, key: Key) -> Result<(), &'static str> {
        if let Some(kid) = &key.kid
            && self.by_kid.insert(kid.clone(), self.all.len()).is_some()
        {
            return Err("has the kid of another");
        }
        self.prints.insert(key.print);
        self.all.push(key);
        Ok(())
    }

    /// Whether the key with this thumbprint is among them.
    pub fn holds(&self, print: &Print) -> bool {
        self.prints.contains(print)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Whether they vouch for the same tokens as `other`.
    pub fn are_those_of(&self, other: &Self) -> bool {
        let told = |keys: &Self| {
            let told = keys
                .all
                .iter()
                .map(|key| (key.kid.clone(), key.print, key.only));
            told.collect::<BTreeSet<_>>()
        };
        told(self) == told(other)
    }

    /// The one key that a token with this `kid` must be signed with, if it may be by this algorithm.
    pub(super) fn choose(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&Key, Bad> {
        if let Some(kid) = kid {
            let place = *self.by_kid.get(kid).ok_or(Bad::UnknownKey)?;
            let key = &self.all[place];
            return Some(key)
                .filter(|key| key.fits(algorithm))
                .ok_or(Bad::KeyOfAnotherKind);
        }
        let mut fitting = self.all.iter().filter(|key| key.fits(algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key),
            (None, _) => Err(Bad::UnknownKey),
            (Some(_), Some(_)) => Err(Bad::NoKid),
        }
    }
}

/// One public key.
#[derive(Debug)]
pub(super) struct Key {
    kid: Option<String>,
    kind: Kind,
    /// The only algorithm it may be used with; `None`: any of its kind.
    only: Option<Algorithm>,
    /// The SHA-256 thumbprint (RFC 7638).
    pub(super) print: Print,
    library: DecodingKey,
}

impl Key {
    /// Reads one JWK; `None`: it is to be passed over.
    fn read(item: &Json) -> Result<Option<Self>, &'static str> {
        let Json::Object(jwk) = item else {
            return Err("is no object");
        };
        let kty = text(jwk, "kty")?.ok_or("has no kty")?;
        if kty == "oct" {
            return Err(
                "is a symmetric key: whoever reads it can make tokens; take it out, and give the issuer another",
            );
        }
        if !matches!(kty, "RSA" | "EC" | "OKP") {
            return Ok(None);
        }
        if ["d", "p", "q", "dp", "dq", "qi", "oth", "k"]
            .iter()
            .any(|name| jwk.contains_key(*name))
        {
            return Err(
                "is a private key: whoever reads it can make tokens; take it out, and give the issuer another",
            );
        }
        let only = match text(jwk, "alg")?.map(Algorithm::from_word) {
            Some(None) => return Ok(None),
            Some(only) => only,
            None => None,
        };
        if !is_for_signatures(jwk)? {
            return Ok(None);
        }
        let Some((kind, library, print)) = (if kty == "RSA" {
            Some(rsa(jwk)?)
        } else {
            on_curve(jwk, kty)?
        }) else {
            return Ok(None);
        };
        if only.is_some_and(|only| only.kind() != kind) {
            return Err("is not of the kind that its alg is for");
        }
        let kid = text(jwk, "kid")?.map(str::to_owned);
        Ok(Some(Self {
            kid,
            kind,
            only,
            print,
            library,
        }))
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        algorithm.kind() == self.kind && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether `signature` is that of this key under `message`. The provider is named here, not the one of the process.
    pub(super) fn has_signed(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &Vec<u8>,
    ) -> bool {
        let verifier = (DEFAULT_PROVIDER.verifier_factory)(&algorithm.library(), &self.library);
        verifier.is_ok_and(|verifier| verifier.verify(message, signature).is_ok())
    }
}

/// `use` and `key_ops` (RFC 7517 §4.2, §4.3).
fn is_for_signatures(jwk: &Object) -> Result<bool, &'static str> {
    let by_ops = match jwk.get("key_ops") {
        None => true,
        Some(Json::List(ops)) => ops.contains(&Json::Text("verify".into())),
        Some(_) => return Err("has key_ops that are no list"),
    };
    Ok(by_ops && text(jwk, "use")?.is_none_or(|word| word == "sig"))
}

type Material = (Kind, DecodingKey, Print);

/// RFC 7518 §6.3.1. 2048 to 8192 bits: below, the modulus can be factored by the mighty; above, each token costs too much.
fn rsa(jwk: &Object) -> Result<Material, &'static str> {
    let (n_text, n) = bytes(jwk, "n")?.ok_or("has no n")?;
    let (e_text, e) = bytes(jwk, "e")?.ok_or("has no e")?;
    for number in [&n, &e] {
        if number.first().is_none_or(|first| *first == 0) {
            return Err("has an n or e that is empty or begins with a zero byte");
        }
    }
    let bits = n.len() * 8 - n[0].leading_zeros() as usize;
    if bits < 2048 {
        return Err("is an RSA key of less than 2048 bits");
    }
    if bits > 8192 {
        return Err("is an RSA key of more than 8192 bits");
    }
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
    if !is_odd(&n) || !is_odd(&e) || e == [1] || e.len() > 4 {
        return Err("has an n or e that no RSA key has");
    }
    let library = DecodingKey::from_rsa_raw_components(&n, &e);
    let print = thumbprint(&[("e", e_text), ("kty", "RSA"), ("n", n_text)]);
    Ok((Kind::Rsa, library, print))
}

/// RFC 7518 §6.2.1, RFC 8037 §2; `None`: a curve that is not known here.
fn on_curve(jwk: &Object, kty: &str) -> Result<Option<Material>, &'static str> {
    let crv = text(jwk, "crv")?.ok_or("has no crv")?;
    let (kind, length, algorithm): (_, _, &'static dyn VerificationAlgorithm) = match (kty, crv) {
        ("EC", "P-256") => (Kind::P256, 32, &ECDSA_P256_SHA256_FIXED),
        ("EC", "P-384") => (Kind::P384, 48, &ECDSA_P384_SHA384_FIXED),
        ("OKP", "Ed25519") => (Kind::Ed25519, 32, &ED25519),
        _ => return Ok(None),
    };
    let (x_text, x) = bytes(jwk, "x")?.ok_or("has no x")?;
    let (library, print, point) = if kty == "OKP" {
        let print = thumbprint(&[("crv", crv), ("kty", kty), ("x", x_text)]);
        (DecodingKey::from_ed_der(&x), print, x.clone())
    } else {
        let (y_text, y) = bytes(jwk, "y")?.ok_or("has no y")?;
        if y.len() != length {
            return Err("has a y of another length than its curve");
        }
        // Uncompressed (SEC 1 §2.3.3).
        let point = [&[4], x.as_slice(), &y].concat();
        let print = thumbprint(&[("crv", crv), ("kty", kty), ("x", x_text), ("y", y_text)]);
        (DecodingKey::from_ec_der(&point), print, point)
    };
    if x.len() != length {
        return Err("has an x of another length than its curve");
    }
    ParsedPublicKey::new(algorithm, &point).map_err(|_| "is no point on its curve")?;
    Ok(Some((kind, library, print)))
}

/// A text member; `None`: it is not there.
fn text<'a>(jwk: &'a Object, name: &str) -> Result<Option<&'a str>, &'static str> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Json::Text(text)) => Ok(Some(text)),
        Some(_) => Err("has a member that should be a text and is not"),
    }
}

/// A member that is base64url without padding, as text and as bytes. One value has one spelling only.
fn bytes<'a>(jwk: &'a Object, name: &str) -> Result<Option<(&'a str, Vec<u8>)>, &'static str> {
    let Some(text) = text(jwk, name)? else {
        return Ok(None);
    };
    let bytes = URL_SAFE_NO_PAD.decode(text);
    let bytes = bytes.map_err(|_| "has a member that is not base64url without padding")?;
    Ok(Some((text, bytes)))
}

/// RFC 7638 §3: the members that make the key, in order, without white space. None of the values needs an escape.
fn thumbprint(members: &[(&str, &str)]) -> Print {
    let mut canonical = String::from("{");
    for (i, (name, value)) in members.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(canonical, "{comma}\"{name}\":\"{value}\"");
    }
    canonical.push('}');
    let print = digest(&SHA256, canonical.as_bytes());
    print.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
