//! THE PATH: accept → handshake → read CONNECT → identity → verdict → rewrite → dial → CONNACK → relay → close.
//!
//! [`load`](Loaded::load) reads what the settings name, [`start`](Loaded::start) binds and begins, [`Running`] drains
//! and ends. Each core has a worker: a thread with its own runtime and its own sockets (SO_REUSEPORT). A connection
//! stays with its worker, so nothing on its path is shared but counters and what is known of devices' chains (in shards).

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use ipnet::IpNet;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::broker;
use crate::broker::dial::Brokers;
use crate::jwks;
use crate::observe::logging::Logger;
use crate::observe::metrics::Metrics;
use crate::registry;
use crate::rules::device::{Alphabet, Offer};
use crate::rules::policy;
use crate::tls;

mod admit;
mod connection;
mod connections;
mod control;
mod crowd;
mod devices;
mod door;
mod drain;
mod ends;
pub(crate) mod explain;
mod farewell;
mod files;
mod handover;
mod handshake;
mod in_force;
mod listener;
mod passed;
mod preface;
mod proxied;
mod pulse;
mod relay;
mod reload;
mod room;
mod running;
mod spare;
mod start;
#[cfg(test)]
mod testing;
mod tokens;
mod wire;
mod worker;

use control::Control;
use devices::Devices;
use door::Patience;
use in_force::InForce;
use room::Places;
use spare::Spare;

pub use connections::{Connections, Open, Wanted};
pub use farewell::{Farewell, NotAServer, Server};
pub use files::{Contents, Look};
pub use handover::Handover;
pub use listener::BACKLOG;
pub use passed::{ADMIN, Passed, from_environment};
pub use pulse::Pulses;
pub use reload::Reloaded;
pub use room::places;
pub use running::{Outcome, Running};
pub use start::{Inherited, Loaded, LoadedBrokers, LoadedListener, StartFault, source_faults};

/// `[[listener]]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// The label in metrics and logs.
    pub name: Arc<str>,
    /// Where it listens; at least one. Port 0 takes a free port.
    pub bind: Vec<SocketAddr>,
    /// What it offers.
    pub offer: Offer,
    /// `[listener.tls]`; `None` for, and only for, a plain listener.
    pub tls: Option<tls::server::Settings>,
    /// Which trust groups count here, by name.
    pub trust: Vec<String>,
    /// From which networks a PROXY header is required; from all others it is refused. Canonical: no IPv4 inside of IPv6.
    pub proxy_protocol_from: Vec<IpNet>,
}

/// `[limits]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections, all listeners together. A full house turns away at once. Default 100 000.
    pub connections: u32,
    /// Handshakes at once, from a whole ClientHello to the end; 0: 8 192 for each core. Default 0.
    pub handshakes: u32,
    /// From accept to the end of the handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// From the end of the handshake to a whole CONNECT; and again, once a broker took the connection, until its CONNACK is
    /// with the device. Default 10 s.
    pub connect_timeout: Duration,
    /// Largest CONNECT taken, in bytes, fixed header included. Default 16 KiB.
    pub connect_bytes: u32,
    /// From "not ready" to the drain, so that balancers can take notice: devices still come in meanwhile. Default 0 s.
    pub drain_delay: Duration,
    /// The window over which a drain spreads the ends of open connections. Default 30 s.
    pub drain_timeout: Duration,
    /// Open connections of one device, the newest win; 0: no limit. A record may say otherwise. Default 0.
    pub connections_per_device: u32,
    /// Open connections from one address, or one IPv6 /64, all listeners together; 0: no limit. Default 0.
    pub connections_per_address: u32,
    /// Connections a second from one address, or one IPv6 /64, and so many at once; 0: no limit. Default 0.
    pub accepts_per_address: u32,
}

/// Everything that the gate obeys. But for addresses to listen at and the registry's store, all of it may change while the gate runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// At least one.
    pub listeners: Vec<ListenerSettings>,
    /// Every trust group of the configuration.
    pub trust: Vec<tls::trust::Settings>,
    /// What the broker is told of a device.
    pub connect: policy::ConnectSettings,
    /// The alphabet of device ids.
    pub alphabet: Alphabet,
    /// The brokers.
    pub broker: broker::Settings,
    /// The limits.
    pub limits: Limits,
    /// What MQTT 5 devices are told when the gate drains.
    pub farewell: Farewell,
    /// `[registry]`; `None`: whoever a trust group or the JWT issuer vouches for is a device.
    pub registry: Option<RegistrySettings>,
    /// `[token]`
    pub token: TokenSettings,
}

/// `[registry]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// The store, and what is remembered of it.
    pub directory: registry::Settings,
    /// Devices that are vouched for, and not in it.
    pub unknown: policy::Unknown,
    /// `token.key_file`: the file with the key of the tokens' hashes, 64 characters of hex. Default `token.key`.
    pub token_key: PathBuf,
}

