//! The one line about one connection.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::mqtt::Version;
use crate::observe::metrics::Metrics;
use crate::rules::device::{DeviceId, Mode};
use crate::rules::reason::{ENDINGS, REFUSALS};

/// What became of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// A broker answered it, and it is over.
    Closed,
    /// The gate turned it away.
    Refused,
}

impl Event {
    /// The word for `event`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Refused => "refused",
        }
    }
}

/// What the log tells of a certificate. Borrowed, so that nobody keeps a whole certificate for its log line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CertificateLine<'a> {
    /// Whose it is.
    pub subject: &'a str,
    /// Who says so.
    pub issuer: &'a str,
    /// Its serial number, lower-case hex.
    pub serial: &'a str,
    /// SHA-256 of its DER, lower-case hex.
    pub fingerprint: [u8; 32],
}

/// The one line about one connection; what is not known is left out (design.md §5).
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// What became of it.
    pub event: Event,
    /// Why, in one word of docs/refusals.md.
    pub reason: &'static str,
    /// Why, in a sentence.
    pub why: &'a str,
    /// Where the device called from.
    pub address: SocketAddr,
    /// The balancer that told so by its PROXY header.
    pub proxy: Option<SocketAddr>,
    /// The listener it called.
    pub listener: &'a str,
    /// Who it is.
    pub device: Option<&'a DeviceId>,
    /// How it is secured.
    pub mode: Option<Mode>,
    /// `1.2` or `1.3`.
    pub tls_version: Option<&'static str>,
    /// The cipher suite, by its IANA name.
    pub cipher: Option<&'static str>,
    /// Whether the TLS session was resumed.
    pub resumed: Option<bool>,
    /// The server name that the device asked for.
    pub sni: Option<&'a str>,
    /// The application protocol that was agreed on.
    pub alpn: Option<&'a str>,
    /// The certificate that the device showed, also when it was refused.
    pub certificate: Option<CertificateLine<'a>>,
    /// The trust group that vouched for it.
    pub trust: Option<&'a str>,
    /// The version that its CONNECT spoke.
    pub mqtt_version: Option<Version>,
    /// The client id that the device asked for.
    pub client_id_asked: Option<&'a str>,
    /// The client id that the broker was told.
    pub client_id_given: Option<&'a str>,
    /// The broker it was relayed to.
    pub broker: Option<&'a str>,
    /// What the broker was told that this connection is called.
    pub unique_id: Option<&'a str>,
    /// Bytes that went on to the broker.
    pub bytes_to_broker: Option<u64>,
    /// Bytes that went on to the device.
    pub bytes_to_device: Option<u64>,
    /// From accept to close.
    pub duration: Option<Duration>,
}

impl<'a> Line<'a> {
    /// A line that knows no more than this yet.
    pub fn new(
        event: Event,
        reason: &'static str,
        why: &'a str,
        address: SocketAddr,
        listener: &'a str,
    ) -> Self {
        Self {
            event,
            reason,
            why,
            address,
            proxy: None,
            listener,
            device: None,
            mode: None,
            tls_version: None,
            cipher: None,
            resumed: None,
            sni: None,
            alpn: None,
            certificate: None,
            trust: None,
            mqtt_version: None,
            client_id_asked: None,
            client_id_given: None,
            broker: None,
            unique_id: None,
            bytes_to_broker: None,
            bytes_to_device: None,
            duration: None,
        }
    }
}

/// Refusals for one reason that are told each second, and at once: strangers decide how many there are.
const REFUSED: (u32, u32) = (10, 50);

/// Ends of admitted connections, for all reasons together: devices of the fleet, one of which may come back in a loop.
const CLOSED: (u32, u32) = (2000, 4000);

/// Writes the lines about connections, no more than a log should hold (threats.md V11): of refusals 10 a second for each
/// reason, 50 at once; of ends 2000 a second in all, 4000 at once. Those beyond are counted, and told as a number by
/// [`Logger::tell_suppressed`].
///
/// Cheap to clone; all clones share the limits.
#[derive(Clone)]
pub struct Logger {
    limits: Arc<Limits<DefaultClock>>,
    metrics: Option<Arc<Metrics>>,
}

impl Default for Logger {
    fn default() -> Self {
        Self::new()
    }
}

impl Logger {
    /// A logger that counts nowhere what it holds back.
    pub fn new() -> Self {
        Self {
            limits: Arc::new(Limits::new(&DefaultClock::default())),
            metrics: None,
        }
    }

