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
            match u32::try_from(bytes.len() - at) {
                Ok(left) if left <= self.body => {
                    self.body -= left;
                    return Walk {
                        pass: bytes.len(),
                        stop: None,
                    };
                }
                _ => {
                    at += self.body as usize;
                    self.body = 0;
                }
            }
            // Most packets are small and come whole: both bytes of their header in one look.
            if let [first, length @ ..=0x7f, ..] = bytes[at..]
                && self.header == 0
                && self.allows(first >> 4)
            {
                self.body = length.into();
                at += 2;
                continue;
            }
            if let Err(stop) = self.header(bytes[at]) {
                return Walk {
                    pass: at,
                    stop: Some(stop),
                };
            }
            at += 1;
        }
    }

    /// Follows `bytes` like [`Framer::walk`], but only to the last end of a packet in them, and is at a boundary then;
    /// if none ends there, to the end.
    pub fn finish(&mut self, bytes: &[u8]) -> Walk {
        let mut at = 0;
        let mut whole = None;
        while at < bytes.len() {
            let step = (self.body as usize).clamp(1, bytes.len() - at);
            let walk = self.walk(&bytes[at..at + step]);
            at += walk.pass;
            if walk.stop.is_some() {
                return Walk { pass: at, ..walk };
            }
            if self.at_boundary() {
                whole = Some(at);
            }
        }
        if whole.is_some() {
            (self.header, self.body) = (0, 0);
        }
        let pass = whole.unwrap_or(at);
        Walk { pass, stop: None }
    }

    fn allows(&self, kind: u8) -> bool {
        self.allowed & 1 << kind != 0
    }

    /// Takes the next byte of a fixed header. Changes nothing when it says no.
    fn header(&mut self, byte: u8) -> Result<(), Stop> {
        if self.header == 0 {
            let kind = byte >> 4;
            if !self.allows(kind) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Bytes from the device in one piece, MQTT 5.0.
    fn from_device(bytes: &[u8]) -> (Walk, bool) {
        let mut framer = Framer::new(From::Device, Version::V5);
        (framer.walk(bytes), framer.at_boundary())
    }

    fn passes(bytes: &[u8]) -> (Walk, bool) {
        let walk = Walk {
            pass: bytes.len(),
            stop: None,
        };
        (walk, true)
    }

    fn stops(pass: usize, stop: Stop) -> (Walk, bool) {
        let walk = Walk {
            pass,
            stop: Some(stop),
        };
        (walk, true)
    }

    #[test]
    fn a_framer_is_small() {
        assert!(size_of::<Framer>() <= 16);
    }

    #[test]
    fn whole_packets_pass() {
        let ping_publish_ping = b"\xc0\x00\x30\x05\x00\x01ahi\xc0\x00";
        assert_eq!(from_device(ping_publish_ping), passes(ping_publish_ping));
        assert_eq!(from_device(b""), passes(b""));
    }

    #[test]
    fn a_packet_cut_anywhere_passes_and_is_no_boundary() {
        let publish = b"\x30\x85\x01";
        for end in 1..=3 {
            let (walk, boundary) = from_device(&publish[..end]);
            assert_eq!((walk.pass, walk.stop, boundary), (end, None, false));
        }
        let mut whole = publish.to_vec();
        whole.resize(3 + 133, b'x');
        assert!(!from_device(&whole[..135]).1);
        assert_eq!(from_device(&whole), passes(&whole));
    }

    #[test]
    fn a_second_connect_does_not_pass() {
        assert_eq!(
            from_device(b"\xc0\x00\x10\x0c"),
            stops(2, Stop::SecondConnect)
        );
        assert_eq!(from_device(b"\x1f"), stops(0, Stop::SecondConnect));
    }

    #[test]
    fn packets_under_way_are_finished_and_none_is_left_in_the_middle() {
        let mut packet = b"\x30\x82\x01\x00\x01a".to_vec();
        packet.resize(3 + 130, b'x');
        for begun in 1..packet.len() {
            for behind in [&b""[..], b"\x30", b"\x30\x80", b"\x30\x05\x00\x01a"] {
                let mut framer = Framer::new(From::Broker, Version::V5);
                framer.walk(&packet[..begun]);
                let rest = [&packet[begun..], b"\xd0\x00", behind].concat();
                let walk = framer.finish(&rest);
                let whole = packet.len() - begun + 2;
                assert_eq!((walk.pass, walk.stop), (whole, None));
                assert!(framer.at_boundary());
            }
        }
        let mut framer = Framer::new(From::Broker, Version::V5);
        assert_eq!(framer.finish(b"\x30\x82\x01xx").pass, 5);
        assert!(!framer.at_boundary(), "none ends there");
        let mut framer = Framer::new(From::Broker, Version::V5);
        framer.walk(b"\x30\x80");
        let walk = framer.finish(b"\x80\x80\x80\x01");
        assert_eq!((walk.pass, walk.stop), (2, Some(Stop::BadLength)));
    }

    #[test]
    fn a_connect_inside_a_payload_is_payload() {
        let publish = b"\x30\x07\x00\x01a\x10\x02\x00\x04";
        assert_eq!(from_device(publish), passes(publish));
    }

    #[test]
    fn lengths_at_their_edges_are_skipped_exactly() {
        let edges: [(&[u8], usize); 6] = [
            (b"\x30\x7f", 127),
            (b"\x30\x80\x01", 128),
            (b"\x30\xff\x7f", 16_383),
            (b"\x30\x80\x80\x01", 16_384),
            (b"\x30\xff\xff\x03", 65_535),
            (b"\x30\x80\x80\x80\x01", 2_097_152),
        ];
        for (header, length) in edges {
            let mut bytes = header.to_vec();
            bytes.resize(header.len() + length, 0xff);
            let whole = bytes.len();
            bytes.push(0x10);
            assert_eq!(
                from_device(&bytes),
                stops(whole, Stop::SecondConnect),
                "{length}"
            );
        }
    }

    #[test]
    fn the_longest_packet_is_followed_to_its_end() {
        let mut framer = Framer::new(From::Broker, Version::V311);
        framer.walk(b"\x30\xff\xff\xff\x7f");
        let piece = vec![0; 1 << 20];
        for _ in 0..255 {
            assert_eq!(framer.walk(&piece).stop, None);
        }
        assert_eq!(framer.walk(&piece[1..]).stop, None);
        assert!(framer.at_boundary(), "256 MiB less one byte");
    }

    #[test]
    fn a_fifth_length_byte_stops_at_the_fourth() {
        let (walk, boundary) = from_device(b"\x30\x80\x80\x80\x80\x01");
        assert_eq!(
            (walk.pass, walk.stop, boundary),
            (4, Some(Stop::BadLength), false)
        );
    }

    #[test]
    fn each_side_sends_only_what_is_its_own() {
        let allowed = |from, version| -> Vec<u8> {
            (0..16)
                .filter(|kind| {
                    Framer::new(from, version)
                        .walk(&[kind << 4, 0])
                        .stop
                        .is_none()
                })
                .collect()
        };
        for version in Version::ALL {
            assert_eq!(
                allowed(From::Device, version),
                [3, 4, 5, 6, 7, 8, 10, 12, 14]
            );
            assert_eq!(allowed(From::Broker, version), [3, 4, 5, 6, 7, 9, 11, 13]);
        }
        assert_eq!(from_device(b"\xf0\x00"), stops(0, Stop::Forbidden(15)));
        assert_eq!(
            from_device(b"\x20\x02\x00\x00"),
            stops(0, Stop::Forbidden(2))
        );
    }

    #[test]
    fn a_brokers_disconnect_is_for_the_caller_in_mqtt_5_and_forbidden_before() {
        let bytes = b"\xd0\x00\xe0\x01\x8b";
        for (version, stop) in [
            (Version::V5, Stop::BrokersDisconnect),
            (Version::V311, Stop::Forbidden(14)),
            (Version::V31, Stop::Forbidden(14)),
        ] {
            let walk = Framer::new(From::Broker, version).walk(bytes);
            assert_eq!((walk.pass, walk.stop), (2, Some(stop)));
        }
    }

    /// Streams that are mostly packets, with some nonsense.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let packet = (0..16u8, vec(any::<u8>(), 0..300)).prop_map(|(kind, body)| {
            let mut packet = vec![if kind == 0 { 0x30 } else { kind << 4 }];
            super::super::length::put(body.len(), &mut packet);
            packet.extend(body);
            packet
        });
        let publish = vec(any::<u8>(), 0..300).prop_map(|body| {
            let mut packet = vec![0x30];
            super::super::length::put(body.len(), &mut packet);
            packet.extend(body);
            packet
        });
        let piece = prop_oneof![20 => publish, 2 => packet, 1 => vec(any::<u8>(), 0..8)];
        vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn byte_by_byte_is_the_same_as_at_once(
            bytes in stream(),
            version in super::super::arbitrary::version(),
            broker: bool,
            cut in 1..400usize,
        ) {
            let from = if broker { From::Broker } else { From::Device };
            let mut whole = Framer::new(from, version);
            let at_once = whole.walk(&bytes);
            for step in [1, cut] {
                let mut framer = Framer::new(from, version);
                let mut pass = 0;
                let mut stop = None;
                for piece in bytes.chunks(step) {
                    let walk = framer.walk(piece);
                    pass += walk.pass;
                    stop = walk.stop;
                    if stop.is_some() {
                        break;
                    }
                }
                prop_assert_eq!(Walk { pass, stop }, at_once);
                prop_assert_eq!(framer.at_boundary(), whole.at_boundary());
            }
            let again = whole.walk(&bytes[at_once.pass..]);
            prop_assert_eq!(again, Walk { pass: 0, stop: at_once.stop });
        }
    }
}
