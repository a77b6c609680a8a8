//! What the gate counts: every family, its labels and its buckets, in this one file.
//!
//! Labels take words from closed sets (a listener, a mode, a reason …), never text from the wire, so a hostile device
//! cannot make a series (threats.md V11). What is on the path of a connection is resolved once per listener or broker:
//! counting there is one atomic addition.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use super::logging::Losses;
use crate::mqtt::Version;
use crate::rules::device::Mode;
use crate::rules::reason::Cause;

mod ends;

pub use ends::{EndTimes, Use};

use ends::Ends;

/// What a family counts with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations, by size.
    Histogram,
}

impl Kind {
    /// The word of the exposition format.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One family: what stands in `/metrics` and in docs/metrics.md.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// The whole name, prefix included.
    pub name: &'static str,
    /// What it counts with.
    pub kind: Kind,
    /// The sentence of its `# HELP` line.
    pub help: &'static str,
    /// Its labels, in order.
    pub labels: &'static [&'static str],
}

const fn family(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family {
        name,
        kind,
        help,
        labels,
    }
}

/// Every family of ours, in the order of docs/metrics.md. (`process_*` come from the prometheus crate.)
pub const FAMILIES: &[Family] = &[
    family(
        "tidegate_connections_accepted_total",
        Kind::Counter,
        &["listener"],
        "Connections accepted.",
    ),
    family(
        "tidegate_connections_open",
        Kind::Gauge,
        &["listener", "mode"],
        "Connections that are relayed now.",
    ),
    family(
        "tidegate_connection_duration_seconds",
        Kind::Histogram,
        &[],
        "How long a connection lasted, from accept to close, refused ones too.",
    ),
    family(
        "tidegate_handshakes_total",
        Kind::Counter,
        &["listener", "result", "tls_version", "resumed"],
        "TLS handshakes that ended, by result: ok, or why not.",
    ),
    family(
        "tidegate_handshake_duration_seconds",
        Kind::Histogram,
        &["listener", "resumed"],
        "How long a TLS handshake took, of those that succeeded; the wait for its turn is part of it.",
    ),
    family(
        "tidegate_handshakes_in_progress",
        Kind::Gauge,
        &[],
        "TLS handshakes under way now.",
    ),
    family(
        "tidegate_handshakes_waiting",
        Kind::Gauge,
        &[],
        "Devices that wait for their turn to handshake now.",
    ),
    family(
        "tidegate_refusals_total",
        Kind::Counter,
        &["listener", "reason"],
        "Connections turned away, by reason (docs/refusals.md).",
    ),
    family(
        "tidegate_connects_total",
        Kind::Counter,
        &["listener", "mqtt_version", "mode"],
        "Well-formed CONNECT packets read.",
    ),
    family(
        "tidegate_connack_total",
        Kind::Counter,
        &["listener", "code"],
        "Answers of the broker to CONNECT, by return or reason code.",
    ),
    family(
        "tidegate_connect_to_connack_seconds",
        Kind::Histogram,
        &[],
        "From a whole CONNECT to the broker's CONNACK.",
    ),
    family(
        "tidegate_relayed_bytes_total",
        Kind::Counter,
        &["listener", "direction"],
        "MQTT bytes relayed after CONNACK, without TLS.",
    ),
    family(
        "tidegate_broker_up",
        Kind::Gauge,
        &["broker"],
        "1 when the last probe of the broker, or of any address of its name, succeeded, else 0.",
    ),
    family(
        "tidegate_broker_connections_open",
        Kind::Gauge,
        &["broker"],
        "Connections open to the broker now.",
    ),
    family(
        "tidegate_broker_dial_seconds",
        Kind::Histogram,
        &["broker"],
        "How long it took to connect to the broker, or to give up.",
    ),
    family(
        "tidegate_broker_dials_total",
        Kind::Counter,
        &["broker", "result"],
        "Attempts to connect to the broker, by result.",
    ),
    family(
        "tidegate_revoked_connections_total",
        Kind::Counter,
        &["cause"],
        "Open connections that the gate ended since what let them in counted no longer, by cause (docs/refusals.md).",
    ),
    family(
        "tidegate_registry_up",
        Kind::Gauge,
        &[],
        "1 while the registry answers and its changes are heard, else 0; 0 without a registry.",
    ),
    family(
        "tidegate_registry_look_ups_total",
        Kind::Counter,
        &["from"],
        "Look-ups of devices, by what answered: memory, store, or nobody (away).",
    ),
    family(
        "tidegate_registry_entries",
        Kind::Gauge,
        &[],
        "Devices remembered from the registry.",
    ),
    family(
        "tidegate_config_generation",
        Kind::Gauge,
        &[],
        "How many configurations have been in force since the start, this one included: 1, and one more with each reload that succeeds.",
    ),
    family(
        "tidegate_config_last_reload_successful",
        Kind::Gauge,
        &[],
        "1 if what was read last, at the start or when it changed, is in force; 0 if it had faults.",
    ),
    family(
        "tidegate_config_last_reload_success_timestamp_seconds",
        Kind::Gauge,
        &[],
        "When what is in force was read, as a Unix time.",
    ),
    family(
        "tidegate_config_reloads_total",
        Kind::Counter,
        &["result"],
        "Reloads that ended, by result: ok, or failed.",
    ),
    family(
        "tidegate_device_certificate_remaining_seconds",
        Kind::Histogram,
        &[],
        "Time left in the certificate of a device whose handshake succeeded.",
    ),
    family(
        "tidegate_server_certificate_not_after_timestamp_seconds",
        Kind::Gauge,
        &["listener", "name"],
        "When a certificate of the gate expires, as a Unix time.",
    ),
    family(
        "tidegate_certificate_not_after_timestamp_seconds",
        Kind::Gauge,
        &["use", "name"],
        "When a certificate expires that brokers are shown, or that brokers or devices are judged by, as a Unix time: the earliest of its name.",
    ),
    family(
        "tidegate_crl_next_update_timestamp_seconds",
        Kind::Gauge,
        &["name"],
        "When the next revocation list is due, as a Unix time: the earliest, where several CAs of a group have one name.",
    ),
    family(
        "tidegate_accept_pauses_total",
        Kind::Counter,
        &["reason"],
        "Times the gate stopped accepting for a while, by reason.",
    ),
    family(
        "tidegate_log_lines_suppressed_total",
        Kind::Counter,
        &[],
        "Log lines held back by the rate limit.",
    ),
    family(
        "tidegate_log_lines_lost_total",
        Kind::Counter,
        &[],
        "Log lines lost because whoever reads the log did not keep up, or writing failed.",
    ),
    family(
        "tidegate_build_info",
        Kind::Gauge,
        &["version", "rustls", "crypto"],
        "Always 1; its labels tell what this gate is made of.",
    ),
];

