//! CONNECT, the first packet of a device: MQTT 3.1, 3.1.1 and 5.0.

use std::fmt;

use super::fields::{self, Reader, TooLong, put_binary};
use super::properties::{Place, Properties};
use super::{Kind, Malformed, Version, length, text};

const USERNAME: u8 = 0x80;
const PASSWORD: u8 = 0x40;
const WILL_RETAIN: u8 = 0x20;
const WILL_QOS: u8 = 0x18;
const WILL: u8 = 0x04;
const CLEAN: u8 = 0x02;
const RESERVED: u8 = 0x01;

/// A CONNECT.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Connect {
    /// The version that the device speaks.
    pub version: Version,
    /// Clean Start; in MQTT 3.1 and 3.1.1 Clean Session.
    pub clean_start: bool,
    /// Keep alive, in seconds; 0: none.
    pub keep_alive: u16,
    /// MQTT 5.0 only; empty, and not written, in the others.
    pub properties: Properties,
    /// The client id; may be empty as the version allows.
    pub client_id: String,
    /// What is to be published when the connection dies.
    pub will: Option<Will>,
    /// The user name; may be empty.
    pub username: Option<String>,
    /// The password; may be empty.
    pub password: Option<Password>,
}

/// What is to be published when the connection dies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Will {
    /// 0, 1 or 2.
    pub qos: u8,
    /// Whether it is to be retained.
    pub retain: bool,
    /// MQTT 5.0 only; empty, and not written, in the others.
    pub properties: Properties,
    /// The topic: never empty, without wildcards.
    pub topic: String,
    /// The message.
    pub payload: Vec<u8>,
}

/// A password: bytes in every version. It cannot be printed.
#[derive(Clone, Eq, PartialEq)]
pub struct Password(Vec<u8>);

