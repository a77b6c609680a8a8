//! From settings to a running gate: read the files they name, bind, begin.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::broker;
use crate::jwks::{self, KeySource};
use crate::observe::logging::Logger;
use crate::observe::metrics::Metrics;
use crate::observe::ready::Ready;
use crate::registry::directory::Directory;
use crate::registry::token_key;
use crate::rules::device::Offer;
use crate::rules::policy::Unknown;
use crate::rules::reason;
use crate::tls;
use crate::tls::client::ClientTls;
use crate::tls::flight::{self, Flight};
use crate::tls::server::{ServerTls, SettingFault};
use crate::tls::trust::Groups;
use crate::tls::verify::DeviceVerifier;

use super::control::Roll;
use super::crowd::Crowd;
use super::devices::Devices;
use super::door::Patience;
use super::ends::tell_ends;
use super::handshake::patience;
use super::in_force::{Entrance, Fleet, InForce, labels};
use super::listener::{self, Listener, Listening, Secure};
use super::passed::{self, Assigned, Passed};
use super::pulse::Pulses;
use super::reload::Live;
use super::room::{Places, Room};
use super::running::Running;
use super::spare::Spare;
use super::tokens::TokenDesk;
use super::{Gate, Limits, ListenerSettings, Settings, now, words_when_away, worker};

/// Handshakes at once for each core, where `limits.handshakes` leaves it to us. Slow devices take seconds over one, so
/// it is many times what a core computes in a second; it bounds memory, some 20 KiB each.
const HANDSHAKES: usize = 8192;

/// Something that keeps the gate from starting.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{key}: {sentence}")]
pub struct StartFault {
    /// The key that it belongs to.
    pub key: String,
    /// What is wrong, where, and the way out.
    pub sentence: String,
}

/// One listener whose files were read: what was found good, and everything to tell about it.
#[derive(Debug, Default)]
pub struct LoadedListener {
    /// `None` on a plain listener, and where there are faults.
    pub(super) secure: Option<Arc<Secure>>,
    /// What keeps it from serving.
    pub faults: Vec<StartFault>,
    /// What an operator should look after.
    pub warnings: Vec<String>,
}

impl LoadedListener {
    /// Reads the certificates, keys, CAs and lists that `listener` names; `trust` is every group of the configuration.
    /// `pins`: there is a registry, which may have pinned a certificate that no group vouches for.
    pub fn load(listener: &ListenerSettings, trust: &[tls::trust::Settings], pins: bool) -> Self {
        let mut loaded = Self::default();
        let (groups, verifier) = loaded.take_verifier(listener, trust, pins).unzip();
        let Some(wanted) = &listener.tls else {
            return loaded;
        };
        match ServerTls::load(&listener.name, wanted, verifier) {
            Ok(tls) => {
                let told = tls.warnings(now());
                let at = |warning| format!("listener[{}].tls: {warning}", listener.name);
                loaded.warnings.extend(told.into_iter().map(at));
                loaded.secure = Some(Arc::new(Secure { tls, groups }));
            }
            Err(faults) => loaded
                .faults
                .extend(faults.into_iter().map(|fault| StartFault {
                    key: format!("listener[{}].tls.{}", listener.name, fault.key),
                    sentence: fault.sentence,
                })),
        }
        loaded
    }

    /// What a device must be able to receive in a handshake here, for each certificate; empty on a plain listener.
    pub fn flights(&self) -> Vec<Flight> {
        let secure = self.secure.as_ref();
        secure.map_or(Vec::new(), |secure| flight::measure(&secure.tls))
    }

    /// [`Groups::periods`] of those that count here.
    pub fn list_periods(&self) -> Vec<(Arc<str>, String, i64, i64)> {
        let groups = self
            .secure
            .as_ref()
            .and_then(|secure| secure.groups.as_ref());
        groups.map_or(Vec::new(), |groups| groups.periods())
    }

    /// Reads only what judges devices' certificates at `listener`: `None`, if it asks for none.
    ///
    /// # Errors
    /// Every fault of the files of its trust groups.
    pub(crate) fn load_verifier(
        listener: &ListenerSettings,
        trust: &[tls::trust::Settings],
        pins: bool,
    ) -> Result<Option<Arc<DeviceVerifier>>, Vec<StartFault>> {
        let mut loaded = Self::default();
        let taken = loaded.take_verifier(listener, trust, pins);
        if loaded.faults.is_empty() {
            Ok(taken.map(|(_, verifier)| verifier))
        } else {
            Err(loaded.faults)
        }
    }

