//! Tokens that somebody else signed: JWTs (RFC 7519), in the compact form of JWS (RFC 7515).
//!
//! What the configuration fixes is never asked of the token (threats.md K1): which algorithms count, which keys, which issuer
//! and audience. jsonwebtoken holds the keys and checks the signatures. Parts, JSON and claims are read here, since it reads
//! the clock by itself, takes the last of two members of one name for extra claims, and a list of issuers for one.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::device::{Alphabet, DeviceId, NotAName};
use super::record::Print;

mod json;
mod keys;
#[cfg(test)]
pub(crate) mod testing;

use json::{Json, NoObject, Object};
pub use keys::{Algorithm, BadKeys, Keys};

/// The most bytes of a token. Those of the field are 300 to 2000 bytes long.
pub const LONGEST: usize = 8 * 1024;

/// How far the issuer's clock may be from ours, in seconds.
pub const LEEWAY: i64 = 30;

/// The last second of the year 9999: a claim beyond it is a slip of the pen.
const LATEST: i64 = 253_402_300_799;

/// `[token.jwt]` as far as tokens are judged by it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What `iss` must be, exactly.
    pub issuer: String,
    /// What `aud` must be or hold, exactly.
    pub audience: String,
    /// The algorithms that count; at least one.
    pub algorithms: Vec<Algorithm>,
    /// The claim that names the device. Default `sub`.
    pub device_claim: String,
    /// What a device id is made of.
    pub alphabet: Alphabet,
}

/// What a good token says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claims {
    /// Who shows it.
    pub device: DeviceId,
    /// The last second in which it counts, since 1970: `exp` and [`LEEWAY`]. So a token that is taken is not over at once.
    pub not_after: i64,
    /// The thumbprint of the key that vouches for it (RFC 7638): when [`Keys`] no longer [hold](Keys::holds) it, nobody does.
    pub key: Print,
}

/// Why a token does not count. Holds nothing of the token: only names, and what we expect (threats.md K2).
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Bad {
    /// It is too long.
    #[error("the token has more than {LONGEST} bytes")]
    TooLong,
    /// It is not three parts between dots, none of them empty.
    #[error("the token is no signed JWT: that is three parts with a dot between (RFC 7515 §7.1)")]
    NotAJwt,
    /// One part is not base64url, in its one spelling.
    #[error("the {0} of the token is not base64url without padding")]
    NotBase64(Part),
    /// One part is not a JSON object.
    #[error("the {0} of the token is not a JSON object")]
    NotAnObject(Part),
    /// An object holds a member twice.
    #[error("the {0} of the token holds a member twice")]
    Twice(Part),
    /// A member that the header must have, or one of another kind than it must be.
    #[error("the header of the token has no {0}, or not as a text")]
    Header(&'static str),
    /// It was signed by an algorithm that does not count.
    #[error("the alg of the token is none of token.jwt.algorithms")]
    Algorithm,
    /// It asks for what is not understood here.
    #[error(
        "the header of the token has a crit: it must not be taken by who does not know that extension"
    )]
    Critical,
    /// No key has its `kid`, or none is for its `alg`: the keys that are known may be old.
    #[error("no key of token.jwt.keys has the kid of the token, or fits its alg")]
    UnknownKey,
    /// It does not say which of several keys it means.
    #[error("the token has no kid, and more than one key of token.jwt.keys fits its alg")]
    NoKid,
    /// The key that it names is for something else.
    #[error("the key that the token names is not for its alg")]
    KeyOfAnotherKind,
    /// The signature is not that of the key.
    #[error("the signature of the token is wrong")]
    Signature,
    /// A claim that it must have is missing.
    #[error("the token has no claim {0}")]
    Missing(String),
    /// A claim is of the wrong kind, or out of range.
    #[error("the claim {claim} of the token is not {wanted}")]
    Unreadable {
        /// Its name.
        claim: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// It was issued by somebody else.
    #[error("the claim iss of the token is not token.jwt.issuer, {0:?}")]
    Issuer(String),
    /// It is meant for somebody else.
    #[error("the claim aud of the token does not hold token.jwt.audience, {0:?}")]
    Audience(String),
    /// The claim that names the device holds no device id.
    #[error("the claim {0} of the token names no device: {NotAName}")]
    Device(String),
    /// It begins to count, or was issued, in the future.
    #[error(
        "the token is not valid yet by its claim {0}, also by a clock that is {LEEWAY} s ahead"
    )]
    NotYet(&'static str),
    /// It has ended.
    #[error("the token has ended by its claim exp, {LEEWAY} s of leeway included")]
    Expired,
    /// It cannot be judged now: no keys are known, or they are too old to go by.
    #[error("the keys of token.jwt.keys are not known at the moment")]
    KeysAway,
}

