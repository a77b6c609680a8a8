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
