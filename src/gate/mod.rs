//! THE PATH: accept → handshake → read CONNECT → identity → verdict → rewrite → dial → CONNACK → relay → close.
//!
//! [`load`](Loaded::load) reads what the settings name, [`start`](Loaded::start) binds and begins, [`Running`] drains
//! and ends. Each core has a worker: a thread with its own runtime and its own sockets (SO_REUSEPORT). A connection
//! stays with its worker, so nothing on its path is shared but counters.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::server::danger::ClientCertVerifier;
use tokio::sync::{Semaphore, watch};

use crate::broker;
use crate::broker::dial::Brokers;
use crate::observe::logging::Logger;
use crate::observe::metrics::Metrics;
use crate::observe::ready::Ready;
use crate::rules::device::{Alphabet, Offer};
use crate::rules::policy;
use crate::rules::reason;
use crate::tls;
use crate::tls::server::ServerTls;
use crate::tls::trust::Groups;
use crate::tls::verify::DeviceVerifier;

mod admit;
mod connection;
mod control;
mod handshake;
mod listener;
mod relay;
mod wire;
mod worker;

use listener::Listener;

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
}

/// `[limits]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections, all listeners together. A full house waits before accept. Default 100 000.
    pub connections: u32,
    /// Handshakes at once, from a whole ClientHello to the end; 0: 1 024 for each core. Default 0.
    pub handshakes: u32,
    /// From accept to the end of the handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// From the end of the handshake to a whole CONNECT; and again from the dial to the broker's CONNACK. Default 10 s.
    pub connect_timeout: Duration,
    /// Largest CONNECT taken, in bytes, fixed header included. Default 16 KiB.
    pub connect_bytes: u32,
    /// The window over which a drain spreads the ends of open connections. Default 30 s.
    pub drain_timeout: Duration,
}

/// Everything that the gate obeys.
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
}

/// Something that keeps the gate from starting.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{key}: {sentence}")]
pub struct StartFault {
    /// The key that it belongs to.
    pub key: String,
    /// What is wrong, where, and the way out.
    pub sentence: String,
}

/// How a gate came to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Every connection ended between packets.
    Drained,
    /// Bytes were lost at the end of the window, or because the gate was told to end at once.
    Cut,
}

/// What all connections share; nothing in it changes while the gate runs but counters and flags.
pub(crate) struct Gate {
    pub(crate) limits: Limits,
    pub(crate) connect: policy::ConnectSettings,
    pub(crate) brokers: Brokers,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) logger: Logger,
    /// Places for open connections.
    pub(crate) connections: Arc<Semaphore>,
    /// Turns to handshake.
    pub(crate) handshakes: Semaphore,
    names: Vec<Arc<str>>,
    draining: watch::Sender<bool>,
    lost: AtomicBool,
    told_out_of_room: AtomicI64,
}

impl Gate {
    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    pub(crate) fn listener_name(&self, place: usize) -> &str {
        &self.names[place]
    }

    /// Bytes were lost in a drain: the exit code tells.
    pub(crate) fn note_loss(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Tells the operator, at most once in ten seconds.
    pub(crate) fn tell_out_of_room(&self, fault: &io::Error) {
        let now = now();
        let last = self.told_out_of_room.load(Ordering::Relaxed);
        if now - last >= 10
            && self
                .told_out_of_room
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            tracing::error!(
                event = "out_of_descriptors",
                "new connections wait: {fault}; raise the limit of file descriptors (LimitNOFILE, ulimit -n) or lower limits.connections"
            );
        }
    }
}

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

/// Settings whose files were read and found good.
#[derive(Debug)]
pub struct Loaded {
    settings: Settings,
    tls: Vec<Option<Arc<ServerTls>>>,
    groups: Vec<Arc<Groups>>,
    warnings: Vec<String>,
}

