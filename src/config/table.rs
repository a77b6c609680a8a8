//! The small sections: `[limits]`, `[drain]`, `[admin]`, `[log]`, `[sandbox]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fault::quoted;
use super::quantities::Bounds;
use super::reader::{Got, Section};
use super::secret;
use crate::gate::{Farewell, Server};
use crate::observe::logging::{self, Format};
use crate::sandbox::{self, Mode};
use crate::{admin, gate};

/// Shorter than 10 ms no handshake is over on any network; longer than an hour a deadline protects nothing.
const DEADLINE: Bounds<Duration> = Bounds {
    least: Duration::from_millis(10),
    most: Duration::from_hours(1),
    default: Duration::from_secs(10),
};
const DRAIN: Bounds<Duration> = Bounds {
    least: Duration::ZERO,
    most: Duration::from_hours(24),
    default: Duration::from_secs(30),
};
/// Longer than an hour nobody takes to notice.
const DRAIN_DELAY: Bounds<Duration> = Bounds {
    least: Duration::ZERO,
    most: Duration::from_hours(1),
    default: Duration::ZERO,
};
const CONNECTIONS: Bounds<u32> = Bounds {
    least: 1,
    most: 10_000_000,
    default: 100_000,
};
const HANDSHAKES: Bounds<u32> = Bounds {
    least: 0,
    most: 1_000_000,
    default: 0,
};
const PER_DEVICE: Bounds<u32> = Bounds {
    least: 0,
    most: 1_000_000,
    default: 0,
};
/// A second divides into a billion nanoseconds; so many devices behind one address are nobody's.
const PER_ADDRESS: Bounds<u32> = Bounds {
    least: 0,
    most: 1_000_000,
    default: 0,
};
/// 256 MiB is the largest packet of MQTT (3.1.1 §2.2.3, 5.0 §1.5.5).
const CONNECT_BYTES: Bounds<u32> = Bounds {
    least: 64,
    most: 256 << 20,
    default: 16 << 10,
};

/// `[limits]`, and whether somebody wrote its `connections`.
pub(super) fn limits(mut section: Section<'_>) -> (gate::Limits, bool) {
    let mut duration = |key, bounds: Bounds<_>| section.duration(key, bounds).or(bounds.default);
    let handshake_timeout = duration("handshake_timeout", DEADLINE);
    let connect_timeout = duration("connect_timeout", DEADLINE);
    let drain_delay = duration("drain_delay", DRAIN_DELAY);
    let drain_timeout = duration("drain_timeout", DRAIN);
    let mut number = |key, bounds: Bounds<_>| section.number(key, bounds).or(bounds.default);
    let connections = number("connections", CONNECTIONS);
    let handshakes = number("handshakes", HANDSHAKES);
    let connections_per_device = number("connections_per_device", PER_DEVICE);
    let connections_per_address = number("connections_per_address", PER_ADDRESS);
    let accepts_per_address = number("accepts_per_address", PER_ADDRESS);
    let connect_bytes = section
        .size("connect_bytes", CONNECT_BYTES)
        .or(CONNECT_BYTES.default);
    warn_of_descriptors(&section, connections);
    let connections_written = section.wrote("connections");
    section.finish();
    let limits = gate::Limits {
        connections,
        handshakes,
        handshake_timeout,
        connect_timeout,
        connect_bytes,
        drain_delay,
        drain_timeout,
        connections_per_device,
        connections_per_address,
        accepts_per_address,
    };
    (limits, connections_written)
}

/// `[drain]`
pub(super) fn drain(mut section: Section<'_>) -> Farewell {
    let words = FAREWELLS.map(|(word, _)| word);
    let told = |word: &str| {
        let known = FAREWELLS.iter().find(|(known, _)| *known == word);
        known.map(|(_, farewell)| farewell.clone())
    };
    let farewell = section
        .word("tell", &words, told)
        .or(Farewell::ShuttingDown);
    let server = section.parsed("server_reference", "gate-2.example.net:8883", |text| {
        let way_out = "name servers with a space between them, each with a port or without: \"gate-2.example.net:8883\", \"192.0.2.1\", \"[2001:db8::1]:8883\"";
        text.parse::<Server>().map_err(|fault| (fault.to_string(), way_out.to_owned()))
    });
    let server = server.good();
    if farewell == Farewell::ShuttingDown && server.is_some() {
        section.fault(
            "server_reference",
            "has no place in what is told: a server that shuts down names no other (MQTT 5.0 §3.14.2.2.5)",
            "write tell = \"use-another-server\" or \"server-moved\", or leave it out",
        );
    }
    section.finish();
    match farewell {
        Farewell::ShuttingDown => farewell,
        Farewell::UseAnother(_) => Farewell::UseAnother(server),
        Farewell::Moved(_) => Farewell::Moved(server),
    }
}

/// The words of `drain.tell`.
pub(super) const FAREWELLS: [(&str, Farewell); 3] = [
    ("server-shutting-down", Farewell::ShuttingDown),
    ("use-another-server", Farewell::UseAnother(None)),
    ("server-moved", Farewell::Moved(None)),
];

/// Descriptors that a gate of a few cores and listeners has open before the first device comes.
const AT_REST: u64 = 64;

/// That many connections are more than the host lets a process have: `run` raises its soft limit to the hard one, no further.
/// What nobody wrote is not warned of: then the gate takes what there is.
fn warn_of_descriptors(section: &Section<'_>, connections: u32) {
    use rustix::process::{Resource, getrlimit};
    let Some(allowed) = getrlimit(Resource::Nofile).maximum else {
        return;
    };
    let places = gate::places(allowed, AT_REST);
    if section.wrote("connections") && connections > places {
        section.warn(
            "connections",
            &format!(
                "{connections} connections need two file descriptors each, and a process started here may have {allowed}, enough for some \
                 {places}: more devices are turned away (out_of_descriptors); raise the hard limit (LimitNOFILE=, ulimit -Hn), or write a lower number"
            ),
        );
    }
}

