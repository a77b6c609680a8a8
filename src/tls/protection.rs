//! One direction of TLS after the handshake: a key, and a number for each record.
//!
//! rustls agreed upon the keys; here they seal and open records in buffers that others own, in place. What a record looks like depends on
//! the version and on the cipher: RFC 8446 §5.2 and §5.3 for TLS 1.3, RFC 5288 §3 (AES-GCM) and RFC 7905 §2 (ChaCha20-Poly1305)
//! for TLS 1.2.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce,
    UnboundKey,
};
use rustls::{ConnectionTrafficSecrets, Error, InvalidMessage, PeerMisbehaved};
use zeroize::Zeroizing;

use super::records::kind;

/// The header of a record, in bytes: kind, version (2), length (2).
pub(super) const HEADER: usize = 5;

/// The most plaintext in a record, in bytes.
pub(super) const LARGEST: usize = 1 << 14;

/// What TLS 1.2 allows a record to be longer than that, in bytes; TLS 1.3 allows less (RFC 5246 §6.2.3).
const LARGEST_MORE: usize = 2048;

/// The authentication tag of each cipher, in bytes.
const TAG: usize = 16;

/// The part of the nonce that TLS 1.2 sends with each record of AES-GCM, in bytes.
const EXPLICIT: usize = 8;

/// What surrounds the plaintext.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Shape {
    /// TLS 1.3: behind it what kind it is, and zeros.
    Kind,
    /// AES-GCM in TLS 1.2: before it the part of the nonce.
    Explicit,
    /// ChaCha20-Poly1305 in TLS 1.2.
    Bare,
}

/// A record at the front of some bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Record {
    pub(super) kind: u8,
    /// Its header included, in bytes.
    pub(super) length: usize,
}

impl Record {
    /// The record at the front of `came`; `None`: it is not whole yet.
    ///
    /// # Errors
    /// When these bytes are no TLS, whatever comes behind them.
    pub(super) fn at(came: &[u8]) -> Result<Option<Self>, Error> {
        let [kind, major, _, high, low, ..] = *came else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if !(kind::CHANGE_CIPHER_SPEC..=kind::DATA).contains(&kind) {
            return Err(InvalidMessage::InvalidContentType.into());
        }
        if major != 3 {
            return Err(InvalidMessage::UnknownProtocolVersion.into());
        }
        if length > LARGEST + LARGEST_MORE {
            return Err(InvalidMessage::MessageTooLarge.into());
        }
        let length = HEADER + length;
        Ok((came.len() >= length).then_some(Self { kind, length }))
    }
}

/// Both directions.
pub(super) struct Protections {
    pub(super) theirs: Protection,
    pub(super) ours: Protection,
}

/// One direction.
pub(super) struct Protection {
    key: LessSafeKey,
    iv: Zeroizing<[u8; NONCE_LEN]>,
    /// Of the next record.
    number: u64,
    shape: Shape,
}

impl Protection {
    /// What rustls agreed upon: the number of the next record, and the key.
    ///
    /// # Errors
    /// When it is a cipher that the gate does not know.
    pub(super) fn new(
        (number, secrets): (u64, ConnectionTrafficSecrets),
        is_13: bool,
    ) -> Result<Self, Error> {
        use ConnectionTrafficSecrets as S;
        let (algorithm, key, iv) = match &secrets {
            S::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            S::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            S::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => {
                return Err(Error::General(
                    "a cipher that the gate does not know".into(),
                ));
            }
        };
        Self::of(algorithm, (key.as_ref(), iv.as_ref()), number, is_13)
    }

    /// By the key and initialisation vector of an algorithm; `number` is that of the next record.
    ///
    /// # Errors
    /// When one of them has another length than the algorithm's.
    pub(super) fn of(
        algorithm: &'static Algorithm,
        (key, iv): (&[u8], &[u8]),
        number: u64,
        is_13: bool,
    ) -> Result<Self, Error> {
        let shape = if is_13 {
            Shape::Kind
        } else if *algorithm == CHACHA20_POLY1305 {
            Shape::Bare
        } else {
            Shape::Explicit
        };
        Self::with(algorithm, (key, iv), number, shape)
    }

    fn with(
        algorithm: &'static Algorithm,
        (key, iv): (&[u8], &[u8]),
        number: u64,
        shape: Shape,
    ) -> Result<Self, Error> {
        let fault = || Error::General("a key of another length than its cipher's".into());
        let key = UnboundKey::new(algorithm, key).map_err(|_| fault())?;
        Ok(Self {
            key: LessSafeKey::new(key),
            iv: Zeroizing::new(iv.try_into().map_err(|_| fault())?),
            number,
            shape,
        })
    }

    /// AES-128-GCM with a key that nobody agreed upon.
    #[cfg(fuzzing)]
    pub(super) fn made_up(is_13: bool) -> Self {
        Self::of(&AES_128_GCM, (&[0; 16], &[0; NONCE_LEN]), 0, is_13).expect("it has 16 bytes")
    }

