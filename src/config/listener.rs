//! `[[listener]]` and `[listener.tls]`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::fault::quoted;
use super::networks;
use super::quantities::Bounds;
use super::reader::{Got, Notes, Section, is_label, nearest};
use super::secret::warn_of_readers;
use super::table::socket_address;
use super::trust::Group;
use crate::gate::ListenerSettings;
use crate::rules::device::{Mode, Offer};
use crate::tls::server::{Also, MinVersion, Resumption, Settings as Tls};

/// A listener as far as it could be read.
pub(super) struct Draft<'n> {
    pub(super) section: Section<'n>,
    name: String,
    /// Each address with the key that faults name it by.
    bind: Vec<(String, SocketAddr)>,
    /// `None`: the mode is faulty, and what depends on it is not judged.
    offer: Option<Offer>,
    tls: Option<Tls>,
    /// `None`: every group counts.
    trust: Option<Vec<(String, String)>>,
    counting: Vec<String>,
    proxies: Vec<IpNet>,
    /// Whether anything in it is wrong.
    faulty: bool,
}

/// Reads every `[[listener]]` by itself.
pub(super) fn read<'n>(sections: Vec<Section<'n>>, notes: &Notes) -> Vec<Draft<'n>> {
    let read = |section| {
        let before = notes.fault_count();
        let mut draft = read_one(section);
        draft.faulty = notes.fault_count() > before;
        draft
    };
    sections.into_iter().map(read).collect()
}

