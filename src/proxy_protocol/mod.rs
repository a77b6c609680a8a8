//! The PROXY protocol, versions 1 and 2, sans-I/O: bytes in, who is behind a balancer out, and back. Knows nothing of tidegate.
//!
//! A header is read strictly ([`read()`]): it decides whose address counts, so nothing in it is guessed or repaired. It is written
//! so that Mosquitto 2.1, RabbitMQ and EMQX take it ([`Told`]).
//!
//! Source: HAProxy's proxy-protocol.txt, called PP below.

use std::net::{IpAddr, SocketAddr};

mod v1;
mod v2;
mod write;

#[cfg(test)]
mod tests;

pub use write::{Certificate, LONGEST_SENT, Tls, Told};

/// The most bytes that a version 1 header may have, CR and LF included (PP 2.1).
pub const LONGEST_V1: usize = 107;

/// The most bytes that a version 2 header may have that is read. The format could tell of 65 551; what balancers send has some
/// hundreds.
pub const LONGEST_V2: usize = 4096;

/// What every version 1 header begins with.
const V1: &[u8] = b"PROXY ";

/// What every version 2 header begins with (PP 2.2).
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A version of the protocol, as one may choose it for sending.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// A line of text: two addresses, two ports.
    V1,
    /// Binary, with what TLS found out.
    V2,
}

/// What a header says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Header {
    /// The connection is the balancer's own (LOCAL, a health check), or it does not tell an address that TCP could have
    /// (UNKNOWN, AF_UNSPEC, AF_UNIX): what counts is the address of the socket.
    Local,
    /// The connection is made for somebody else. Addresses are canonical: an IPv4 one is never mapped into IPv6.
    Proxied {
        /// Who called.
        from: SocketAddr,
        /// Where the call came in.
        to: SocketAddr,
    },
}

/// What came is no header that may be obeyed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// It begins as no header does.
    #[error("what came is no PROXY header")]
    Missing,
    /// It has more bytes than a header of its version may have.
    #[error("the header has more than {most} bytes")]
    TooLong {
        /// [`LONGEST_V1`] or [`LONGEST_V2`].
        most: usize,
    },
    /// A version 1 header that is none.
    #[error("version 1: {0} (PROXY protocol §2.1)")]
    V1(&'static str),
    /// A version 2 header that is none.
    #[error("version 2: {0} (PROXY protocol §2.2)")]
    V2(&'static str),
}

/// Reads a header from the front of `input`.
///
/// Gives what it says and how many bytes it has; `None` when `input` stops too soon: then every byte of it belongs to the header,
/// and more must come.
///
/// # Errors
/// [`Malformed`], as soon as no further byte could make it good, and after [`LONGEST_V2`] bytes at the latest.
pub fn read(input: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    let begins = |with: &[u8]| {
        let known = input.len().min(with.len());
        input[..known] == with[..known]
    };
    match input.first() {
        None => Ok(None),
        Some(b'P') if begins(V1) => v1::read(input),
        Some(b'\r') if begins(V2) => v2::read(input),
        Some(_) => Err(Malformed::Missing),
    }
}

/// Both ends, canonical.
fn proxied(from: SocketAddr, to: SocketAddr) -> Header {
    Header::Proxied {
        from: canonical(from),
        to: canonical(to),
    }
}

/// The same address; IPv4, if it is an IPv4 one that was mapped into IPv6 (RFC 4291 §2.5.5.2).
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// An address as IPv6 has it.
fn mapped(ip: IpAddr) -> std::net::Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}