    /// Reads the files of one trust group by itself: of a group whose listener cannot be looked at.
    pub fn load_group(group: &tls::trust::Settings) -> Self {
        let mut loaded = Self::default();
        let _ = loaded.take_groups(&[group]);
        loaded
    }

    fn take_verifier(
        &mut self,
        listener: &ListenerSettings,
        trust: &[tls::trust::Settings],
        pins: bool,
    ) -> Option<(Arc<Groups>, Arc<DeviceVerifier>)> {
        if !listener.offer.asks_for_certificate() {
            return None;
        }
        let counts = |group: &&tls::trust::Settings| listener.trust.contains(&group.name);
        let counting: Vec<_> = trust.iter().filter(counts).collect();
        let groups = self.take_groups(&counting)?;
        let mandatory = listener.offer != Offer::MixedTls;
        let verifier = DeviceVerifier::new(groups.clone(), mandatory, pins);
        Some((groups, verifier))
    }

    fn take_groups(&mut self, counting: &[&tls::trust::Settings]) -> Option<Arc<Groups>> {
        match Groups::load(counting) {
            Ok(groups) => {
                self.warnings.extend(groups.warnings(now()));
                Some(Arc::new(groups))
            }
            Err(faults) => {
                let faults = faults.into_iter().map(|fault| StartFault {
                    key: fault.key,
                    sentence: fault.sentence,
                });
                self.faults.extend(faults);
                None
            }
        }
    }
}

/// `[broker.tls]` whose files were read.
#[derive(Debug, Default)]
pub struct LoadedBrokers {
    /// `None` where no broker is spoken to in TLS, and where there are faults.
    pub(super) tls: Option<ClientTls>,
    /// What keeps the gate from starting.
    pub faults: Vec<StartFault>,
    /// What an operator should look after.
    pub warnings: Vec<String>,
}

impl LoadedBrokers {
    /// Reads the CAs, the certificate and the key that `wanted` names.
    pub fn load(wanted: Option<&tls::client::Settings>) -> Self {
        let mut loaded = Self::default();
        match wanted.map(ClientTls::load) {
            None => {}
            Some(Ok(tls)) => {
                loaded.warnings = broker_warnings(&tls, now());
                loaded.tls = Some(tls);
            }
            Some(Err(faults)) => {
                let fault = |fault: SettingFault| StartFault {
                    key: format!("broker.tls.{}", fault.key),
                    sentence: fault.sentence,
                };
                loaded.faults = faults.into_iter().map(fault).collect();
            }
        }
        loaded
    }
}

/// What an operator should look after in `[broker.tls]`, `now` in seconds since 1970.
pub(super) fn broker_warnings(tls: &ClientTls, now: i64) -> Vec<String> {
    let told = tls.warnings(now).into_iter();
    told.map(|warning| format!("broker.tls.{warning}"))
        .collect()
}

/// Every address to dial brokers from that this host does not have.
pub fn source_faults(broker: &broker::Settings) -> Vec<StartFault> {
    let each = broker.source_addresses.iter().enumerate();
    let fault = |(place, source): (usize, &IpAddr)| {
        let why = broker::sources::is_here(*source).err()?;
        Some(StartFault {
            key: format!("broker.source_addresses[{place}]"),
            sentence: format!(
                "cannot dial from {source}: {why}; give this host that address (ip address add), or name one that it has"
            ),
        })
    };
    each.filter_map(fault).collect()
}

/// What the files of settings held, for devices and for brokers.
#[derive(Debug)]
pub(super) struct Files {
    /// In the order of the settings.
    pub(super) secures: Vec<Option<Arc<Secure>>>,
    pub(super) broker_tls: Option<ClientTls>,
    pub(super) faults: Vec<StartFault>,
    pub(super) warnings: Vec<String>,
}

