//! `[token.jwt]`

use std::path::PathBuf;

use super::fault::quoted;
use super::reader::{Got, Section};
use crate::jwks::{HttpsUrl, NotAnUrl, Place, Settings};
use crate::rules::device::Alphabet;
use crate::rules::jwt::{self, Algorithm};

/// The claims that say something else than who shows the token.
const TAKEN: [&str; 6] = ["iss", "aud", "exp", "nbf", "iat", "jti"];

/// Reads `[token.jwt]`; `None`: it was not written, or something in it is wrong.
pub(super) fn read(mut section: Section<'_>, alphabet: &Alphabet) -> Option<Settings> {
    let written = !section.is_empty();
    let keys = read_keys(&mut section);
    let example = "https://issuer.example";
    let missing = "is missing: tokens of any issuer would do";
    let issuer = needed(&mut section, "issuer", example, written.then_some(missing));
    let missing = "is missing: tokens for anybody would do";
    let audience = needed(&mut section, "audience", "mqtt", written.then_some(missing));
    let algorithms = read_algorithms(&mut section);
    let device_claim = section.parsed("device_claim", "sub", device_claim);
    let device_claim = match device_claim {
        Got::Absent => Some("sub".to_owned()),
        got => got.good(),
    };
    let ca = section.path("ca", "issuer-ca.pem");
    section.finish();
    if matches!((&keys, &ca), (Some(Place::File(_)), Got::Good(_))) {
        section.warn("ca", "has no effect: the keys come from a file");
    }
    let ca: Option<PathBuf> = match ca {
        Got::Faulty => return None,
        got => got.good(),
    };
    if !written {
        return None;
    }
    Some(Settings {
        keys: keys?,
        ca,
        tokens: jwt::Settings {
            issuer: issuer?,
            audience: audience?,
            algorithms: algorithms?,
            device_claim: device_claim?,
            alphabet: alphabet.clone(),
        },
    })
}

fn read_keys(section: &mut Section<'_>) -> Option<Place> {
    let example = "https://issuer.example/.well-known/jwks.json";
    let written = !section.is_empty();
    let text = match section.text("keys", example) {
        Got::Good(text) => text,
        Got::Faulty => return None,
        Got::Absent => {
            if written {
                let way_out = format!("write keys = {example:?}, or the path of a JWKS file");
                section.fault("keys", "is missing", way_out);
            }
            return None;
        }
    };
    if !text.contains("://") {
        return read_file(section, &text);
    }
    match text.parse::<HttpsUrl>() {
        Ok(url) => Some(Place::Url(url)),
        Err(fault) => {
            let way_out = match fault {
                NotAnUrl::NotHttps => "write https://, or the path of a JWKS file",
                NotAnUrl::Secret => "write the address without them",
                NotAnUrl::Garbled => "write it as in https://issuer.example/.well-known/jwks.json",
            };
            section.fault("keys", fault.to_string(), way_out);
            None
        }
    }
}

fn read_file(section: &mut Section<'_>, text: &str) -> Option<Place> {
    if text.is_empty() || text.contains('\0') {
        section.fault(
            "keys",
            format!("{} is no path", quoted(text)),
            "name a file",
        );
        return None;
    }
    let file = section.folder("keys").join(text);
    section.note_file(&file);
    Some(Place::File(file))
}

/// A text; where it is not there, `missing` is what is told.
fn needed(
    section: &mut Section<'_>,
    key: &str,
    example: &str,
    missing: Option<&str>,
) -> Option<String> {
    match section.parsed(key, example, |text| plain(text, key, example)) {
        Got::Absent => {
            let what = missing?;
            section.fault(key, what, format!("write {key} = {example:?}"));
            None
        }
        got => got.good(),
    }
}

fn plain(text: &str, key: &str, example: &str) -> Result<String, (String, String)> {
    if text.is_empty() || text.contains(char::is_control) {
        let what = "is empty, or holds a control character".to_owned();
        return Err((what, format!("write {key} = {example:?}")));
    }
    Ok(text.to_owned())
}

fn device_claim(text: &str) -> Result<String, (String, String)> {
    if TAKEN.contains(&text) {
        let what = format!(
            "{} names no device: RFC 7519 has another meaning for it",
            quoted(text)
        );
        return Err((
            what,
            "name the claim that holds the device id, such as sub".into(),
        ));
    }
    plain(text, "device_claim", "sub")
}

/// What counts where nothing is written: what issuers use, and nothing weaker.
const DEFAULT: [Algorithm; 3] = [Algorithm::Es256, Algorithm::Rs256, Algorithm::EdDsa];

fn read_algorithms(section: &mut Section<'_>) -> Option<Vec<Algorithm>> {
    let words = match section.texts("algorithms", "ES256") {
        Got::Absent => return Some(DEFAULT.to_vec()),
        got => got.good()?,
    };
    let known = Algorithm::ALL.map(Algorithm::word);
    let choice = known.join(" | ");
    if words.is_empty() {
        section.fault(
            "algorithms",
            "is empty",
            format!("write some of {choice}, or leave it out"),
        );
        return None;
    }
    let mut algorithms = Vec::new();
    let mut whole = true;
    for (key, word) in words {
        let (what, way_out) = match Algorithm::from_word(&word) {
            Some(algorithm) if !algorithms.contains(&algorithm) => {
                algorithms.push(algorithm);
                continue;
            }
            Some(_) => ("is there twice", "write it once".to_owned()),
            None if is_no_proof(&word) => (
                "would let others than the issuer make tokens",
                format!("write some of {choice}"),
            ),
            None => {
                let near = known.iter().find(|known| known.eq_ignore_ascii_case(&word));
                let hint = near.map_or(String::new(), |word| format!("did you mean {word:?}? "));
                ("is not known here", format!("{hint}write some of {choice}"))
            }
        };
        section.fault(&key, format!("{} {what}", quoted(&word)), way_out);
        whole = false;
    }
    whole.then_some(algorithms)
}

/// No signature, or one by a secret that whoever checks it has, too (threats.md K1).
fn is_no_proof(word: &str) -> bool {
    word.eq_ignore_ascii_case("none") || word.to_ascii_uppercase().starts_with("HS")
}