impl Bad {
    /// The word for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Expired => "token_expired",
            Self::KeysAway => "token_keys_away",
            _ => "token_bad",
        }
    }
}

/// The parts of a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// The first: how it is signed.
    Header,
    /// The second: what it says.
    Claims,
    /// The third.
    Signature,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Claims => "claims part",
            Self::Signature => "signature",
        })
    }
}

/// Whether `text` means to be a JWT: three parts, of which the first begins as every JSON object does in base64url.
pub fn is_meant(text: &[u8]) -> bool {
    text.starts_with(b"eyJ") && text.split(|byte| *byte == b'.').count() == 3
}

/// Judges a token at `now` (seconds since 1970). Claims are read only when the signature is good.
///
/// # Errors
/// [`Bad`]; [`Bad::UnknownKey`] says that younger keys might do.
pub fn verify(token: &[u8], settings: &Settings, keys: &Keys, now: i64) -> Result<Claims, Bad> {
    let [header, claims, signature] = parts(token)?;
    let signed = &token[..header.len() + 1 + claims.len()];
    let header = object(header, Part::Header)?;
    let algorithm = algorithm(&header, settings)?;
    let kid = match header.get("kid") {
        None => None,
        Some(Json::Text(kid)) => Some(kid.as_str()),
        Some(_) => return Err(Bad::Header("kid")),
    };
    let key = keys.choose(kid, algorithm)?;
    let signature = decode(signature, Part::Signature)?;
    if !key.has_signed(algorithm, signed, &signature) {
        return Err(Bad::Signature);
    }
    let claims = object(claims, Part::Claims)?;
    judge(&claims, key.print, settings, now)
}

/// What good claims say.
fn judge(claims: &Object, key: Print, settings: &Settings, now: i64) -> Result<Claims, Bad> {
    check_names(claims, settings)?;
    let device = device(claims, settings)?;
    let not_after = check_times(claims, now)?;
    Ok(Claims {
        device,
        not_after,
        key,
    })
}

/// Header, claims and signature as they are written. Four dots would be an encrypted token (RFC 7516 §7.1).
fn parts(token: &[u8]) -> Result<[&[u8]; 3], Bad> {
    if token.len() > LONGEST {
        return Err(Bad::TooLong);
    }
    let mut parts = token.split(|byte| *byte == b'.');
    match [(); 4].map(|()| parts.next()) {
        [Some(header), Some(claims), Some(signature), None]
            if [header, claims, signature]
                .iter()
                .all(|part| !part.is_empty()) =>
        {
            Ok([header, claims, signature])
        }
        _ => Err(Bad::NotAJwt),
    }
}

fn decode(text: &[u8], part: Part) -> Result<Vec<u8>, Bad> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Bad::NotBase64(part))
}

fn object(text: &[u8], part: Part) -> Result<Object, Bad> {
    json::object(&decode(text, part)?).map_err(|why| match why {
        NoObject::Twice => Bad::Twice(part),
        NoObject::NotJson { .. } | NoObject::Other => Bad::NotAnObject(part),
    })
}

/// The algorithm of the token, if it counts. Keys that the header brings along or points to (`jwk`, `jku`, `x5c`, `x5u`) are not
/// looked at: whoever makes a token can write any.
fn algorithm(header: &Object, settings: &Settings) -> Result<Algorithm, Bad> {
    // Who does not know an extension must refuse it, and none is known here (RFC 7515 §4.1.11).
    if header.contains_key("crit") {
        return Err(Bad::Critical);
    }
    let Some(Json::Text(word)) = header.get("alg") else {
        return Err(Bad::Header("alg"));
    };
    let counts = |algorithm: &Algorithm| settings.algorithms.contains(algorithm);
    Algorithm::from_word(word)
        .filter(counts)
        .ok_or(Bad::Algorithm)
}