/// The rustls that is linked in. Kept true by a test that reads Cargo.lock.
pub const RUSTLS: &str = "0.23.46";
/// The cryptography under it. Kept true by a test that reads Cargo.lock.
pub const CRYPTO: &str = "aws-lc-rs 1.19.0";

const MINUTE: f64 = 60.0;
const HOUR: f64 = 60.0 * MINUTE;
const DAY: f64 = 24.0 * HOUR;

/// 1 ms to 10 s: a strong device on a LAN needs 2 ms, a small one over NB-IoT 8 s; the default deadline is 10 s.
const HANDSHAKE: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];
/// 0.1 ms to 10 s: a broker beside the gate answers within the first, a deadline ends the last.
const BROKER: &[f64] = &[
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    10.0,
];
/// 1 s to 30 days: a sensor that wakes to say one thing, and a meter that stays.
const CONNECTION: &[f64] = &[
    1.0,
    5.0,
    15.0,
    MINUTE,
    5.0 * MINUTE,
    15.0 * MINUTE,
    HOUR,
    4.0 * HOUR,
    12.0 * HOUR,
    DAY,
    7.0 * DAY,
    30.0 * DAY,
];
/// Expired, then what is left to act in: an hour, days, weeks, years.
const REMAINING: &[f64] = &[
    0.0,
    HOUR,
    DAY,
    3.0 * DAY,
    7.0 * DAY,
    14.0 * DAY,
    30.0 * DAY,
    60.0 * DAY,
    90.0 * DAY,
    180.0 * DAY,
    365.0 * DAY,
    2.0 * 365.0 * DAY,
    5.0 * 365.0 * DAY,
    10.0 * 365.0 * DAY,
];

