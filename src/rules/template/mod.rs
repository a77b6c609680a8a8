//! `[connect]` templates: what the broker is told, with placeholders for what the gate knows.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use super::device::{Alphabet, DeviceId, Mode};
use super::identity::{Certificate, Field, Unnamed};

mod parse;
mod placeholder;

pub use parse::TemplateFault;
use parse::{LONGEST, Piece};
use placeholder::Placeholder;

/// What a rendered text is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Use {
    /// A client id or a username: two devices must never get the same (threats.md I3).
    Name,
    /// The value of a user property.
    Free,
}

/// A text with placeholders such as `{device}`; [`Template::parse`] is the only maker.
///
/// `Display` gives back what the operator wrote.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
    use_: Use,
    alphabet: Alphabet,
}

/// What the gate knows about one connection when it writes a CONNECT.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// `{device}`: of the alphabet that the template was parsed with.
    pub device: &'a DeviceId,
    /// `{client_id}`: the one the device asked for; may be empty.
    pub client_id: &'a str,
    /// `{username}`: the device's own, if it sent one.
    pub username: Option<&'a str>,
    /// `{mode}`
    pub mode: Mode,
    /// `{listener}`: its name.
    pub listener: &'a str,
    /// `{trust}`: the group whose CA vouched, if a certificate was shown: 1 to 64 of A–Z a–z 0–9 . _ -
    pub trust: Option<&'a str>,
    /// `{ip}`: the device's address, without the port.
    pub ip: IpAddr,
    /// `{cert.…}`: the device's certificate, if it showed one.
    pub certificate: Option<&'a Certificate>,
}

/// Why a template has no text for this connection.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unrenderable {
    /// The client id that the device asked for cannot be part of a name.
    #[error(
        "the client id that the device asked for holds a character that no device id may hold, and {{client_id}} is \
         part of the name that the broker is told"
    )]
    ClientId,
    /// The device's username cannot be part of a name.
    #[error(
        "the device's username holds a character that no device id may hold, and {{username}} is part of the name that \
         the broker is told"
    )]
    Username,
    /// The device sent no username.
    #[error(
        "the device sent no username, and {{username}} is part of the name that the broker is told"
    )]
    NoUsername,
    /// The device showed no certificate.
    #[error(
        "the device showed no certificate, and {0} is part of the name that the broker is told"
    )]
    NoCertificate(&'static str),
    /// The certificate does not have the one readable value that is asked for.
    #[error(transparent)]
    Unnamed(#[from] Unnamed),
    /// A value of the certificate cannot be part of a name.
    #[error(
        "{0} of the certificate holds white space, + # or $, and is part of the name that the broker is told; brokers \
         read those characters as part of topics"
    )]
    CertificateValue(Field),
    /// Longer than any string in MQTT.
    #[error(
        "the text made of {0:?} would be longer than 65535 bytes, the most that MQTT can carry"
    )]
    TooLong(String),
}

impl Unrenderable {
    /// For the dashboard: one of a fixed few words, never text from the wire.
    pub fn label(&self) -> &'static str {
        match self {
            Self::ClientId => "client_id_not_allowed",
            Self::Username | Self::NoUsername => "username_not_allowed",
            Self::NoCertificate(_) => "identity_missing",
            Self::Unnamed(why) => why.label(),
            Self::CertificateValue(_) => "identity_not_allowed",
            Self::TooLong(_) => "text_too_long",
        }
    }
}

/// Whether `c` may stand in a client id or a username that the gate makes.
///
/// What brokers and their access lists read as part of a topic may not (threats.md I5, CVE-2017-7650).
fn in_a_name(c: char) -> bool {
    !c.is_control() && !c.is_whitespace() && !matches!(c, '+' | '#' | '$')
}