fn read_one(mut section: Section<'_>) -> Draft<'_> {
    let name = section
        .parsed("name", "devices", label)
        .or("default".into());
    let bind = read_bind(&mut section);
    // Left out, the strictest: a listener is never open because a line was forgotten (threats.md K3).
    let offer = match section.word("mode", &Offer::WORDS, Offer::from_word) {
        Got::Absent => Some(Offer::Only(Mode::MutualTls)),
        got => got.good(),
    };
    let trust = match section.texts("trust", "fleet") {
        Got::Absent => None,
        got => Some(got.or(Vec::new())),
    };
    let proxies = networks::read(&mut section, "proxy_protocol_from");
    warn_of_everybody(&section, &proxies);
    let tls = section.section("tls");
    let written = !tls.is_empty();
    let tls = match offer {
        Some(offer) if !offer.is_tls() => {
            if written {
                section.fault(
                    "tls",
                    "has no place on a plain listener",
                    "remove it, or choose a TLS mode",
                );
            }
            let _ = read_tls(tls, false);
            None
        }
        Some(_) => read_tls(tls, true),
        None => read_tls(tls, false),
    };
    section.finish();
    Draft {
        section,
        name,
        bind,
        offer,
        tls,
        trust,
        counting: Vec::new(),
        proxies,
        faulty: false,
    }
}

/// A balancer's word on addresses is believed, and limits and names may rest on it.
fn warn_of_everybody(section: &Section<'_>, proxies: &[IpNet]) {
    for wide in proxies.iter().filter(|network| is_wide(network)) {
        let whoever = match wide.prefix_len() {
            0 => "whoever reaches this listener",
            _ => "whoever reaches this listener from there",
        };
        let sentence = format!(
            "{wide} lets {whoever} call itself by any address; name the networks of the balancers, unless a firewall lets nobody \
             else in"
        );
        section.warn("proxy_protocol_from", &sentence);
    }
}

/// Whether no one's own network is as large: 10.0.0.0/8 is the largest private one of IPv4 (RFC 1918); of IPv6, fc00::/7
/// (RFC 4193), and nobody has a /16 of the rest.
fn is_wide(network: &IpNet) -> bool {
    match network {
        IpNet::V4(network) => network.prefix_len() < 8,
        IpNet::V6(network) => {
            let is_private = network.prefix_len() >= 7 && network.addr().is_unique_local();
            network.prefix_len() < 16 && !is_private
        }
    }
}

/// Reads the name of a listener or a trust group: it is a label of metrics and a word of templates.
pub(super) fn label(text: &str) -> Result<String, (String, String)> {
    if is_label(text) {
        return Ok(text.to_owned());
    }
    let what = format!("{} is not 1 to 64 of A–Z a–z 0–9 . _ -", quoted(text));
    Err((what, "write a plain word, such as devices".into()))
}

fn read_bind(section: &mut Section<'_>) -> Vec<(String, SocketAddr)> {
    let texts = match section.texts("bind", "0.0.0.0:8883") {
        Got::Good(texts) if !texts.is_empty() => texts,
        Got::Faulty => return Vec::new(),
        Got::Absent | Got::Good(_) => {
            section.fault(
                "bind",
                "is missing",
                "write bind = \"0.0.0.0:8883\", or use --listen",
            );
            return Vec::new();
        }
    };
    let mut addresses = Vec::new();
    for (key, text) in texts {
        match socket_address(&text, 8883) {
            Ok(address) => addresses.push((key, address)),
            Err((what, way_out)) => section.fault(&key, what, way_out),
        }
    }
    addresses
}

/// The largest TLS record there is, in bytes of plaintext (RFC 8446 §5.1).
const FULL_RECORD: u32 = 16 << 10;
const RECORD: Bounds<u32> = Bounds {
    least: 512,
    most: FULL_RECORD,
    default: FULL_RECORD,
};

fn read_tls(mut section: Section<'_>, needed: bool) -> Option<Tls> {
    let certificate = file(
        &mut section,
        "certificate",
        "server.pem",
        needed.then_some(", or use --certificate"),
    );
    let key = file(
        &mut section,
        "key",
        "server.key",
        needed.then_some(", or use --key"),
    );
    if let Some(key) = &key {
        warn_of_readers(&section, "key", key);
    }
    let min_version = |word: &str| match word {
        "1.2" => Some(MinVersion::Tls12),
        "1.3" => Some(MinVersion::Tls13),
        _ => None,
    };
    let min_version = section
        .word("min_version", &["1.2", "1.3"], min_version)
        .or(MinVersion::Tls12);
    let max_record = section.size("max_record", RECORD).or(FULL_RECORD);
    let alpn = read_alpn(&mut section);
    let resumption = read_resumption(&mut section);
    let mut names = BTreeSet::new();
    let also = section
        .sections("also")
        .into_iter()
        .map(|also| read_also(also, &mut names))
        .collect::<Vec<_>>();
    section.finish();
    Some(Tls {
        certificate: certificate?,
        key: key?,
        min_version,
        max_record: usize::try_from(max_record)
            .ok()
            .filter(|_| max_record < FULL_RECORD),
        alpn,
        also: also.into_iter().collect::<Option<_>>()?,
        resumption,
    })
}

/// The words of `resumption`.
pub(super) const RESUMPTION: [&str; 2] = ["off", "tickets"];

fn read_resumption(section: &mut Section<'_>) -> Resumption {
    let tickets = |word: &str| RESUMPTION.iter().position(|known| *known == word);
    let by_tickets = section.word("resumption", &RESUMPTION, tickets).or(0) == 1;
    let secret_file = section.path("ticket_secret_file", "ticket.secret").good();
    match (by_tickets, secret_file) {
        (true, secret_file) => {
            if let Some(secret) = &secret_file {
                warn_of_readers(section, "ticket_secret_file", secret);
            }
            if !section.wrote("ticket_secret_file") {
                let sentence = "tickets by a secret of each start's own: no other replica takes them, nor this one once it has \
                                started anew; give all the same ticket_secret_file";
                section.warn("resumption", sentence);
            }
            Resumption::Tickets { secret_file }
        }
        (false, Some(_)) => {
            let sentence = "has no effect: resumption is not \"tickets\"";
            section.warn("ticket_secret_file", sentence);
            Resumption::Off
        }
        (false, None) => Resumption::Off,
    }
}

/// A file that must be named; `or` ends the way out. `None`: it may be missing here.
pub(super) fn file(
    section: &mut Section<'_>,
    key: &str,
    example: &str,
    or: Option<&str>,
) -> Option<PathBuf> {
    match section.path(key, example) {
        Got::Good(path) => return Some(path),
        Got::Faulty => {}
        Got::Absent => {
            if let Some(or) = or {
                section.fault(key, "is missing", format!("write {key} = {example:?}{or}"));
            }
        }
    }
    None
}

fn read_alpn(section: &mut Section<'_>) -> Vec<String> {
    let mut protocols: Vec<String> = Vec::new();
    for (key, protocol) in section.texts("alpn", "mqtt").or(Vec::new()) {
        // RFC 7301 §3.1: 1 to 255 bytes.
        if !(1..=255).contains(&protocol.len()) {
            section.fault(
                &key,
                "is not 1 to 255 bytes long",
                "write a protocol such as \"mqtt\" (RFC 7301)",
            );
        } else if protocols.contains(&protocol) {
            section.fault(
                &key,
                format!("{} is there twice", quoted(&protocol)),
                "write it once",
            );
        } else {
            protocols.push(protocol);
        }
    }
    protocols
}

fn read_also(mut section: Section<'_>, taken: &mut BTreeSet<String>) -> Option<Also> {
    let mut names = Vec::new();
    for (key, name) in section.texts("names", "eu.example.net").or(Vec::new()) {
        let lower = name.to_ascii_lowercase();
        if !is_server_name(&lower) {
            let way_out = "write a host name such as eu.example.net or *.example.net (no IP address: SNI holds none; other scripts as xn--…)";
            section.fault(
                &key,
                format!("{} is no server name", quoted(&name)),
                way_out,
            );
        } else if taken.insert(lower.clone()) {
            names.push(lower);
        } else {
            let way_out =
                "one name has one certificate here; a second for the same name goes without names";
            section.fault(&key, format!("{} is there twice", quoted(&name)), way_out);
        }
    }
    let certificate = file(&mut section, "certificate", "eu.pem", Some(""));
    let key = file(&mut section, "key", "eu.key", Some(""));
    if let Some(key) = &key {
        warn_of_readers(&section, "key", key);
    }
    section.finish();
    Some(Also {
        names,
        certificate: certificate?,
        key: key?,
    })
}

/// A name that SNI may hold (RFC 6066 §3), in lower case; `*.` stands for one label.
fn is_server_name(name: &str) -> bool {
    let name = name.strip_prefix("*.").unwrap_or(name);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label) && name.parse::<std::net::IpAddr>().is_err()
}

