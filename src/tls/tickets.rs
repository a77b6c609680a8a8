//! Tickets: what a device shows to resume its TLS session, at any gate that has the same secret.
//!
//! A ticket holds all that rustls wants to know of the session, the chain of the device included; the gate keeps nothing.
//! It is sealed with a key that follows from the secret, from what the listener demands ([`Scope`]), and from the time:
//! - another listener, or the same one after its policy has changed, has other keys, and a ticket is nothing to it (threats.md T5);
//! - every [`EPOCH`] there is a new key, alike on all replicas without a word between them. The one before still opens, so a
//!   ticket is good for one to two epochs.
//!
//! A ticket says who a device is, not that it may enter: rustls judges nothing of what it holds, neither its age nor its chain.
//! The age is judged here, the chain by the verifier (`DeviceVerifier::show_again`). A ticket that cannot be opened,
//! whatever the reason, means a full handshake, never an error.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwapOption;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;

use super::witness;
use crate::rules::record::Print;
use crate::rules::secret::Secret;

/// How long one key seals, in seconds: 12 h.
pub(super) const EPOCH: i64 = 12 * 3600;

/// How long a session is resumed after its full handshake, however often, in seconds: 7 d, the longest that a ticket may be
/// good (RFC 8446 §4.6.1).
pub(super) const LONGEST: i64 = 7 * 24 * 3600;

/// The least bytes of a secret.
pub(super) const LEAST_SECRET: usize = 32;

/// The most bytes of a session that a ticket is made of. A device sends its ticket in its ClientHello, and one with a chain
/// so large had better show it again.
const MOST_BYTES: usize = 8 * 1024;

/// The most tickets of one ClientHello that are tried (threats.md T2).
const MOST_TRIED: u8 = 8;

/// What stands in front of what is sealed: the epoch of the key (4 bytes), the nonce.
const FRONT: usize = 4 + NONCE_LEN;

/// What a ticket is good for: the listener, and what it demands.
///
/// In it is what makes the policy: mode, oldest TLS version, trust groups with their anchors and naming. Not in it are the
/// revocation lists, which a new one of every hour would make all tickets worth nothing by: the chain is looked up in them
/// anew; nor the server's certificates, which are for the device to judge.
pub(super) struct Scope(Context);

impl Scope {
    /// That of the listener of this name, so far.
    pub(super) fn new(listener: &str) -> Self {
        let mut scope = Self(Context::new(&SHA256));
        scope.add(listener);
        scope
    }

    /// Adds one demand. With its length, so that no two policies run together to the same bytes.
    pub(super) fn add(&mut self, part: impl AsRef<[u8]>) {
        let part = part.as_ref();
        self.0.update(&part.len().to_be_bytes());
        self.0.update(part);
    }

    fn finish(self) -> Print {
        let digest = self.0.finish();
        digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// The secret of a gate without `ticket_secret_file`: a new one at each start, the same for all reloads.
pub(super) fn secret_of_this_start() -> Secret<Vec<u8>> {
    static SECRET: LazyLock<Secret<Vec<u8>>> = LazyLock::new(|| {
        let mut bytes = vec![0; LEAST_SECRET];
        rand::fill(&mut bytes).expect("the system has random bytes");
        Secret::new(bytes)
    });
    SECRET.clone()
}

/// Seals and opens the tickets of one listener.
pub(super) struct Tickets {
    secret: Prk,
    scope: Print,
    clock: Arc<dyn TimeProvider>,
    keys: ArcSwapOption<Keys>,
}

/// The keys of one epoch.
struct Keys {
    epoch: u32,
    /// Seals and opens.
    current: LessSafeKey,
    /// Opens what was sealed in the epoch before.
    previous: LessSafeKey,
}

impl fmt::Debug for Tickets {
    /// Neither keys nor the secret are shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets(…)")
    }
}

impl Tickets {
    /// Those of a gate with this secret, of at least [`LEAST_SECRET`] bytes, in any encoding.
    pub(super) fn new(
        secret: &Secret<Vec<u8>>,
        scope: Scope,
        clock: Arc<dyn TimeProvider>,
    ) -> Self {
        Self {
            secret: Salt::new(HKDF_SHA256, b"tidegate ticket").extract(secret.reveal()),
            scope: scope.finish(),
            clock,
            keys: ArcSwapOption::empty(),
        }
    }

