//! The configuration in force, as TOML.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Config, broker, connect, listener, quantities, reader, registry, table, trust};
use crate::gate::{Farewell, ListenerSettings};
use crate::jwks;
use crate::registry::StoreSettings;
use crate::rules::policy::{Password, Unknown};
use crate::tls;
use crate::tls::server::Resumption;

impl Config {
    /// The configuration in force: every key, defaults included, paths absolute. Reading it gives the same
    /// configuration again. It holds no secrets: those stand in files, and their paths stand here.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        for listener in &self.gate.listeners {
            write_listener(&mut out, listener);
        }
        for group in &self.gate.trust {
            write_trust(&mut out, group);
        }
        self.write_devices(&mut out);
        if let Some(jwt) = &self.gate.token.jwt {
            write_jwt(&mut out, jwt);
        }
        self.write_connect(&mut out);
        self.write_rest(&mut out);
        out.trim_start().to_owned()
    }

    fn write_devices(&self, out: &mut String) {
        section(out, "[token]");
        let place = word(&registry::PLACES, &self.gate.token.place);
        set(out, "in", &text(place));
        let Some(settings) = &self.gate.registry else {
            return;
        };
        set(out, "key_file", &path(&settings.token_key));
        section(out, "[registry]");
        match &settings.directory.store {
            StoreSettings::Sqlite { path } => {
                set(out, "url", &text(&format!("sqlite://{}", path.display())));
            }
            StoreSettings::Postgres { url, password_file } => {
                set(out, "url", &text(url));
                if let Some(file) = password_file {
                    set(out, "password_file", &path(file));
                }
            }
        }
        set(
            out,
            "unknown",
            &text(registry::unknown_word(settings.unknown)),
        );
        if let Unknown::Register { quota, approval } = settings.unknown {
            set(out, "register_quota", &quota.to_string());
            set(out, "register_approval", &approval.to_string());
        }
        set(out, "grace", &duration(settings.directory.grace));
        let cache = u32::try_from(settings.directory.cache_bytes).unwrap_or(u32::MAX);
        set(out, "cache", &text(&quantities::write_size(cache)));
    }

    fn write_connect(&self, out: &mut String) {
        let settings = &self.gate.connect;
        section(out, "[connect]");
        set(out, "client_id", &text(&settings.client_id.to_string()));
        set(out, "username", &text(&settings.username.to_string()));
        match (&settings.password, &self.password_file) {
            (Password::Fixed(_), Some(file)) => set(out, "password_file", &path(file)),
            (Password::Devices, _) => set(out, "password", &text("{password}")),
            _ => set(out, "password", &text("")),
        }
        set(
            out,
            "asked_client_id",
            &text(word(&connect::ASKED, &settings.asked_client_id)),
        );
        let pairs: Vec<String> = settings
            .user_properties
            .iter()
            .map(|(name, value)| format!("{} = {}", key(name), text(&value.to_string())))
            .collect();
        let table = if pairs.is_empty() {
            "{}".to_owned()
        } else {
            format!("{{ {} }}", pairs.join(", "))
        };
        set(out, "user_properties", &table);
        let extra: String = ('!'..='~')
            .filter(|c| {
                self.gate.alphabet.holds(*c)
                    && !c.is_ascii_alphanumeric()
                    && !matches!(c, '.' | '_' | '-')
            })
            .collect();
        set(out, "extra_characters", &text(&extra));
    }

    fn write_rest(&self, out: &mut String) {
        let settings = &self.gate.broker;
        section(out, "[broker]");
        set(
            out,
            "addresses",
            &list(
                settings
                    .addresses
                    .iter()
                    .map(|address| text(&address.to_string())),
            ),
        );
        set(
            out,
            "balance",
            &text(word(&broker::BALANCES, &settings.balance)),
        );
        let sources = settings.source_addresses.iter();
        set(
            out,
            "source_addresses",
            &list(sources.map(|source| text(&source.to_string()))),
        );
        set(out, "dial_timeout", &duration(settings.dial_timeout));
        set(
            out,
            "allow_plaintext",
            if self.allow_plaintext {
                "true"
            } else {
                "false"
            },
        );
        set(
            out,
            "proxy_protocol",
            &text(word(&broker::PROXY_PROTOCOL, &settings.proxy_protocol)),
        );
        if let Some(tls) = &settings.tls {
            write_broker_tls(out, tls);
        }
        section(out, "[broker.health]");
        set(out, "interval", &duration(settings.health_interval));
        set(out, "probe", &text(word(&broker::PROBES, &settings.probe)));

        let limits = &self.gate.limits;
        section(out, "[limits]");
        set(out, "connections", &limits.connections.to_string());
        set(out, "handshakes", &limits.handshakes.to_string());
        set(
            out,
            "handshake_timeout",
            &duration(limits.handshake_timeout),
        );
        set(out, "connect_timeout", &duration(limits.connect_timeout));
        set(
            out,
            "connect_bytes",
            &text(&quantities::write_size(limits.connect_bytes)),
        );
        set(out, "drain_delay", &duration(limits.drain_delay));
        set(out, "drain_timeout", &duration(limits.drain_timeout));
        set(
            out,
            "connections_per_device",
            &limits.connections_per_device.to_string(),
        );
        set(
            out,
            "connections_per_address",
            &limits.connections_per_address.to_string(),
        );
        set(
            out,
            "accepts_per_address",
            &limits.accepts_per_address.to_string(),
        );

        self.write_drain(out);
        section(out, "[admin]");
        set(
            out,
            "bind",
            &text(
                &self
                    .admin
                    .as_ref()
                    .map_or("off".into(), |admin| admin.bind.to_string()),
            ),
        );
        if let Some(file) = &self.admin_token_file {
            set(out, "token_file", &path(file));
        }
        set(out, "allow_plaintext", &self.admin_plaintext.to_string());

        section(out, "[log]");
        set(
            out,
            "format",
            &text(word(&table::FORMATS, &self.log.format)),
        );
        set(out, "level", &text(word(&table::LEVELS, &self.log.level)));

        self.write_sandbox(out);
    }

    fn write_sandbox(&self, out: &mut String) {
        section(out, "[sandbox]");
        set(out, "mode", &text(word(&table::MODES, &self.sandbox.mode)));
        set(out, "read", &paths(&self.sandbox.read));
    }

    fn write_drain(&self, out: &mut String) {
        let farewell = &self.gate.farewell;
        let same =
            |known: &Farewell| std::mem::discriminant(known) == std::mem::discriminant(farewell);
        let word = table::FAREWELLS.iter().find(|(_, known)| same(known));
        section(out, "[drain]");
        set(out, "tell", &text(word.map_or("", |(word, _)| word)));
        if let Some(server) = farewell.server() {
            set(out, "server_reference", &text(&server.to_string()));
        }
    }
}

