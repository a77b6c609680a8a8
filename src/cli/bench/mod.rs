//! `tidegate bench`: loads an endpoint, and tells what it took.

mod devices;

use std::ffi::OsString;
use std::io::{Stderr, Write as _};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustls::pki_types::ServerName;

use super::Failure;
use super::ca::shell;
use crate::bench::handshake::{self, Listener, Plan};
use crate::bench::live::{Live, Now};
use crate::bench::settings::{Load, MOST_DEVICES, Phase, Rate, Settings, Target, Until};
use crate::bench::sources::{self, Sources};
use crate::bench::{Fault, Found, Pulse, connections, html, json, relay, sink, table};
use devices::{DeviceArgs, TlsArgs};

/// Loads an endpoint that speaks MQTT over TLS.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// How many devices get in, and how long it takes them
    #[command(after_help = HANDSHAKE_EXAMPLES)]
    Handshake(Handshake),
    /// Opens many connections, holds them, and tells what one costs the server
    #[command(after_help = CONNECTIONS_EXAMPLES, mut_arg("devices", one_each))]
    Connections(Connections),
    /// How fast messages go through
    #[command(after_help = RELAY_EXAMPLES, mut_arg("devices", one_each))]
    Relay(Relay),
    /// Runs a broker that costs next to nothing, to stand behind what is measured
    #[command(after_help = SINK_EXAMPLES)]
    Sink(SinkArgs),
}

/// Where connections stay open, a broker lets only one of a name stay.
fn one_each(devices: clap::Arg) -> clap::Arg {
    devices.help(
        "How many devices there are: bench-000001 …; left out: one for each connection, or all of --device-dir if it \
         has fewer",
    )
}

pub(super) const EXAMPLES: &str = "\
Examples:
  tidegate bench handshake localhost:8883 --ca pki/ca.pem --device-ca pki --connect
  tidegate bench connections localhost:8883 --ca pki/ca.pem --device-ca pki --connections 5000
  tidegate bench relay localhost:8883 --ca pki/ca.pem --device-ca pki";

const HANDSHAKE_EXAMPLES: &str = "\
A connection that is measured is closed at once. Latencies are of attempts that succeeded; how long those \
waited that gave up or timed out is told as `waited`. With --give-up or --retry, `got in` is the time from when a \
device came until one of its tries succeeded. Without --connect an attempt ends with the handshake. \
In TLS 1.3 the server judges the device's certificate after that, so the attempt waits for its answer: the \
device says close_notify, and a session ticket or a close_notify of the server means that it was taken \
(`verdict` among the times). A bare end is counted as `closed`: it could mean either.

Examples:
  tidegate bench handshake localhost:8883 --ca pki/ca.pem --device-ca pki --connect
  tidegate bench handshake localhost:8883 --ca pki/ca.pem --device-ca pki --connect \\
      --rate 500..5000 --duration 30s
  tidegate bench handshake localhost:8883 --ca pki/ca.pem --device-ca pki --connect \\
      --devices 20000 --rate 4000 --give-up 2s --retry --pid $(pidof tidegate)
  tidegate bench handshake localhost:8883 --insecure --tls 1.2 --server-signature rsa --json

Exit codes: 0 an attempt succeeded; 1 none did; 2 usage.";

const CONNECTIONS_EXAMPLES: &str = "\
Rate and CPU time are those of the opening; the CPU time at rest is told apart. Memory per \
connection is what the server grew by, from before the first one to the end of the hold.

Examples:
  tidegate bench connections localhost:8883 --ca pki/ca.pem --device-ca pki \\
      --connections 5000 --pid $(pidof tidegate)
  tidegate bench connections localhost:8883 --ca pki/ca.pem --device-ca pki \\
      --connections 50000 --devices 1000 --rate 2000 --hold 2m --keep-alive 30s

Exit codes: 0 a connection was held to the end; 1 none was; 2 usage.";

const RELAY_EXAMPLES: &str = "\
A message of QoS 0 counts when the server has answered a PINGREQ behind it, one of QoS 1 when it was \
acknowledged.

Examples:
  tidegate bench relay localhost:8883 --ca pki/ca.pem --device-ca pki --size 16KiB
  tidegate bench relay localhost:8883 --ca pki/ca.pem --device-ca pki --connections 200 \\
      --rate 5000 --qos 1 --size 64 --pid $(pidof tidegate)
  tidegate bench relay localhost:8883 --ca pki/ca.pem --device-ca pki --connections 200 --ping-pong
  tidegate bench relay localhost:8883 --ca pki/ca.pem --device-ca pki --sink 127.0.0.1:1883

