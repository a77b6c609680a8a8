//! Devices whose chain was found good before: one that comes back does not cost the signatures of its chain again.
//!
//! A verdict on a chain rests on the chain, on the trust groups with their lists, and on the time. A chain is known again
//! by its SHA-256, to the byte. Groups and lists do not change while a verifier lives, and each verifier has a memory of
//! its own, so a new CA or list starts with an empty one. For the time, a verdict is kept with the span in which nothing
//! that it could rest on begins or ends (threats.md T5): validities of the certificates that a path could have gone by, and
//! lists past their nextUpdate.
//!
//! What is kept is what a device proved to be its own: whoever shows a copy of a certificate puts nothing in, and a device has
//! one place, whatever it sends along. So a stranger can push nothing out (T2, V6). That the device holds its key is
//! proved anew in every handshake; nothing of that is remembered.

use std::mem::size_of;

use aws_lc_rs::digest::{Context, Digest, SHA256, digest};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use rustls_pki_types::CertificateDer;

use super::verify::Vouched;
use crate::rules::record::Print;

/// The memory that all verdicts of one listener may take, in bytes.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// So many devices fit into it, about.
const EXPECTED: usize = 100_000;

/// How a chain is known again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Prints {
    /// Of the device's own certificate: its place.
    pub(super) leaf: Print,
    /// Of all that it sent.
    chain: Print,
}

/// A good chain whose device has yet to prove that it holds the key.
#[derive(Debug)]
pub(super) struct Unproved {
    pub(super) prints: Prints,
    pub(super) vouched: Vouched,
    pub(super) span: Span,
}

/// The span in which a verdict stands, in seconds since 1970, both ends included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) from: i64,
    pub(super) until: i64,
}

impl Span {
    /// Always.
    pub(super) const ALWAYS: Self = Self {
        from: i64::MIN,
        until: i64::MAX,
    };

    /// Whether `now` lies in it.
    pub(super) fn holds(self, now: i64) -> bool {
        (self.from..=self.until).contains(&now)
    }

    /// Cuts it down to where a validity is what it is `now`: under way, over, or still to come.
    pub(super) fn cut(&mut self, not_before: i64, not_after: i64, now: i64) {
        let (from, until) = match now {
            _ if now < not_before => (i64::MIN, not_before - 1),
            _ if now > not_after => (not_after + 1, i64::MAX),
            _ => (not_before, not_after),
        };
        self.from = self.from.max(from);
        self.until = self.until.min(until);
    }
}

/// The devices that one verifier knows.
#[derive(Debug)]
pub(super) struct Known {
    devices: Cache<Print, Verdict, Bytes>,
}

#[derive(Clone, Debug)]
struct Verdict {
    chain: Print,
    vouched: Vouched,
    span: Span,
}

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<Print, Verdict> for Bytes {
    fn weight(&self, _: &Print, verdict: &Verdict) -> u64 {
        let own = size_of::<Print>() + size_of::<Verdict>();
        (own + verdict.vouched.certificate.bytes()) as u64
    }
}

impl Known {
    pub(super) fn new() -> Self {
        Self {
            devices: Cache::with_weighter(EXPECTED, MOST_BYTES, Bytes),
        }
    }

    /// The verdict on this chain, if it is the one that the device showed last and it still stands `now`, in seconds
    /// since 1970.
    pub(super) fn recall(&self, prints: &Prints, now: i64) -> Option<Vouched> {
        let verdict = self.devices.get(&prints.leaf)?;
        let stands = verdict.chain == prints.chain && verdict.span.holds(now);
        stands.then_some(verdict.vouched)
    }

    /// Keeps the verdict on a good chain whose device proved that it holds the key.
    pub(super) fn remember(&self, proved: Unproved) {
        let Unproved {
            prints,
            vouched,
            span,
        } = proved;
        let verdict = Verdict {
            chain: prints.chain,
            vouched,
            span,
        };
        self.devices.insert(prints.leaf, verdict);
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.devices.len()
    }
}

impl Prints {
    /// Those of a chain, the device's own certificate first.
    pub(super) fn of(leaf: &CertificateDer<'_>, sent: &[CertificateDer<'_>]) -> Self {
        let leaf = of(digest(&SHA256, leaf));
        if sent.is_empty() {
            // Most devices send only their own. No chain of more has this print: that would be a collision.
            return Self { leaf, chain: leaf };
        }
        let chain = sha256(|context| {
            context.update(&leaf);
            for der in sent {
                // With its length, so that no two chains run together to the same bytes.
                context.update(&der.len().to_be_bytes());
                context.update(der);
            }
        });
        Self { leaf, chain }
    }
}

fn sha256(add: impl FnOnce(&mut Context)) -> Print {
    let mut context = Context::new(&SHA256);
    add(&mut context);
    of(context.finish())
}

fn of(digest: Digest) -> Print {
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_the_same_bytes_cut_elsewhere_are_others() {
        let der = |bytes: &[u8]| CertificateDer::from(bytes.to_vec());
        let prints = [
            Prints::of(&der(b"abc"), &[]),
            Prints::of(&der(b"ab"), &[der(b"c")]),
            Prints::of(&der(b"a"), &[der(b"bc")]),
            Prints::of(&der(b"a"), &[der(b"b"), der(b"c")]),
        ];
        for (n, one) in prints.iter().enumerate() {
            assert!(!prints[..n].contains(one), "{n}");
        }
        assert_eq!(prints[2].leaf, prints[3].leaf, "one place for one device");
    }

    #[test]
    fn a_verdict_stands_while_no_validity_begins_or_ends() {
        let mut span = Span::ALWAYS;
        span.cut(10, 90, 50);
        span.cut(0, 20, 50); // over
        span.cut(80, 200, 50); // to come
        assert_eq!((span.from, span.until), (21, 79));
        assert!(span.holds(21) && span.holds(79) && !span.holds(20) && !span.holds(80));
    }
}
