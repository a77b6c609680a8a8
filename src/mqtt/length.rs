//! Variable Byte Integers: the Remaining Length of a packet, and the lengths of properties.

use super::Malformed;

/// The largest number that four bytes can spell.
pub const MOST: usize = 268_435_455;

/// Reads a Remaining Length from the front of `input`.
///
/// Gives the length, in bytes (0 to 268 435 455), and how many bytes spelt it (1 to 4); `None`
/// when `input` stops too soon: read more and call again.
///
/// Takes a length that is spelt with more bytes than needed: only MQTT 5.0 forbids that; see [`is_minimal`].
///
/// # Errors
/// [`Malformed::Length`] when a fourth byte still promises a fifth.
///
/// Source: MQTT 3.1.1 §2.2.3; MQTT 5.0 §1.5.5, §2.1.4.
pub fn remaining_length(input: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut length = 0;
    for (i, byte) in input.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some((length, i + 1)));
        }
    }
    if input.len() < 4 {
        Ok(None)
    } else {
        Err(Malformed::Length)
    }
}

/// Whether `length` needs no fewer than the `spelt` bytes it was spelt with [MQTT-1.5.5-1].
pub fn is_minimal(length: usize, spelt: usize) -> bool {
    spelt <= width(length)
}

/// How many bytes the shortest spelling of `length` has: 1 to 4. `length` is at most [`MOST`].
pub(super) fn width(length: usize) -> usize {
    match length {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// Appends the shortest spelling of `length`, which is at most [`MOST`].
pub fn put(mut length: usize, out: &mut Vec<u8>) {
    debug_assert!(length <= MOST);
    while length > 0x7f {
        out.push(0x80 | length.to_le_bytes()[0]);
        length >>= 7;
    }
    out.push(length.to_le_bytes()[0]);
}

/// Measures the packet at the front of `input`: the length of its fixed header and of all of it; `None`: read more.
pub(super) fn packet(input: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let Some(rest) = input.get(1..) else {
        return Ok(None);
    };
    Ok(remaining_length(rest)?.map(|(length, spelt)| (1 + spelt, 1 + spelt + length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The table of MQTT 5.0 §1.5.5, and the numbers beside its edges.
    const EDGES: [(usize, &[u8]); 9] = [
        (0, &[0x00]),
        (1, &[0x01]),
        (127, &[0x7f]),
        (128, &[0x80, 0x01]),
        (16_383, &[0xff, 0x7f]),
        (16_384, &[0x80, 0x80, 0x01]),
        (2_097_151, &[0xff, 0xff, 0x7f]),
        (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
        (268_435_455, &[0xff, 0xff, 0xff, 0x7f]),
    ];

    #[test]
    fn the_edges_are_spelt_as_the_standard_spells_them() {
        for (length, bytes) in EDGES {
            let mut out = Vec::new();
            put(length, &mut out);
            assert_eq!(out, bytes);
            assert_eq!(remaining_length(bytes), Ok(Some((length, bytes.len()))));
            assert_eq!(width(length), bytes.len());
        }
    }

    #[test]
    fn a_length_cut_short_asks_for_more() {
        for (_, bytes) in EDGES {
            for end in 0..bytes.len() {
                assert_eq!(remaining_length(&bytes[..end]), Ok(None));
            }
        }
    }

    #[test]
    fn a_fifth_byte_is_malformed_as_soon_as_it_is_promised() {
        assert_eq!(remaining_length(&[0x80, 0x80, 0x80]), Ok(None));
        assert_eq!(
            remaining_length(&[0x80, 0x80, 0x80, 0x80]),
            Err(Malformed::Length)
        );
        assert_eq!(
            remaining_length(&[0xff, 0xff, 0xff, 0xff, 0x7f]),
            Err(Malformed::Length)
        );
    }

    #[test]
    fn a_long_spelling_is_read_and_told_apart() {
        for bytes in [
            &[0x80, 0x00][..],
            &[0x85, 0x80, 0x00],
            &[0xff, 0x80, 0x80, 0x00],
        ] {
            let (length, spelt) = remaining_length(bytes).unwrap().unwrap();
            assert!(!is_minimal(length, spelt), "{bytes:02x?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_put_is_read_and_is_minimal(length in 0..=MOST) {
            let mut out = Vec::new();
            put(length, &mut out);
            prop_assert_eq!(remaining_length(&out), Ok(Some((length, out.len()))));
            prop_assert!(is_minimal(length, out.len()));
        }
    }
}