/// CONNACK codes with a name in MQTT 3.1.1 §3.2.2.3 or MQTT 5.0 §3.2.2.2; all others count as `other`.
const CONNACK_CODES: &[u8] = &[
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
    0x8a, 0x8c, 0x90, 0x95, 0x97, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
];

/// All that the gate counts. Made once; shared.
pub struct Metrics {
    registry: Registry,
    listeners: Vec<ListenerMetrics>,
    by_broker: ByBroker,
    brokers: Mutex<InService>,
    ends: Ends,
    accept_pauses: IntCounterVec,
    revoked: IntCounterVec,
    registry_up: IntGauge,
    registry_look_ups: IntCounterVec,
    registry_entries: IntGauge,
    generation: IntGauge,
    reload_successful: IntGauge,
    reloaded_at: IntGauge,
    reloads: IntCounterVec,
    suppressed: IntCounter,
    lost: IntCounter,
    losses: OnceLock<Losses>,
    /// How many of `losses` were added to `lost`.
    told: AtomicU64,
}

impl Metrics {
    /// Every family, with a series for each listener and broker from the start: an alert on a rate needs the zero.
    ///
    /// Listeners and brokers are known afterwards by their place in these lists. Two brokers with one address share
    /// their series.
    pub fn new(listeners: &[Arc<str>], brokers: &[String]) -> Arc<Self> {
        let make = Families(Registry::new());
        let by_listener = ByListener::new(&make);
        let by_broker = ByBroker::new(&make);
        let info = make.gauges("tidegate_build_info");
        info.with_label_values(&[env!("CARGO_PKG_VERSION"), RUSTLS, CRYPTO])
            .set(1);
        let accept_pauses = make.counters("tidegate_accept_pauses_total");
        for reason in ["descriptors", "fault", "handshakes"] {
            let _ = accept_pauses.with_label_values(&[reason]); // from here on it is there, at zero
        }
        let revoked = make.counters("tidegate_revoked_connections_total");
        for cause in Cause::ALL {
            let _ = revoked.with_label_values(&[cause.label()]);
        }
        let registry_look_ups = make.counters("tidegate_registry_look_ups_total");
        for from in ["memory", "store", "away"] {
            let _ = registry_look_ups.with_label_values(&[from]);
        }
        let generation = make.gauge("tidegate_config_generation");
        generation.set(1);
        let reload_successful = make.gauge("tidegate_config_last_reload_successful");
        reload_successful.set(1);
        let reloads = make.counters("tidegate_config_reloads_total");
        for result in ["ok", "failed"] {
            let _ = reloads.with_label_values(&[result]);
        }
        let metrics = Self {
            revoked,
            registry_up: make.gauge("tidegate_registry_up"),
            registry_look_ups,
            registry_entries: make.gauge("tidegate_registry_entries"),
            generation,
            reload_successful,
            reloaded_at: make.gauge("tidegate_config_last_reload_success_timestamp_seconds"),
            reloads,
            ends: Ends::new(&make),
            listeners: listeners
                .iter()
                .map(|name| by_listener.resolve(name))
                .collect(),
            brokers: Mutex::new(InService {
                now: brokers
                    .iter()
                    .map(|address| Arc::new(by_broker.resolve(address)))
                    .collect(),
                gone: Vec::new(),
            }),
            by_broker,
            accept_pauses,
            suppressed: make.counter("tidegate_log_lines_suppressed_total"),
            lost: make.counter("tidegate_log_lines_lost_total"),
            losses: OnceLock::new(),
            told: AtomicU64::new(0),
            registry: make.done(),
        };
        Arc::new(metrics)
    }

    /// The listener at this place of the list given to [`Metrics::new`].
    ///
    /// # Panics
    /// When there is no such place.
    pub fn listener(&self, place: usize) -> &ListenerMetrics {
        &self.listeners[place]
    }

