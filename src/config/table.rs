//! The small sections: `[limits]`, `[admin]`, `[log]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::fault::quoted;
use super::quantities::Bounds;
use super::reader::Section;
use crate::observe::logging::{self, Format};
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
/// 256 MiB is the largest packet of MQTT (3.1.1 §2.2.3, 5.0 §1.5.5).
const CONNECT_BYTES: Bounds<u32> = Bounds {
    least: 64,
    most: 256 << 20,
    default: 16 << 10,
};

/// `[limits]`
pub(super) fn limits(mut section: Section<'_>) -> gate::Limits {
    let mut duration = |key, bounds: Bounds<_>| section.duration(key, bounds).or(bounds.default);
    let handshake_timeout = duration("handshake_timeout", DEADLINE);
    let connect_timeout = duration("connect_timeout", DEADLINE);
    let drain_timeout = duration("drain_timeout", DRAIN);
    let mut number = |key, bounds: Bounds<_>| section.number(key, bounds).or(bounds.default);
    let connections = number("connections", CONNECTIONS);
    let handshakes = number("handshakes", HANDSHAKES);
    let connections_per_device = number("connections_per_device", PER_DEVICE);
    let connect_bytes = section
        .size("connect_bytes", CONNECT_BYTES)
        .or(CONNECT_BYTES.default);
    section.finish();
    gate::Limits {
        connections,
        handshakes,
        handshake_timeout,
        connect_timeout,
        connect_bytes,
        drain_timeout,
        connections_per_device,
    }
}

/// `[admin]`; `None`: off. The section too, for checks against the listeners.
pub(super) fn admin(mut section: Section<'_>) -> (Option<admin::Settings>, Section<'_>) {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 9883));
    let read = |text: &str| match text {
        "off" => Ok(None),
        _ => socket_address(text, 9883).map(Some),
    };
    let bind = section
        .parsed("bind", "127.0.0.1:9883", read)
        .or(Some(default));
    section.finish();
    if let Some(bind) = bind.filter(|bind| !bind.ip().to_canonical().is_loopback()) {
        section.warn(
            "bind",
            &format!("{bind} can be reached from other hosts, and /metrics, /livez and /readyz are open to whoever asks; keep devices away from it"),
        );
    }
    (bind.map(|bind| admin::Settings { bind }), section)
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
