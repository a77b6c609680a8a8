//! Who calls, by what it showed; before anybody looks it up.

use std::net::IpAddr;
use std::sync::Arc;

use super::judge::{CertificateEvidence, Evidence, TokenEvidence, Voucher};
use super::{TokenPlace, Unknown};
use crate::mqtt::connect::{Connect, Password as MqttPassword};
use crate::mqtt::properties::Id;
use crate::rules::device::{Alphabet, DeviceId, Mode};
use crate::rules::identity::{Certificate, Field, Naming, Unnamed};
use crate::rules::jwt;
use crate::rules::reason::Refusal;
use crate::rules::record::Pin;
use crate::rules::token::{Token, TokenKey};

/// What is known of a caller when its CONNECT has been read.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The listener it came to.
    pub listener: &'a str,
    /// The mode of its connection.
    pub mode: Mode,
    /// Where it calls from.
    pub ip: IpAddr,
    /// What it showed in the handshake: given for, and only for, `mutual-tls`.
    pub certificate: Option<Shown<'a>>,
}

/// A certificate whose key the device has proved to hold.
#[derive(Clone, Copy, Debug)]
pub enum Shown<'a> {
    /// A trust group vouches for it.
    Vouched(Credential<'a>),
    /// None does: it counts only if the registry has it as a pin (threats.md T1).
    Unvouched(Unvouched<'a>),
}

/// A certificate that was verified, and the trust group that vouched for it (threats.md I7).
#[derive(Clone, Copy, Debug)]
pub struct Credential<'a> {
    /// The device's own certificate.
    pub certificate: &'a Arc<Certificate>,
    /// The name of the trust group.
    pub trust: &'a Arc<str>,
    /// Which field of the certificate names the device, in this group.
    pub naming: &'a Naming,
    /// The end of the earliest validity in the chain, in seconds since 1970.
    pub not_after: i64,
    /// The CA of the group issued the certificate itself, and no intermediate that the device brought along.
    pub direct: bool,
}

/// A certificate that no trust group vouches for.
#[derive(Clone, Copy, Debug)]
pub struct Unvouched<'a> {
    /// The device's own certificate.
    pub certificate: &'a Arc<Certificate>,
    /// The reason label, one of [`CERTIFICATE_REASONS`](crate::rules::reason::CERTIFICATE_REASONS).
    pub label: &'static str,
    /// What the groups found wrong with it, and the way out.
    pub why: &'a str,
}

impl<'a> Shown<'a> {
    /// The device's own certificate.
    pub fn certificate(&self) -> &'a Arc<Certificate> {
        match self {
            Self::Vouched(credential) => credential.certificate,
            Self::Unvouched(unvouched) => unvouched.certificate,
        }
    }
}

/// Which tokens are taken, and how they are checked. `Default`: none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tokens<'a> {
    /// `token.in`
    pub place: TokenPlace,
    /// The key of the registry's tokens; `None`: no registry, or [`Tokens::key_away`].
    pub key: Option<&'a TokenKey>,
    /// There is a registry, but its token key is not known yet.
    pub key_away: bool,
    /// `[token.jwt]`, and the issuer's keys, if they are known.
    pub jwt: Option<(&'a jwt::Settings, Option<&'a jwt::Keys>)>,
    /// What a device id may be made of; `None`: the plain alphabet.
    pub alphabet: Option<&'a Alphabet>,
}

impl Tokens<'_> {
    fn opaque(&self) -> bool {
        self.key.is_some() || self.key_away
    }

    fn any(&self) -> bool {
        self.opaque() || self.jwt.is_some()
    }
}

/// Who calls, as it says, and by what evidence; nothing of it is judged by the registry yet.
#[derive(Clone, Debug)]
pub struct Claim {
    /// What it showed.
    pub evidence: Evidence,
    /// The device that certificate or token names; `None`: its certificate may be pinned.
    device: Option<DeviceId>,
    /// Why it is refused if no pin says who it is.
    pub(super) instead: Option<Refusal>,
    /// Whom its token names, if it showed a certificate, too.
    pub(super) by_token: Option<DeviceId>,
    /// Its username held the token.
    pub(super) token_in_username: bool,
}

impl Claim {
    /// The device that was named; `None`: only a pin can tell.
    pub fn device(&self) -> Option<&DeviceId> {
        self.device.as_ref()
    }

