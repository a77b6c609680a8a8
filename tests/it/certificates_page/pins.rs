//! Certificates that no chain of trust was made for, and what a pin is worth.

use tidegate::pki::{Authority, Order};
use tidegate::rules::identity::Field;
use tidegate::rules::record::{Proof, Record};

use super::doors::Case;
use super::{DAY, issue, now};
use crate::support::estate::id;
use crate::support::odd;
use crate::support::openssl::{P_256, RSA_1024, private_key};
use crate::support::shown::Shown;

/// What real devices carry.
pub(super) fn odd(authority: &Authority) -> Vec<Case> {
    let odd = odd::odd(authority).into_iter();
    let mut cases: Vec<Case> = odd.map(|odd| Case::new(odd.what, odd.shown)).collect();
    let short = odd::self_signed(&private_key(RSA_1024));
    cases.push(Case::new("self-signed, RSA, 1024 bits", short).by_openssl());
    cases
}

/// What is shown, and what the registry says of it.
pub(super) fn pins(authority: &Authority) -> Vec<Case> {
    let alone = || odd::self_signed(&private_key(P_256));
    let key = private_key(P_256);
    let first = odd::self_signed(&key);
    let known = first.chain[0].clone();
    let stolen = Shown {
        chain: alone().chain,
        key: alone().key,
    };
    let named = |name: &str| Shown::from(&issue(authority, Order::device_named(name)));
    let other = named("other");
    vec![
        Case::new("self-signed, and pinned", first),
        Case::new(
            "another certificate of the pinned one's key",
            odd::self_signed(&key),
        )
        .registered_as(&known),
        Case::new("another certificate of another key", alone()).registered_as(&known),
        Case::new("the pinned certificate, without its key", stolen),
        Case::new("pinned, until a minute ago", alone())
            .decided(|record| record.credentials[0].valid.until = Some(now() - 60)),
        Case::new("pinned, from tomorrow on", alone())
            .decided(|record| record.credentials[0].valid.from = now() + DAY),
        Case::new("pinned, the device disabled", alone()).decided(|record| record.enabled = false),
        Case::new("of the trusted CA, not registered", named("meter-7")).registered_as(&known),
        Case::new(
            "of the trusted CA, the pin bound to its trust group",
            named("bound"),
        )
        .decided(|record| bind(record, "bound")),
        Case::new("self-signed, the pin bound to a trust group", alone())
            .decided(|record| bind(record, "bound-alone")),
        Case::new(
            "of the trusted CA, another one bound to its trust group",
            named("other"),
        )
        .registered_as(&other.chain[0])
        .decided(|record| bind(record, "other")),
    ]
}

/// The certificate counts only while its trust group vouches for it, as that of `name`.
fn bind(record: &mut Record, name: &str) {
    record.device = id(name);
    let Proof::Pinned(pin) = record.credentials[0].proof else {
        panic!("{record:?}: no pin");
    };
    record.credentials[0].proof = Proof::Vouched {
        group: "fleet".into(),
        field: Field::SubjectCn,
        pin: Some(pin),
    };
}
