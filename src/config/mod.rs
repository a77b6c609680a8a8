//! Configuration: what the operator wrote → what the gate obeys, checked once.
//!
//! File, environment and flags are laid over each other ([`Source`]: flags > environment > file > default) and read by
//! a reader that goes on after a fault, so that every fault is told at once, by its key, with the way out. The reference of
//! every key is docs/configuration.md.

mod broker;
mod broker_tls;
mod connect;
mod fault;
mod inforce;
mod jwt;
mod listener;
mod needs;
mod networks;
mod node;
mod quantities;
mod reader;
mod registry;
mod secret;
mod source;
mod table;
mod trust;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use fault::{Fault, Origin};
pub use needs::files;
pub use source::{Flags, Source};

use crate::observe::logging;
use crate::rules::device::Alphabet;
use crate::rules::record::ISSUER;
use crate::{admin, gate, jwks, sandbox, tls};
use node::Fields;
use reader::{Notes, Section};

/// A configuration without a fault.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the gate obeys.
    pub gate: gate::Settings,
    /// HTTP for operators; `None`: `admin.bind = "off"`.
    pub admin: Option<admin::Settings>,
    /// How logs are written.
    pub log: logging::Settings,
    /// What the gate keeps itself from.
    pub sandbox: sandbox::Settings,
    /// What works, but an operator should look at: sentences that begin with the key.
    pub warnings: Vec<String>,
    /// Somebody wrote `limits.connections`, be it the default: then it is a wish.
    pub connections_written: bool,
    /// `broker.allow_plaintext`, for [`Config::to_toml`].
    allow_plaintext: bool,
    /// `connect.password_file`, for [`Config::to_toml`]; the gate has what was in it.
    password_file: Option<PathBuf>,
    /// `admin.token_file`, likewise.
    admin_token_file: Option<PathBuf>,
    /// `admin.allow_plaintext`, likewise.
    admin_plaintext: bool,
}

impl Config {
    /// Every file that it was read from, and that it names: what they hold is what it is.
    pub fn files(&self, source: &Source) -> BTreeSet<PathBuf> {
        let mut files = self.gate.files();
        files.extend(source.path.clone());
        files.extend(self.password_file.clone());
        files.extend(self.admin_token_file.clone());
        files
    }

    /// The files whose secrets were read with it, each with its key.
    pub fn secret_files(&self) -> Vec<(&'static str, &Path)> {
        let all = [
            ("connect.password_file", self.password_file.as_deref()),
            ("admin.token_file", self.admin_token_file.as_deref()),
        ];
        let named = all.into_iter().filter_map(|(key, file)| Some((key, file?)));
        named.collect()
    }
}

/// All that can be said of a source, faulty or not.
#[derive(Debug)]
pub(crate) struct Examined {
    /// Every fault.
    pub(crate) faults: Vec<Fault>,
    /// What works, but an operator should look at.
    pub(crate) warnings: Vec<String>,
    /// The trust groups in which nothing is wrong.
    pub(crate) trust: Vec<tls::trust::Settings>,
    /// The listeners in which nothing is wrong.
    pub(crate) listeners: Vec<gate::ListenerSettings>,
    /// `[token.jwt]`, if it is there and nothing is wrong in it.
    pub(crate) jwt: Option<jwks::Settings>,
    /// `[broker.tls]`, if a broker is spoken to in TLS and nothing is wrong in it.
    pub(crate) broker_tls: Option<tls::client::Settings>,
    /// The registry, if there is one in which nothing is wrong.
    pub(crate) registry: Option<gate::RegistrySettings>,
    /// The alphabet of device ids.
    pub(crate) alphabet: Alphabet,
    /// Every file that it names.
    pub(crate) files: Vec<PathBuf>,
    /// The whole; there, if and only if there are no faults.
    pub(crate) config: Option<Config>,
}

/// Reads a configuration.
///
/// # Errors
/// Every fault, in the order of the sections in docs/configuration.md. If the file itself cannot be read or is not
/// TOML, only that is told: what seems missing may well stand in it.
pub fn load(source: &Source) -> Result<Config, Vec<Fault>> {
    let examined = examine(source);
    examined.config.ok_or(examined.faults)
}

/// Where the admin port is, and the file with its token.
#[derive(Clone, Debug)]
pub struct AdminPort {
    /// `None`: it is off.
    pub bind: Option<SocketAddr>,
    /// `None`: `/v1` is off.
    pub token_file: Option<PathBuf>,
}