    /// The same cipher with the key and initialisation vector of the next generation (RFC 8446 §7.2): its records are numbered anew.
    ///
    /// # Errors
    /// When the key has another length than the cipher's.
    pub(super) fn renewed(&self, key: &[u8], iv: &[u8]) -> Result<Self, Error> {
        Self::with(self.key.algorithm(), (key, iv), 0, self.shape)
    }

    /// The length of the key, in bytes.
    pub(super) fn key_length(&self) -> usize {
        self.key.algorithm().key_len()
    }

    /// How many records went by this key, about: the number of the next one.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Adds `plain`, at most [`LARGEST`] bytes, to `out` as a record of that kind.
    ///
    /// # Errors
    /// When no number is left for it; `out` is then worthless from where it ended before.
    pub(super) fn seal(&mut self, kind: u8, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let (outer, around) = match self.shape {
            Shape::Kind => (kind::DATA, 1 + TAG),
            Shape::Explicit => (kind, EXPLICIT + TAG),
            Shape::Bare => (kind, TAG),
        };
        let nonce = self.nonce();
        let length = plain.len() + around;
        out.reserve(HEADER + length);
        out.extend_from_slice(&header(outer, length));
        if self.shape == Shape::Explicit {
            out.extend_from_slice(&nonce[NONCE_LEN - EXPLICIT..]);
        }
        let start = out.len();
        out.extend_from_slice(plain);
        if self.shape == Shape::Kind {
            out.push(kind);
        }
        let (bytes, used) = self.additional(outer, length, plain.len());
        let next = self.number.checked_add(1).ok_or(Error::EncryptError)?;
        let tag = self
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(&bytes[..used]),
                &mut out[start..],
            )
            .map_err(|_| Error::EncryptError)?;
        self.number = next;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens a whole record, its header included, in place: what kind it is inside, and its plaintext.
    ///
    /// # Errors
    /// [`Error::DecryptError`] when it is not the next one under this key, and others when it is but is out of shape.
    pub(super) fn open<'a>(
        &mut self,
        outer: u8,
        record: &'a mut [u8],
    ) -> Result<(u8, &'a [u8]), Error> {
        let body = &mut record[HEADER..];
        let length = body.len();
        let mut nonce = self.nonce();
        let front = if self.shape == Shape::Explicit {
            let explicit = body.first_chunk::<EXPLICIT>().ok_or(Error::DecryptError)?;
            nonce[NONCE_LEN - EXPLICIT..].copy_from_slice(explicit);
            nonce[..NONCE_LEN - EXPLICIT].copy_from_slice(&self.iv[..NONCE_LEN - EXPLICIT]);
            EXPLICIT
        } else {
            0
        };
        let plain = length.checked_sub(front + TAG).ok_or(Error::DecryptError)?;
        let (bytes, used) = self.additional(outer, length, plain);
        let plain = self
            .key
            .open_in_place(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(&bytes[..used]),
                &mut body[front..],
            )
            .map_err(|_| Error::DecryptError)?;
        self.number = self.number.checked_add(1).ok_or(Error::DecryptError)?;
        let (kind, plain) = match self.shape {
            Shape::Kind => inner(plain)?,
            Shape::Explicit | Shape::Bare => (outer, &*plain),
        };
        if plain.len() > LARGEST {
            return Err(Error::PeerSentOversizedRecord);
        }
        Ok((kind, plain))
    }

    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = *self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..]
            .iter_mut()
            .zip(self.number.to_be_bytes())
        {
            *byte ^= number;
        }
        nonce
    }

    /// What is authenticated besides the record: its header, in TLS 1.2 with its number and the length of the plaintext. Gives
    /// how many of the bytes count, too.
    fn additional(&self, outer: u8, length: usize, plain: usize) -> ([u8; 13], usize) {
        let mut bytes = [0; 13];
        let header = match self.shape {
            Shape::Kind => header(outer, length),
            Shape::Explicit | Shape::Bare => header(outer, plain),
        };
        if self.shape == Shape::Kind {
            bytes[..HEADER].copy_from_slice(&header);
            return (bytes, HEADER);
        }
        bytes[..8].copy_from_slice(&self.number.to_be_bytes());
        bytes[8..].copy_from_slice(&header);
        (bytes, 13)
    }
}

/// The header of a record of that many bytes; every version since 1.2 calls itself so there.
fn header(kind: u8, length: usize) -> [u8; HEADER] {
    let [high, low] = u16::try_from(length)
        .expect("at most LARGEST and a little")
        .to_be_bytes();
    [kind, 3, 3, high, low]
}

/// What is inside of a record of TLS 1.3: the last byte that is not zero tells what kind it is (RFC 8446 §5.4).
fn inner(plain: &[u8]) -> Result<(u8, &[u8]), Error> {
    if plain.len() > LARGEST + 1 {
        return Err(Error::PeerSentOversizedRecord);
    }
    let last = plain.iter().rposition(|byte| *byte != 0);
    let last = last.ok_or(PeerMisbehaved::IllegalTlsInnerPlaintext)?;
    Ok((plain[last], &plain[..last]))
}