/// `[token]` as the gate obeys it.
#[derive(Clone, Debug, Default)]
pub struct TokenSettings {
    /// Which field of CONNECT holds it.
    pub place: policy::TokenPlace,
    /// `[token.jwt]`; `None`: tokens of others do not count.
    pub jwt: Option<jwks::Settings>,
}

/// What all connections share: what is in force, which a reload replaces as a whole, and counters and flags.
pub(crate) struct Gate {
    in_force: ArcSwap<InForce>,
    /// Tells that something else is in force.
    reloaded: watch::Sender<()>,
    /// Who may enter, and who sits.
    pub(crate) devices: Devices,
    /// Connections for whose certificate nobody vouches any more.
    pub(crate) doubt: mpsc::UnboundedSender<Arc<Control>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) logger: Logger,
    /// Places for open connections.
    pub(crate) places: Arc<Places>,
    /// To turn away with, when no descriptor is left.
    spare: Spare,
    /// Turns to handshake.
    pub(crate) handshakes: Arc<Semaphore>,
    /// How long one may wait for such a turn.
    pub(crate) patience: Arc<Patience>,
    /// How often a device is let through to be told that all brokers are away.
    words_when_away: DefaultDirectRateLimiter,
    names: Vec<Arc<str>>,
    /// Whether it accepts: not yet, while another gate has its sockets.
    open: watch::Sender<bool>,
    draining: watch::Sender<bool>,
    /// The sockets have passed to another gate, which goes on where this one stops.
    handed_over: AtomicBool,
    /// The end of a drain: nobody is let in any more.
    shut: AtomicBool,
    /// Whether the workers live.
    pulses: Pulses,
    lost: AtomicBool,
    told_no_accept: Mutex<Option<Instant>>,
}

impl Gate {
    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// What is in force now. A connection asks once.
    pub(crate) fn in_force(&self) -> Arc<InForce> {
        self.in_force.load_full()
    }

    /// The same for a glance: not to be held across an await.
    pub(crate) fn glance(&self) -> arc_swap::Guard<Arc<InForce>> {
        self.in_force.load()
    }

    /// Waits until it may accept.
    async fn opened(&self) {
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }

    /// Whether what waits in a socket, while this gate drains, is for another gate: one that has it already, or the next one, which
    /// the socket is kept for by who lent it.
    pub(crate) fn leaves(&self, is_lent: bool) -> bool {
        self.is_draining() && (is_lent || self.handed_over.load(Ordering::Acquire))
    }

    /// From now on whoever asks is told to come back.
    pub(crate) fn shut(&self) {
        self.shut.store(true, Ordering::Relaxed);
    }

    /// Whether whoever asks is told to come back.
    pub(crate) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Relaxed)
    }

    /// No connection is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken() == 0
    }

    /// Whether anybody was accepted who is not linked to a broker.
    pub(crate) fn awaits_anybody(&self) -> bool {
        let linked = self.devices.rolls().iter().map(|roll| roll.count_linked());
        self.taken() > linked.sum()
    }

    fn taken(&self) -> usize {
        self.places.open() as usize
    }

    /// Whether a device is turned away before its handshake, since all brokers are known to be away (threats.md V5). A few a second
    /// are let through: they are told so by a CONNACK.
    pub(crate) fn turns_away(&self, brokers: &Brokers) -> bool {
        brokers.known_away() && self.words_when_away.check().is_err()
    }

    pub(crate) fn listener_name(&self, place: usize) -> &str {
        &self.names[place]
    }

    /// Bytes were lost in a drain: the exit code tells.
    pub(crate) fn note_loss(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Whether the operator is to be told, at `now`, that accept fails: at most once in ten seconds, by the monotonic clock
    /// (threats.md V8).
    pub(crate) fn may_tell_no_accept(&self, now: Instant) -> bool {
        let mut told = self
            .told_no_accept
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let due = told.is_none_or(|last| now.saturating_duration_since(last) >= APART);
        if due {
            *told = Some(now);
        }
        due
    }
}

/// So many devices a second are told by CONNACK that all brokers are away; it costs a handshake each.
pub(crate) fn words_when_away() -> DefaultDirectRateLimiter {
    const A_SECOND: NonZeroU32 = NonZeroU32::new(20).expect("not 0");
    RateLimiter::direct(Quota::per_second(A_SECOND))
}

/// When the second `until` is over (both in seconds since 1970), by the clock that nobody sets (threats.md V8); `None`: in more
/// years than a connection lasts.
pub(crate) fn deadline(until: i64, now: i64) -> Option<Instant> {
    let left = u64::try_from(until.saturating_sub(now).saturating_add(1)).unwrap_or(0);
    Instant::now().checked_add(Duration::from_secs(left))
}

/// Lines on an accept that fails are at least so far apart.
const APART: Duration = Duration::from_secs(10);

/// Seconds since 1970 by the wall clock: for certificates only, never for deadlines (threats.md V8).
#[expect(
    clippy::disallowed_methods,
    reason = "the one clock of the path; the rules take it as an argument"
)]
pub(crate) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
