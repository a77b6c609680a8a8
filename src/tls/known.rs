//! Chains that were found good before: a device that comes back does not cost the signatures of its chain again.
//!
//! A verdict on a chain rests on the chain, on the trust groups with their lists, and on the time. The chain, to the
//! byte, is the key here. Groups and lists do not change while a verifier lives, and each verifier has a memory of its
//! own, so a new CA or list starts with an empty one. For the time, a verdict is kept with the span in which nothing
//! that it rests on begins or ends (threats.md T5): validities, and lists past their nextUpdate.
//!
//! Only good chains are kept. A stranger can put nothing in, and so push nothing out (T2, V6). That the device holds its
//! key is proved anew in every handshake; nothing of that is remembered.

use std::mem::size_of;

use aws_lc_rs::digest::{Context, SHA256};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use rustls_pki_types::CertificateDer;

use super::verify::Vouched;

/// The memory that all verdicts of one listener may take, in bytes: some 40 000 devices.
const MOST_BYTES: u64 = 32 * 1024 * 1024;

/// The verdicts expected before the memory grows.
const EXPECTED: usize = 1024;

/// The SHA-256 of a chain.
pub(super) type Print = [u8; 32];

/// The span in which a verdict stands, in seconds since 1970, both ends included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) from: i64,
    pub(super) until: i64,
}

impl Span {
    /// Cuts it down to what it shares with `from..=until`.
    pub(super) fn cut(&mut self, from: i64, until: i64) {
        self.from = self.from.max(from);
        self.until = self.until.min(until);
    }
}

/// The good chains that one verifier remembers.
#[derive(Debug)]
pub(super) struct Known {
    chains: Cache<Print, (Vouched, Span), Bytes>,
}

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<Print, (Vouched, Span)> for Bytes {
    fn weight(&self, _: &Print, (vouched, _): &(Vouched, Span)) -> u64 {
        let own = size_of::<Print>() + size_of::<(Vouched, Span)>();
        (own + vouched.certificate.bytes()) as u64
    }
}

impl Known {
    pub(super) fn new() -> Self {
        Self {
            chains: Cache::with_weighter(EXPECTED, MOST_BYTES, Bytes),
        }
    }

    /// The verdict on this chain, if it was found good before and that still stands `now`, in seconds since 1970.
    pub(super) fn recall(&self, print: &Print, now: i64) -> Option<Vouched> {
        let (vouched, span) = self.chains.get(print)?;
        (span.from..=span.until).contains(&now).then_some(vouched)
    }

    /// Keeps the verdict on a good chain.
    pub(super) fn remember(&self, print: Print, vouched: Vouched, span: Span) {
        self.chains.insert(print, (vouched, span));
    }
}

/// The fingerprint of a whole chain, the device's own certificate first; each with its length, so that no two chains
/// run together to the same bytes.
pub(super) fn print(leaf: &CertificateDer<'_>, sent: &[CertificateDer<'_>]) -> Print {
    let mut context = Context::new(&SHA256);
    for der in std::iter::once(leaf).chain(sent) {
        context.update(&der.len().to_be_bytes());
        context.update(der);
    }
    let digest = context.finish();
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_the_same_bytes_cut_elsewhere_are_others() {
        let der = |bytes: &[u8]| CertificateDer::from(bytes.to_vec());
        let prints = [
            print(&der(b"abc"), &[]),
            print(&der(b"ab"), &[der(b"c")]),
            print(&der(b"a"), &[der(b"bc")]),
            print(&der(b"a"), &[der(b"b"), der(b"c")]),
        ];
        for (n, one) in prints.iter().enumerate() {
            assert!(!prints[..n].contains(one), "{n}");
        }
    }
}
