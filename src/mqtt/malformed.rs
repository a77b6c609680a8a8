//! Every rule of the wire that a packet can break.

use super::properties::{Id, Place};

/// The rule that a packet broke, first one first.
///
/// The sentence names the rule and where it stands. It never holds text from the wire: only numbers, and the names of
/// fields and properties.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// The first packet is of another type, or this is no MQTT at all.
    #[error("the first byte is 0x{first:02x}, not the 0x10 of a CONNECT [MQTT-3.1.0-1]")]
    NotConnect {
        /// The byte found.
        first: u8,
    },
    /// A CONNECT whose four reserved header flags are not 0.
    #[error(
        "the reserved header flags of CONNECT are not 0: first byte 0x{first:02x} [MQTT-2.1.3-1; 3.1.1: MQTT-2.2.2-1]"
    )]
    HeaderFlags {
        /// The byte found.
        first: u8,
    },
    /// The broker's first packet is not a CONNACK.
    #[error("the first byte is 0x{first:02x}, not the 0x20 of a CONNACK [MQTT-3.2.0-1]")]
    NotConnack {
        /// The byte found.
        first: u8,
    },
    /// Not a DISCONNECT.
    #[error("the first byte is 0x{first:02x}, not the 0xe0 of a DISCONNECT [MQTT-3.14.1-1]")]
    NotDisconnect {
        /// The byte found.
        first: u8,
    },
    /// A Remaining Length of more than four bytes.
    #[error(
        "the fourth byte of the Remaining Length promises a fifth (MQTT 3.1.1 §2.2.3, MQTT 5.0 §1.5.5)"
    )]
    Length,
    /// A length or a number that is spelt with more bytes than it needs.
    #[error("{what} is spelt with more bytes than needed [MQTT-1.5.5-1]")]
    NotMinimal {
        /// The field.
        what: &'static str,
    },
    /// The packet is larger than we take.
    #[error("the packet is {bytes} bytes long, and {cap} are allowed")]
    TooLarge {
        /// Its length, fixed header included.
        bytes: usize,
        /// The most that is taken.
        cap: usize,
    },
    /// A field reaches beyond the end of its packet, or of the properties.
    #[error("the packet ends inside {what} (MQTT 3.1.1 §1.5.3, MQTT 5.0 §1.5)")]
    Short {
        /// The field.
        what: &'static str,
    },
    /// Bytes are left over after the last field.
    #[error("{bytes} bytes follow the last field that the flags announce (MQTT §3.1.3)")]
    Surplus {
        /// How many.
        bytes: usize,
    },
    /// Text that is not UTF-8, or encodes a surrogate.
    #[error("{what} is not well-formed UTF-8 [MQTT-1.5.4-1; 3.1.1: MQTT-1.5.3-1]")]
    NotUtf8 {
        /// The field.
        what: &'static str,
    },
    /// Text that holds U+0000.
    #[error("{what} holds the null character [MQTT-1.5.4-2; 3.1.1: MQTT-1.5.3-2]")]
    Null {
        /// The field.
        what: &'static str,
    },
    /// Another protocol than MQTT.
    #[error("the protocol name is neither \"MQTT\" nor \"MQIsdp\" [MQTT-3.1.2-1]")]
    ProtocolName,
    /// MQTT, in a version that we do not know.
    #[error("protocol level {level} is not supported [MQTT-3.1.2-2]")]
    UnsupportedLevel {
        /// The level found.
        level: u8,
    },
    /// The reserved bit of the Connect Flags is set.
    #[error("bit 0 of the connect flags is reserved and must be 0 [MQTT-3.1.2-3]")]
    ReservedFlag,
    /// Will QoS 3.
    #[error("the will QoS is 3 [MQTT-3.1.2-12; 3.1.1: MQTT-3.1.2-14]")]
    WillQos,
    /// Will QoS or Will Retain without a will.
    #[error(
        "will QoS or will retain is set without a will [MQTT-3.1.2-11, -13; 3.1.1: MQTT-3.1.2-13, -15]"
    )]
    WillFlags,
    /// A password without a user name, which only MQTT 5.0 allows.
    #[error("there is a password but no user name (3.1.1: MQTT-3.1.2-22)")]
    PasswordAlone,
    /// A topic name without a character.
    #[error("{what} is empty [MQTT-4.7.3-1]")]
    EmptyTopic {
        /// The field.
        what: &'static str,
    },
    /// `+` or `#` in a topic name.
    #[error("{what} holds a wildcard [MQTT-4.7.1-1]")]
    Wildcard {
        /// The field.
        what: &'static str,
    },
    /// No client id, where the version wants one.
    #[error(
        "the client id is empty, which MQTT 3.1 never and MQTT 3.1.1 only with clean session allows [3.1.1: MQTT-3.1.3-8]"
    )]
    EmptyClientId,
    /// A property that MQTT 5.0 does not know.
    #[error("0x{id:02x} is not a property identifier (MQTT 5.0 §2.2.2.2)")]
    UnknownProperty {
        /// The identifier found.
        id: u32,
    },
    /// A property in a packet that may not carry it.
    #[error("{id} does not belong into {place} (MQTT 5.0 §2.2.2.2)")]
    MisplacedProperty {
        /// The property.
        id: Id,
        /// Where it was found.
        place: Place,
    },
    /// A property that may come once came twice.
    #[error("{id} comes more than once (MQTT 5.0 §{})", id.section())]
    RepeatedProperty {
        /// The property.
        id: Id,
    },
    /// A property whose value is out of its range.
    #[error("the value of {id} is not allowed (MQTT 5.0 §{})", id.section())]
    PropertyValue {
        /// The property.
        id: Id,
    },
    /// Authentication Data, but no Authentication Method.
    #[error("there is Authentication Data but no Authentication Method (MQTT 5.0 §3.1.2.11.10)")]
    AuthenticationDataAlone,
    /// Reserved bits of the Connect Acknowledge Flags.
    #[error("bits 7 to 1 of the connect acknowledge flags are not 0 [MQTT-3.2.2-1]")]
    ConnackFlags,
    /// A refusal that claims a session.
    #[error(
        "session present is set although the code is 0x{code:02x} [MQTT-3.2.2-6; 3.1.1: MQTT-3.2.2-4]"
    )]
    SessionWithRefusal {
        /// The code found.
        code: u8,
    },
    /// A CONNACK in the form of MQTT 3.1.1 in answer to MQTT 5.0: the broker does not speak MQTT 5.0.
    #[error(
        "the CONNACK has the form of MQTT 3.1.1, code 0x{code:02x}: it seems that the broker does not speak MQTT 5.0 (MQTT 5.0 §3.2.2)"
    )]
    OldConnack {
        /// The code found.
        code: u8,
    },
}

