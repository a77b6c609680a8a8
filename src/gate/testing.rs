//! A gate for tests of its steps: no listener, no worker.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};

use arc_swap::ArcSwap;

use super::crowd::Crowd;
use super::devices::Devices;
use super::door::Patience;
use super::in_force::{Entrance, Fleet, InForce};
use super::listener::Secure;
use super::pulse::Pulses;
use super::room::{Places, Room};
use super::spare::Spare;
use super::{Gate, Limits};
use crate::broker;
use crate::observe::logging::Logger;
use crate::observe::metrics::Metrics;
use crate::rules::device::{Alphabet, Mode, Offer};
use crate::rules::policy::{AskedClientId, ConnectSettings, Password, Unknown};
use crate::rules::template::{Template, Use};

/// How many connections [`gate`] has room for, and how many handshakes.
pub(super) const ROOM: usize = 10;

/// Room for [`ROOM`] of everything, and no limit for one device or address.
pub(super) fn limits() -> Limits {
    let room = u32::try_from(ROOM).expect("few");
    Limits {
        connections: room,
        handshakes: room,
        handshake_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(10),
        connect_bytes: 16 * 1024,
        drain_delay: Duration::ZERO,
        drain_timeout: Duration::from_secs(1),
        connections_per_device: 0,
        connections_per_address: 0,
        accepts_per_address: 0,
    }
}

/// A gate with one plain listener, `devices`, and no broker.
pub(super) fn gate() -> Arc<Gate> {
    gate_with(None)
}

/// The same with a listener of this TLS.
pub(super) fn gate_with(secure: Option<Arc<Secure>>) -> Arc<Gate> {
    let name = || Template::parse("{device}", Use::Name, &Alphabet::default()).expect("good");
    let metrics = Metrics::new(&["devices".into()], &[]);
    let limits = limits();
    let brokers = broker::Settings {
        addresses: Vec::new(),
        tls: None,
        balance: broker::Balance::default(),
        source_addresses: Vec::new(),
        dial_timeout: Duration::from_secs(1),
        health_interval: Duration::from_secs(1),
        proxy_protocol: None,
        probe: broker::Probe::default(),
    };
    let mode = secure.as_ref().map_or(Mode::Plain, |_| Mode::MutualTls);
    let entrance = Entrance {
        offer: Offer::Only(mode),
        secure,
        proxies: Box::default(),
    };
    let room = Room::of(limits.connections, u32::MAX);
    let in_force = InForce {
        entrances: [entrance].into(),
        crowd: Crowd::new(&limits),
        limits,
        farewell: Arc::default(),
        tokens: Arc::default(),
        unknown: Unknown::Refuse,
        connect: ConnectSettings {
            client_id: name(),
            username: name(),
            password: Password::None,
            asked_client_id: AskedClientId::Any,
            user_properties: Vec::new(),
        },
        fleet: Arc::new(Fleet::new(&brokers, None, &metrics)),
    };
    Arc::new(Gate {
        in_force: ArcSwap::from_pointee(in_force),
        reloaded: watch::Sender::new(()),
        spare: Spare::new(),
        doubt: mpsc::unbounded_channel().0,
        devices: Devices::new(None, Unknown::Refuse),
        logger: Logger::counted(metrics.clone()),
        metrics,
        places: Arc::new(Places::new(room)),
        handshakes: Arc::new(Semaphore::new(ROOM)),
        patience: Arc::new(Patience::new(Duration::from_secs(5))),
        names: vec!["devices".into()],
        open: watch::Sender::new(true),
        draining: watch::Sender::new(false),
        handed_over: AtomicBool::new(false),
        shut: AtomicBool::new(false),
        pulses: Pulses::new(1),
        words_when_away: super::words_when_away(),
        lost: AtomicBool::new(false),
        told_no_accept: Mutex::new(None),
    })
}