Exit codes: 0 a message arrived; 1 none did; 2 usage.";

const SINK_EXAMPLES: &str = "\
It takes every CONNECT of MQTT 3.1, 3.1.1 and 5.0, acknowledges QoS 1, answers pings, and gives a \
connection that has subscribed to anything its own messages back. It keeps nothing, and anybody may use it: \
keep it on loopback.

Examples:
  tidegate bench sink 127.0.0.1:1883

Exit codes: 1 it cannot listen there; 2 usage.";

/// `tidegate bench sink`
#[derive(Args, Debug)]
pub(super) struct SinkArgs {
    /// Where it listens; port 0 is any free one, and the first line tells which
    #[arg(value_name = "IP:PORT")]
    address: SocketAddr,
}

/// `tidegate bench connections`
#[derive(Args, Debug)]
pub(super) struct Connections {
    #[command(flatten)]
    common: Common,
    /// How many connections are opened
    #[arg(long = "connections", value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// So many are opened at once, the next as soon as one is open [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// So many are opened per second, or a ramp A..B, whatever the server does
    #[arg(long, value_name = "RATE", conflicts_with = "concurrency")]
    rate: Option<RateWord>,
    /// How long they are held when the last one is open
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    hold: Duration,
    /// How often each says PINGREQ while it is held; 0s: never
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    keep_alive: Duration,
}

/// `tidegate bench relay`
#[derive(Args, Debug)]
pub(super) struct Relay {
    #[command(flatten)]
    common: Common,
    /// How many connections publish
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// The payload of a message: 64, 1KiB, 2MiB
    #[arg(long, value_name = "SIZE", default_value = "1KiB", value_parser = size)]
    size: usize,
    /// Quality of service
    #[arg(long, value_name = "0|1", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
    /// So many messages per second in all, or a ramp A..B; left out: as fast as they can
    #[arg(long, value_name = "RATE")]
    rate: Option<RateWord>,
    /// How long messages are published
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Each connection waits for its own message to come back before it sends the next
    #[arg(long)]
    ping_pong: bool,
    /// With --qos 1 and no --rate: so many messages of each connection are unacknowledged at most
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    in_flight: u16,
    /// Each message in a TLS record of its own, or as many as fit into one
    #[arg(
        long,
        value_name = "HOW",
        default_value = "per-message",
        conflicts_with = "plain"
    )]
    records: RecordsWord,
    /// The topic; {device} in it is the device's name
    #[arg(long, value_name = "TEMPLATE", default_value = "devices/{device}/bench", value_parser = topic)]
    topic: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RecordsWord {
    PerMessage,
    Packed,
}

/// Bytes, with KiB or MiB behind them if so: less than what MQTT and a record of this house can hold.
fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = match text.trim() {
        kib if kib.ends_with("KiB") => (kib.trim_end_matches("KiB"), 1 << 10),
        mib if mib.ends_with("MiB") => (mib.trim_end_matches("MiB"), 1 << 20),
        bytes => (bytes, 1),
    };
    let size = number
        .trim()
        .parse::<usize>()
        .ok()
        .and_then(|n| n.checked_mul(unit));
    size.filter(|size| *size <= 8 << 20)
        .ok_or_else(|| "a size is 0 to 8MiB, as 64, 1KiB or 2MiB".to_owned())
}

fn topic(text: &str) -> Result<String, String> {
    let good = (1..=1024).contains(&text.len()) && !text.contains(['+', '#', '\0']);
    let why = "a topic to publish to has 1 to 1024 bytes, and neither + nor #";
    good.then(|| text.to_owned()).ok_or_else(|| why.to_owned())
}

/// `tidegate bench handshake`
#[derive(Args, Debug)]
pub(super) struct Handshake {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    load: LoadArgs,
    /// Go on to CONNECT, until CONNACK
    #[arg(long)]
    connect: bool,
    /// Which part of the handshakes resume an earlier TLS session of the same device, 0 to 1
    #[arg(long, value_name = "RATIO", default_value_t = 0.0, value_parser = ratio, conflicts_with = "plain")]
    resume: f64,
    /// Devices abandon an attempt after so long
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    give_up: Option<Duration>,
    /// Devices that failed come back, so many times: --retry=3; without a number, until the end of the run
    #[arg(long, value_name = "TIMES", num_args = 0..=1, require_equals = true, default_missing_value = "4294967295")]
    retry: Option<u32>,
    /// With --retry: a device that failed waits so long before it comes back; left out: it comes at once
    #[arg(long, value_name = "DURATION", requires = "retry", value_parser = humantime::parse_duration)]
    retry_after: Option<Duration>,
    /// With --rate and --duration: a device that got in leaves, and comes again so long after it came
    #[arg(long, value_name = "DURATION", requires = "rate", conflicts_with_all = ["hold", "count"], value_parser = humantime::parse_duration)]
    return_after: Option<Duration>,
    /// With --rate: what follows --duration, as 400:5s or 0..400:5s; repeatable. Of rate 0 it is a pause, in which those
    /// who came before may come back; else they stop when it begins
    #[arg(
        long,
        value_name = "RATE:DURATION",
        requires = "rate",
        conflicts_with = "count"
    )]
    then: Vec<PhaseWord>,
    /// With --connect: keep connections open until the end of the run, with a PINGREQ each 60 s; one that is lost has failed
    #[arg(long, requires = "connect")]
    hold: bool,
}

