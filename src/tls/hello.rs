//! What a ClientHello tells before rustls has looked at it.

/// The first ticket that a ClientHello shows, to resume a TLS session: of TLS 1.3 or of TLS 1.2. `None`: it shows none, or is cut
/// short, or lies in several records.
///
/// `hello` is the record that it came in, header included. Nothing hangs on it but who comes first.
///
/// Source: RFC 8446 §4.1.2, §4.2.9, §4.2.11; RFC 5077 §3.2.
pub(super) fn ticket(hello: &[u8]) -> Option<&[u8]> {
    /// Headers of the record (5) and of the message (4), version (2), random (32).
    const SESSION_ID: usize = 43;
    const SESSION_TICKET: usize = 35;
    const PRE_SHARED_KEY: usize = 41;
    const PSK_KEY_EXCHANGE_MODES: usize = 45;
    const PSK_DHE_KE: u8 = 1; // the only one that rustls resumes by
    let body = first_record(hello)?.get(SESSION_ID..)?;
    let (_, rest) = split::<1>(body)?; // session id
    let (_, rest) = split::<2>(rest)?; // cipher suites
    let (_, rest) = split::<1>(rest)?; // compression methods
    let (mut extensions, _) = split::<2>(rest)?;
    let (mut ticket, mut by_dhe) = (None, false);
    while let Some((kind, rest)) = number::<2>(extensions) {
        let (content, rest) = split::<2>(rest)?;
        match kind {
            PSK_KEY_EXCHANGE_MODES => by_dhe = split::<1>(content)?.0.contains(&PSK_DHE_KE),
            // The last extension of all (RFC 8446 §4.2.11).
            PRE_SHARED_KEY => {
                if !by_dhe {
                    return None;
                }
                let (identities, _) = split::<2>(content)?;
                return Some(split::<2>(identities)?.0);
            }
            SESSION_TICKET if !content.is_empty() => ticket = Some(content),
            _ => {}
        }
        extensions = rest;
    }
    ticket
}

/// The first record with its header, if the whole of its message is in it.
pub(super) fn first_record(hello: &[u8]) -> Option<&[u8]> {
    let [_, _, _, high, low, _, m0, m1, m2, ..] = *hello else {
        return None;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let message = u32::from_be_bytes([0, m0, m1, m2]) as usize;
    (message + 4 <= length).then(|| hello.get(..5 + length))?
}

/// A number of `N` bytes, and what is behind it.
fn number<const N: usize>(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (front, rest) = bytes.split_first_chunk::<N>()?;
    let value = front
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    Some((value, rest))
}

/// What stands behind its own length of `N` bytes, and what is behind that.
fn split<const N: usize>(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = number::<N>(bytes)?;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests;
