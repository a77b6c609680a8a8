//! Version 1: one line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Header, LONGEST_V1, Malformed, V1, proxied};

/// Reads a header that begins as version 1 does, or like the beginning of it.
pub(super) fn read(input: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    let seen = &input[..input.len().min(LONGEST_V1)];
    let fault = Err(Malformed::V1(
        "the line holds something else than printable ASCII",
    ));
    let Some(end) = seen.iter().position(|b| !matches!(b, b' '..=b'~')) else {
        return unfinished(seen);
    };
    match (seen[end], seen.get(end + 1)) {
        (b'\r', Some(b'\n')) => {}
        (b'\r', None) => return unfinished(seen),
        (b'\r', Some(_)) => return Err(Malformed::V1("a CR without its LF")),
        _ => return fault,
    }
    let length = end + 2;
    let Some(line) = seen[..end].strip_prefix(V1) else {
        return Err(Malformed::V1("the line ends too soon"));
    };
    let line = std::str::from_utf8(line).map_err(|_| Malformed::V1("the line is no text"))?;
    Ok(Some((line_says(line)?, length)))
}

fn unfinished(seen: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    if seen.len() < LONGEST_V1 {
        Ok(None)
    } else {
        Err(Malformed::TooLong { most: LONGEST_V1 })
    }
}

fn line_says(line: &str) -> Result<Header, Malformed> {
    let (protocol, rest) = line.split_once(' ').unwrap_or((line, ""));
    match protocol {
        "TCP4" => addresses::<Ipv4Addr>(rest),
        "TCP6" => addresses::<Ipv6Addr>(rest),
        "UNKNOWN" => Ok(Header::Local), // whatever follows is to be ignored
        _ => Err(Malformed::V1("it is neither TCP4 nor TCP6 nor UNKNOWN")),
    }
}

/// `rest` is two addresses and two ports with one space between them, and nothing else.
fn addresses<Ip: FromStr + Into<IpAddr>>(rest: &str) -> Result<Header, Malformed> {
    let mut words = rest.split(' ');
    let mut word = || {
        words
            .next()
            .ok_or(Malformed::V1("an address or a port is missing"))
    };
    let ip = |word: &str| match word.parse::<Ip>() {
        Ok(ip) => Ok(ip.into()),
        Err(_) => Err(Malformed::V1("an address is none of its family")),
    };
    let (from, to) = (ip(word()?)?, ip(word()?)?);
    let (from_port, to_port) = (port(word()?)?, port(word()?)?);
    if words.next().is_some() {
        return Err(Malformed::V1("something follows the ports"));
    }
    Ok(proxied(
        SocketAddr::new(from, from_port),
        SocketAddr::new(to, to_port),
    ))
}

/// A port in decimal; as a number it has one spelling: no sign, no zero in front.
fn port(word: &str) -> Result<u16, Malformed> {
    let plain = word.bytes().all(|b| b.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    let port = if plain { word.parse().ok() } else { None };
    port.ok_or(Malformed::V1("a port is no number from 0 to 65535"))
}