    /// A logger that counts what it holds back as `tidegate_log_lines_suppressed_total`.
    pub fn counted(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics: Some(metrics),
            ..Self::new()
        }
    }

    /// Writes the line of one connection, at level `info`, or counts it as suppressed. Never blocks.
    pub fn connection(&self, line: &Line<'_>) {
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        if self.limits.of(line.event, line.reason).passes() {
            write(line);
        } else if let Some(metrics) = &self.metrics {
            metrics.suppressed(1);
        }
    }

    /// Tells, for each event and reason, how many lines were held back since this was last called; nothing where there were
    /// none. Of panics, which are told without a logger, too.
    pub fn tell_suppressed(&self) {
        for (event, reason, suppressed) in self.limits.take_suppressed() {
            tracing::info!(
                event = "suppressed",
                reason,
                of = event.word(),
                suppressed,
                "{suppressed} more connections were {} for this reason than the log tells of; the metrics have counted them all",
                event.word()
            );
        }
        let suppressed = PANICS.take_suppressed();
        if suppressed > 0 {
            if let Some(metrics) = &self.metrics {
                metrics.suppressed(suppressed);
            }
            tracing::info!(
                event = "suppressed",
                reason = "gate_fault",
                of = "panicked",
                suppressed,
                "{suppressed} more panics happened than the log tells of"
            );
        }
    }
}

/// The keys and their order are a promise: design.md §5, docs/logs.md.
fn write(line: &Line<'_>) {
    tracing::info!(
        event = line.event.word(),
        reason = line.reason,
        why = line.why,
        address = %line.address,
        proxy = line.proxy.map(tracing::field::display),
        listener = line.listener,
        device = line.device.map(DeviceId::as_str),
        mode = line.mode.map(Mode::word),
        tls_version = line.tls_version,
        cipher = line.cipher,
        resumed = line.resumed,
        sni = line.sni,
        alpn = line.alpn,
        certificate_subject = line.certificate.map(|c| c.subject),
        certificate_issuer = line.certificate.map(|c| c.issuer),
        certificate_serial = line.certificate.map(|c| c.serial),
        certificate_fingerprint = line.certificate.map(|c| hex::encode(c.fingerprint)),
        trust = line.trust,
        mqtt_version = line.mqtt_version.map(Version::word),
        client_id_asked = line.client_id_asked,
        client_id_given = line.client_id_given,
        broker = line.broker,
        unique_id = line.unique_id,
        bytes_to_broker = line.bytes_to_broker,
        bytes_to_device = line.bytes_to_device,
        duration_ms = line.duration.map(whole_milliseconds),
    );
}

fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Refusals: a limit for each reason, so that a flood for one hides no other. Ends: one for all, counted by reason.
struct Limits<C: Clock> {
    refused: ByReason<C>,
    closed: ByReason<C>,
}

impl<C: Clock + Clone> Limits<C> {
    fn new(clock: &C) -> Self {
        let closed = rate(CLOSED, clock);
        Self {
            refused: ByReason::new(REFUSALS.iter().map(|(word, _)| *word), || {
                rate(REFUSED, clock)
            }),
            closed: ByReason::new(ENDINGS.iter().copied(), || closed.clone()),
        }
    }

    fn of(&self, event: Event, reason: &str) -> &Limit<C> {
        match event {
            Event::Refused => self.refused.of(reason),
            Event::Closed => self.closed.of(reason),
        }
    }

    /// What was held back since the last time.
    fn take_suppressed(&self) -> impl Iterator<Item = (Event, &'static str, u64)> {
        let of = |event, limits: &ByReason<C>| {
            let each = limits.take_suppressed();
            each.map(move |(reason, count)| (event, reason, count))
                .collect::<Vec<_>>()
        };
        let refused = of(Event::Refused, &self.refused);
        refused.into_iter().chain(of(Event::Closed, &self.closed))
    }
}

/// One [`Limit`] for each reason, and one for what has no word among them.
struct ByReason<C: Clock> {
    words: Box<[&'static str]>,
    each: HashMap<&'static str, Limit<C>>,
    other: Limit<C>,
}

impl<C: Clock + Clone> ByReason<C> {
    fn new(words: impl Iterator<Item = &'static str>, rate: impl Fn() -> Arc<Rate<C>>) -> Self {
        let words: Box<[_]> = words.collect();
        let each = words.iter().map(|word| (*word, Limit::new(rate())));
        Self {
            each: each.collect(),
            other: Limit::new(rate()),
            words,
        }
    }