/// By what devices can be known, beside the certificates of trust groups.
#[derive(Clone, Copy)]
pub(super) struct KnownBy {
    /// There is a registry: pins and opaque tokens.
    pub(super) registry: bool,
    /// There is an issuer of JWTs.
    pub(super) issuer: bool,
}

/// The checks that need every listener and every trust group, and whether any token can be known.
pub(super) fn check_together(listeners: &mut [Draft<'_>], groups: &[Group], by: KnownBy) {
    for i in 0..listeners.len() {
        let (before, rest) = listeners.split_at_mut(i);
        let this = &mut rest[0];
        let faulty = check_name(this, before)
            | check_addresses(this, before)
            | check_trust(this, groups, by);
        this.faulty |= faulty;
    }
    for group in groups {
        let used = |listener: &Draft<'_>| {
            listener.offer.is_none() || listener.counting.contains(&group.name)
        };
        if !listeners.iter().any(used) {
            group.section.warn(
                "name",
                "no listener that asks for certificates names this group; it has no effect",
            );
        }
    }
}

/// The trust groups that count at any of `listeners`, by name.
pub(super) fn counting<'a>(listeners: &'a [Draft<'_>]) -> BTreeSet<&'a str> {
    let names = listeners.iter().flat_map(|listener| &listener.counting);
    names.map(String::as_str).collect()
}

/// Each check tells whether it noted a fault.
fn check_name(this: &Draft<'_>, before: &[Draft<'_>]) -> bool {
    let Some(other) = before.iter().find(|other| other.name == this.name) else {
        return false;
    };
    let what = format!(
        "{:?} is the name of {} too",
        this.name,
        other.section.name_of("name")
    );
    this.section
        .fault("name", what, "give each listener a name of its own");
    true
}

