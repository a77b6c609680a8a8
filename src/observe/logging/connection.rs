//! The one line about one connection.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::mqtt::Version;
use crate::observe::metrics::Metrics;
use crate::rules::device::{DeviceId, Mode};
use crate::rules::reason::REFUSALS;

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

/// Refusals for one reason that are told at once, and then each second: strangers decide how many there are.
const AT_ONCE: u32 = 50;
const PER_SECOND: u32 = 10;

/// Writes the lines about connections. Of refusals no more than a log should hold (threats.md V11): for each reason 50 at
/// once and 10 a second. Those beyond are counted, and told as a number by [`Logger::tell_suppressed`]. Connections that
/// were admitted are all told.
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
        if line.event == Event::Closed || self.limits.of(line.reason).passes() {
            write(line);
        } else if let Some(metrics) = &self.metrics {
            metrics.suppressed(1);
        }
    }

    /// Tells, for each reason, how many refusals were held back since this was last called; nothing where there were none.
    pub fn tell_suppressed(&self) {
        for (reason, suppressed) in self.limits.take_suppressed() {
            tracing::info!(
                event = "suppressed",
                reason,
                suppressed,
                "{suppressed} more connections were refused for this reason than the log tells of; the metrics have counted them all"
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

/// One [`Limit`] for each reason, and one for what has no word among them: a flood for one reason hides no other.
struct Limits<C: Clock> {
    by_reason: HashMap<&'static str, Limit<C>>,
    other: Limit<C>,
}

impl<C: Clock + Clone> Limits<C> {
    fn new(clock: &C) -> Self {
        let each = REFUSALS.iter().map(|(word, _)| (*word, Limit::new(clock)));
        Self {
            by_reason: each.collect(),
            other: Limit::new(clock),
        }
    }

    fn of(&self, reason: &str) -> &Limit<C> {
        self.by_reason.get(reason).unwrap_or(&self.other)
    }

    /// What was held back since the last time, by reason, in the order of [`REFUSALS`].
    fn take_suppressed(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let words = REFUSALS.iter().map(|(word, _)| *word).chain(["other"]);
        let each = words.map(|word| (word, self.of(word).suppressed.swap(0, Ordering::Relaxed)));
        each.filter(|(_, suppressed)| *suppressed > 0)
    }
}

/// One rate, and what it held back.
struct Limit<C: Clock> {
    rate: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    suppressed: AtomicU64,
}

impl<C: Clock + Clone> Limit<C> {
    fn new(clock: &C) -> Self {
        let whole = |n| NonZeroU32::new(n).expect("the constants above are not zero");
        let quota = Quota::per_second(whole(PER_SECOND)).allow_burst(whole(AT_ONCE));
        Self {
            rate: RateLimiter::direct_with_clock(quota, clock.clone()),
            suppressed: AtomicU64::new(0),
        }
    }

    /// Whether one more line may be written; if not, it is counted.
    fn passes(&self) -> bool {
        let passes = self.rate.check().is_ok();
        if !passes {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    /// V11: a flood of refusals writes a bounded number of lines, none is forgotten, and other reasons keep theirs.
    #[test]
    fn a_flood_is_held_back_and_counted() {
        let clock = FakeRelativeClock::default();
        let limits = Limits::new(&clock);
        let told = |reason| (0..10_000).filter(|_| limits.of(reason).passes()).count();

        assert_eq!(told("not_tls"), 50);
        assert_eq!(told("full"), 50);
        assert_eq!(told("no reason of ours"), 50);
        let suppressed: Vec<_> = limits.take_suppressed().collect();
        let all_but_50 = ["full", "not_tls", "other"].map(|reason| (reason, 9_950));
        assert_eq!(suppressed, all_but_50);

        clock.advance(Duration::from_secs(1));
        assert_eq!(told("not_tls"), 10);
        let suppressed: Vec<_> = limits.take_suppressed().collect();
        assert_eq!(suppressed, [("not_tls", 9_990)], "since it was last told");
        assert_eq!(limits.take_suppressed().count(), 0);
    }
}
