//! What the metrics are told of the ends of certificates, CAs and revocation lists: anew whenever other files are in force.

use std::path::Path;

use crate::broker;
use crate::observe::metrics::{EndTimes, Metrics, Use};
use crate::tls::client::ClientTls;
use crate::tls::trust::Groups;

use super::Settings;
use super::in_force::{Entrance, Fleet};

/// Tells the metrics when what listeners show and trust must be replaced, and what brokers are shown and judged by. `entrances` in the order
/// of the settings.
pub(super) fn tell_ends(
    metrics: &Metrics,
    settings: &Settings,
    entrances: &[Entrance],
    fleet: &Fleet,
) {
    let mut times = EndTimes::default();
    for (listener, entrance) in settings.listeners.iter().zip(entrances) {
        let Some(secure) = &entrance.secure else {
            continue;
        };
        let shown = secure.tls.certificates().into_iter();
        let shown = shown.map(|(name, at)| (listener.name.clone(), name, at));
        times.servers.extend(shown);
        if let Some(groups) = &secure.groups {
            times.lists.extend(groups.next_updates());
            times.others.extend(of_groups(groups));
        }
    }
    if let Some(tls) = &fleet.tls {
        times.others.extend(of_brokers(&settings.broker, tls));
    }
    metrics.ends(&times);
}

fn of_groups(groups: &Groups) -> impl Iterator<Item = (Use, String, i64)> {
    let all = groups.authority_ends().into_iter();
    all.map(|(group, is_anchor, at)| {
        let whose = if is_anchor {
            Use::TrustCa
        } else {
            Use::TrustIntermediate
        };
        (whose, group.to_string(), at)
    })
}

/// By the names of the files.
fn of_brokers(settings: &broker::Settings, tls: &ClientTls) -> Vec<(Use, String, i64)> {
    let Some(files) = &settings.tls else {
        return Vec::new();
    };
    let named = |whose, file: &Path, times: Vec<i64>| {
        let name = file.file_name().unwrap_or(file.as_os_str());
        let name = name.to_string_lossy().into_owned();
        times.into_iter().map(move |at| (whose, name.clone(), at))
    };
    let cas = named(Use::BrokerCa, &files.ca, tls.ca_ends());
    let shown = files.identity.iter();
    let shown = shown.flat_map(|own| named(Use::BrokerClient, &own.certificate, tls.shown_ends()));
    cas.chain(shown).collect()
}