/// What every run has.
#[derive(Args, Debug)]
struct Common {
    /// The endpoint
    #[arg(value_name = "HOST:PORT")]
    target: String,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    devices: DeviceArgs,
    /// Threads that make load; left out: one for each CPU that this process may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Where calls come from: an address, or a network; repeatable. Left out: 127.0.1.1 to 127.0.1.254 for a target on
    /// loopback, so that ports do not run out; else what the system chooses
    #[arg(long, value_name = "IP[/PREFIX]", value_delimiter = ',')]
    source: Vec<Sources>,
    /// A process of the server, on this host: its CPU time and memory are told, its children's too; repeatable
    #[arg(long, value_name = "PID", value_delimiter = ',')]
    pid: Vec<u32>,
    /// How long an attempt may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Run a broker that costs next to nothing beside the load, for what is measured to point at
    #[arg(long, value_name = "IP:PORT")]
    sink: Option<SocketAddr>,
    /// When all is prepared, say `ready` on standard error, and begin when standard input has a line or ends: several
    /// harnesses begin together
    #[arg(long)]
    begin_on_line: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Write the result as one page for a browser, too; an older one of that name is replaced
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

/// How much, and how long.
#[derive(Args, Debug)]
struct LoadArgs {
    /// Closed loop: so many attempts at once, the next as soon as one is done [default: 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// Open loop: so many attempts per second, or a ramp A..B, whatever the server does; times count from the schedule
    #[arg(long, value_name = "RATE", conflicts_with = "concurrency")]
    rate: Option<RateWord>,
    /// How long attempts are begun [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// How many attempts are begun
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// `500` or `500..5000`
#[derive(Clone, Copy, Debug)]
struct RateWord(Rate);

impl FromStr for RateWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once("..").unwrap_or((text, text));
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| n.is_finite());
        match (number(from), number(to)) {
            (Some(from), Some(to)) if from >= 0.0 && to > 0.0 => Ok(Self(Rate { from, to })),
            _ => Err("a rate is attempts per second, as 500, or a ramp, as 500..5000".into()),
        }
    }
}

/// `500:10s` or `0..500:10s`
#[derive(Clone, Copy, Debug)]
struct PhaseWord(Phase);

impl FromStr for PhaseWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let why =
            "it is a rate and how long it lasts, as 500:10s, 0..500:10s or, for a pause, 0:10s";
        let (rate, time) = text.split_once(':').ok_or(why)?;
        let time = humantime::parse_duration(time).map_err(|_| why)?;
        let pause = Rate { from: 0.0, to: 0.0 };
        let rate = match rate.trim() {
            "0" => pause,
            rate => rate.parse::<RateWord>().map_err(|_| why)?.0,
        };
        Ok(Self(Phase { rate, time }))
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|r| (0.0..=1.0).contains(r));
    ratio.ok_or_else(|| "a ratio is from 0 (none) to 1 (all)".to_owned())
}

impl Command {
    /// Does it, and prints what was found.
    ///
    /// # Errors
    /// The sentence, and the exit code: 1 when no attempt succeeded or the run could not begin, 2 for a wrong wish.
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Handshake(args) => args.run(),
            Self::Connections(args) => args.run(),
            Self::Relay(args) => args.run(),
            Self::Sink(SinkArgs { address }) => {
                let listening = |address| super::say(&format!("the sink listens on {address}\n"));
                sink::run(address, listening).map_err(failure)
            }
        }
    }
}