    /// The broker at this place of the list given last.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn broker(&self, place: usize) -> Arc<BrokerMetrics> {
        lock(&self.brokers).now[place].clone()
    }

    /// Each broker, in the order of the list given last.
    pub fn brokers(&self) -> Vec<Arc<BrokerMetrics>> {
        lock(&self.brokers).now.clone()
    }

    /// From now on there are these brokers. The series of those that are no longer among them go: that of their open connections when
    /// the last of these has closed.
    pub fn replace_brokers(&self, brokers: &[String]) -> Vec<Arc<BrokerMetrics>> {
        let mut all = lock(&self.brokers);
        let resolve = |address: &String| Arc::new(self.by_broker.resolve(address));
        let new: Vec<_> = brokers.iter().map(resolve).collect();
        let old = std::mem::replace(&mut all.now, new.clone());
        for left in old {
            let stays = |one: &Arc<BrokerMetrics>| one.address == left.address;
            if !new.iter().any(stays) && !all.gone.iter().any(stays) {
                self.by_broker.forget(&left.address);
                all.gone.push(left);
            }
        }
        all.gone.retain(|one| !brokers.contains(&one.address)); // one that came back
        new
    }

    /// Drops the series of brokers that went away, and whose last connection has closed.
    fn forget_brokers(&self) {
        let mut all = lock(&self.brokers);
        all.gone.retain(|one| {
            let open = one.open.get() > 0;
            if !open {
                self.by_broker.forget_open(&one.address);
            }
            open
        });
    }

    /// When all of this ends; of what is not among it nothing is told any more.
    pub fn ends(&self, times: &EndTimes) {
        self.ends.tell(times);
    }

    /// Opens the series of every reason a connection can be refused for, at zero.
    pub fn expect_refusals(&self, reasons: &[&'static str]) {
        for listener in &self.listeners {
            for reason in reasons {
                listener.refusal(reason);
            }
        }
    }

    /// The gate stopped accepting for a while.
    pub fn accept_paused(&self, reason: &'static str) {
        self.accept_pauses.with_label_values(&[reason]).inc();
    }

    /// An open connection was ended.
    pub fn revoked(&self, cause: Cause) {
        self.revoked.with_label_values(&[cause.label()]).inc();
    }

    /// Whether the registry answers, and how many devices are remembered of it.
    pub fn registry(&self, up: bool, entries: u64) {
        self.registry_up.set(i64::from(up));
        self.registry_entries
            .set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    /// So many look-ups were answered `from` "memory", "store" or "away" since this was last told.
    pub fn registry_look_ups(&self, from: &'static str, more: u64) {
        self.registry_look_ups
            .with_label_values(&[from])
            .inc_by(more);
    }

    /// What was read at `now` (seconds since 1970) is in force: at the start.
    pub fn started(&self, now: i64) {
        self.reloaded_at.set(now);
    }

    /// What was read at `now` (seconds since 1970) is in force, the `generation`-th since the start.
    pub fn reloaded(&self, generation: u64, now: i64) {
        self.reload_successful.set(1);
        self.reloads.with_label_values(&["ok"]).inc();
        self.reloaded_at.set(now);
        self.generation
            .set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// What was read last has faults, and is not in force.
    pub fn reload_failed(&self) {
        self.reload_successful.set(0);
        self.reloads.with_label_values(&["failed"]).inc();
    }

    /// So many log lines were held back by the rate limit.
    pub fn suppressed(&self, lines: u64) {
        self.suppressed.inc_by(lines);
    }

    /// From now on counts the log lines that were lost: [`super::logging::Guard::losses`].
    pub fn watch_log(&self, losses: Losses) {
        // A second log in one process (tests) is not counted; the first one is the process's own.
        let _ = self.losses.set(losses);
    }

    /// Everything, in the text exposition format 0.0.4.
    ///
    /// # Panics
    /// Never: the encoder fails only on families without a name or samples, and none of those is registered.
    pub fn render(&self) -> String {
        self.forget_brokers();
        if let Some(losses) = self.losses.get() {
            // Another scrape may come between: the one that raises `told` adds the difference.
            let lost = losses.lines();
            let told = self.told.fetch_max(lost, Ordering::Relaxed);
            self.lost.inc_by(lost.saturating_sub(told));
        }
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .expect("a family of ours has a name, and samples of its own kind")
    }
}

/// What is counted at one listener.
pub struct ListenerMetrics {
    name: Arc<str>,
    accepted: IntCounter,
    open: [IntGauge; 3],
    duration: Histogram,
    handshakes: IntCounterVec,
    handshake_ok: [IntCounter; 4],
    handshake_duration: [Histogram; 2],
    handshaking: IntGauge,
    waiting: IntGauge,
    refusals: IntCounterVec,
    connects: [[IntCounter; 3]; 3],
    /// By code; codes without a name share one counter.
    connack: Box<[IntCounter]>,
    connect_to_connack: Histogram,
    to_broker: IntCounter,
    to_device: IntCounter,
    remaining: Histogram,
}

impl ListenerMetrics {
    /// A connection came in.
    pub fn accepted(&self) {
        self.accepted.inc();
    }

    /// Counts one open connection until the guard is dropped, on every way out.
    #[must_use = "dropping the guard ends the count"]
    pub fn opened(&self, mode: Mode) -> OpenGuard {
        OpenGuard::new(&self.open[mode_place(mode)])
    }

    /// A handshake ended. `result` is `ok` or the word of the refusal; `tls_version` is `1.2`, `1.3` or `none`.
    ///
    /// `took` is `None` when no duration would be fair to tell: the device left, or never began.
    pub fn handshake(
        &self,
        result: &'static str,
        tls_version: &'static str,
        resumed: bool,
        took: Option<Duration>,
    ) {
        let new_or_resumed = usize::from(resumed);
        match (result, tls_version) {
            ("ok", "1.2") => self.handshake_ok[new_or_resumed].inc(),
            ("ok", "1.3") => self.handshake_ok[2 + new_or_resumed].inc(),
            _ => self
                .handshakes
                .with_label_values(&[&self.name, result, tls_version, yes_no(resumed)])
                .inc(),
        }
        if let Some(took) = took {
            self.handshake_duration[new_or_resumed].observe(took.as_secs_f64());
        }
    }

    /// Counts one handshake under way until the guard is dropped.
    #[must_use = "dropping the guard ends the count"]
    pub fn handshaking(&self) -> OpenGuard {
        OpenGuard::new(&self.handshaking)
    }

    /// Counts one that waits for its turn to handshake until the guard is dropped.
    #[must_use = "dropping the guard ends the count"]
    pub fn waiting(&self) -> OpenGuard {
        OpenGuard::new(&self.waiting)
    }

    /// A connection was turned away.
    pub fn refused(&self, reason: &'static str) {
        self.refusal(reason).inc();
    }

    fn refusal(&self, reason: &'static str) -> IntCounter {
        self.refusals.with_label_values(&[&self.name, reason])
    }

    /// A well-formed CONNECT was read.
    pub fn connect(&self, version: Version, mode: Mode) {
        self.connects[version_place(version)][mode_place(mode)].inc();
    }

    /// The broker answered a CONNECT. Codes that no standard names count as `other`: a broker cannot make series.
    pub fn connack(&self, code: u8) {
        self.connack[usize::from(code)].inc();
    }

    /// The broker took this long to answer a CONNECT.
    pub fn connect_to_connack(&self, took: Duration) {
        self.connect_to_connack.observe(took.as_secs_f64());
    }

    /// So many bytes went on to the broker. One atomic addition, shared by all cores: add up where bytes are small.
    pub fn to_broker(&self, bytes: u64) {
        self.to_broker.inc_by(bytes);
    }

    /// So many bytes went on to the device.
    pub fn to_device(&self, bytes: u64) {
        self.to_device.inc_by(bytes);
    }

    /// A connection ended after so long.
    pub fn closed(&self, lasted: Duration) {
        self.duration.observe(lasted.as_secs_f64());
    }

    /// A device came with a certificate that has so many seconds left; below zero when it has expired.
    #[expect(clippy::cast_precision_loss, reason = "exact for 285 million years")]
    pub fn certificate_remaining(&self, seconds: i64) {
        self.remaining.observe(seconds as f64);
    }
}

/// Brokers, and those that there were.
struct InService {
    now: Vec<Arc<BrokerMetrics>>,
    /// With connections that are still open.
    gone: Vec<Arc<BrokerMetrics>>,
}

/// Nothing panics while it holds one of these; if it did, counts would still be counts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How an attempt to connect to a broker may end.
const DIALS: [&str; 7] = [
    "ok",
    "refused",
    "timeout",
    "tls_failed",
    "no_port",
    "paced",
    "out_of_descriptors",
];

/// What is counted for one broker.
pub struct BrokerMetrics {
    address: String,
    up: IntGauge,
    open: IntGauge,
    dial: Histogram,
    /// By [`DIALS`]; resolved once, so that who dials a broker that went away makes no series of it again.
    dials: [IntCounter; DIALS.len()],
}

impl BrokerMetrics {
    /// Whether the last probe succeeded.
    pub fn up(&self, up: bool) {
        self.up.set(i64::from(up));
    }

    /// Counts one connection to the broker until the guard is dropped.
    #[must_use = "dropping the guard ends the count"]
    pub fn opened(&self) -> OpenGuard {
        OpenGuard::new(&self.open)
    }

    /// An attempt to connect ended. `result` is `ok` or one word for what went wrong.
    pub fn dial(&self, result: &'static str, took: Duration) {
        let place = DIALS.iter().position(|known| *known == result);
        debug_assert!(place.is_some(), "{result} is none of DIALS");
        if let Some(place) = place {
            self.dials[place].inc();
        }
        self.dial.observe(took.as_secs_f64());
    }
}

/// Counts one of something until it is dropped.
#[derive(Debug)]
pub struct OpenGuard(IntGauge);

impl OpenGuard {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn mode_place(mode: Mode) -> usize {
    match mode {
        Mode::Plain => 0,
        Mode::ServerTls => 1,
        Mode::MutualTls => 2,
    }
}

fn version_place(version: Version) -> usize {
    match version {
        Version::V31 => 0,
        Version::V311 => 1,
        Version::V5 => 2,
    }
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "true" } else { "false" }
}

/// Makes each family as [`FAMILIES`] has it.
struct Families(Registry);

impl Families {
    fn find(name: &str) -> &'static Family {
        FAMILIES
            .iter()
            .find(|family| family.name == name)
            .expect("FAMILIES holds every family that is made")
    }

    fn keep<C: prometheus::core::Collector + Clone + 'static>(&self, made: C) -> C {
        self.0
            .register(Box::new(made.clone()))
            .expect("each family is made once");
        made
    }

    fn counters(&self, name: &str) -> IntCounterVec {
        let family = Self::find(name);
        let made = IntCounterVec::new(Opts::new(family.name, family.help), family.labels);
        self.keep(made.expect("FAMILIES has well-formed names"))
    }

    fn counter(&self, name: &str) -> IntCounter {
        let family = Self::find(name);
        let made = IntCounter::new(family.name, family.help);
        self.keep(made.expect("FAMILIES has well-formed names"))
    }

    fn gauges(&self, name: &str) -> IntGaugeVec {
        let family = Self::find(name);
        let made = IntGaugeVec::new(Opts::new(family.name, family.help), family.labels);
        self.keep(made.expect("FAMILIES has well-formed names"))
    }

    fn gauge(&self, name: &str) -> IntGauge {
        let family = Self::find(name);
        let made = IntGauge::new(family.name, family.help);
        self.keep(made.expect("FAMILIES has well-formed names"))
    }

    fn histograms(&self, name: &str, buckets: &[f64]) -> HistogramVec {
        let family = Self::find(name);
        let opts = HistogramOpts::new(family.name, family.help).buckets(buckets.to_vec());
        let made = HistogramVec::new(opts, family.labels);
        self.keep(made.expect("FAMILIES has well-formed names, and buckets rise"))
    }

    fn histogram(&self, name: &str, buckets: &[f64]) -> Histogram {
        let family = Self::find(name);
        let opts = HistogramOpts::new(family.name, family.help).buckets(buckets.to_vec());
        let made = Histogram::with_opts(opts);
        self.keep(made.expect("FAMILIES has well-formed names, and buckets rise"))
    }

    fn done(self) -> Registry {
        #[cfg(target_os = "linux")]
        self.0
            .register(Box::new(
                prometheus::process_collector::ProcessCollector::for_self(),
            ))
            .expect("nothing of ours is called process_*");
        self.0
    }
}