impl Template {
    /// Reads a template. `{{` and `}}` stand for braces.
    ///
    /// As [`Use::Name`] it must hold `{device}`, and be such that two devices of `alphabet` can never get the same text,
    /// whatever the other facts about them are (threats.md I3).
    ///
    /// # Errors
    /// [`TemplateFault`]: what is wrong, where, and the way out.
    pub fn parse(text: &str, use_: Use, alphabet: &Alphabet) -> Result<Self, TemplateFault> {
        let pieces = parse::pieces(text, use_)?;
        if use_ == Use::Name {
            parse::tells_apart(Placeholder::Device, &pieces, alphabet)?;
        }
        Ok(Self {
            text: text.to_owned(),
            pieces,
            use_,
            alphabet: alphabet.clone(),
        })
    }

    /// Whether two devices of two trust groups can never get the same text, even if their certificates give them the same name
    /// (threats.md I7): `{trust}` is in it, set off by characters that no device id and no name of a group holds.
    pub fn tells_groups_apart(&self) -> bool {
        parse::tells_apart(Placeholder::Trust, &self.pieces, &self.alphabet).is_ok()
    }

    /// The text for one connection: at most 65 535 bytes, without U+0000.
    ///
    /// As [`Use::Free`], what is not known is the empty text.
    ///
    /// # Errors
    /// [`Unrenderable`]: nothing is repaired or left out of a name; and a certificate's value that is there, but
    /// repeated or unreadable, is an error for either use.
    pub fn render(&self, facts: &Facts<'_>) -> Result<String, Unrenderable> {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Fact(placeholder) => out.push_str(&self.value(*placeholder, facts)?),
            }
            if out.len() > LONGEST {
                return Err(Unrenderable::TooLong(self.text.chars().take(64).collect()));
            }
        }
        Ok(out)
    }

    /// The text of one placeholder.
    fn value<'a>(
        &self,
        placeholder: Placeholder,
        facts: &Facts<'a>,
    ) -> Result<Cow<'a, str>, Unrenderable> {
        let of_alphabet = |text: &str| text.chars().all(|c| self.alphabet.holds(c));
        let is_name = self.use_ == Use::Name;
        let certified = |field| self.certified(placeholder, field, facts.certificate);
        let text = match placeholder {
            Placeholder::Device => facts.device.as_str(),
            Placeholder::ClientId if is_name && !of_alphabet(facts.client_id) => {
                return Err(Unrenderable::ClientId);
            }
            Placeholder::ClientId => facts.client_id,
            Placeholder::Username => match facts.username {
                Some(text) if is_name && !of_alphabet(text) => return Err(Unrenderable::Username),
                Some(text) => text,
                None if is_name => return Err(Unrenderable::NoUsername),
                None => "",
            },
            Placeholder::Mode => facts.mode.word(),
            Placeholder::Listener => facts.listener,
            Placeholder::Trust => match facts.trust {
                Some(name) => name,
                None if is_name => return Err(Unrenderable::NoCertificate(placeholder.word())),
                None => "",
            },
            Placeholder::Ip => return Ok(facts.ip.to_string().into()),
            Placeholder::CertCn => certified(Field::SubjectCn)?,
            Placeholder::CertSerial => certified(Field::Serial)?,
            Placeholder::CertFingerprint => certified(Field::Fingerprint)?,
            Placeholder::CertSanUri => certified(Field::SanUri)?,
            Placeholder::CertSanDns => certified(Field::SanDns)?,
        };
        Ok(text.into())
    }

    /// The text of a placeholder that stands for a field of the certificate.
    fn certified<'a>(
        &self,
        placeholder: Placeholder,
        field: Field,
        certificate: Option<&'a Certificate>,
    ) -> Result<&'a str, Unrenderable> {
        let is_name = self.use_ == Use::Name;
        let Some(certificate) = certificate else {
            return if is_name {
                Err(Unrenderable::NoCertificate(placeholder.word()))
            } else {
                Ok("")
            };
        };
        match certificate.value(field) {
            Ok(text) if is_name && !text.chars().all(in_a_name) => {
                Err(Unrenderable::CertificateValue(field))
            }
            Err(Unnamed::Missing(_)) if !is_name => Ok(""),
            found => Ok(found?),
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
