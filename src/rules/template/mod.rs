//! `[connect]` templates: what the broker is told, with placeholders for what the gate knows.

use std::fmt;
use std::net::IpAddr;

use super::device::{Alphabet, DeviceId, Mode};
use super::identity::{Certificate, Unnamed};

/// What a rendered text is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Use {
    /// A client id or a username: two devices must never get the same (threats.md I3).
    Name,
    /// The value of a user property.
    Free,
}

/// A text with placeholders such as `{device}`; [`Template::parse`] is the only maker.
#[derive(Clone, Debug)]
pub struct Template {
    text: String,
}

/// What the gate knows about one connection when it writes a CONNECT.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// `{device}`
    pub device: &'a DeviceId,
    /// `{client_id}`: the one the device asked for; may be empty.
    pub client_id: &'a str,
    /// `{username}`: the device's own, if it sent one.
    pub username: Option<&'a str>,
    /// `{mode}`
    pub mode: Mode,
    /// `{listener}`: its name.
    pub listener: &'a str,
    /// `{trust}`: the group whose CA vouched, if a certificate was shown.
    pub trust: Option<&'a str>,
    /// `{ip}`: the device's address, without the port.
    pub ip: IpAddr,
    /// `{cert.…}`: the device's certificate, if it showed one.
    pub certificate: Option<&'a Certificate>,
}

/// Why a text is no template.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TemplateFault {}

/// Why a template has no text for this connection.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unrenderable {
    /// The client id that the device asked for cannot be part of a name.
    #[error("the client id that the device asked for holds characters that no device id may hold")]
    ClientId,
    /// The device's username cannot be part of a name, or it sent none.
    #[error("the device sent no username, or one with characters that no device id may hold")]
    Username,
    /// The certificate does not have the one readable value that the template asks for.
    #[error(transparent)]
    Unnamed(#[from] Unnamed),
}

impl Unrenderable {
    /// For the dashboard: one of a fixed few words, never text from the wire.
    pub fn label(&self) -> &'static str {
        match self {
            Self::ClientId => "client_id_not_allowed",
            Self::Username => "username_not_allowed",
            Self::Unnamed(why) => why.label(),
        }
    }
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateFault`], with what, where and the way out.
    pub fn parse(text: &str, use_: Use, alphabet: &Alphabet) -> Result<Self, TemplateFault> {
        let _ = (use_, alphabet);
        Ok(Self {
            text: text.to_owned(),
        })
    }

    /// The text for one connection.
    ///
    /// # Errors
    /// [`Unrenderable`], when a fact is missing or unfit where a name is wanted.
    pub fn render(&self, facts: &Facts<'_>) -> Result<String, Unrenderable> {
        Ok(self
            .text
            .replace("{device}", facts.device.as_str())
            .replace("{mode}", facts.mode.word())
            .replace("{client_id}", facts.client_id))
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