impl Handshake {
    fn run(self) -> Result<(), Failure> {
        let until = self.load.until();
        if self.common.tls.plain && !self.connect {
            return Err(Failure::asked_wrongly(
                "--plain has no handshake to end with; go on to CONNECT: --plain --connect",
            ));
        }
        if self.retry == Some(u32::MAX) && self.load.count.is_some() {
            return Err(Failure::asked_wrongly(
                "--retry without a number ends with --duration, and --count has none; say how often: --retry=3",
            ));
        }
        let then: Vec<_> = self.then.iter().map(|PhaseWord(phase)| *phase).collect();
        let followed: Duration = then.iter().map(|phase| phase.time).sum();
        let total = match until {
            Until::Time(time) => Some(time + followed),
            Until::Count(_) => None,
        };
        let settings = self.common.settings(self.resume)?;
        let plan = Plan {
            load: self.load.load(),
            until,
            then,
            connect: self.connect,
            give_up: self.give_up,
            retries: self.retry.unwrap_or(0),
            retry_after: self.retry_after.unwrap_or_default(),
            return_after: self.return_after,
            hold: self.hold,
        };
        let found = handshake::run(&settings, &plan, &mut Teller::new(total)).map_err(failure)?;
        self.common.show(found)
    }
}

impl Connections {
    fn run(self) -> Result<(), Failure> {
        let mut settings = self.common.settings(0.0)?;
        settings.devices.count = settings.devices.count.or(Some(own_devices(self.count)));
        let plan = connections::Plan {
            connections: self.count.into(),
            load: load(self.rate, self.concurrency),
            hold: self.hold,
            keep_alive: (!self.keep_alive.is_zero()).then_some(self.keep_alive),
        };
        let found = connections::run(&settings, &plan, &mut Teller::new(None)).map_err(failure)?;
        self.common.show(found)
    }
}

impl Relay {
    fn run(self) -> Result<(), Failure> {
        if self.ping_pong && !self.topic.contains("{device}") {
            return Err(Failure::asked_wrongly(
                "--ping-pong with one topic for all: each would hear the others' messages too; put {device} into --topic",
            ));
        }
        let mut settings = self.common.settings(0.0)?;
        settings.devices.count = settings
            .devices
            .count
            .or(Some(own_devices(self.connections)));
        let plan = relay::Plan {
            connections: self.connections.into(),
            size: self.size,
            qos: self.qos,
            rate: self.rate.map(|RateWord(rate)| rate),
            duration: self.duration,
            ping_pong: self.ping_pong,
            window: self.in_flight.into(),
            records: match self.records {
                RecordsWord::PerMessage => relay::Records::PerMessage,
                RecordsWord::Packed => relay::Records::Packed,
            },
            topic: self.topic,
        };
        let found =
            relay::run(&settings, &plan, &mut Teller::new(Some(self.duration))).map_err(failure)?;
        self.common.show(found)
    }
}

/// Each connection is a device of its own, as far as they go: a broker lets only one of a name stay.
fn own_devices(connections: u32) -> usize {
    MOST_DEVICES.min(connections as usize)
}

fn load(rate: Option<RateWord>, concurrency: Option<u32>) -> Load {
    match rate {
        Some(RateWord(rate)) => Load::Open(rate),
        None => Load::Closed(concurrency.unwrap_or(16) as usize),
    }
}

impl LoadArgs {
    fn load(&self) -> Load {
        load(self.rate, self.concurrency)
    }

    fn until(&self) -> Until {
        match self.count {
            Some(count) => Until::Count(count),
            None => Until::Time(self.duration.unwrap_or(Duration::from_secs(10))),
        }
    }
}