/// The families that have a listener, before it is known which.
struct ByListener {
    accepted: IntCounterVec,
    open: IntGaugeVec,
    duration: Histogram,
    handshakes: IntCounterVec,
    handshake_duration: HistogramVec,
    handshaking: IntGauge,
    waiting: IntGauge,
    refusals: IntCounterVec,
    connects: IntCounterVec,
    connack: IntCounterVec,
    connect_to_connack: Histogram,
    relayed: IntCounterVec,
    remaining: Histogram,
}

impl ByListener {
    fn new(make: &Families) -> Self {
        Self {
            accepted: make.counters("tidegate_connections_accepted_total"),
            open: make.gauges("tidegate_connections_open"),
            duration: make.histogram("tidegate_connection_duration_seconds", CONNECTION),
            handshakes: make.counters("tidegate_handshakes_total"),
            handshake_duration: make.histograms("tidegate_handshake_duration_seconds", HANDSHAKE),
            handshaking: make.gauge("tidegate_handshakes_in_progress"),
            waiting: make.gauge("tidegate_handshakes_waiting"),
            refusals: make.counters("tidegate_refusals_total"),
            connects: make.counters("tidegate_connects_total"),
            connack: make.counters("tidegate_connack_total"),
            connect_to_connack: make.histogram("tidegate_connect_to_connack_seconds", BROKER),
            relayed: make.counters("tidegate_relayed_bytes_total"),
            remaining: make.histogram("tidegate_device_certificate_remaining_seconds", REMAINING),
        }
    }