fn check_addresses(this: &Draft<'_>, before: &[Draft<'_>]) -> bool {
    let mut faulty = false;
    for (i, (key, address)) in this.bind.iter().enumerate() {
        let own = this.bind[..i].iter().map(|bind| (this, bind));
        let others = before
            .iter()
            .flat_map(|other| other.bind.iter().map(move |bind| (other, bind)));
        let twin = own
            .chain(others)
            .find(|(_, (_, other))| overlap(*address, *other));
        if let Some((other, (other_key, taken))) = twin {
            let taker = other.section.name_of(other_key);
            let what = if address == taken {
                format!("{address} is the address of {taker} too")
            } else {
                format!("{address} overlaps with {taken} of {taker}")
            };
            this.section.fault(
                key,
                what,
                "give each its own address or port (port 0 takes a free one)",
            );
            faulty = true;
        }
    }
    faulty
}

/// Whether a connection to one could be meant for the other: `0.0.0.0` is every IPv4 address of this host, `[::]` every IPv6
/// one. A listener for all and another for one address would take each other's devices, with other rules.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (one, other) = (a.ip().to_canonical(), b.ip().to_canonical());
    let every = one.is_unspecified() || other.is_unspecified();
    a.port() != 0
        && a.port() == b.port()
        && (one == other || every && one.is_ipv4() == other.is_ipv4())
}

fn check_trust(this: &mut Draft<'_>, groups: &[Group], by: KnownBy) -> bool {
    let mut faulty = false;
    let all = || groups.iter().map(|group| group.name.clone());
    let mut counting: Vec<String> = Vec::new();
    for (key, name) in this.trust.iter().flatten() {
        if !all().any(|known| known == *name) {
            let known: Vec<String> = all().collect();
            let near = nearest(name, known.iter().map(String::as_str));
            let way_out = match (near, known.is_empty()) {
                (Some(near), _) => format!("did you mean {near:?}?"),
                (None, true) => format!("write a [[trust]] with name = {}", quoted(name)),
                (None, false) => format!("there are {}", known.join(", ")),
            };
            this.section.fault(
                key,
                format!("there is no trust group {}", quoted(name)),
                way_out,
            );
            faulty = true;
        } else if counting.contains(name) {
            this.section
                .fault(key, format!("{name:?} is there twice"), "write it once");
            faulty = true;
        } else {
            counting.push(name.clone());
        }
    }
    match this.offer {
        Some(offer) if offer.asks_for_certificate() => {
            if this.trust.is_none() {
                counting = all().collect();
            }
            // A name that is unknown, or a trust that is no list, is told already.
            if counting.is_empty() && !by.registry && !faulty && !this.faulty {
                let what = format!(
                    "{} needs a trust group to judge certificates by",
                    offer.word()
                );
                this.section.fault(
                    "trust",
                    what,
                    "write a [[trust]] with ca = [\"devices-ca.pem\"], or use --client-ca; with a [registry], pinned certificates need none",
                );
                faulty = true;
            }
            this.counting = counting;
        }
        Some(offer) => {
            if this.trust.as_ref().is_some_and(|trust| !trust.is_empty()) {
                let sentence = format!("has no effect: {} asks for no certificate", offer.word());
                this.section.warn("trust", &sentence);
            }
            if !by.registry && !by.issuer {
                let sentence = format!(
                    "a device in {} is known by its token, and without [registry] or [token.jwt] no token is known: every device is refused here",
                    offer.word()
                );
                this.section.warn("mode", &sentence);
            }
        }
        None => {}
    }
    faulty
}

impl Draft<'_> {
    /// What the gate obeys; `None`, if anything in it is wrong.
    pub(super) fn good(&self) -> Option<ListenerSettings> {
        let offer = self.offer?;
        (!self.faulty).then(|| ListenerSettings {
            name: self.name.as_str().into(),
            bind: self.bind.iter().map(|(_, address)| *address).collect(),
            offer,
            tls: self.tls.clone(),
            trust: self.counting.clone(),
            proxy_protocol_from: self.proxies.clone(),
        })
    }

    /// Its `bind`, as faults name it.
    pub(super) fn bind_name(&self) -> String {
        self.section.name_of("bind")
    }

    /// Whether it listens where `address` would.
    pub(super) fn listens_at(&self, address: SocketAddr) -> bool {
        self.bind.iter().any(|(_, own)| overlap(*own, address))
    }
}