/// `[admin]` as far as it could be read.
pub(super) struct Admin<'n> {
    /// `None`: off.
    pub(super) bind: Option<SocketAddr>,
    pub(super) token_file: Option<PathBuf>,
    /// `None`: faulty.
    plaintext: Option<bool>,
    /// For checks against the listeners.
    pub(super) section: Section<'n>,
}

/// Reads `[admin]`, but not the token.
pub(super) fn admin(mut section: Section<'_>) -> Admin<'_> {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 9883));
    let read = |text: &str| match text {
        "off" => Ok(None),
        _ => socket_address(text, 9883).map(Some),
    };
    let bind = section
        .parsed("bind", "127.0.0.1:9883", read)
        .or(Some(default));
    let token_file = section.path("token_file", "admin.token").good();
    let plaintext = match section.boolean("allow_plaintext") {
        Got::Faulty => None,
        got => Some(got.or(false)),
    };
    section.finish();
    Admin {
        bind,
        token_file,
        plaintext,
        section,
    }
}

impl Admin<'_> {
    /// `admin.allow_plaintext`
    pub(super) fn allow_plaintext(&self) -> bool {
        self.plaintext.unwrap_or(false)
    }

    /// Reads the token, and tells who could read or overhear it.
    pub(super) fn settings(&self) -> Option<admin::Settings> {
        let section = &self.section;
        let Some(bind) = self.bind else {
            if self.token_file.is_some() {
                section.warn("token_file", "has no effect with bind = \"off\"");
            }
            return None;
        };
        let file = self.token_file.as_deref();
        let token = file.and_then(|file| read_token(section, file));
        if !bind.ip().to_canonical().is_loopback() {
            section.warn(
                "bind",
                &format!("{bind} can be reached from other hosts, and /metrics, /livez and /readyz are open to whoever asks; keep devices away from it"),
            );
            if file.is_some() {
                self.judge_plaintext(bind);
            }
        }
        Some(admin::Settings { bind, token })
    }
}

impl Admin<'_> {
    /// Whoever overhears the token can add, change and remove every device (threats.md N2).
    fn judge_plaintext(&self, bind: SocketAddr) {
        let what = format!(
            "{bind} can be reached from other hosts, and the token would cross the network in the clear"
        );
        match self.plaintext {
            None => {}
            Some(true) => self.section.warn(
                "token_file",
                &format!("{what}; nobody else may listen on that network"),
            ),
            Some(false) => self.section.fault(
                "token_file",
                what,
                "bind to 127.0.0.1 and let a tunnel or a proxy with TLS lead there, or write admin.allow_plaintext = true if nobody else can listen on that network",
            ),
        }
    }
}

fn read_token(section: &Section<'_>, file: &Path) -> Option<admin::Token> {
    let key = "token_file";
    let text = secret::read(section, key, file, 1 << 16)?;
    match admin::Token::new(&text) {
        Ok(token) => {
            secret::warn_of_readers(section, key, file);
            Some(token)
        }
        Err((what, way_out)) => {
            section.fault(key, format!("{} {what}", file.display()), way_out);
            None
        }
    }
}

/// `[log]`
pub(super) fn log(mut section: Section<'_>) -> logging::Settings {
    let format = |word: &str| {
        FORMATS
            .iter()
            .find(|(known, _)| *known == word)
            .map(|(_, format)| *format)
    };
    let level = |word: &str| {
        LEVELS
            .iter()
            .find(|(known, _)| *known == word)
            .map(|(_, level)| *level)
    };
    let settings = logging::Settings {
        format: section
            .word("format", &FORMATS.map(|(word, _)| word), format)
            .or(Format::Auto),
        level: section
            .word("level", &LEVELS.map(|(word, _)| word), level)
            .or(tracing::Level::INFO),
    };
    section.finish();
    settings
}

/// `[sandbox]`
pub(super) fn sandbox(mut section: Section<'_>) -> sandbox::Settings {
    let mode = |word: &str| {
        let known = MODES.iter().find(|(known, _)| *known == word);
        known.map(|(_, mode)| *mode)
    };
    let settings = sandbox::Settings {
        mode: section
            .word("mode", &MODES.map(|(word, _)| word), mode)
            .or(Mode::Auto),
        read: section.paths("read", "/srv/certificates").or(Vec::new()),
    };
    section.finish();
    settings
}

/// The words of `sandbox.mode`.
pub(super) const MODES: [(&str, Mode); 3] = [
    ("auto", Mode::Auto),
    ("required", Mode::Required),
    ("off", Mode::Off),
];

/// The words of `log.format`.
pub(super) const FORMATS: [(&str, Format); 3] = [
    ("auto", Format::Auto),
    ("text", Format::Text),
    ("json", Format::Json),
];

/// The words of `log.level`.
pub(super) const LEVELS: [(&str, tracing::Level); 5] = [
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];

/// Reads `ip:port`; the port of the example in the way out is `port`.
pub(super) fn socket_address(text: &str, port: u16) -> Result<SocketAddr, (String, String)> {
    text.parse().map_err(|_| {
        let what = format!("{} is no IP address and port", quoted(text));
        let way_out = format!("write 127.0.0.1:{port}, 0.0.0.0:{port} (every IPv4 address of this host) or [::]:{port}");
        (what, way_out)
    })
}