    fn of(&self, reason: &str) -> &Limit<C> {
        self.each.get(reason).unwrap_or(&self.other)
    }

    /// What was held back since the last time, by reason, in the order of the words.
    fn take_suppressed(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let words = self.words.iter().copied().chain(["other"]);
        let each = words.map(|word| (word, self.of(word).take_suppressed()));
        each.filter(|(_, suppressed)| *suppressed > 0)
    }
}

type Rate<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// So many each second, and so many at once; neither is zero.
fn rate<C: Clock + Clone>((per_second, at_once): (u32, u32), clock: &C) -> Arc<Rate<C>> {
    let whole = |n| NonZeroU32::new(n).expect("the constants are not zero");
    let quota = Quota::per_second(whole(per_second)).allow_burst(whole(at_once));
    Arc::new(RateLimiter::direct_with_clock(quota, clock.clone()))
}

/// A rate, its own or one that others go by, too; and what was held back here.
pub(super) struct Limit<C: Clock> {
    rate: Arc<Rate<C>>,
    suppressed: AtomicU64,
}

impl<C: Clock + Clone> Limit<C> {
    fn new(rate: Arc<Rate<C>>) -> Self {
        Self {
            rate,
            suppressed: AtomicU64::new(0),
        }
    }

    /// Whether one more line may be written; if not, it is counted.
    pub(super) fn passes(&self) -> bool {
        let passes = self.rate.check().is_ok();
        if !passes {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
        }
        passes
    }

    fn take_suppressed(&self) -> u64 {
        self.suppressed.swap(0, Ordering::Relaxed)
    }
}

/// Panics that are told: one a second, ten at once. Whoever found out how to cause one must not fill the log with them.
pub(super) static PANICS: LazyLock<Limit<DefaultClock>> =
    LazyLock::new(|| Limit::new(rate((1, 10), &DefaultClock::default())));

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    /// V11: a flood of refusals writes a bounded number of lines, none is forgotten, and other reasons keep theirs.
    #[test]
    fn a_flood_is_held_back_and_counted() {
        let clock = FakeRelativeClock::default();
        let limits = Limits::new(&clock);
        let refused = |reason| limits.of(Event::Refused, reason);
        let told = |reason| (0..10_000).filter(|_| refused(reason).passes()).count();

        assert_eq!(told("not_tls"), 50);
        assert_eq!(told("full"), 50);
        assert_eq!(told("no reason of ours"), 50);
        let suppressed: Vec<_> = limits.take_suppressed().collect();
        let all_but_50 = ["full", "not_tls", "other"].map(|reason| (Event::Refused, reason, 9_950));
        assert_eq!(suppressed, all_but_50);

        clock.advance(Duration::from_secs(1));
        assert_eq!(told("not_tls"), 10);
        let suppressed: Vec<_> = limits.take_suppressed().collect();
        assert_eq!(
            suppressed,
            [(Event::Refused, "not_tls", 9_990)],
            "since it was last told"
        );
        assert_eq!(limits.take_suppressed().count(), 0);
    }

    /// V11: an admitted device that comes and goes in a loop does not fill the log either, by whatever ends it chooses; and
    /// refusals keep their lines.
    #[test]
    fn a_flood_of_ends_is_held_back_and_counted() {
        let clock = FakeRelativeClock::default();
        let limits = Limits::new(&clock);
        let passes = |reason| limits.of(Event::Closed, reason).passes();
        let round = |times: usize| {
            let ends = ["device_closed", "gate_fault"].into_iter().cycle();
            ends.take(times).filter(|reason| passes(reason)).count()
        };

        assert_eq!(round(10_000), 4000);
        assert!(limits.of(Event::Refused, "gate_fault").passes());
        let suppressed: Vec<_> = limits.take_suppressed().collect();
        let rest = ["device_closed", "gate_fault"].map(|reason| (Event::Closed, reason, 3000));
        assert_eq!(suppressed, rest);

        clock.advance(Duration::from_secs(1));
        assert_eq!(round(10_000), 2000);
    }

    /// V11: nor does whoever found out how to cause a panic.
    #[test]
    fn a_flood_of_panics_is_held_back_and_counted() {
        let told = (0..10_000).filter(|_| PANICS.passes()).count() as u64;
        assert!((10..1000).contains(&told), "{told}");
        assert_eq!(PANICS.take_suppressed(), 10_000 - told);
    }
}
