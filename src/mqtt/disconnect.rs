//! DISCONNECT, as a server sends it: MQTT 5.0 only.

use super::fields::{self, Reader};
use super::properties::{Id, Place, Properties};
use super::{Malformed, length};

const FIRST: u8 = 0xe0;

/// A DISCONNECT with `code`, in its shortest form (MQTT 5.0 §3.14.2.1).
pub fn packet(code: u8) -> Vec<u8> {
    match code {
        0 => vec![FIRST, 0],
        _ => vec![FIRST, 1, code],
    }
}

/// A DISCONNECT with `code` and `properties` (MQTT 5.0 §3.14.2.2).
///
/// # Panics
/// When they take more than 256 MiB, or a text in them more than 65 535 bytes.
pub fn with_properties(code: u8, properties: &Properties) -> Vec<u8> {
    let mut body = vec![code];
    properties.put(&mut body).expect("short texts");
    fields::packet(FIRST, &body).expect("few properties")
}

/// Measures the DISCONNECT at the front of `input`: the length of the whole packet, which is all there; `None`: read
/// more.
///
/// # Errors
/// As soon as it can tell: [`Malformed::NotDisconnect`], [`Malformed::Length`], [`Malformed::TooLarge`] for more than
/// `cap` bytes, fixed header included.
pub fn measure(input: &[u8], cap: usize) -> Result<Option<usize>, Malformed> {
    let Some(&first) = input.first() else {
        return Ok(None);
    };
    is_disconnect(first)?;
    match length::packet(input)? {
        Some((_, bytes)) if bytes > cap => Err(Malformed::TooLarge { bytes, cap }),
        Some((_, bytes)) if input.len() >= bytes => Ok(Some(bytes)),
        _ => Ok(None),
    }
}

fn is_disconnect(first: u8) -> Result<(), Malformed> {
    match first {
        FIRST => Ok(()),
        _ => Err(Malformed::NotDisconnect { first }),
    }
}

/// A broker's DISCONNECT without its Server Reference, which would show devices a way past the gate; all else to the
/// byte.
///
/// # Errors
/// The first rule that is broken.
///
/// # Panics
/// Never: what is written is shorter than what was read.
pub fn without_server_reference(packet: &[u8]) -> Result<Vec<u8>, Malformed> {
    let &first = packet.first().ok_or(Malformed::Short {
        what: "the fixed header",
    })?;
    is_disconnect(first)?;
    let (body, minimal) = fields::body(packet)?;
    if !minimal {
        return Err(Malformed::NotMinimal {
            what: "the Remaining Length",
        });
    }
    // Code and properties may each be left out from the end (§3.14.2.1, §3.14.2.2.1).
    let Some((&code, rest)) = body.split_first().filter(|(_, rest)| !rest.is_empty()) else {
        return Ok(packet.to_owned());
    };
    let mut reader = Reader::new(rest);
    let mut properties = Properties::read(&mut reader, Place::Disconnect)?;
    reader.end()?;
    if properties.remove(Id::ServerReference).is_none() {
        return Ok(packet.to_owned());
    }
    let mut shorter = vec![code];
    properties
        .put(&mut shorter)
        .expect("every value fitted before");
    Ok(fields::packet(FIRST, &shorter).expect("it is shorter than before"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_as_short_as_can_be() {
        assert_eq!(packet(0x00), b"\xe0\x00");
        assert_eq!(packet(0x8b), b"\xe0\x01\x8b");
    }

    #[test]
    fn without_a_reference_it_stays_to_the_byte() {
        for packet in [
            &b"\xe0\x00"[..],
            b"\xe0\x01\x8b",
            b"\xe0\x02\x8b\x00",
            b"\xe0\x09\x8b\x07\x1f\x00\x04busy",
            b"\xe0\x09\x9d\x07\x26\x00\x01a\x00\x01b",
        ] {
            assert_eq!(without_server_reference(packet).unwrap(), packet);
        }
    }

    #[test]
    fn a_reference_goes_and_the_rest_stays() {
        let moved = b"\xe0\x10\x9d\x0e\x1c\x00\x03b:1\x26\x00\x01a\x00\x02xy";
        assert_eq!(moved.len(), 18);
        assert_eq!(
            without_server_reference(moved).unwrap(),
            b"\xe0\x0a\x9d\x08\x26\x00\x01a\x00\x02xy"
        );
        assert_eq!(
            without_server_reference(b"\xe0\x07\x9c\x05\x1c\x00\x02b2").unwrap(),
            b"\xe0\x02\x9c\x00"
        );
    }

    #[test]
    fn what_is_malformed_is_not_passed_on() {
        for packet in [
            &b""[..],
            b"\xe0",
            b"\xe1\x00",
            b"\xe0\x80\x00",
            b"\xe0\x00\x00",
            b"\xe0\x02\x8b",
            b"\xe0\x02\x8b\x01",
            b"\xe0\x03\x8b\x00\x00",
            b"\xe0\x05\x8b\x03\x21\x00\x01", // Receive Maximum does not belong here
            b"\xe0\x0a\x9d\x08\x1c\x00\x01b\x1c\x00\x01c", // two references
        ] {
            assert!(without_server_reference(packet).is_err(), "{packet:02x?}");
        }
    }

    #[test]
    fn it_is_measured_under_a_cap() {
        assert_eq!(measure(b"", 8), Ok(None));
        assert_eq!(measure(b"\xe0\x01", 8), Ok(None));
        assert_eq!(measure(b"\xe0\x01\x8b\xff", 8), Ok(Some(3)));
        assert_eq!(
            measure(b"\xd0", 8),
            Err(Malformed::NotDisconnect { first: 0xd0 })
        );
        assert_eq!(
            measure(b"\xe0\x07", 8),
            Err(Malformed::TooLarge { bytes: 9, cap: 8 })
        );
    }
}
