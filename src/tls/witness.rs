//! What rustls does not tell: the facts that the verifier and the certificate resolver learn inside the handshake.
//!
//! rustls calls both from within the reading of records, on the caller's thread, and gives neither a
//! way to hand anything on but an error. So the caller opens a scope around that reading, and what they note while it is
//! open is the caller's to keep: also when the handshake fails, which is when it is needed most.

use std::cell::RefCell;
use std::mem;
use std::sync::Arc;

use super::agreed::Agreed;
use super::known::Unproved;
use super::records::Traffic;
use super::verify::{CertificateRefusal, Shown};
use crate::rules::identity::Certificate;

/// What was learnt of one handshake, so far.
#[derive(Debug, Default)]
pub struct Seen {
    /// The server name that the device asked for (SNI), in lower case.
    pub sni: Option<String>,
    /// Whether the device offered ALPN protocols at all.
    pub alpn_offered: bool,
    /// The certificate of ours that was chosen for it.
    pub presented: Option<Presented>,
    /// The device can check the signatures of none of our certificates.
    pub no_certificate_suits: bool,
    /// The device showed a certificate that is good, or may be pinned. In a resumed handshake none is shown.
    pub shown: Option<Shown>,
    /// The device's certificate was refused; why.
    pub refused: Option<CertificateRefusal>,
    /// The device's own certificate, if it can be read; also when it was refused.
    pub certificate: Option<Arc<Certificate>>,
    /// Its chain was found good just now; for the verifier itself.
    pub(super) unproved: Option<Unproved>,
    /// When the full handshake was that the ticket of this one goes back to, in seconds since 1970; for the tickets
    /// themselves.
    pub(super) began: Option<i64>,
    /// What the next keys of TLS 1.3 are made of; for the records after the handshake.
    pub(super) traffic: Option<Box<Traffic>>,
    /// The keys, as far as they are agreed upon; for the records after the handshake.
    pub(super) agreed: Option<Box<Agreed>>,
    /// How many tickets were opened, or tried.
    pub(super) tried: u8,
}

/// A certificate of ours, as those are told of it who did not see it. A text is empty where there is no name for it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Presented {
    /// What it was signed with, by its OpenSSL name: `ecdsa-with-SHA256`.
    pub signature: &'static str,
    /// The kind and size of its key: `EC256`, `RSA2048`.
    pub key: &'static str,
}

thread_local! {
    static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) };
}

/// Runs `f`; what is noted on this thread meanwhile is found in `seen` afterwards, also after a panic.
pub fn witness<R>(seen: &mut Seen, f: impl FnOnce() -> R) -> R {
    struct Scope<'a> {
        seen: &'a mut Seen,
        outer: Option<Seen>,
    }
    impl Drop for Scope<'_> {
        fn drop(&mut self) {
            let noted = SEEN.with_borrow_mut(|slot| mem::replace(slot, self.outer.take()));
            *self.seen = noted.unwrap_or_default();
        }
    }
    let inner = mem::take(seen);
    let outer = SEEN.with_borrow_mut(|slot| slot.replace(inner));
    let _scope = Scope { seen, outer };
    f()
}

/// Notes something in the scope that is open on this thread; without one, does nothing.
pub(crate) fn note(f: impl FnOnce(&mut Seen)) {
    SEEN.with_borrow_mut(|slot| {
        if let Some(seen) = slot {
            f(seen);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_keeps_what_is_noted_in_it_and_nothing_else() {
        note(|seen| seen.sni = Some("outside".into()));
        let (mut a, mut b) = (Seen::default(), Seen::default());
        witness(&mut a, || note(|seen| seen.sni = Some("a".into())));
        witness(&mut b, || note(|seen| seen.alpn_offered = true));
        witness(&mut a, || note(|seen| seen.alpn_offered = true));
        assert_eq!((a.sni.as_deref(), a.alpn_offered), (Some("a"), true));
        assert_eq!((b.sni, b.alpn_offered), (None, true));
    }

    #[test]
    fn a_panic_inside_leaves_the_thread_clean() {
        let mut seen = Seen::default();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            witness(&mut seen, || {
                note(|seen| seen.sni = Some("kept".into()));
                panic!("in the handshake");
            });
        }));
        assert!(panicked.is_err());
        assert_eq!(seen.sni.as_deref(), Some("kept"));
        note(|seen| seen.sni = Some("lost".into()));
        let mut next = Seen::default();
        witness(&mut next, || ());
        assert_eq!(next.sni, None);
    }
}
