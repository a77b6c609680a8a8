//! What is in force: all that a reload may replace, replaced as one (threats.md R2).
//!
//! A connection takes it once, when it was accepted, and is led by it until a broker has it: trust, templates and brokers of
//! one configuration, never of two. From then on only orders reach it (`control`).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::broker;
use crate::broker::dial::Brokers;
use crate::observe::metrics::{BrokerMetrics, Metrics};
use crate::proxy_protocol::Version;
use crate::rules::device::Offer;
use crate::rules::policy::{ConnectSettings, Unknown};
use crate::tls::client::ClientTls;

use super::Limits;
use super::crowd::Crowd;
use super::farewell::Farewell;
use super::listener::Secure;
use super::tokens::TokenDesk;

/// What is in force.
pub(crate) struct InForce {
    /// By the place of the listener.
    pub(crate) entrances: Box<[Entrance]>,
    pub(crate) limits: Limits,
    /// What MQTT 5 devices are told when the gate drains.
    pub(crate) farewell: Arc<Farewell>,
    /// What each address may have of them.
    pub(crate) crowd: Crowd,
    pub(crate) tokens: Arc<TokenDesk>,
    /// Devices that are vouched for, and that the registry does not know.
    pub(crate) unknown: Unknown,
    pub(crate) connect: ConnectSettings,
    pub(crate) fleet: Arc<Fleet>,
}

/// What a device meets at one listener.
#[derive(Clone, Debug)]
pub(crate) struct Entrance {
    /// The modes that there are here.
    pub(crate) offer: Offer,
    /// `None` on a plain listener.
    pub(crate) secure: Option<Arc<Secure>>,
    /// Who has to send a PROXY header.
    pub(crate) proxies: Box<[IpNet]>,
}

impl Entrance {
    /// Whether a peer at `ip`, which is canonical, has to send a PROXY header.
    pub(crate) fn takes_header_from(&self, ip: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(&ip))
    }
}

/// The brokers, and what is counted of them.
pub(crate) struct Fleet {
    pub(crate) brokers: Brokers,
    /// In the order of the brokers.
    metrics: Vec<Arc<BrokerMetrics>>,
    /// What brokers are told first; `None`: nothing.
    pub(crate) proxy_protocol: Option<Version>,
    /// How often they are asked whether they answer.
    pub(crate) health: Duration,
    /// What they are judged by, and what the gate shows them; `None` where none is spoken to in TLS.
    pub(crate) tls: Option<ClientTls>,
}

impl Fleet {
    /// The brokers of `settings`, of which `metrics` has the series.
    pub(crate) fn new(
        settings: &broker::Settings,
        tls: Option<ClientTls>,
        metrics: &Metrics,
    ) -> Self {
        let brokers = Brokers::new(settings, tls.as_ref());
        Self::with(brokers, settings, tls, metrics.brokers())
    }

    /// The same after another fleet: the series of brokers that are not in it go. `same_tls`: `[broker.tls]` and its files are what
    /// they were.
    pub(crate) fn succeeding(
        settings: &broker::Settings,
        tls: Option<ClientTls>,
        metrics: &Metrics,
        (old, same_tls): (&Self, bool),
    ) -> Self {
        let brokers = Brokers::succeeding(settings, tls.as_ref(), Some((&old.brokers, same_tls)));
        let metrics = metrics.replace_brokers(&labels(settings));
        Self::with(brokers, settings, tls, metrics)
    }

    fn with(
        brokers: Brokers,
        settings: &broker::Settings,
        tls: Option<ClientTls>,
        metrics: Vec<Arc<BrokerMetrics>>,
    ) -> Self {
        Self {
            brokers,
            metrics,
            proxy_protocol: settings.proxy_protocol,
            health: settings.health_interval,
            tls,
        }
    }

    /// What is counted of the broker at this place.
    pub(crate) fn metrics(&self, place: usize) -> &BrokerMetrics {
        &self.metrics[place]
    }
}

/// The brokers, as metrics and log call them.
pub(crate) fn labels(settings: &broker::Settings) -> Vec<String> {
    settings.addresses.iter().map(ToString::to_string).collect()
}
