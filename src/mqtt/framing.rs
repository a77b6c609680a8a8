//! Where packets begin and end, by their fixed headers alone.
//!
//! After CONNECT and CONNACK the gate copies bytes. It follows the packets only to see that none goes through that
//! could change who the device is (threats.md I10, M5), and to know where a packet of its own may be put (M4).

use super::Version;

/// Who sends the bytes that are walked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum From {
    /// The device.
    Device,
    /// The broker.
    Broker,
}

/// Why the bytes may not go on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stop {
    /// A second CONNECT [MQTT-3.1.0-2].
    SecondConnect,
    /// A packet of this type (0 to 15) may not be sent in this direction, or not at all through the gate.
    Forbidden(u8),
    /// The fourth byte of a Remaining Length promises a fifth. What came before it of its packet has passed.
    BadLength,
    /// MQTT 5.0, from the broker: a DISCONNECT begins where the pass ends. It is for the caller to collect it whole;
    /// see [`super::disconnect`].
    BrokersDisconnect,
}

/// What a walk found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Walk {
    /// How many bytes from the front may go on.
    pub pass: usize,
    /// Why not all of them.
    pub stop: Option<Stop>,
}

/// Follows the packets of one direction, whatever pieces they come in.
#[derive(Clone, Copy, Debug)]
pub struct Framer {
    /// Bytes of the body still to come.
    body: u32,
    /// The Remaining Length, as far as it is read.
    length: u32,
    /// A bit for each packet type that may pass.
    allowed: u16,
    /// Bytes of the fixed header that are read; 0: not inside one.
    header: u8,
    from: From,
    version: Version,
}

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBREL: u8 = 6;
const PUBCOMP: u8 = 7;
const SUBSCRIBE: u8 = 8;
const SUBACK: u8 = 9;
const UNSUBSCRIBE: u8 = 10;
const UNSUBACK: u8 = 11;
const PINGREQ: u8 = 12;
const PINGRESP: u8 = 13;
const DISCONNECT: u8 = 14;

const EITHER: u16 = 1 << PUBLISH | 1 << PUBACK | 1 << PUBREC | 1 << PUBREL | 1 << PUBCOMP;
const DEVICE: u16 = EITHER | 1 << SUBSCRIBE | 1 << UNSUBSCRIBE | 1 << PINGREQ | 1 << DISCONNECT;
const BROKER: u16 = EITHER | 1 << SUBACK | 1 << UNSUBACK | 1 << PINGRESP;

impl Framer {
    /// Begins at the boundary behind CONNECT or CONNACK.
    pub fn new(from: From, version: Version) -> Self {
        Self {
            body: 0,
            length: 0,
            allowed: match from {
                From::Device => DEVICE,
                From::Broker => BROKER,
            },
            header: 0,
            from,
            version,
        }
    }

    /// Whether the bytes that have passed end with a packet.
    pub fn at_boundary(&self) -> bool {
        self.header == 0 && self.body == 0
    }

    /// Follows `bytes`, which come right behind those that have passed before.
    ///
    /// At a stop the framer stays where the pass ends: the same bytes again give the same stop, and a pass of 0.
    pub fn walk(&mut self, bytes: &[u8]) -> Walk {
        let mut at = 0;
        loop {
            // `body` is at most 268 435 455, so it fits, and `at` stays within the bytes.
            let skip = bytes.len().saturating_sub(at).min(self.body as usize);
            at += skip;
            self.body -= skip as u32;
            let Some(&byte) = bytes.get(at) else {
                return Walk {
                    pass: at,
                    stop: None,
                };
            };
            if let Err(stop) = self.header(byte) {
                return Walk {
                    pass: at,
                    stop: Some(stop),
                };
            }
            at += 1;
        }
    }

    /// Takes the next byte of a fixed header. Changes nothing when it says no.
    #[inline]
    fn header(&mut self, byte: u8) -> Result<(), Stop> {
        if self.header == 0 {
            let kind = byte >> 4;
            if self.allowed & 1 << kind == 0 {
                return Err(self.stop(kind));
            }
            self.header = 1;
            self.length = 0;
            return Ok(());
        }
        let more = byte & 0x80 != 0;
        if more && self.header == 4 {
            return Err(Stop::BadLength);
        }
        self.length |= u32::from(byte & 0x7f) << (7 * (self.header - 1));
        if more {
            self.header += 1;
        } else {
            self.header = 0;
            self.body = self.length;
        }
        Ok(())
    }

    #[cold]
    fn stop(self, kind: u8) -> Stop {
        match (self.from, self.version, kind) {
            (From::Device, _, CONNECT) => Stop::SecondConnect,
            (From::Broker, Version::V5, DISCONNECT) => Stop::BrokersDisconnect,
            _ => Stop::Forbidden(kind),
        }
    }
}
