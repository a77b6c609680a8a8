//! Headers as they are sent.

use std::net::{IpAddr, SocketAddr};

use super::v2::{ALPN, AUTHORITY, CRC32C, FRONT, PROXY, SSL, TCP4, TCP6, UNIQUE_ID, checksum};
use super::{V2, Version, canonical, mapped};

/// The most bytes of a version 2 header behind its first 16 that are sent: Mosquitto 2.1 takes no more.
pub const LONGEST_SENT: usize = 500;

/// The longest common name that is told, in bytes. A device id has 128 characters at most.
const LONGEST_NAME: usize = 128;

/// What a broker is told of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// Who called.
    pub from: SocketAddr,
    /// Where the call came in.
    pub to: SocketAddr,
    /// What secures it; `None`: nothing.
    pub tls: Option<Tls<'a>>,
    /// The application protocol that was agreed on.
    pub alpn: Option<&'a str>,
    /// The server name that was asked for.
    pub authority: Option<&'a str>,
    /// Unlike any other connection's; up to 128 bytes.
    pub unique_id: Option<&'a str>,
}

/// How a connection is secured.
#[derive(Clone, Copy, Debug)]
pub struct Tls<'a> {
    /// `TLSv1.2`, `TLSv1.3`
    pub version: Option<&'a str>,
    /// The cipher suite, by its OpenSSL name.
    pub cipher: Option<&'a str>,
    /// What our certificate was signed with, such as `ecdsa-with-SHA256`.
    pub signature: Option<&'a str>,
    /// The kind and size of our certificate's key, such as `EC256`.
    pub key: Option<&'a str>,
    /// The certificate of whoever called; `None`: it showed none. It was verified.
    pub certificate: Option<Certificate<'a>>,
}

/// A certificate that was shown, and verified.
#[derive(Clone, Copy, Debug)]
pub struct Certificate<'a> {
    /// It was shown on this connection, not on the one whose TLS session this one resumes.
    pub shown_now: bool,
    /// The common name of its subject, where somebody vouches for it.
    pub common_name: Option<&'a str>,
}

/// The types of the fields inside of `SSL` (PP 2.2.6).
const VERSION: u8 = 0x21;
const COMMON_NAME: u8 = 0x22;
const CIPHER: u8 = 0x23;
const SIGNATURE: u8 = 0x24;
const KEY: u8 = 0x25;

/// The flags of `SSL`: over TLS; with a certificate on this connection; with one in this TLS session.
const OVER_TLS: u8 = 1;
const CERTIFICATE_NOW: u8 = 2;
const CERTIFICATE_IN_SESSION: u8 = 4;

impl Told<'_> {
    /// No more than the addresses.
    pub fn ends(from: SocketAddr, to: SocketAddr) -> Self {
        Self {
            from,
            to,
            tls: None,
            alpn: None,
            authority: None,
            unique_id: None,
        }
    }

    /// As `version` has it.
    pub fn header(&self, version: Version) -> Vec<u8> {
        match version {
            Version::V1 => self.v1(),
            Version::V2 => self.v2(),
        }
    }

    /// As version 1 has it: the addresses, and nothing else.
    fn v1(&self) -> Vec<u8> {
        let (from, to) = (canonical(self.from), canonical(self.to));
        let ends = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => format!("TCP4 {from} {to}"),
            // Where one of them is IPv6, both are written so: the line has one family.
            (from, to) => format!("TCP6 {} {}", mapped(from), mapped(to)),
        };
        format!("PROXY {ends} {} {}\r\n", from.port(), to.port()).into_bytes()
    }

    /// As version 2 has it: the addresses, and all that fits of the rest into [`LONGEST_SENT`].
    ///
    /// A text that does not fit is left out, never cut: a part of a name may be another's.
    fn v2(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(320);
        header.extend_from_slice(V2);
        self.put_addresses(&mut header);
        if let Some(tls) = &self.tls {
            put(&mut header, SSL, &tls.field());
        }
        for (kind, text) in [
            (UNIQUE_ID, self.unique_id),
            (ALPN, self.alpn),
            (AUTHORITY, self.authority),
        ] {
            if let Some(text) = text.filter(|text| fits(&header, text)) {
                put(&mut header, kind, text.as_bytes());
            }
        }
        put(&mut header, CRC32C, &[0; 4]);
        let length = u16::try_from(header.len() - FRONT).unwrap_or(u16::MAX);
        header[FRONT - 2..FRONT].copy_from_slice(&length.to_be_bytes());
        let at = header.len() - 4;
        let sum = checksum(&header, at);
        header[at..].copy_from_slice(&sum.to_be_bytes());
        header
    }

    /// Everything from the command to the ports, with a length to come.
    fn put_addresses(&self, header: &mut Vec<u8>) {
        let (from, to) = (canonical(self.from), canonical(self.to));
        match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                header.extend_from_slice(&[PROXY, TCP4, 0, 0]);
                header.extend_from_slice(&from.octets());
                header.extend_from_slice(&to.octets());
            }
            (from, to) => {
                header.extend_from_slice(&[PROXY, TCP6, 0, 0]);
                header.extend_from_slice(&mapped(from).octets());
                header.extend_from_slice(&mapped(to).octets());
            }
        }
        header.extend_from_slice(&from.port().to_be_bytes());
        header.extend_from_slice(&to.port().to_be_bytes());
    }
}

impl Tls<'_> {
    /// The content of `SSL`.
    fn field(&self) -> Vec<u8> {
        let flags = match &self.certificate {
            None => OVER_TLS,
            Some(one) if one.shown_now => OVER_TLS | CERTIFICATE_NOW | CERTIFICATE_IN_SESSION,
            Some(_) => OVER_TLS | CERTIFICATE_IN_SESSION,
        };
        // 0 says that a certificate was verified, and says that there was one.
        let not_verified = u32::from(self.certificate.is_none());
        let name = self.certificate.and_then(|one| one.common_name);
        let mut field = vec![flags];
        field.extend_from_slice(&not_verified.to_be_bytes());
        for (kind, text) in [
            (VERSION, self.version),
            (COMMON_NAME, name),
            (CIPHER, self.cipher),
            (SIGNATURE, self.signature),
            (KEY, self.key),
        ] {
            if let Some(text) = text.filter(|text| text.len() <= LONGEST_NAME) {
                put(&mut field, kind, text.as_bytes());
            }
        }
        field
    }
}

/// Whether one more field with `text` leaves room for the checksum.
fn fits(header: &[u8], text: &str) -> bool {
    const CHECKSUM: usize = 3 + 4;
    header.len() - FRONT + 3 + text.len() + CHECKSUM <= LONGEST_SENT
}

/// Adds a field; `value` is far below 64 KiB.
fn put(to: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    to.push(kind);
    to.extend_from_slice(&length.to_be_bytes());
    to.extend_from_slice(value);
}