/// `iss` and `aud` (RFC 7519 §4.1.1, §4.1.3).
fn check_names(claims: &Object, settings: &Settings) -> Result<(), Bad> {
    if text(claims, "iss")? != settings.issuer {
        return Err(Bad::Issuer(settings.issuer.clone()));
    }
    let wanted = "a text or a list of texts";
    let is_ours = match claims.get("aud") {
        None => return Err(Bad::Missing("aud".into())),
        Some(Json::Text(one)) => *one == settings.audience,
        Some(Json::List(many)) => {
            if !many.iter().all(|one| matches!(one, Json::Text(_))) {
                return Err(unreadable("aud", wanted));
            }
            many.contains(&Json::Text(settings.audience.clone()))
        }
        Some(_) => return Err(unreadable("aud", wanted)),
    };
    if is_ours {
        Ok(())
    } else {
        Err(Bad::Audience(settings.audience.clone()))
    }
}

fn device(claims: &Object, settings: &Settings) -> Result<DeviceId, Bad> {
    let claim = &settings.device_claim;
    let name = text(claims, claim)?;
    let device = settings.alphabet.device(name);
    device.map_err(|NotAName| Bad::Device(claim.clone()))
}

/// `nbf`, `iat` and `exp` (RFC 7519 §4.1.4 to §4.1.6); gives the last second in which the token counts.
fn check_times(claims: &Object, now: i64) -> Result<i64, Bad> {
    // Fractions of a second are allowed (RFC 7519 §2); they are rounded against the token.
    let not_after = seconds(claims, "exp", f64::floor)?.ok_or(Bad::Missing("exp".into()))? + LEEWAY;
    for claim in ["nbf", "iat"] {
        if seconds(claims, claim, f64::ceil)?.is_some_and(|from| from - LEEWAY > now) {
            return Err(Bad::NotYet(claim));
        }
    }
    if now > not_after {
        return Err(Bad::Expired);
    }
    Ok(not_after)
}

fn text<'a>(claims: &'a Object, claim: &str) -> Result<&'a str, Bad> {
    match claims.get(claim) {
        None => Err(Bad::Missing(claim.into())),
        Some(Json::Text(text)) => Ok(text),
        Some(_) => Err(unreadable(claim, "a text")),
    }
}

/// Seconds since 1970; `None`: the claim is not there.
fn seconds(claims: &Object, claim: &str, round: fn(f64) -> f64) -> Result<Option<i64>, Bad> {
    let seconds = match claims.get(claim) {
        None => return Ok(None),
        Some(Json::Whole(seconds)) => Some(*seconds),
        Some(Json::Number(seconds)) => whole(*seconds, round),
        Some(_) => None,
    };
    let within = seconds.filter(|seconds| (0..=LATEST).contains(seconds));
    let wanted = "a number of seconds since 1970, up to the year 9999";
    within.map(Some).ok_or_else(|| unreadable(claim, wanted))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a double holds every whole number of the range"
)]
fn whole(seconds: f64, round: fn(f64) -> f64) -> Option<i64> {
    let within = (0.0..=LATEST as f64).contains(&seconds);
    within.then(|| round(seconds) as i64)
}

fn unreadable(claim: &str, wanted: &'static str) -> Bad {
    Bad::Unreadable {
        claim: claim.into(),
        wanted,
    }
}

/// A door for the fuzz target, which can sign nothing; in no other build.
#[cfg(fuzzing)]
pub mod fuzzing {
    use super::{Claims, Settings, json, judge};

    /// Judges a claims part, decoded, as if its signature were good; `None`: it does not count.
    pub fn claims(json: &[u8], settings: &Settings, now: i64) -> Option<Claims> {
        let claims = json::object(json).ok()?;
        judge(&claims, [0; 32], settings, now).ok()
    }
}

#[cfg(test)]
mod tests;