/// Reads `[admin]` alone, for a health check that must work beside any gate; `None`: it is off.
///
/// # Errors
/// The faults of `[admin]`, and of the file if it cannot be read.
pub fn admin_address(source: &Source) -> Result<Option<SocketAddr>, Vec<Fault>> {
    admin_port(source).map(|admin| admin.bind)
}

/// Reads `[admin]` alone, for commands that ask a running gate; the token itself is not read.
///
/// # Errors
/// The faults of `[admin]`, and of the file if it cannot be read.
pub fn admin_port(source: &Source) -> Result<AdminPort, Vec<Fault>> {
    let mut written = source::read(source);
    let notes = Notes::default();
    let mut whole = Section::whole(std::mem::take(&mut written.fields), &notes);
    let admin = table::admin(whole.section("admin"));
    let mut faults = if written.readable {
        Vec::new()
    } else {
        written.faults
    };
    faults.extend(notes.take_faults());
    if faults.is_empty() {
        Ok(AdminPort {
            bind: admin.bind,
            token_file: admin.token_file,
        })
    } else {
        Err(faults)
    }
}

/// What commands for devices need of a configuration.
#[derive(Clone, Debug)]
pub struct Devices {
    /// `[registry]`, if there is one.
    pub registry: Option<gate::RegistrySettings>,
    /// Every trust group.
    pub trust: Vec<tls::trust::Settings>,
    /// The alphabet of device ids.
    pub alphabet: Alphabet,
}

/// Reads what commands for devices need: they may be typed where there is no gate, by somebody who cannot read its secrets.
///
/// # Errors
/// The faults, but for those that only a gate has to do with.
pub fn devices(source: &Source) -> Result<Devices, Vec<Fault>> {
    const OF_THE_GATE: [&str; 7] = [
        "listener", "broker", "limits", "drain", "admin", "log", "sandbox",
    ];
    let Examined {
        mut faults,
        mut trust,
        registry,
        alphabet,
        ..
    } = examine(source);
    faults.retain(|fault| {
        let section = fault.key.split(['.', '[']).next().unwrap_or_default();
        !OF_THE_GATE.contains(&section) && fault.key != "connect.password_file"
    });
    trust.push(tls::trust::Settings::issuer());
    if faults.is_empty() {
        Ok(Devices {
            registry,
            trust,
            alphabet,
        })
    } else {
        Err(faults)
    }
}

/// Every key there is, with `[]` for the items of a list of tables: `listener[].tls.key`.
pub fn keys() -> BTreeSet<String> {
    let one_of_each = "[[listener]]\n[[listener.tls.also]]\n[[trust]]\n";
    let fields = node::parse(one_of_each, "").unwrap_or_default();
    let notes = Notes::default();
    let _ = obey(fields, &notes, true);
    let all = notes.known();
    let leaf = |key: &&String| {
        let below = |other: &String| {
            let rest = other.strip_prefix(key.as_str());
            rest.is_some_and(|rest| rest.starts_with('.') || rest.starts_with("[]"))
        };
        !all.iter().any(below)
    };
    all.iter().filter(leaf).cloned().collect()
}

/// Reads a configuration and tells all that can be said of it.
pub(crate) fn examine(source: &Source) -> Examined {
    let written = source::read(source);
    if !written.readable {
        return Examined {
            faults: written.faults,
            warnings: Vec::new(),
            trust: Vec::new(),
            listeners: Vec::new(),
            jwt: None,
            broker_tls: None,
            registry: None,
            alphabet: Alphabet::default(),
            files: Vec::new(),
            config: None,
        };
    }
    let notes = Notes::starting_from(written.file_folder, written.own_folder);
    let draft = obey(written.fields, &notes, source.path.is_some());
    let mut faults = written.faults;
    faults.extend(notes.take_faults());
    faults.sort_by_key(|fault| rank(&fault.key));
    let warnings = notes.take_warnings();
    let (trust, listeners) = (draft.good_trust, draft.good_listeners);
    let (jwt, broker_tls) = (draft.jwt, draft.broker_tls);
    let (registry, alphabet) = (draft.registry, draft.alphabet);
    let config = draft.config.filter(|_| faults.is_empty());
    let config = config.map(|config| Config {
        warnings: warnings.clone(),
        ..config
    });
    Examined {
        faults,
        warnings,
        trust,
        listeners,
        jwt,
        broker_tls,
        registry,
        alphabet,
        files: notes.take_files(),
        config,
    }
}

/// The sections in the order of the reference.
const SECTIONS: [&str; 11] = [
    "listener", "trust", "token", "registry", "connect", "broker", "limits", "drain", "admin",
    "log", "sandbox",
];