    /// Seals a session whose full handshake was at `began`; both times in seconds since 1970. `None`: it gets no ticket.
    ///
    /// Nonces are random: by 2^32 tickets of one key two are the same with a chance of 2^-33 (NIST SP 800-38D §8.3). That is
    /// 99 000 tickets each second of an epoch, of one listener on all replicas together.
    fn seal(&self, session: &[u8], began: i64, now: i64) -> Option<Vec<u8>> {
        if session.len() > MOST_BYTES {
            return None;
        }
        let keys = self.keys(epoch(now)?);
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let key = &keys.current;
        let mut ticket = Vec::with_capacity(FRONT + session.len() + 8 + AES_256_GCM.tag_len());
        ticket.extend(keys.epoch.to_be_bytes());
        ticket.extend(nonce);
        ticket.extend(session);
        ticket.extend(began.to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut ticket[FRONT..]);
        ticket.extend(tag.ok()?.as_ref());
        Some(ticket)
    }

    /// Opens a ticket at `now`: the session, and when its full handshake was.
    fn open(&self, ticket: &[u8], now: i64) -> Option<(Vec<u8>, i64)> {
        let (sealed_in, rest) = ticket.split_first_chunk::<4>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (sealed_in, epoch) = (u32::from_be_bytes(*sealed_in), epoch(now)?);
        let keys = self.keys(epoch);
        let key = match epoch.checked_sub(sealed_in)? {
            0 => &keys.current,
            1 => &keys.previous,
            _ => return None,
        };
        let mut session = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key.open_in_place(nonce, Aad::empty(), &mut session).ok()?;
        let (_, began) = opened.split_last_chunk::<8>()?;
        let (length, began) = (opened.len() - began.len(), i64::from_be_bytes(*began));
        session.truncate(length);
        (now.saturating_sub(began) <= LONGEST).then_some((session, began))
    }

    /// Whether it can be opened now.
    pub(super) fn opens(&self, ticket: &[u8]) -> bool {
        self.now()
            .is_some_and(|now| self.open(ticket, now).is_some())
    }

    /// The keys of an epoch; made by whoever is the first to ask in it.
    fn keys(&self, epoch: u32) -> Arc<Keys> {
        let known = self.keys.load_full();
        if let Some(keys) = known.filter(|keys| keys.epoch == epoch) {
            return keys;
        }
        let keys = Arc::new(Keys {
            epoch,
            current: self.key(epoch),
            previous: self.key(epoch.wrapping_sub(1)),
        });
        self.keys.store(Some(keys.clone()));
        keys
    }

    fn key(&self, epoch: u32) -> LessSafeKey {
        let info = [&self.scope[..], &epoch.to_be_bytes()];
        let key = self.secret.expand(&info, &AES_256_GCM);
        LessSafeKey::new(UnboundKey::from(key.expect("32 bytes are not too many")))
    }

    fn now(&self) -> Option<i64> {
        i64::try_from(self.clock.current_time()?.as_secs()).ok()
    }
}

/// The number of the epoch that `now` lies in.
fn epoch(now: i64) -> Option<u32> {
    u32::try_from(now / EPOCH).ok()
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// What every ticket is good for at least.
    fn lifetime(&self) -> u32 {
        u32::try_from(EPOCH).expect("12 h are not many seconds")
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let now = self.now()?;
        let mut began = None;
        witness::note(|seen| began = seen.began);
        self.seal(plain, began.unwrap_or(now), now)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let mut tried = 0;
        witness::note(|seen| {
            tried = seen.tried;
            seen.tried = seen.tried.saturating_add(1);
        });
        if tried >= MOST_TRIED {
            return None;
        }
        let (session, began) = self.open(cipher, self.now()?)?;
        witness::note(|seen| seen.began = Some(began));
        Some(session)
    }
}

#[cfg(test)]
mod tests;
