//! Opaque tokens of the registry: how they look, and the keyed hash they are known by (threats.md K2).

use aws_lc_rs::{constant_time, digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::record::Print;
use super::secret::Secret;

/// What every token of ours begins with, so that secret scanners find it: `tdg_[A-Za-z0-9_-]{48}`.
pub const PREFIX: &str = "tdg_";

/// The bytes behind the prefix: 32 of chance, and the first 4 of the SHA-256 of prefix and chance, which tell a slip of the pen.
const CHANCE: usize = 32;
const CHECK: usize = 4;

/// A token in the clear. Never printed but by [`Token::reveal`].
#[derive(Clone, Debug)]
pub struct Token(Secret<String>);

/// The text is no token of ours, or not as it was given out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("it is no whole token: one is tdg_ and 48 characters, as it was shown")]
pub struct NotAToken;

impl Token {
    /// The token of 32 bytes from a generator fit for keys.
    pub fn from_chance(chance: &[u8; CHANCE]) -> Self {
        let mut bytes = chance.to_vec();
        bytes.extend_from_slice(&check(chance));
        Self(Secret::new(format!(
            "{PREFIX}{}",
            URL_SAFE_NO_PAD.encode(bytes)
        )))
    }

    /// Whether `text` means to be a token of ours: it begins like one.
    pub fn is_meant(text: &[u8]) -> bool {
        text.starts_with(PREFIX.as_bytes())
    }

    /// Reads a token as a device sends it. Costs the same for every text of one length.
    ///
    /// # Errors
    /// [`NotAToken`], without a word of what was sent.
    pub fn read(text: &[u8]) -> Result<Self, NotAToken> {
        let text = str::from_utf8(text).map_err(|_| NotAToken)?;
        let encoded = text.strip_prefix(PREFIX).ok_or(NotAToken)?;
        if encoded.len() != (CHANCE + CHECK) / 3 * 4 {
            return Err(NotAToken);
        }
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| NotAToken)?;
        let (chance, checked) = bytes.split_at(CHANCE);
        if checked == check(chance) {
            Ok(Self(Secret::new(text.to_owned())))
        } else {
            Err(NotAToken)
        }
    }

    /// The token, to be shown once.
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }
}

fn check(chance: &[u8]) -> [u8; CHECK] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(PREFIX.as_bytes());
    context.update(chance);
    let digest = context.finish();
    let (first, _) = digest.as_ref().split_at(CHECK);
    first.try_into().expect("split at four")
}

/// The key of the hashes: who reads the registry without it can check no guess. The same on every gate of a registry.
#[derive(Clone, Debug)]
pub struct TokenKey(Secret<[u8; 32]>);

impl TokenKey {
    /// The key of 32 bytes from a generator fit for keys.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Secret::new(bytes))
    }

    /// What the registry keeps of a token: HMAC-SHA-256.
    pub fn hash(&self, token: &Token) -> Print {
        self.mac(token.reveal().as_bytes())
    }

    /// What tells whether two keys are the same, and nothing else of them.
    ///
    /// # Panics
    /// Never: an HMAC-SHA-256 has more than 16 bytes.
    pub fn check_value(&self) -> [u8; 16] {
        let mac = self.mac(b"tidegate: which token key is this?");
        let (first, _) = mac.split_at(16);
        first.try_into().expect("split at 16")
    }

    fn mac(&self, what: &[u8]) -> Print {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.reveal());
        let tag = hmac::sign(&key, what);
        tag.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// Whether two hashes are equal, in a time that does not tell where they differ.
pub fn is_equal(a: &Print, b: &Print) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_shown_and_not_otherwise() {
        let token = Token::from_chance(&[0xa5; 32]);
        let shown = token.reveal();
        assert_eq!(shown.len(), 52);
        assert_eq!(
            Token::read(shown.as_bytes()).expect("as shown").reveal(),
            shown
        );
        for at in 0..shown.len() {
            let mut slip = shown.as_bytes().to_vec();
            slip[at] = if slip[at] == b'A' { b'B' } else { b'A' };
            assert!(Token::read(&slip).is_err(), "at {at}");
            assert!(Token::read(&shown.as_bytes()[..at]).is_err(), "cut at {at}");
        }
        assert!(Token::read(&[0xff; 52]).is_err());
    }

    /// threats.md K2
    #[test]
    fn neither_token_nor_key_can_be_printed() {
        let token = Token::from_chance(&[7; 32]);
        let printed = format!("{token:?} {:?}", TokenKey::new([7; 32]));
        assert!(
            !printed.contains("tdg_") && !printed.contains('7'),
            "{printed}"
        );
    }

    #[test]
    fn the_hash_depends_on_the_key() {
        let token = Token::from_chance(&[7; 32]);
        let [a, b] = [[1; 32], [2; 32]].map(TokenKey::new);
        assert!(is_equal(&a.hash(&token), &a.hash(&token)));
        assert!(!is_equal(&a.hash(&token), &b.hash(&token)));
        assert_ne!(a.check_value(), b.check_value());
    }
}
