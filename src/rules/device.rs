//! The name of a device, and the modes it may come by.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The characters a device id may be made of: `A–Z a–z 0–9 . _ -`, and what the operator adds.
///
/// `connect.extra_characters` adds to it. What no operator can add is what would change the meaning
/// of a name at the broker: `+ # / $`, white space and control characters (CVE-2017-7650).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Alphabet {
    extra: Vec<char>,
}

/// A character that `connect.extra_characters` may not hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} has a meaning of its own in topics or to brokers and can never be part of a device id"
)]
pub struct NotAllowed(pub char);

impl Alphabet {
    /// The plain alphabet and `extra`, each character once.
    ///
    /// # Errors
    /// The first character that no device id may hold.
    pub fn with_extra(extra: &str) -> Result<Self, NotAllowed> {
        let forbidden = |c: &char| {
            !c.is_ascii() || c.is_ascii_control() || matches!(c, '+' | '#' | '/' | '$' | ' ')
        };
        match extra.chars().find(forbidden) {
            Some(c) => Err(NotAllowed(c)),
            None => Ok(Self {
                extra: extra.chars().collect(),
            }),
        }
    }

    /// Whether `c` may stand in a device id.
    pub fn holds(&self, c: char) -> bool {
        c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') || self.extra.contains(&c)
    }

    /// Reads a device id: 1 to 128 characters of this alphabet.
    ///
    /// # Errors
    /// [`NotAName`], when it is empty, too long, or holds another character. Nothing is repaired.
    pub fn device(&self, name: &str) -> Result<DeviceId, NotAName> {
        let fits =
            (1..=DeviceId::LONGEST).contains(&name.len()) && name.chars().all(|c| self.holds(c));
        if fits {
            Ok(DeviceId(name.into()))
        } else {
            Err(NotAName)
        }
    }
}

/// The name a device is known by: 1 to 128 characters of an [`Alphabet`].
///
/// Never holds `+`, `#` or `/`: brokers put names into topic filters, and a device called `#`
/// would match every topic (CVE-2017-7650; MQTT 5.0 §4.7.1).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DeviceId(Arc<str>); // private field: parsing is the only way in

/// The text is no device id.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a device id is 1 to 128 characters of A–Z a–z 0–9 . _ - and connect.extra_characters")]
pub struct NotAName;

impl DeviceId {
    /// The most bytes a device id may have.
    pub const LONGEST: usize = 128;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceId {
    type Err = NotAName;
    /// Reads a device id of the plain alphabet.
    fn from_str(name: &str) -> Result<Self, NotAName> {
        Alphabet::default().device(name)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a connection is secured and how its device is known; weakest first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Mode {
    /// TCP, nothing hidden; the device is known by its token.
    Plain,
    /// TLS, the device knows the server; the device is known by its token.
    ServerTls,
    /// TLS, each knows the other; the device is known by its certificate.
    MutualTls,
}

impl Mode {
    /// Every mode, weakest first.
    pub const ALL: [Self; 3] = [Self::Plain, Self::ServerTls, Self::MutualTls];

    /// The word for configuration, metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::ServerTls => "server-tls",
            Self::MutualTls => "mutual-tls",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a listener offers: one mode, or `mutual-tls` to those with a certificate and `server-tls` to the rest.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Offer {
    /// One mode only.
    Only(Mode),
    /// A certificate is asked for; a device that shows none is in `server-tls`.
    MixedTls,
}

impl Offer {
    /// The words for `listener.mode`, in the order of the documentation.
    pub const WORDS: [&'static str; 4] = ["mutual-tls", "server-tls", "mixed-tls", "plain"];

    /// The word for configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Only(mode) => mode.word(),
            Self::MixedTls => "mixed-tls",
        }
    }

    /// Reads `listener.mode`; `None` for any other word.
    pub fn from_word(word: &str) -> Option<Self> {
        let only = Mode::ALL
            .into_iter()
            .find(|mode| mode.word() == word)
            .map(Self::Only);
        only.or((word == "mixed-tls").then_some(Self::MixedTls))
    }

    /// Whether a connection may be of this mode.
    pub fn has(self, mode: Mode) -> bool {
        match self {
            Self::Only(only) => mode == only,
            Self::MixedTls => mode != Mode::Plain,
        }
    }

    /// Whether a certificate is asked for in the handshake.
    pub fn asks_for_certificate(self) -> bool {
        matches!(self, Self::Only(Mode::MutualTls) | Self::MixedTls)
    }

    /// Whether the link is TLS.
    pub fn is_tls(self) -> bool {
        self != Self::Only(Mode::Plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_id_never_holds_what_a_topic_could_read() {
        for name in [
            "",
            "+",
            "#",
            "a/b",
            "$SYS",
            "a b",
            "a\0",
            "a\n",
            "ä",
            &"x".repeat(129),
        ] {
            assert_eq!(name.parse::<DeviceId>(), Err(NotAName), "{name:?}");
        }
        for name in ["a", "meter-7", "A.b_C-9", &"x".repeat(128)] {
            assert_eq!(
                name.parse::<DeviceId>().expect("a good name").as_str(),
                name
            );
        }
    }

    #[test]
    fn an_operator_may_add_a_colon_but_no_wildcard() {
        let wider = Alphabet::with_extra(":@").expect("both are harmless");
        assert_eq!(wider.device("urn:a@b").expect("within").as_str(), "urn:a@b");
        for c in ["+", "#", "/", "$", " ", "\t", "\u{7f}", "é"] {
            assert!(Alphabet::with_extra(c).is_err(), "{c:?}");
        }
    }

    #[test]
    fn modes_go_from_weak_to_strong() {
        assert!(Mode::Plain < Mode::ServerTls && Mode::ServerTls < Mode::MutualTls);
        for word in Offer::WORDS {
            assert_eq!(Offer::from_word(word).map(Offer::word), Some(word));
        }
        assert_eq!(Offer::from_word("mtls"), None);
    }
}