    fn resolve(&self, name: &Arc<str>) -> ListenerMetrics {
        let ok = |version, resumed| {
            self.handshakes
                .with_label_values(&[&**name, "ok", version, yes_no(resumed)])
        };
        let took = |resumed| {
            self.handshake_duration
                .with_label_values(&[&**name, yes_no(resumed)])
        };
        let connects = |version: Version| {
            Mode::ALL.map(|mode| {
                self.connects
                    .with_label_values(&[&**name, version.word(), mode.word()])
            })
        };
        let relayed = |direction| self.relayed.with_label_values(&[&**name, direction]);
        ListenerMetrics {
            accepted: self.accepted.with_label_values(&[&**name]),
            open: Mode::ALL.map(|mode| self.open.with_label_values(&[&**name, mode.word()])),
            duration: self.duration.clone(),
            handshakes: self.handshakes.clone(),
            handshake_ok: [
                ok("1.2", false),
                ok("1.2", true),
                ok("1.3", false),
                ok("1.3", true),
            ],
            handshake_duration: [took(false), took(true)],
            handshaking: self.handshaking.clone(),
            waiting: self.waiting.clone(),
            refusals: self.refusals.clone(),
            connects: Version::ALL.map(connects),
            connack: self.connack_by_code(name),
            connect_to_connack: self.connect_to_connack.clone(),
            to_broker: relayed("to_broker"),
            to_device: relayed("to_device"),
            remaining: self.remaining.clone(),
            name: name.clone(),
        }
    }

