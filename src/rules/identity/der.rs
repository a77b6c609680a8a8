//! A reader for DER that accounts for every byte.
//!
//! Parsers that stop at the first element they do not know, and drop the rest, would let a second name hide behind a
//! broken one (threats.md I6). This one ends only where its input ends.

/// The bytes are no DER, or not of the shape asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Broken;

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const NUMERIC_STRING: u8 = 0x12;
pub(super) const PRINTABLE_STRING: u8 = 0x13;
pub(super) const IA5_STRING: u8 = 0x16;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// One element.
#[derive(Clone, Copy, Debug)]
pub(super) struct Element<'d> {
    /// The identifier octet: class, constructed bit and number.
    pub(super) tag: u8,
    /// The contents.
    pub(super) body: &'d [u8],
    /// Identifier, length and contents.
    pub(super) whole: &'d [u8],
}

/// Elements, one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'d>(&'d [u8]);

impl<'d> Reader<'d> {
    /// Reads the elements that `input` consists of.
    pub(super) fn new(input: &'d [u8]) -> Self {
        Self(input)
    }

    /// The next element; `None` at the end.
    ///
    /// Source: X.690 §10.1: the definite form of lengths, in the fewest octets. Tag numbers above 30 occur nowhere in
    /// a certificate and are refused.
    pub(super) fn next(&mut self) -> Result<Option<Element<'d>>, Broken> {
        let [tag, rest @ ..] = self.0 else {
            return Ok(None);
        };
        if tag & 0x1f == 0x1f {
            return Err(Broken);
        }
        let (length, rest) = match rest {
            [short @ 0..=0x7f, rest @ ..] => (usize::from(*short), rest),
            [0x81, a @ 0x80..=0xff, rest @ ..] => (usize::from(*a), rest),
            [0x82, a @ 1..=0xff, b, rest @ ..] => (usize::from(*a) << 8 | usize::from(*b), rest),
            [0x83, a @ 1..=0xff, b, c, rest @ ..] => (
                usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c),
                rest,
            ),
            _ => return Err(Broken),
        };
        let (body, after) = rest.split_at_checked(length).ok_or(Broken)?;
        let whole = &self.0[..self.0.len() - after.len()];
        self.0 = after;
        Ok(Some(Element {
            tag: *tag,
            body,
            whole,
        }))
    }

    /// The next element, which must be there and be a `tag`.
    pub(super) fn take(&mut self, tag: u8) -> Result<Element<'d>, Broken> {
        self.next()?
            .filter(|element| element.tag == tag)
            .ok_or(Broken)
    }

    /// The next element, if it is a `tag`.
    pub(super) fn take_if(&mut self, tag: u8) -> Result<Option<Element<'d>>, Broken> {
        if self.0.first() == Some(&tag) {
            self.next()
        } else {
            Ok(None)
        }
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), Broken> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Broken)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_read_whole() {
        let mut reader = Reader::new(&[0x02, 0x01, 0x05, 0x30, 0x00]);
        let number = reader.take(INTEGER).unwrap();
        assert_eq!((number.body, number.whole), (&[5][..], &[2, 1, 5][..]));
        assert!(reader.end().is_err(), "a SEQUENCE is left");
        assert!(reader.take_if(SET).unwrap().is_none());
        assert!(reader.take(SEQUENCE).unwrap().body.is_empty());
        assert!(reader.next().unwrap().is_none());
    }

    /// X.690 §10.1.
    #[test]
    fn what_der_forbids_is_broken() {
        for input in [
            &[0x30, 0x80, 0x00, 0x00][..],   // indefinite length
            &[0x30, 0x81, 0x01, 0x00],       // long form where the short one fits
            &[0x30, 0x82, 0x00, 0x80],       // a leading zero
            &[0x30, 0x84, 0x01, 0, 0, 0],    // 16 MiB and more
            &[0x30, 0x05, 0x00],             // cut short
            &[0x30, 0x82, 0x01],             // cut within the length
            &[0x30],                         // no length
            &[0x1f, 0x81, 0x01, 0x00],       // a tag number above 30
            &[0x30, 0xff, 0, 0, 0, 0, 0],    // reserved
            &[0x30, 0x83, 0x00, 0x01, 0x00], // a leading zero
            &[0x30, 0x81],                   // cut within the length
        ] {
            assert_eq!(Reader::new(input).next().err(), Some(Broken), "{input:x?}");
        }
    }
}