fn write_listener(out: &mut String, listener: &ListenerSettings) {
    section(out, "[[listener]]");
    set(out, "name", &text(&listener.name));
    set(
        out,
        "bind",
        &list(
            listener
                .bind
                .iter()
                .map(|address| text(&address.to_string())),
        ),
    );
    set(out, "mode", &text(listener.offer.word()));
    if listener.offer.asks_for_certificate() {
        set(
            out,
            "trust",
            &list(listener.trust.iter().map(|name| text(name))),
        );
    }
    let networks = listener.proxy_protocol_from.iter();
    set(
        out,
        "proxy_protocol_from",
        &list(networks.map(|network| text(&network.to_string()))),
    );
    let Some(tls) = &listener.tls else {
        return;
    };
    section(out, "[listener.tls]");
    set(out, "certificate", &path(&tls.certificate));
    set(out, "key", &path(&tls.key));
    let version = match tls.min_version {
        tls::server::MinVersion::Tls12 => "1.2",
        tls::server::MinVersion::Tls13 => "1.3",
    };
    set(out, "min_version", &text(version));
    let record = tls
        .max_record
        .and_then(|bytes| u32::try_from(bytes).ok())
        .unwrap_or(16 << 10);
    set(out, "max_record", &text(&quantities::write_size(record)));
    set(
        out,
        "alpn",
        &list(tls.alpn.iter().map(|protocol| text(protocol))),
    );
    let [off, tickets] = listener::RESUMPTION;
    match &tls.resumption {
        Resumption::Off => set(out, "resumption", &text(off)),
        Resumption::Tickets { secret_file } => {
            set(out, "resumption", &text(tickets));
            if let Some(file) = secret_file {
                set(out, "ticket_secret_file", &path(file));
            }
        }
    }
    for also in &tls.also {
        section(out, "[[listener.tls.also]]");
        set(
            out,
            "names",
            &list(also.names.iter().map(|name| text(name))),
        );
        set(out, "certificate", &path(&also.certificate));
        set(out, "key", &path(&also.key));
    }
}

fn write_broker_tls(out: &mut String, tls: &tls::client::Settings) {
    section(out, "[broker.tls]");
    set(out, "ca", &path(&tls.ca));
    if let Some(identity) = &tls.identity {
        set(out, "certificate", &path(&identity.certificate));
        set(out, "key", &path(&identity.key));
    }
    if let Some(name) = &tls.server_name {
        set(out, "server_name", &text(&name.to_str()));
    }
}

fn write_trust(out: &mut String, group: &tls::trust::Settings) {
    section(out, "[[trust]]");
    set(out, "name", &text(&group.name));
    set(out, "ca", &paths(&group.ca));
    set(out, "intermediates", &paths(&group.intermediates));
    set(out, "crl", &paths(&group.crl));
    set(
        out,
        "crl_stale",
        &text(word(&trust::STALE, &group.crl_stale)),
    );
    set(out, "device", &text(group.naming.field.word()));
    if let Some(pattern) = &group.naming.pattern {
        set(out, "pattern", &text(&pattern.to_string()));
    }
}

fn write_jwt(out: &mut String, jwt: &jwks::Settings) {
    section(out, "[token.jwt]");
    set(out, "keys", &text(&jwt.keys.to_string()));
    if let Some(ca) = &jwt.ca {
        set(out, "ca", &path(ca));
    }
    let tokens = &jwt.tokens;
    set(out, "issuer", &text(&tokens.issuer));
    set(out, "audience", &text(&tokens.audience));
    let words = tokens.algorithms.iter().map(|one| text(one.word()));
    set(out, "algorithms", &list(words));
    set(out, "device_claim", &text(&tokens.device_claim));
}

fn section(out: &mut String, header: &str) {
    out.push('\n');
    out.push_str(header);
    out.push('\n');
}

fn set(out: &mut String, key: &str, value: &str) {
    // Writing to a String never fails.
    let _ = writeln!(out, "{key} = {value}");
}

fn word<T: PartialEq>(words: &'static [(&'static str, T)], value: &T) -> &'static str {
    words
        .iter()
        .find(|(_, known)| known == value)
        .map_or("", |(word, _)| word)
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn duration(duration: Duration) -> String {
    text(&quantities::write_duration(duration))
}

fn paths(paths: &[PathBuf]) -> String {
    list(paths.iter().map(|file| path(file)))
}

fn path(path: &Path) -> String {
    text(&path.to_string_lossy())
}

fn key(name: &str) -> String {
    if reader::is_bare(name) {
        name.to_owned()
    } else {
        text(name)
    }
}

/// A basic string of one line.
fn text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\U{:08X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