impl Files {
    /// Reads them all, and goes on after a fault. Blocks.
    pub(super) fn read(settings: &Settings) -> Self {
        let pins = settings.registry.is_some();
        let LoadedBrokers {
            tls: broker_tls,
            mut faults,
            mut warnings,
        } = LoadedBrokers::load(settings.broker.tls.as_ref());
        faults.extend(source_faults(&settings.broker));
        let mut secures = Vec::with_capacity(settings.listeners.len());
        for listener in &settings.listeners {
            let loaded = LoadedListener::load(listener, &settings.trust, pins);
            faults.extend(loaded.faults);
            warnings.extend(loaded.warnings);
            secures.push(loaded.secure);
        }
        warnings.sort();
        warnings.dedup();
        Self {
            secures,
            broker_tls,
            faults,
            warnings,
        }
    }
}

/// In order, and each once: several listeners share what they read.
pub(super) fn each_once(mut faults: Vec<StartFault>) -> Vec<StartFault> {
    faults.sort_by(|a, b| (&a.key, &a.sentence).cmp(&(&b.key, &b.sentence)));
    faults.dedup();
    faults
}

/// Settings whose files were read and found good.
#[derive(Debug)]
pub struct Loaded {
    settings: Settings,
    files: Files,
}

impl Loaded {
    /// Reads the certificates, keys, CAs and CRLs that `settings` name, for devices and for brokers.
    ///
    /// # Errors
    /// Every fault found, by key. Files that several listeners share are told once.
    pub fn load(settings: Settings) -> Result<Self, Vec<StartFault>> {
        let mut files = Files::read(&settings);
        let faults = each_once(std::mem::take(&mut files.faults));
        if faults.is_empty() {
            Ok(Self { settings, files })
        } else {
            Err(faults)
        }
    }

    /// What an operator should look after: certificates and lists near their end, and the like.
    pub fn warnings(&self) -> &[String] {
        &self.files.warnings
    }

    /// Metrics with a series for each listener and broker of these settings.
    pub fn metrics(&self) -> Arc<Metrics> {
        let names: Vec<_> = self
            .settings
            .listeners
            .iter()
            .map(|listener| listener.name.clone())
            .collect();
        let brokers = labels(&self.settings.broker);
        let metrics = Metrics::new(&names, &brokers);
        let reasons: Vec<_> = reason::REFUSALS.iter().map(|(word, _)| *word).collect();
        metrics.expect_refusals(&reasons);
        metrics
    }

    /// Every address of a listener that cannot be bound, and that `inherited` brings no socket for: for a start that fails for another
    /// reason, so that all is told at once.
    pub fn taken(&self, inherited: &Inherited) -> Vec<StartFault> {
        let each = self.settings.listeners.iter().flat_map(|listener| {
            let free = |&address| (listener.name.as_ref(), address, listener::is_free(address));
            let wanted = listener.bind.iter();
            wanted.filter(|bind| !inherited.brings(**bind)).map(free)
        });
        each.filter_map(|(name, address, free)| Some(bind_fault(name, address, &free.err()?)))
            .collect()
    }

