//! Trust groups: whose word counts, and which field of a certificate names the device.

use std::path::PathBuf;

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