/// What sort of breach a [`Malformed`] is; the answer hangs on it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// Not the packet that must come here: a foreign protocol, or MQTT out of turn.
    NotConnect,
    /// It cannot be read (MQTT 5.0 §1.2, Malformed Packet: 0x81).
    Malformed,
    /// It can be read, but is not allowed (MQTT 5.0 §1.2, Protocol Error: 0x82).
    Protocol,
    /// MQTT, in a version that we do not know.
    UnsupportedLevel,
    /// Larger than we take.
    TooLarge,
    /// No client id, where the version wants one.
    EmptyClientId,
}

impl Malformed {
    /// The sort of breach.
    ///
    /// MQTT 5.0 says "Malformed Packet" or "Protocol Error" for most rules; where it is silent, what a reader can see
    /// in one field alone is malformed.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotConnect { .. }
            | Self::NotConnack { .. }
            | Self::NotDisconnect { .. }
            | Self::ProtocolName => Kind::NotConnect,
            Self::RepeatedProperty { .. }
            | Self::PropertyValue { .. }
            | Self::AuthenticationDataAlone => Kind::Protocol,
            Self::UnsupportedLevel { .. } => Kind::UnsupportedLevel,
            Self::TooLarge { .. } => Kind::TooLarge,
            Self::EmptyClientId => Kind::EmptyClientId,
            _ => Kind::Malformed,
        }
    }
}