    /// Binds every listener, where `inherited` brings no socket for it, and begins to accept, on threads of its own.
    ///
    /// # Errors
    /// When an address cannot be bound, a passed socket fits no listener, or a thread cannot be made.
    pub fn start(
        self,
        inherited: Inherited,
        metrics: Arc<Metrics>,
        logger: Logger,
        ready: Arc<Ready>,
    ) -> Result<Running, Vec<StartFault>> {
        let Self { settings, files } = self;
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let Bound { addresses, sockets } = bind_all(&settings, inherited.passed, workers)?;
        let devices = open_registry(&settings)?;
        let tokens = open_tokens(&settings)?;
        let entrances = entrances(&settings, files.secures);
        let fleet = Fleet::new(&settings.broker, files.broker_tls, &metrics);
        tell_ends(&metrics, &settings, &entrances, &fleet);
        metrics.started(now());
        let (doubt, doubts) = mpsc::unbounded_channel();
        let limits = settings.limits.clone();
        let in_force = InForce {
            entrances,
            crowd: Crowd::new(&limits),
            tokens: Arc::new(tokens),
            unknown: unknown(&settings),
            connect: settings.connect.clone(),
            fleet: Arc::new(fleet),
            farewell: Arc::new(settings.farewell.clone()),
            limits: limits.clone(),
        };
        let room = Room::measure(limits.connections, workers);
        let gate = Arc::new(Gate {
            in_force: ArcSwap::from_pointee(in_force),
            reloaded: watch::Sender::new(()),
            doubt,
            places: Arc::new(Places::new(room)),
            spare: Spare::new(),
            handshakes: Arc::new(Semaphore::new(turns(&limits, workers))),
            patience: Arc::new(Patience::new(patience(limits.handshake_timeout))),
            names: settings
                .listeners
                .iter()
                .map(|listener| listener.name.clone())
                .collect(),
            devices,
            open: watch::Sender::new(!inherited.waits),
            draining: watch::Sender::new(false),
            handed_over: AtomicBool::new(false),
            shut: AtomicBool::new(false),
            pulses: Pulses::new(workers),
            words_when_away: words_when_away(),
            lost: AtomicBool::new(false),
            told_no_accept: Mutex::new(None),
            metrics,
            logger,
        });
        let for_next = copies(&sockets, inherited.hands_over)?;
        let (cut, _) = watch::channel(false);
        let (ended, alive) = watch::channel(());
        let rolls: Vec<Arc<Roll>> = (0..workers).map(|_| Arc::default()).collect();
        gate.devices.set_rolls(rolls.clone());
        let mut threads = Vec::with_capacity(workers);
        for (number, (sockets, roll)) in sockets.into_iter().zip(rolls).enumerate() {
            threads.push(
                worker::spawn(
                    number,
                    sockets,
                    gate.clone(),
                    roll,
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
            live: Live::new(settings, workers),
            doubts: Mutex::new(Some(doubts)),
            warned: files.warnings,
            addresses,
            threads,
            ended,
            cut,
            for_next: Mutex::new(for_next),
        })
    }
}

/// Where the listening sockets come from, and what becomes of them. The default: they are bound, and closed by a drain.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Those that somebody else made.
    pub passed: Vec<Passed>,
    /// They are another gate's: nobody is accepted before [`Running::open`].
    pub waits: bool,
    /// They are for another gate, when one comes ([`Running::sockets`]).
    pub hands_over: bool,
}

impl Inherited {
    /// Takes out the admin port, which is to be at `bind`.
    ///
    /// # Errors
    /// When what was passed as `admin` is elsewhere.
    pub fn take_admin(&mut self, bind: SocketAddr) -> Result<Option<TcpListener>, StartFault> {
        let taken = passed::take_admin(&mut self.passed, bind)?;
        Ok(taken.map(|admin| admin.socket))
    }

    fn brings(&self, bind: SocketAddr) -> bool {
        self.passed.iter().any(|one| one.is_at(bind))
    }

    /// There is no admin port: what was passed for it is closed.
    pub fn drop_admin(&mut self) {
        self.passed.retain(|one| one.name != passed::ADMIN);
    }
}

/// A second descriptor of each socket, with the name of its listener, if they are `wanted`; several that are one socket count once.
fn copies(
    sockets: &[Vec<Listening>],
    wanted: bool,
) -> Result<Vec<(String, OwnedFd)>, Vec<StartFault>> {
    let mut known = BTreeSet::new();
    let copy = |one: &Listening| {
        let about = rustix::fs::fstat(&one.socket)?;
        let is_new = known.insert((about.st_dev, about.st_ino));
        let copy = || {
            Ok((
                one.listener.name.to_string(),
                one.socket.try_clone()?.into(),
            ))
        };
        is_new.then(copy).transpose()
    };
    let all = sockets.iter().flatten().filter(|_| wanted);
    let copies: io::Result<_> = all.map(copy).filter_map(io::Result::transpose).collect();
    copies.map_err(|fault| {
        vec![StartFault {
            key: "--handover".into(),
            sentence: format!("cannot keep copies of the sockets for the next gate: {fault}"),
        }]
    })
}

/// Starts to ask the registry, if there is one.
fn open_registry(settings: &Settings) -> Result<Devices, Vec<StartFault>> {
    let Some(registry) = &settings.registry else {
        return Ok(Devices::new(None, unknown(settings)));
    };
    let directory = Directory::start(&registry.directory).map_err(|sentence| {
        vec![StartFault {
            key: "registry.url".into(),
            sentence,
        }]
    })?;
    Ok(Devices::new(Some(directory), unknown(settings)))
}

/// What becomes of those that the registry does not know; without a registry nobody asks.
pub(super) fn unknown(settings: &Settings) -> Unknown {
    let registry = settings.registry.as_ref();
    registry.map_or(Unknown::Refuse, |registry| registry.unknown)
}

