//! What ends: certificates, CAs and revocation lists, each with the time at which it does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use prometheus::IntGaugeVec;

use super::{Families, lock};

/// When all ends that the gate shows and judges by, as Unix times in seconds. Of those with one name the earliest counts: what ends first
/// is what an operator must know.
#[derive(Clone, Debug, Default)]
pub struct EndTimes {
    /// Certificates that devices are shown: the listener, which of its certificates, and when.
    pub servers: Vec<(Arc<str>, String, i64)>,
    /// All other certificates: what for, whose, and when.
    pub others: Vec<(Use, String, i64)>,
    /// Revocation lists: whose, and when the next one is due.
    pub lists: Vec<(String, i64)>,
}

/// What a certificate is there for, but to be shown to devices.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Use {
    /// Brokers are shown it.
    BrokerClient,
    /// Brokers are judged by it.
    BrokerCa,
    /// An anchor of a trust group.
    TrustCa,
    /// An intermediate of a trust group.
    TrustIntermediate,
}

impl Use {
    /// Every use.
    pub const ALL: [Self; 4] = [
        Self::BrokerClient,
        Self::BrokerCa,
        Self::TrustCa,
        Self::TrustIntermediate,
    ];

    /// The word for the label.
    pub fn word(self) -> &'static str {
        match self {
            Self::BrokerClient => "broker_client",
            Self::BrokerCa => "broker_ca",
            Self::TrustCa => "trust_ca",
            Self::TrustIntermediate => "trust_intermediate",
        }
    }
}

/// The families that tell of it.
pub(super) struct Ends {
    servers: Told,
    others: Told,
    lists: Told,
}

impl Ends {
    pub(super) fn new(make: &Families) -> Self {
        let told = |name| Told::new(make.gauges(name));
        Self {
            servers: told("tidegate_server_certificate_not_after_timestamp_seconds"),
            others: told("tidegate_certificate_not_after_timestamp_seconds"),
            lists: told("tidegate_crl_next_update_timestamp_seconds"),
        }
    }

    /// Tells these, and of no others any more.
    pub(super) fn tell(&self, times: &EndTimes) {
        let servers = times.servers.iter();
        self.servers
            .tell(servers.map(|(listener, name, at)| ([&**listener, name], *at)));
        let others = times.others.iter();
        self.others
            .tell(others.map(|(whose, name, at)| ([whose.word(), name], *at)));
        let lists = times.lists.iter();
        self.lists
            .tell(lists.map(|(name, at)| ([name.as_str()], *at)));
    }
}

/// One family, and the labels of which it tells now.
struct Told {
    gauges: IntGaugeVec,
    now: Mutex<BTreeSet<Vec<String>>>,
}

impl Told {
    fn new(gauges: IntGaugeVec) -> Self {
        Self {
            gauges,
            now: Mutex::default(),
        }
    }

    fn tell<'t, const N: usize>(&self, times: impl Iterator<Item = ([&'t str; N], i64)>) {
        let times = earliest(times);
        let mut now = lock(&self.now);
        for (labels, at) in &times {
            self.gauges.with_label_values(labels).set(*at);
        }
        let told = times
            .keys()
            .map(|labels| labels.map(str::to_owned).to_vec())
            .collect();
        let before = std::mem::replace(&mut *now, told);
        for gone in before.difference(&now) {
            let _ = self.gauges.remove_label_values(gone); // it was told, so it is there
        }
    }
}

/// For each label the earliest of its times: an RSA and an ECDSA certificate of one name share a series, and so do all CAs of a group.
fn earliest<L: Ord>(times: impl Iterator<Item = (L, i64)>) -> BTreeMap<L, i64> {
    let mut first = BTreeMap::new();
    for (labels, at) in times {
        let known = first.entry(labels).or_insert(at);
        *known = at.min(*known);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_name_the_earliest_end_is_told() {
        let times = [("a", 3), ("b", 2), ("a", 1), ("a", 2)];
        assert_eq!(earliest(times.into_iter()), [("a", 1), ("b", 2)].into());
    }
}