impl Loaded {
    /// Reads the certificates, keys, CAs and CRLs that `settings` name. What `tidegate check` and `tidegate run` do
    /// alike.
    ///
    /// # Errors
    /// Every fault found, by key.
    pub fn load(settings: Settings) -> Result<Self, Vec<StartFault>> {
        let mut faults = Vec::new();
        let mut tls = Vec::new();
        let mut groups = Vec::new();
        let mut warnings = Vec::new();
        for listener in &settings.listeners {
            let counted: Vec<_> = settings
                .trust
                .iter()
                .filter(|group| listener.trust.contains(&group.name))
                .collect();
            let mut verifier: Option<Arc<dyn ClientCertVerifier>> = None;
            if listener.offer.asks_for_certificate() {
                match Groups::load(&counted) {
                    Ok(loaded) => {
                        let loaded = Arc::new(loaded);
                        warnings.extend(loaded.warnings(now()));
                        let mandatory = listener.offer != Offer::MixedTls;
                        verifier = Some(DeviceVerifier::new(loaded.clone(), mandatory));
                        groups.push(loaded);
                    }
                    Err(found) => faults.extend(found.into_iter().map(|fault| StartFault {
                        key: fault.key,
                        sentence: fault.sentence,
                    })),
                }
            }
            let Some(wanted) = &listener.tls else {
                tls.push(None);
                continue;
            };
            match ServerTls::load(wanted, verifier) {
                Ok(loaded) => {
                    warnings.extend(
                        loaded
                            .warnings(now())
                            .into_iter()
                            .map(|told| format!("listener[{}]: {told}", listener.name)),
                    );
                    tls.push(Some(Arc::new(loaded)));
                }
                Err(found) => faults.extend(found.into_iter().map(|fault| StartFault {
                    key: format!("listener[{}].tls.{}", listener.name, fault.key),
                    sentence: fault.sentence,
                })),
            }
        }
        faults.sort_by(|a, b| (&a.key, &a.sentence).cmp(&(&b.key, &b.sentence)));
        faults.dedup();
        warnings.sort();
        warnings.dedup();
        if faults.is_empty() {
            Ok(Self {
                settings,
                tls,
                groups,
                warnings,
            })
        } else {
            Err(faults)
        }
    }

    /// What an operator should look after: certificates and lists near their end, and the like.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Metrics with a series for each listener and broker of these settings.
    pub fn metrics(&self) -> Arc<Metrics> {
        let names: Vec<_> = self
            .settings
            .listeners
            .iter()
            .map(|listener| listener.name.clone())
            .collect();
        let brokers: Vec<_> = self
            .settings
            .broker
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        let metrics = Metrics::new(&names, &brokers);
        let reasons: Vec<_> = reason::REFUSALS.iter().map(|(word, _)| *word).collect();
        metrics.expect_refusals(&reasons);
        metrics
    }

