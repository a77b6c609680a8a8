//! Trust groups: whose word counts, and which field of a certificate names the device.

use std::path::PathBuf;
use std::sync::Arc;

use crate::rules::identity::Naming;

/// `[[trust]]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The group's name, for logs, templates and `listener.trust`.
    pub name: String,
    /// PEM files of anchors; at least one.
    pub ca: Vec<PathBuf>,
    /// PEM files of intermediates, for devices that send only their leaf.
    pub intermediates: Vec<PathBuf>,
    /// CRL files, PEM or DER.
    pub crl: Vec<PathBuf>,
    /// What a list past its nextUpdate means.
    pub crl_stale: CrlStale,
    /// Which field names the device.
    pub naming: Naming,
}

/// `crl_stale`: what a list past its nextUpdate means for the devices of its group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CrlStale {
    /// They are refused.
    Refuse,
    /// The old list is used on.
    Use,
}

/// A trust group as the verifier uses it.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub name: Arc<str>,
    /// Which field of its certificates names the device.
    pub naming: Naming,
}

/// The trust groups that count at one listener.
#[derive(Debug)]
pub struct Groups {
    groups: Vec<Arc<Group>>,
}

/// Something in `[[trust]]` that cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{key}: {sentence}")]
pub struct GroupFault {
    /// The key at fault, such as `trust[fleet].ca`.
    pub key: String,
    /// What is wrong, where, and the way out.
    pub sentence: String,
}

impl Groups {
    /// Reads the files of the groups that count at one listener.
    ///
    /// # Errors
    /// Every fault of every group.
    pub fn load(settings: &[&Settings]) -> Result<Self, Vec<GroupFault>> {
        let _ = settings;
        todo!()
    }

    /// What an operator should look after, `now` in seconds since 1970.
    pub fn warnings(&self, now: i64) -> Vec<String> {
        let _ = now;
        todo!()
    }

    /// For each revocation list: the group and its issuer, and its nextUpdate in seconds since 1970.
    pub fn next_updates(&self) -> Vec<(String, i64)> {
        let _ = &self.groups;
        todo!()
    }
}