    /// The claim of a device that is known by this evidence: of a token.
    #[cfg(test)]
    pub(super) fn of(device: DeviceId, evidence: Evidence) -> Self {
        Self {
            evidence,
            device: Some(device),
            instead: None,
            by_token: None,
            token_in_username: false,
        }
    }

    /// What to look for among the pins, if it showed a certificate: certificate, key.
    pub fn pins(&self) -> Option<[Pin; 2]> {
        let shown = self.evidence.certificate.as_ref()?;
        let Certificate { print, key, .. } = *shown.certificate;
        Some([Pin::Certificate(print), Pin::Key(key)])
    }

    /// Whether somebody says who it is: a trust group, or the issuer of its JWT. Else anybody can have made it up.
    pub fn is_vouched(&self) -> bool {
        match &self.evidence.certificate {
            Some(shown) => shown.voucher.is_some(),
            None => matches!(
                self.evidence.token.as_deref(),
                Some(TokenEvidence::Jwt { .. })
            ),
        }
    }

    /// Whether a device that the registry does not know may register itself.
    pub fn may_register(&self, unknown: Unknown) -> bool {
        let voucher = self.evidence.certificate.as_ref();
        matches!(unknown, Unknown::Register { .. })
            && self.device.is_some()
            && voucher.is_some_and(|shown| shown.voucher.is_some())
    }
}

/// Finds out who calls, at `now` (seconds since 1970).
///
/// # Errors
/// The [`Refusal`], when what it showed is bad whatever a registry may say.
pub fn claim(
    caller: &Caller<'_>,
    asks: &Connect,
    tokens: &Tokens<'_>,
    now: i64,
) -> Result<Claim, Refusal> {
    // Before any credential: it asks for a conversation that the gate does not have (threats.md §5).
    if asks.properties.get(Id::AuthenticationMethod).is_some() {
        return Err(Refusal::EnhancedAuthentication);
    }
    if tokens.any() && is_token(asks.client_id.as_bytes()) {
        // It would be told to the broker, and to the log (threats.md K2).
        return Err(Refusal::TokenBad {
            why: "the device sent a token as its client id; it belongs where token.in says".into(),
        });
    }
    let certificate = caller.certificate.as_ref().map(|shown| named(shown, now));
    let certificate = certificate.transpose()?;
    let token = match present(caller.mode, asks, tokens) {
        Some(text) => Some(read_token(text, asks, tokens, now)?),
        None => None,
    };
    // Wherever it stands: nobody further on is to know it.
    let token_in_username = token.is_some() && tokens.place == TokenPlace::Username
        || tokens.any()
            && asks
                .username
                .as_deref()
                .is_some_and(|name| is_token(name.as_bytes()));
    let evidence = |certificate, token| Evidence {
        mode: caller.mode,
        certificate,
        token,
    };
    match (certificate, token) {
        (None, None) => Err(no_token(caller.mode, tokens)),
        (None, Some((device, token))) => Ok(Claim {
            evidence: evidence(None, Some(Box::new(token))),
            device: Some(device),
            instead: None,
            by_token: None,
            token_in_username,
        }),
        (Some(named), token) => {
            let (by_token, token) = token.unzip();
            Ok(Claim {
                evidence: evidence(Some(named.evidence), token.map(Box::new)),
                // A certificate that names nobody is not made up for by a token: only its pin can tell.
                device: named.device,
                instead: named.instead,
                by_token,
                token_in_username,
            })
        }
    }
}

/// Whether `text` means to be a token of any kind.
pub fn is_token(text: &[u8]) -> bool {
    Token::is_meant(text) || jwt::is_meant(text)
}

/// What a certificate says.
struct Named {
    evidence: CertificateEvidence,
    device: Option<DeviceId>,
    instead: Option<Refusal>,
}