    /// Binds every listener and begins to accept, on threads of its own.
    ///
    /// # Errors
    /// When an address cannot be bound or a thread cannot be made.
    pub fn start(
        self,
        metrics: Arc<Metrics>,
        logger: Logger,
        ready: Arc<Ready>,
    ) -> Result<Running, Vec<StartFault>> {
        let Self {
            settings,
            tls,
            groups,
            ..
        } = self;
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let mut addresses = Vec::new();
        let mut sockets: Vec<Vec<(std::net::TcpListener, Arc<Listener>)>> =
            (0..workers).map(|_| Vec::new()).collect();
        let mut faults = Vec::new();
        for (place, (wanted, tls)) in settings.listeners.iter().zip(&tls).enumerate() {
            let listener = Arc::new(Listener {
                place,
                name: wanted.name.clone(),
                tls: tls.clone(),
            });
            if let Some(tls) = tls {
                for (name, not_after) in tls.certificates() {
                    metrics.listener(place).server_certificate(&name, not_after);
                }
            }
            for &address in &wanted.bind {
                match listener::bind(address, workers) {
                    Ok(bound) => {
                        let address = bound
                            .first()
                            .and_then(|socket| socket.local_addr().ok())
                            .unwrap_or(address);
                        addresses.push((wanted.name.clone(), address));
                        for (worker, socket) in bound.into_iter().enumerate() {
                            sockets[worker].push((socket, listener.clone()));
                        }
                    }
                    Err(fault) => faults.push(StartFault {
                        key: format!("listener[{}].bind", wanted.name),
                        sentence: bind_fault(address, &fault),
                    }),
                }
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        for group in &groups {
            for (name, at) in group.next_updates() {
                metrics.crl_next_update(&name, at);
            }
        }
        let handshakes = match settings.limits.handshakes {
            0 => workers * 1024,
            most => most as usize,
        };
        let gate = Arc::new(Gate {
            connections: Arc::new(Semaphore::new(settings.limits.connections as usize)),
            handshakes: Semaphore::new(handshakes),
            names: settings
                .listeners
                .iter()
                .map(|listener| listener.name.clone())
                .collect(),
            brokers: Brokers::new(&settings.broker),
            limits: settings.limits,
            connect: settings.connect,
            draining: watch::Sender::new(false),
            lost: AtomicBool::new(false),
            told_out_of_room: AtomicI64::new(0),
            metrics,
            logger,
        });
        let (cut, _) = watch::channel(false);
        let (ended, alive) = watch::channel(());
        let mut threads = Vec::with_capacity(workers);
        for (number, sockets) in sockets.into_iter().enumerate() {
            threads.push(
                worker::spawn(
                    number,
                    sockets,
                    gate.clone(),
                    cut.subscribe(),
                    alive.clone(),
                )
                .map_err(|fault| {
                    vec![StartFault {
                        key: "threads".into(),
                        sentence: format!("cannot start a worker: {fault}"),
                    }]
                })?,
            );
        }
        drop(alive);
        Ok(Running {
            gate,
            ready,
            health: settings.broker.health_interval,
            addresses,
            threads,
            ended,
            cut,
        })
    }
}

fn bind_fault(address: SocketAddr, fault: &io::Error) -> String {
    let way_out = match fault.kind() {
        io::ErrorKind::AddrInUse => "; something else listens there: stop it, or bind another port",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=) or a port above"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; this host has no such address: use one of its own, or 0.0.0.0"
        }
        _ => "",
    };
    format!("cannot listen on {address}: {fault}{way_out}")
}

/// A gate at work.
pub struct Running {
    gate: Arc<Gate>,
    ready: Arc<Ready>,
    health: Duration,
    addresses: Vec<(Arc<str>, SocketAddr)>,
    threads: Vec<JoinHandle<()>>,
    /// Closed when the last worker ends.
    ended: watch::Sender<()>,
    cut: watch::Sender<bool>,
}

impl Running {
    /// Where it listens, with the ports that were taken for port 0: listener name and address.
    pub fn addresses(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.addresses
    }

    /// Asks the brokers whether they answer, for as long as it is polled; tells metrics, log and `/readyz`.
    pub async fn watch_brokers(&self) {
        let gate = &self.gate;
        broker::health::watch(&gate.brokers, self.health, |place, up, news, why| {
            gate.metrics.broker(place).up(up);
            let broker = &gate.brokers.all()[place].label;
            if news && up {
                tracing::info!(event = "broker_up", broker = %broker, "{why}");
            } else if news {
                tracing::warn!(event = "broker_down", broker = %broker, "{why}");
            }
            self.ready
                .set_broker_up(gate.brokers.all().iter().any(broker::dial::Broker::is_up));
        })
        .await;
    }

    /// Begins the drain: not ready, no more accepting, open connections end one after the other.
    pub fn drain(&self) {
        self.ready.set_draining();
        self.gate.draining.send_replace(true);
    }

    /// Ends every connection at once.
    pub fn cut(&self) {
        self.drain();
        self.cut.send_replace(true);
    }

    /// Waits until the last worker has ended, which only a drain brings about.
    pub async fn ended(&self) {
        self.ended.closed().await;
    }

    /// Waits for the workers' threads, blocking; tells how the drain went.
    pub fn join(self) -> Outcome {
        for thread in self.threads {
            if thread.join().is_err() {
                self.gate.note_loss();
            }
        }
        if self.gate.lost.load(Ordering::Relaxed) {
            Outcome::Cut
        } else {
            Outcome::Drained
        }
    }
}