    fn connack_by_code(&self, name: &str) -> Box<[IntCounter]> {
        let word = |code: u8| {
            if CONNACK_CODES.contains(&code) {
                format!("0x{code:02x}")
            } else {
                "other".to_owned()
            }
        };
        (0..=u8::MAX)
            .map(|code| self.connack.with_label_values(&[name, &word(code)]))
            .collect()
    }
}

/// The families that have a broker, before it is known which.
struct ByBroker {
    up: IntGaugeVec,
    open: IntGaugeVec,
    dial: HistogramVec,
    dials: IntCounterVec,
}

impl ByBroker {
    fn new(make: &Families) -> Self {
        Self {
            up: make.gauges("tidegate_broker_up"),
            open: make.gauges("tidegate_broker_connections_open"),
            dial: make.histograms("tidegate_broker_dial_seconds", BROKER),
            dials: make.counters("tidegate_broker_dials_total"),
        }
    }

    fn resolve(&self, address: &str) -> BrokerMetrics {
        BrokerMetrics {
            up: self.up.with_label_values(&[address]),
            open: self.open.with_label_values(&[address]),
            dial: self.dial.with_label_values(&[address]),
            dials: DIALS.map(|result| self.dials.with_label_values(&[address, result])),
            address: address.to_owned(),
        }
    }

    /// Drops the series of a broker, but for its open connections.
    fn forget(&self, address: &str) {
        // One that is not there is gone already.
        let _ = self.up.remove_label_values(&[address]);
        let _ = self.dial.remove_label_values(&[address]);
        for result in DIALS {
            let _ = self.dials.remove_label_values(&[address, result]);
        }
    }

    fn forget_open(&self, address: &str) {
        let _ = self.open.remove_label_values(&[address]);
    }
}

#[cfg(test)]
mod tests;