/// Who a certificate names, by the field of its trust group; an unvouched one names nobody.
fn named(shown: &Shown<'_>, now: i64) -> Result<Named, Refusal> {
    let certificate = shown.certificate();
    let evidence = |voucher| CertificateEvidence {
        certificate: certificate.clone(),
        voucher,
    };
    let credential = match shown {
        Shown::Vouched(credential) => credential,
        Shown::Unvouched(unvouched) => {
            return Ok(Named {
                evidence: evidence(None),
                device: None,
                instead: Some(Refusal::Certificate {
                    label: unvouched.label,
                    why: unvouched.why.to_owned(),
                }),
            });
        }
    };
    if credential.not_after < now {
        return Err(Refusal::Certificate {
            label: "certificate_expired",
            why: "the certificate, or one of its issuers, ended between the handshake and the CONNECT".into(),
        });
    }
    // Serials are unique for one CA only (RFC 5280 §4.1.2.2): another below the same anchor may have given the same one.
    let device = if credential.naming.field == Field::Serial && !credential.direct {
        Err(Unnamed::OfAnotherCa)
    } else {
        credential.naming.device(certificate)
    };
    let (device, instead) = match device {
        Ok(device) => (Some(device), None),
        Err(unnamed) => (None, Some(Refusal::Unnamed(unnamed))),
    };
    let voucher = Voucher {
        group: credential.trust.clone(),
        field: credential.naming.field,
        device: device.clone(),
        not_after: credential.not_after,
    };
    Ok(Named {
        evidence: evidence(Some(voucher)),
        device,
        instead,
    })
}

/// The token that a CONNECT brings; `None`: it brings none.
///
/// Beside a certificate only what looks like a token is one: such a device may have a password for its broker.
fn present<'a>(mode: Mode, asks: &'a Connect, tokens: &Tokens<'_>) -> Option<&'a [u8]> {
    if !tokens.any() {
        return None;
    }
    let text = match tokens.place {
        TokenPlace::Password => asks.password.as_ref().map(MqttPassword::reveal),
        TokenPlace::Username => asks.username.as_deref().map(str::as_bytes),
    };
    let text = text.filter(|text| !text.is_empty())?;
    let is_meant =
        || tokens.opaque() && Token::is_meant(text) || tokens.jwt.is_some() && jwt::is_meant(text);
    (mode != Mode::MutualTls || is_meant()).then_some(text)
}

/// Whose a token is, as it says.
fn read_token(
    text: &[u8],
    asks: &Connect,
    tokens: &Tokens<'_>,
    now: i64,
) -> Result<(DeviceId, TokenEvidence), Refusal> {
    match (tokens.key, tokens.jwt) {
        _ if tokens.key_away && (tokens.jwt.is_none() || Token::is_meant(text)) => {
            Err(Refusal::RegistryAway {
                why: "the key of its tokens is not known yet".into(),
            })
        }
        (Some(key), jwt) if jwt.is_none() || Token::is_meant(text) => {
            let token = Token::read(text).map_err(|fault| Refusal::TokenBad {
                why: fault.to_string(),
            })?;
            let device = asking(asks, tokens)?;
            Ok((device, TokenEvidence::Opaque(key.hash(&token))))
        }
        (_, Some((settings, Some(keys)))) => {
            let claims = jwt::verify(text, settings, keys, now).map_err(Refusal::Jwt)?;
            let evidence = TokenEvidence::Jwt {
                not_after: claims.not_after,
                key: claims.key,
            };
            Ok((claims.device, evidence))
        }
        (_, _) => Err(Refusal::Jwt(jwt::Bad::KeysAway)),
    }
}

/// Who a device with an opaque token says it is: by the field beside the token's, or else by its client id.
fn asking(asks: &Connect, tokens: &Tokens<'_>) -> Result<DeviceId, Refusal> {
    let beside = match tokens.place {
        TokenPlace::Password => asks.username.as_deref(),
        TokenPlace::Username => {
            let password = asks.password.as_ref().map(MqttPassword::reveal);
            password.map(|name| str::from_utf8(name).unwrap_or("\0"))
        }
    };
    let name = beside
        .filter(|name| !name.is_empty())
        .unwrap_or(&asks.client_id);
    if is_token(name.as_bytes()) {
        // Told as a device's name it would stand in the log (threats.md K2).
        return Err(Refusal::TokenBad {
            why: "the device sent a token where its id should be".into(),
        });
    }
    let plain = Alphabet::default();
    let alphabet = tokens.alphabet.unwrap_or(&plain);
    alphabet.device(name).map_err(|fault| Refusal::TokenBad {
        why: format!(
            "the device sent a token, but does not say whose it is: neither {} nor the client id holds its id ({fault})",
            match tokens.place {
                TokenPlace::Password => "the username",
                TokenPlace::Username => "the password",
            }
        ),
    })
}

/// A device without a certificate that brings no token.
fn no_token(mode: Mode, tokens: &Tokens<'_>) -> Refusal {
    let taken = tokens.any().then_some(tokens.place);
    Refusal::NoToken { mode, taken }
}