impl Common {
    fn settings(&self, resume: f64) -> Result<Settings, Failure> {
        let target = self.resolve()?;
        if let Some(address) = self.sink {
            sink::start(address).map_err(failure)?;
        }
        let sources: Vec<IpAddr> = match self.source.as_slice() {
            [] => sources::usual(target.address.ip()),
            given => given.iter().flat_map(|source| source.0.clone()).collect(),
        };
        if sources
            .iter()
            .any(|ip| ip.is_ipv4() != target.address.is_ipv4())
        {
            return Err(Failure::asked_wrongly(format!(
                "--source: {} can only be called from addresses of its own kind, IPv4 or IPv6",
                target.address
            )));
        }
        let cpus = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Settings {
            target,
            tls: self.tls.settings(resume),
            devices: self.devices.settings()?,
            threads: self.threads.map_or_else(cpus, usize::from),
            sources,
            pids: self.pid.clone(),
            timeout: self.timeout,
            begin_on_line: self.begin_on_line,
        })
    }

    fn resolve(&self) -> Result<Target, Failure> {
        let shown = &self.target;
        let host = shown.rsplit_once(':').map(|(host, _)| host);
        let host = host.ok_or_else(|| {
            Failure::asked_wrongly(format!("{shown:?} is no HOST:PORT, as in localhost:8883"))
        })?;
        let address = shown.to_socket_addrs().map_err(|why| {
            Failure::asked_wrongly(format!(
                "{shown:?}: {why}; write HOST:PORT, as in localhost:8883"
            ))
        })?;
        // Loopback is both ::1 and 127.0.0.1; most servers listen on the second.
        let mut addresses: Vec<_> = address.collect();
        addresses.sort_by_key(|address| !address.is_ipv4());
        let address = *addresses
            .first()
            .ok_or_else(|| Failure::asked_wrongly(format!("{shown:?} has no address")))?;
        let name = self.tls.server_name.as_deref().unwrap_or(host);
        let name = name
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name = ServerName::try_from(name.clone()).map_err(|_| {
            Failure::asked_wrongly(format!("{name:?} is neither a DNS name nor an IP address"))
        })?;
        Ok(Target {
            shown: shown.clone(),
            address,
            name,
        })
    }

    /// Prints what was found, and what was typed for it. It was a success if any attempt was.
    fn show(&self, mut found: Found) -> Result<(), Failure> {
        let typed = ("command line", command_line(std::env::args_os().skip(1)));
        found.report.setup.insert(0, typed);
        let report = &found.report;
        if self.json {
            super::say(&format!("{}\n", json::json(report)));
        } else {
            super::say(&table::table(report));
        }
        if let Some(file) = &self.report {
            std::fs::write(file, html::html(report)).map_err(|why| {
                Failure::failed(format!("cannot write the report {}: {why}", file.display()))
            })?;
        }
        let mut err = std::io::stderr().lock();
        for (word, said) in found.examples.iter().filter(|(_, said)| !said.is_empty()) {
            let _ = writeln!(err, "tidegate: {word}, for example: {said}");
        }
        if report.succeeded > 0 {
            return Ok(());
        }
        Err(Failure::failed(format!(
            "none of {} attempts succeeded",
            report.attempts
        )))
    }
}

/// What was typed, as it can be typed again; how the program was called is left out: its path may be a private one.
fn command_line(arguments: impl Iterator<Item = OsString>) -> String {
    let arguments = arguments.map(|argument| shell(Path::new(&argument)));
    let words: Vec<_> = std::iter::once("tidegate".to_owned())
        .chain(arguments)
        .collect();
    words.join(" ")
}

fn failure(fault: Fault) -> Failure {
    match fault {
        Fault::Asked(sentence) => Failure::asked_wrongly(sentence),
        Fault::Failed(sentence) => Failure::failed(sentence),
    }
}

/// Tells on stderr how it goes.
struct Teller {
    live: Live<Stderr>,
    /// How long the run will take, where that is known.
    total: Option<Duration>,
}

impl Teller {
    fn new(total: Option<Duration>) -> Self {
        Self {
            live: Live::stderr(),
            total,
        }
    }
}

impl Listener for Teller {
    fn preparing(&mut self, done: usize, of: usize) {
        self.live.preparing(done, of);
    }

    fn priming(&mut self, done: usize, of: usize) {
        self.live.priming(done, of);
    }

    fn second(&mut self, pulse: &Pulse<'_>) {
        let errors = pulse.errors.values().sum::<u64>();
        self.live.show(&Now {
            elapsed: Duration::from_secs(u64::from(pulse.second.at) + 1),
            total: self.total,
            per_second: f64::from(u32::try_from(pulse.second.succeeded).unwrap_or(u32::MAX)),
            in_flight: pulse.attempts.saturating_sub(pulse.succeeded + errors),
            errors,
            p99_micros: pulse.second.p99_micros,
            max_micros: pulse.second.max_micros,
        });
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.live.finish();
    }
}

#[cfg(test)]
mod tests {
    use clap::Subcommand as _;

    use super::*;

    #[test]
    fn what_was_typed_can_be_typed_again() {
        let typed = [
            "bench",
            "relay",
            "h:1",
            "--retry=3",
            "--topic",
            "it's {device}",
        ];
        let told = command_line(typed.into_iter().map(OsString::from));
        let expected = r"tidegate bench relay h:1 --retry=3 --topic 'it'\''s {device}'";
        assert_eq!(told, expected);
    }

    #[test]
    fn each_command_tells_how_many_devices_it_has() {
        let mut bench = Command::augment_subcommands(clap::Command::new("bench"));
        let mut help = |name: &str| {
            let command = bench.find_subcommand_mut(name).expect(name);
            let help = command.render_help().to_string();
            help.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert!(help("handshake").contains("left out: 1000, or all of --device-dir"));
        for name in ["connections", "relay"] {
            assert!(help(name).contains("left out: one for each connection,"));
        }
    }
}