impl Password {
    /// Takes `bytes` into keeping.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for the one place that needs them.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Why a CONNECT was not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{malformed}")]
pub struct Fault {
    /// The version, if the packet got so far as to say a known one.
    pub version: Option<Version>,
    /// The rule that it broke.
    pub malformed: Malformed,
}

impl Fault {
    /// The CONNACK to answer with, in the form of which version and with which code; `None`: close without a word.
    ///
    /// MQTT 3.1.1 wants a bare close for whatever is malformed [MQTT-3.1.4-1]; MQTT 5.0 allows a CONNACK (§4.13).
    pub fn answer(&self) -> Option<(Version, u8)> {
        let in_v5 = |code| (self.version == Some(Version::V5)).then_some((Version::V5, code));
        match self.malformed.kind() {
            Kind::NotConnect => None,
            Kind::Malformed => in_v5(0x81),
            Kind::Protocol => in_v5(0x82),
            Kind::TooLarge => in_v5(0x95),
            Kind::EmptyClientId => self.version.map(|version| (version, 0x02)),
            Kind::UnsupportedLevel => match self.malformed {
                // A bridge of Mosquitto says 3 or 4 with the highest bit set, and tries again without it when it is
                // told 0x01 (`try_private`). It would not understand the CONNACK of MQTT 5.0.
                Malformed::UnsupportedLevel {
                    level: 6..=0x82 | 0x85..,
                } => Some((Version::V5, 0x84)),
                _ => Some((Version::V311, 0x01)),
            },
        }
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self {
            version: None,
            malformed,
        }
    }
}

/// Measures the CONNECT at the front of `input`: the length of the whole packet, which is all there; `None`: read more.
///
/// Says no as soon as it can: the first byte tells another packet or protocol, the length tells a packet of more than
/// `cap` bytes, fixed header included. In the latter case it first waits for the version, so that a device of MQTT 5.0
/// can be told 0x95: 12 bytes at most, and not one more than show that it is another version.
///
/// # Errors
/// [`Fault`] with [`Malformed::NotConnect`], [`Malformed::HeaderFlags`], [`Malformed::Length`] or
/// [`Malformed::TooLarge`]. The rest is for [`Connect::decode`].
pub fn measure(input: &[u8], cap: usize) -> Result<Option<usize>, Fault> {
    let Some(&first) = input.first() else {
        return Ok(None);
    };
    is_connect(first)?;
    let Some((header, total)) = length::packet(input)? else {
        return Ok(None);
    };
    if total <= cap {
        return Ok((input.len() >= total).then_some(total));
    }
    let version = match glimpse(&input[header..input.len().min(total)], total - header) {
        Glimpse::More => return Ok(None),
        Glimpse::Known(version) => Some(version),
        Glimpse::Other => None,
    };
    Err(Fault {
        version,
        malformed: Malformed::TooLarge { bytes: total, cap },
    })
}

fn is_connect(first: u8) -> Result<(), Malformed> {
    match first {
        0x10 => Ok(()),
        // MQTT 3.1 leaves these flags undefined, but nobody is known to set them; Mosquitto takes them there.
        0x11..=0x1f => Err(Malformed::HeaderFlags { first }),
        _ => Err(Malformed::NotConnect { first }),
    }
}

/// What the beginning of a body tells of its version.
enum Glimpse {
    More,
    Known(Version),
    /// One that gets no CONNACK for a packet too large: MQIsdp, an unknown level, no MQTT at all.
    Other,
}

/// Looks for the version at the beginning of a `body` of `length` bytes.
fn glimpse(body: &[u8], length: usize) -> Glimpse {
    const OPENING: &[u8] = b"\x00\x04MQTT";
    let compared = body.len().min(OPENING.len());
    if body[..compared] != OPENING[..compared] {
        return Glimpse::Other;
    }
    match body.get(OPENING.len()) {
        Some(&level) => version(b"MQTT", level).map_or(Glimpse::Other, Glimpse::Known),
        None if body.len() == length => Glimpse::Other,
        None => Glimpse::More,
    }
}

fn version(name: &[u8], level: u8) -> Result<Version, Malformed> {
    match (name, level) {
        (b"MQIsdp", 3) => Ok(Version::V31),
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQTT", 5) => Ok(Version::V5),
        (b"MQTT" | b"MQIsdp", _) => Err(Malformed::UnsupportedLevel { level }),
        _ => Err(Malformed::ProtocolName),
    }
}

impl Connect {
    /// Reads a whole CONNECT, and nothing behind it.
    ///
    /// Strict to the letter of its version, and the reserved bits are zero in each (threats.md M2). Two things that MQTT
    /// 3.1 leaves open are taken and, since they mean nothing, not written again; so does Mosquitto: Will QoS (not 3) and
    /// Will Retain without a will; a user name or password that is flagged but missing at the very end of the packet,
    /// which §3.1 of MQTT 3.1 tells servers to allow. A Remaining Length longer than needed is forbidden in MQTT 5.0
    /// only.
    ///
    /// # Errors
    /// [`Fault`] with the first rule that is broken, and the version if it was told before.
    pub fn decode(packet: &[u8]) -> Result<Self, Fault> {
        let &first = packet.first().ok_or(Malformed::Short {
            what: "the fixed header",
        })?;
        is_connect(first)?;
        let (body, minimal) = fields::body(packet)?;
        let mut reader = Reader::new(body);
        let name = reader.binary("the protocol name")?;
        if !matches!(name, b"MQTT" | b"MQIsdp") {
            return Err(Malformed::ProtocolName.into());
        }
        let version = version(name, reader.byte("the protocol level")?)?;
        Self::rest(version, minimal, reader).map_err(|malformed| Fault {
            version: Some(version),
            malformed,
        })
    }

    /// Reads what follows the protocol level.
    fn rest(version: Version, minimal: bool, mut reader: Reader<'_>) -> Result<Self, Malformed> {
        if version == Version::V5 && !minimal {
            return Err(Malformed::NotMinimal {
                what: "the Remaining Length",
            });
        }
        let flags = Flags::read(version, reader.byte("the connect flags")?)?;
        let keep_alive = reader.two("the keep alive")?;
        let properties = read_properties(version, &mut reader, Place::Connect)?;
        let client_id = reader.text("the client id")?.to_owned();
        let will = if flags.has(WILL) {
            Some(Will::read(version, flags, &mut reader)?)
        } else {
            None
        };
        let username = if flags.promises(USERNAME, version, &reader) {
            Some(reader.text("the user name")?.to_owned())
        } else {
            None
        };
        let password = if flags.promises(PASSWORD, version, &reader) {
            Some(Password(reader.binary("the password")?.to_owned()))
        } else {
            None
        };
        reader.end()?;
        let clean_start = flags.has(CLEAN);
        // MQTT 3.1 §3.1: 1 to 23 characters (the 23 are not enforced: no broker does); [MQTT-3.1.3-8] of MQTT 3.1.1.
        let needs_id = version == Version::V31 || version == Version::V311 && !clean_start;
        if client_id.is_empty() && needs_id {
            return Err(Malformed::EmptyClientId);
        }
        Ok(Self {
            version,
            clean_start,
            keep_alive,
            properties,
            client_id,
            will,
            username,
            password,
        })
    }