fn rank(key: &str) -> usize {
    let section = key.split(['.', '[']).next().unwrap_or_default();
    SECTIONS
        .iter()
        .position(|known| *known == section)
        .unwrap_or(SECTIONS.len())
}

struct Draft {
    good_trust: Vec<tls::trust::Settings>,
    good_listeners: Vec<gate::ListenerSettings>,
    jwt: Option<jwks::Settings>,
    broker_tls: Option<tls::client::Settings>,
    registry: Option<gate::RegistrySettings>,
    alphabet: Alphabet,
    /// `None`, if something is so wrong that nothing can stand in its place.
    config: Option<Config>,
}

/// Turns what was written into what is obeyed; faults and warnings go to `notes`.
fn obey(fields: Fields, notes: &Notes, has_file: bool) -> Draft {
    let mut whole = Section::whole(fields, notes);
    // First [connect], because it says what a device id is made of.
    let connect = connect::read(whole.section("connect"));
    let groups = trust::read(whole.sections("trust"), &connect.alphabet, notes);
    let mut listeners = listener::read(whole.sections("listener"), notes);
    if listeners.is_empty() && !whole.wrote("listener") {
        nowhere_to_listen(&whole, has_file);
    }
    let has_registry = whole.wrote("registry");
    let token = registry::token(whole.section("token"), has_registry, &connect.alphabet);
    let jwt = token.settings.jwt.clone();
    let registry = registry::registry(whole.section("registry"), has_registry, &token);
    let broker = broker::read(whole.section("broker"), connect.has_password_file());
    let (limits, connections_written) = table::limits(whole.section("limits"));
    let farewell = table::drain(whole.section("drain"));
    let admin_draft = table::admin(whole.section("admin"));
    let admin = admin_draft.settings();
    let log = table::log(whole.section("log"));
    let sandbox = table::sandbox(whole.section("sandbox"));
    whole.finish();

    let by = listener::KnownBy {
        registry: has_registry,
        issuer: jwt.is_some(),
    };
    listener::check_together(&mut listeners, &groups, by);
    broker.check_loops(&listeners);
    // A faulty registry is told already.
    let bound = registry
        .as_ref()
        .map_or(has_registry, registry::binds_groups);
    if !bound {
        let mut vouching = listener::counting(&listeners);
        if jwt.is_some() {
            vouching.insert(ISSUER);
        }
        connect.check_groups(&vouching);
    }
    if let Some(admin) = &admin {
        let taken = listeners
            .iter()
            .find(|listener| listener.listens_at(admin.bind));
        if let Some(listener) = taken {
            let what = format!(
                "{} is where {} listens",
                admin.bind,
                listener.section.name_of("bind")
            );
            admin_draft
                .section
                .fault("bind", what, "give each its own port");
        }
    }
    let good_listeners = listeners.iter().filter_map(listener::Draft::good).collect();
    let good_trust: Vec<_> = groups
        .into_iter()
        .filter_map(|group| group.settings)
        .collect();
    let settings: Option<Vec<_>> = listeners
        .into_iter()
        .map(|listener| listener.good())
        .collect();
    let broker_tls = broker.settings.tls.clone();
    let (good_registry, alphabet) = (registry.clone(), connect.alphabet.clone());
    let config = (|| {
        Some(Config {
            gate: gate::Settings {
                listeners: settings?,
                trust: good_trust.clone(),
                connect: connect.settings?,
                alphabet: connect.alphabet,
                broker: broker.settings,
                limits,
                farewell,
                registry,
                token: token.settings,
            },
            admin,
            log,
            sandbox,
            warnings: Vec::new(),
            allow_plaintext: broker.allow_plaintext,
            password_file: connect.password_file,
            admin_token_file: admin_draft.token_file.clone(),
            connections_written,
            admin_plaintext: admin_draft.allow_plaintext(),
        })
    })();
    Draft {
        good_trust,
        good_listeners,
        jwt,
        broker_tls,
        registry: good_registry,
        alphabet,
        config,
    }
}

fn nowhere_to_listen(whole: &Section<'_>, has_file: bool) {
    let way_out = if has_file {
        "write a [[listener]] with bind, mode and [listener.tls]"
    } else {
        "write ./tidegate.toml, name a file by --config FILE, or use flags alone: --listen 0.0.0.0:8883 …"
    };
    whole.fault(
        "listener",
        "is missing: there is nowhere to listen",
        way_out,
    );
}

#[cfg(test)]
mod tests;
