//! What a look at the deployment finds.

use serde::Serialize;

/// How much it matters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// It should be mended.
    Warning,
    /// To be known; nothing may be wrong.
    Note,
}

/// One thing that was found.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Finding {
    /// One of [`IDS`]: it never changes.
    pub(super) id: &'static str,
    pub(super) level: Level,
    /// The key of the configuration that it belongs to, or a place on this host.
    pub(super) key: String,
    pub(super) what: String,
    pub(super) way_out: String,
}

/// Every id, as docs/check.md explains them.
pub(super) const IDS: [&str; 38] = [
    "broker_asks_no_certificate",
    "broker_away",
    "broker_certificate_ends",
    "broker_name",
    "broker_no_answer",
    "broker_open",
    "broker_open_elsewhere",
    "broker_open_here",
    "broker_proxy_mismatch",
    "broker_reachable_elsewhere",
    "broker_refuses",
    "broker_silent",
    "broker_tls",
    "broker_unavailable",
    "clock_behind",
    "clock_differs",
    "clock_unsynchronised",
    "conntrack_few",
    "crl_ends",
    "descriptors_few",
    "file_writable",
    "folder_writable",
    "interfaces_unknown",
    "jwks_away",
    "not_looked_at",
    "ports_few",
    "proxy_networks_unreachable",
    "registry_away",
    "registry_owner",
    "registry_readable",
    "secret_group_readable",
    "somaxconn_few",
    "tls_flight",
    "tls_flight_large",
    "tls_many_records",
    "tls_root_included",
    "tls_rsa_large",
    "unfinished",
];

impl Finding {
    pub(super) fn warning(
        id: &'static str,
        key: impl Into<String>,
        what: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self::new(id, Level::Warning, key, what, way_out)
    }

    pub(super) fn note(
        id: &'static str,
        key: impl Into<String>,
        what: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self::new(id, Level::Note, key, what, way_out)
    }

    pub(super) fn new(
        id: &'static str,
        level: Level,
        key: impl Into<String>,
        what: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        debug_assert!(IDS.contains(&id), "{id}");
        Self {
            id,
            level,
            key: key.into(),
            what: what.into(),
            way_out: way_out.into(),
        }
    }

    /// For a terminal.
    pub(super) fn line(&self) -> String {
        let level = match self.level {
            Level::Warning => "warning",
            Level::Note => "note",
        };
        let Self {
            id,
            key,
            what,
            way_out,
            ..
        } = self;
        let stop = if way_out.is_empty() { "" } else { "; " };
        format!("{level}: {key}: {what}{stop}{way_out} [{id}]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_explained_and_no_other() {
        let page = include_str!("../../../docs/check.md");
        let explained: Vec<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        assert_eq!(explained, IDS);
    }
}
