//! What a run of the harness found. One model; `live`, `table`, `json` and `html` show it.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::settings::Rate;

/// Everything that one run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was measured.
    pub scenario: Scenario,
    /// The target, as the operator wrote it: `host:port`.
    pub target: String,
    /// What was asked for and where it ran, in the order to be shown: name and value.
    pub setup: Vec<(&'static str, String)>,
    /// When it began, in seconds since 1970.
    pub began: i64,
    /// How long it ran, without the preparation: to the end of the last attempt.
    pub lasted: Duration,
    /// The time that the rate is of: that in which attempts were begun; where it was not known before, until the last
    /// success. One that comes late, or fails late, does not thin the rate.
    pub rated: Duration,
    /// Attempts that succeeded in that time.
    pub in_time: u64,
    /// Ctrl-C ended it before its time.
    pub interrupted: bool,
    /// Attempts that were begun: handshakes, connections or messages.
    pub attempts: u64,
    /// Attempts that did what was asked for.
    pub succeeded: u64,
    /// Attempts that failed, by kind; closed set of words.
    pub errors: BTreeMap<&'static str, u64>,
    /// What was agreed on, as `TLS 1.3 TLS13_AES_128_GCM_SHA256 X25519 full`, and how often.
    pub negotiated: BTreeMap<String, u64>,
    /// Times, by what was timed: `handshake`, `connack`, `round_trip` …
    pub latencies: Vec<Latency>,
    /// Payload moved, in bytes; 0 where nothing was to be moved.
    pub payload_bytes: u64,
    /// One row a second.
    pub timeline: Vec<Second>,
    /// In open loop, the phases of handshakes: what became of the tries that were due in each; else empty.
    pub phases: Vec<PhaseReport>,
    /// The same by quarters of a second; else empty.
    pub arrivals: Vec<Arrivals>,
    /// What the server's processes spent, where `--pid` named them.
    pub server: Option<ServerCost>,
    /// What the harness itself spent.
    pub client: ClientCost,
}

/// What a run measures.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scenario {
    /// `bench handshake`
    Handshake,
    /// `bench connections`
    Connections,
    /// `bench relay`
    Relay,
}

/// The times of one thing.
#[derive(Clone, Debug)]
pub struct Latency {
    /// What was timed: one word.
    pub name: &'static str,
    /// In microseconds, three significant figures.
    pub micros: Histogram<u64>,
}

/// What happened in one second of the run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Second {
    /// The second, from 0.
    pub at: u32,
    /// Attempts begun in it.
    pub begun: u64,
    /// Attempts that succeeded in it.
    pub succeeded: u64,
    /// Attempts that failed in it.
    pub failed: u64,
    /// Median of the times that ended in it, in microseconds; `None`: none did.
    pub p50_micros: Option<u64>,
    /// 99th percentile, likewise; `None` of fewer than 100, too.
    pub p99_micros: Option<u64>,
    /// The longest, likewise.
    pub max_micros: Option<u64>,
}

/// A phase of a run in open loop, and what became of the tries that were due in it, whenever they ended.
#[derive(Clone, Debug)]
pub struct PhaseReport {
    /// When it began, since the beginning of the run.
    pub begin: Duration,
    /// How long it lasted.
    pub time: Duration,
    /// How many devices came.
    pub rate: Rate,
    /// Tries, those of devices that came back too.
    pub begun: u64,
    /// Tries that succeeded.
    pub succeeded: u64,
    /// Tries that failed, by kind.
    pub errors: BTreeMap<&'static str, u64>,
    /// How long those took that succeeded, in microseconds.
    pub micros: Histogram<u64>,
}

/// What became of the tries that were due in one quarter of a second, whenever they ended.
#[derive(Clone, Copy, Debug)]
pub struct Arrivals {
    /// When it began, since the beginning of the run.
    pub at: Duration,
    /// Tries.
    pub begun: u64,
    /// Tries that succeeded.
    pub succeeded: u64,
}

/// What the server's processes spent.
#[derive(Clone, Debug, Default)]
pub struct ServerCost {
    /// The processes named, and their children.
    pub pids: Vec<u32>,
    /// CPU time of all their threads during the run.
    pub cpu: Duration,
    /// CPU time of all their threads while connections were held, and for how long; `None`: none were.
    pub at_rest: Option<(Duration, Duration)>,
    /// Resident memory before the run, in KiB.
    pub resident_before: u64,
    /// Resident memory at its end, connections still open, in KiB.
    pub resident_after: u64,
}

/// What the harness itself spent: a harness at its own limit measures itself.
#[derive(Clone, Debug, Default)]
pub struct ClientCost {
    /// Threads that made load.
    pub threads: usize,
    /// Part of one core that each of them used at most: 0.0 to 1.0.
    pub busiest_thread: f64,
    /// How late attempts began after their schedule, 99th percentile, in microseconds; `None` in closed loop and of fewer
    /// than 100.
    pub late_p99_micros: Option<u64>,
    /// Why the figures may be the harness's own, in sentences with the way out; empty: they are not.
    pub bottlenecks: Vec<String>,
}

impl Report {
    /// Attempts that succeeded in the time that the rate is of, per second.
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of one run are far below 2^52"
    )]
    pub fn per_second(&self) -> f64 {
        let rated = self.rated.as_secs_f64();
        if rated > 0.0 {
            self.in_time as f64 / rated
        } else {
            0.0
        }
    }

    /// Attempts that failed.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// CPU time of the server for each attempt that succeeded, in microseconds.
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of one run are far below 2^52"
    )]
    pub fn server_micros_each(&self) -> Option<f64> {
        let server = self.server.as_ref()?;
        (self.succeeded > 0).then(|| server.cpu.as_secs_f64() * 1e6 / self.succeeded as f64)
    }

    /// CPU time of the server for each byte of payload, in nanoseconds.
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of one run are far below 2^52"
    )]
    pub fn server_nanos_per_byte(&self) -> Option<f64> {
        let server = self.server.as_ref()?;
        (self.payload_bytes > 0).then(|| server.cpu.as_secs_f64() * 1e9 / self.payload_bytes as f64)
    }

    /// Memory of the server for each connection held, in KiB.
    #[expect(
        clippy::cast_precision_loss,
        reason = "kibibytes of one host are far below 2^52"
    )]
    pub fn server_kib_each(&self) -> Option<f64> {
        let server = self.server.as_ref()?;
        let grown = server.resident_after as f64 - server.resident_before as f64;
        (self.scenario == Scenario::Connections && self.succeeded > 0)
            .then(|| grown / self.succeeded as f64)
    }
}

#[cfg(test)]
pub(super) mod samples;
