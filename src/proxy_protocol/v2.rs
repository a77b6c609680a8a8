//! Version 2: binary, with addresses and further fields (TLVs).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crc::Crc;

use super::{Header, LONGEST_V2, Malformed, V2, proxied};

/// Everything in front of the addresses: signature, version and command, family and protocol, length (2 bytes).
pub(super) const FRONT: usize = 16;

pub(super) const LOCAL: u8 = 0x20;
pub(super) const PROXY: u8 = 0x21;

pub(super) const TCP4: u8 = 0x11;
pub(super) const TCP6: u8 = 0x21;
const UNSPEC: u8 = 0x00;
const UNIX: u8 = 0x31;

/// Two paths of 108 bytes.
const UNIX_ADDRESSES: usize = 216;

pub(super) const ALPN: u8 = 0x01;
pub(super) const AUTHORITY: u8 = 0x02;
pub(super) const CRC32C: u8 = 0x03;
pub(super) const UNIQUE_ID: u8 = 0x05;
pub(super) const SSL: u8 = 0x20;

/// The most bytes of a unique id (PP 2.2.5).
const LONGEST_ID: usize = 128;

/// The bytes of `SSL` in front of its own fields: which there are (1), and whether it was verified (4).
const SSL_FRONT: usize = 5;

/// Reads a header that begins as version 2 does, or like the beginning of it.
pub(super) fn read(input: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    let Some(&command) = input.get(V2.len()) else {
        return Ok(None);
    };
    if !matches!(command, LOCAL | PROXY) {
        return Err(Malformed::V2(
            "its version is not 2, or its command neither LOCAL nor PROXY",
        ));
    }
    let Some(&family) = input.get(V2.len() + 1) else {
        return Ok(None);
    };
    // Of LOCAL the family is to be ignored.
    if command == PROXY && !matches!(family, UNSPEC | TCP4 | TCP6 | UNIX) {
        return Err(Malformed::V2("it is for something else than a TCP stream"));
    }
    let Some(&[high, low]) = input.get(V2.len() + 2..FRONT) else {
        return Ok(None);
    };
    let length = FRONT + usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST_V2 {
        return Err(Malformed::TooLong { most: LONGEST_V2 });
    }
    let Some(header) = input.get(..length) else {
        return Ok(None);
    };
    if command == LOCAL {
        return Ok(Some((Header::Local, length)));
    }
    let block = &header[FRONT..];
    let (says, fields) = match family {
        TCP4 => addresses::<4, Ipv4Addr>(block),
        TCP6 => addresses::<16, Ipv6Addr>(block),
        UNIX => block
            .get(UNIX_ADDRESSES..)
            .map(|rest| (Header::Local, rest)),
        _ => Some((Header::Local, block)),
    }
    .ok_or(Malformed::V2("its length leaves no room for its addresses"))?;
    check_fields(header, fields)?;
    Ok(Some((says, length)))
}

/// Two addresses of `N` bytes, two ports; and what is behind them.
fn addresses<const N: usize, Ip: From<[u8; N]> + Into<IpAddr>>(
    block: &[u8],
) -> Option<(Header, &[u8])> {
    let (from, rest) = block.split_first_chunk::<N>()?;
    let (to, rest) = rest.split_first_chunk::<N>()?;
    let (from_port, rest) = rest.split_first_chunk::<2>()?;
    let (to_port, rest) = rest.split_first_chunk::<2>()?;
    let end =
        |ip: [u8; N], port: [u8; 2]| SocketAddr::new(Ip::from(ip).into(), u16::from_be_bytes(port));
    Some((proxied(end(*from, *from_port), end(*to, *to_port)), rest))
}

/// Sees that the fields of `header`, which end it, fill it to the byte, and that its checksum, if it has one, is right.
fn check_fields(header: &[u8], mut fields: &[u8]) -> Result<(), Malformed> {
    let mut summed = false;
    while let Some((kind, value)) = field(&mut fields)? {
        match kind {
            CRC32C if summed => return Err(Malformed::V2("it has two checksums")),
            CRC32C => {
                let at = header.len() - fields.len() - value.len();
                let said = value
                    .try_into()
                    .map_err(|_| Malformed::V2("its checksum has not 4 bytes"))?;
                if checksum(header, at) != u32::from_be_bytes(said) {
                    return Err(Malformed::V2("its checksum is wrong"));
                }
                summed = true;
            }
            UNIQUE_ID if value.len() > LONGEST_ID => {
                return Err(Malformed::V2("its unique id has more than 128 bytes"));
            }
            SSL => {
                let inner = value.get(SSL_FRONT..);
                let mut inner = inner.ok_or(Malformed::V2("its SSL field is too short"))?;
                while field(&mut inner)?.is_some() {}
            }
            _ => {}
        }
    }
    Ok(())
}

/// Takes one field from the front: its type (1 byte), its value behind its length (2 bytes). `None`: there is none left.
fn field<'a>(fields: &mut &'a [u8]) -> Result<Option<(u8, &'a [u8])>, Malformed> {
    const BEYOND: Malformed = Malformed::V2("a field reaches beyond its end");
    let (kind, length, rest) = match **fields {
        [] => return Ok(None),
        [kind, high, low, ref rest @ ..] => (kind, u16::from_be_bytes([high, low]), rest),
        _ => return Err(BEYOND),
    };
    let (value, rest) = rest.split_at_checked(usize::from(length)).ok_or(BEYOND)?;
    *fields = rest;
    Ok(Some((kind, value)))
}

/// The CRC32C of `header` with zeros for its four bytes from `at` on (PP 2.2.3).
pub(super) fn checksum(header: &[u8], at: usize) -> u32 {
    const CRC: Crc<u32> = Crc::<u32>::new(&crc::CRC_32_ISCSI);
    let mut sum = CRC.digest();
    sum.update(&header[..at]);
    sum.update(&[0; 4]);
    sum.update(&header[at + 4..]);
    sum.finalize()
}
