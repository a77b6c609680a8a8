//! The fields packets are made of: read one after the other, and written.

use super::{Malformed, length, text};

/// A text or binary field that does not fit into its two-byte length, or a packet above 268 435 455 bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{what} has {bytes} bytes, and {most} fit")]
pub struct TooLong {
    /// The field.
    pub what: &'static str,
    /// Its length, in bytes.
    pub bytes: usize,
    /// The most that MQTT can carry there.
    pub most: usize,
}

/// Reads fields from the front of what is left of a packet. Borrows, never copies.
pub(super) struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    pub(super) fn bytes(
        &mut self,
        count: usize,
        what: &'static str,
    ) -> Result<&'a [u8], Malformed> {
        let (taken, left) = self
            .left
            .split_at_checked(count)
            .ok_or(Malformed::Short { what })?;
        self.left = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (taken, left) = self
            .left
            .split_first_chunk()
            .ok_or(Malformed::Short { what })?;
        self.left = left;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    pub(super) fn two(&mut self, what: &'static str) -> Result<u16, Malformed> {
        self.array(what).map(u16::from_be_bytes)
    }

    pub(super) fn four(&mut self, what: &'static str) -> Result<u32, Malformed> {
        self.array(what).map(u32::from_be_bytes)
    }

    /// A Variable Byte Integer, in its shortest spelling [MQTT-1.5.5-1].
    pub(super) fn variable(&mut self, what: &'static str) -> Result<usize, Malformed> {
        let (number, spelt) =
            length::remaining_length(self.left)?.ok_or(Malformed::Short { what })?;
        if !length::is_minimal(number, spelt) {
            return Err(Malformed::NotMinimal { what });
        }
        self.left = &self.left[spelt..];
        Ok(number)
    }

    /// Binary data after its two-byte length.
    pub(super) fn binary(&mut self, what: &'static str) -> Result<&'a [u8], Malformed> {
        let count = self.two(what)?;
        self.bytes(count.into(), what)
    }

    pub(super) fn text(&mut self, what: &'static str) -> Result<&'a str, Malformed> {
        text::text(self.binary(what)?, what)
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), Malformed> {
        match self.left.len() {
            0 => Ok(()),
            bytes => Err(Malformed::Surplus { bytes }),
        }
    }
}

/// Appends `bytes` after their two-byte length.
pub(super) fn put_binary(
    bytes: &[u8],
    what: &'static str,
    out: &mut Vec<u8>,
) -> Result<(), TooLong> {
    let count = u16::try_from(bytes.len()).map_err(|_| TooLong {
        what,
        bytes: bytes.len(),
        most: u16::MAX.into(),
    })?;
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Puts the fixed header before `body`.
pub(super) fn packet(first: u8, body: &[u8]) -> Result<Vec<u8>, TooLong> {
    if body.len() > length::MOST {
        return Err(TooLong {
            what: "the packet",
            bytes: body.len(),
            most: length::MOST,
        });
    }
    let mut packet = Vec::with_capacity(1 + length::width(body.len()) + body.len());
    packet.push(first);
    length::put(body.len(), &mut packet);
    packet.extend_from_slice(body);
    Ok(packet)
}

/// Takes the fixed header off a whole packet: gives the body, and whether its length was spelt in the shortest way.
pub(super) fn body(packet: &[u8]) -> Result<(&[u8], bool), Malformed> {
    const WHAT: &str = "the fixed header";
    let (header, total) = length::packet(packet)?.ok_or(Malformed::Short { what: WHAT })?;
    if packet.len() > total {
        return Err(Malformed::Surplus {
            bytes: packet.len() - total,
        });
    }
    let body = packet
        .get(header..total)
        .ok_or(Malformed::Short { what: "the body" })?;
    Ok((body, length::is_minimal(body.len(), header - 1)))
}