/// How many handshakes there may be at once.
pub(super) fn turns(limits: &Limits, workers: usize) -> usize {
    match limits.handshakes {
        0 => workers * HANDSHAKES,
        most => most as usize,
    }
}

/// What devices meet at each listener; `secures` in the order of the settings.
pub(super) fn entrances(settings: &Settings, secures: Vec<Option<Arc<Secure>>>) -> Box<[Entrance]> {
    let entrance = |(one, secure): (&ListenerSettings, _)| Entrance {
        offer: one.offer,
        secure,
        proxies: one.proxy_protocol_from.clone().into(),
    };
    let each = settings.listeners.iter().zip(secures);
    each.map(entrance).collect()
}

/// Makes ready to check tokens; reads the keys of the issuer, if they are in a file.
fn open_tokens(settings: &Settings) -> Result<TokenDesk, Vec<StartFault>> {
    let jwt = match &settings.token.jwt {
        None => None,
        Some(jwt) => Some((
            jwt.tokens.clone(),
            key_source(jwt).map_err(|fault| vec![fault])?,
        )),
    };
    let has_registry = settings.registry.is_some();
    let alphabet = settings.alphabet.clone();
    let key = Arc::default();
    let desk = TokenDesk::new(settings.token.place, alphabet, has_registry, key, jwt);
    // That it is the registry's is looked at once the registry answers; the wrong one knows no token.
    if let Some(registry) = &settings.registry
        && let Ok(Some(key)) = token_key::read(&registry.token_key)
    {
        desk.set_key(key);
    }
    Ok(desk)
}

/// Where the issuer's keys come from; reads them, if they are in a file.
pub(super) fn key_source(jwt: &jwks::Settings) -> Result<Arc<KeySource>, StartFault> {
    let source = KeySource::load(jwt).map_err(|fault| StartFault {
        key: format!("token.jwt.{}", fault.key),
        sentence: fault.sentence,
    })?;
    Ok(Arc::new(source))
}

/// Every listener's sockets.
struct Bound {
    /// Listener name and address, with the port that was taken for port 0.
    addresses: Vec<(Arc<str>, SocketAddr)>,
    /// For each worker, its sockets.
    sockets: Vec<Vec<Listening>>,
}

/// Takes or binds every address of every listener, once for each worker; tells every address that cannot be had.
fn bind_all(
    settings: &Settings,
    passed: Vec<Passed>,
    workers: usize,
) -> Result<Bound, Vec<StartFault>> {
    let assigned = Assigned::new(passed, &settings.listeners)?;
    let mut addresses = Vec::new();
    let mut sockets: Vec<_> = (0..workers).map(|_| Vec::new()).collect();
    let mut faults = Vec::new();
    for (place, wanted) in settings.listeners.iter().enumerate() {
        let name = &wanted.name;
        let listener = Arc::new(Listener::new(place, name.clone()));
        for &address in &wanted.bind {
            let (had, is_lent) = match assigned.at(place, address) {
                Some((passed, is_lent)) => (listener::share(&passed, workers, is_lent), is_lent),
                None => (listener::bind(address, workers), false),
            };
            let had = match had {
                Ok(had) => had,
                Err(fault) => {
                    faults.push(bind_fault(name, address, &fault));
                    continue;
                }
            };
            let mut local = had.iter().flatten().map(TcpListener::local_addr);
            addresses.extend(
                local
                    .next()
                    .and_then(Result::ok)
                    .map(|at| (name.clone(), at)),
            );
            for (worker, its) in had.into_iter().enumerate() {
                let listening = |socket| Listening {
                    socket,
                    listener: listener.clone(),
                    is_lent,
                };
                sockets[worker].extend(its.into_iter().map(listening));
            }
        }
    }
    if faults.is_empty() {
        Ok(Bound { addresses, sockets })
    } else {
        Err(faults)
    }
}

fn bind_fault(listener: &str, address: SocketAddr, fault: &io::Error) -> StartFault {
    let way_out = match fault.kind() {
        io::ErrorKind::AddrInUse => {
            "; something else listens there, or another gate: stop it, take over from it (both with --handover), or bind another port"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=) or a port above"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; this host has no such address: use one of its own, or 0.0.0.0"
        }
        _ => "",
    };
    StartFault {
        key: format!("listener[{listener}].bind"),
        sentence: format!("cannot listen on {address}: {fault}{way_out}"),
    }
}