    /// Writes the packet.
    ///
    /// The texts must be such as [`Connect::decode`] takes: no U+0000, a will topic that is one, properties in their
    /// place. What was decoded always is.
    ///
    /// # Errors
    /// [`TooLong`] when a text or binary field has more than 65 535 bytes, or the whole more than MQTT can carry.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        let (name, level) = match self.version {
            Version::V31 => ("MQIsdp", 3),
            Version::V311 => ("MQTT", 4),
            Version::V5 => ("MQTT", 5),
        };
        let mut body = Vec::with_capacity(256);
        put_binary(name.as_bytes(), "the protocol name", &mut body)?;
        body.push(level);
        body.push(Flags::of(self).0);
        body.extend_from_slice(&self.keep_alive.to_be_bytes());
        if self.version == Version::V5 {
            self.properties.put(&mut body)?;
        }
        put_binary(self.client_id.as_bytes(), "the client id", &mut body)?;
        if let Some(will) = &self.will {
            if self.version == Version::V5 {
                will.properties.put(&mut body)?;
            }
            put_binary(will.topic.as_bytes(), "the will topic", &mut body)?;
            put_binary(&will.payload, "the will payload", &mut body)?;
        }
        if let Some(username) = &self.username {
            put_binary(username.as_bytes(), "the user name", &mut body)?;
        }
        if let Some(password) = &self.password {
            put_binary(password.reveal(), "the password", &mut body)?;
        }
        fields::packet(0x10, &body)
    }
}

fn read_properties(
    version: Version,
    reader: &mut Reader<'_>,
    place: Place,
) -> Result<Properties, Malformed> {
    match version {
        Version::V5 => Properties::read(reader, place),
        Version::V31 | Version::V311 => Ok(Properties::new()),
    }
}

impl Will {
    fn read(version: Version, flags: Flags, reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        const TOPIC: &str = "the will topic";
        let properties = read_properties(version, reader, Place::Will)?;
        let topic = reader.text(TOPIC)?;
        text::topic(topic, TOPIC)?;
        // Text in MQTT 3.1, where yet "only the bytes" are published: so bytes in every version.
        let payload = reader.binary("the will payload")?;
        Ok(Self {
            qos: flags.will_qos(),
            retain: flags.has(WILL_RETAIN),
            properties,
            topic: topic.to_owned(),
            payload: payload.to_owned(),
        })
    }
}

/// The Connect Flags (MQTT 3.1.1 §3.1.2.3, MQTT 5.0 §3.1.2.3).
#[derive(Clone, Copy)]
struct Flags(u8);

impl Flags {
    fn read(version: Version, byte: u8) -> Result<Self, Malformed> {
        let flags = Self(byte);
        let lenient = version == Version::V31;
        if flags.has(RESERVED) {
            return Err(Malformed::ReservedFlag);
        }
        if flags.will_qos() == 3 {
            return Err(Malformed::WillQos);
        }
        if !flags.has(WILL) && flags.has(WILL_QOS | WILL_RETAIN) && !lenient {
            return Err(Malformed::WillFlags);
        }
        // MQTT 3.1 §3.1: "It is not valid to supply a password without supplying a user name."
        if flags.has(PASSWORD) && !flags.has(USERNAME) && version != Version::V5 {
            return Err(Malformed::PasswordAlone);
        }
        Ok(flags)
    }

    fn of(connect: &Connect) -> Self {
        let mut flags = 0;
        let mut set = |flag, on| flags |= if on { flag } else { 0 };
        set(CLEAN, connect.clean_start);
        set(USERNAME, connect.username.is_some());
        set(PASSWORD, connect.password.is_some());
        if let Some(will) = &connect.will {
            set(WILL, true);
            set(WILL_RETAIN, will.retain);
            debug_assert!(will.qos < 3, "QoS {}", will.qos);
            set(will.qos << 3 & WILL_QOS, true);
        }
        Self(flags)
    }

    /// Whether any of `mask` is set.
    fn has(self, mask: u8) -> bool {
        self.0 & mask != 0
    }

    fn will_qos(self) -> u8 {
        (self.0 & WILL_QOS) >> 3
    }

    /// Whether the field of `flag` follows. In MQTT 3.1 the end of the packet outranks the flag.
    fn promises(self, flag: u8, version: Version, reader: &Reader<'_>) -> bool {
        self.has(flag) && !(version == Version::V31 && reader.is_empty())
    }
}

#[cfg(test)]
mod tests;
