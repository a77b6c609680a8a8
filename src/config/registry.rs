//! `[registry]` and `[token]`

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fault::quoted;
use super::jwt;
use super::quantities::Bounds;
use super::reader::{Got, Section};
use crate::gate::{RegistrySettings, TokenSettings};
use crate::registry::{Settings, StoreSettings};
use crate::rules::device::Alphabet;
use crate::rules::policy::{TokenPlace, Unknown};

/// Longer than a week nobody should live on decisions that may have been changed.
const GRACE: Bounds<Duration> = Bounds {
    least: Duration::ZERO,
    most: Duration::from_hours(7 * 24),
    default: Duration::from_hours(1),
};
const CACHE: Bounds<u32> = Bounds {
    least: 1 << 20,
    most: 2 << 30,
    default: 64 << 20,
};
const QUOTA: Bounds<u32> = Bounds {
    least: 1,
    most: 1_000_000,
    default: 10_000,
};

/// `[token]` as far as it could be read.
pub(super) struct Token {
    pub(super) settings: TokenSettings,
    /// Where the key of the tokens' hashes is, or will be.
    key_file: PathBuf,
}

/// Reads `[token]`; a registry makes use of the key.
pub(super) fn token(mut section: Section<'_>, has_registry: bool, alphabet: &Alphabet) -> Token {
    let jwt = jwt::read(section.section("jwt"), alphabet);
    let place = |word: &str| {
        PLACES
            .iter()
            .find(|(known, _)| *known == word)
            .map(|(_, place)| *place)
    };
    let place = section
        .word("in", &PLACES.map(|(word, _)| word), place)
        .or(TokenPlace::Password);
    let key_file = section.path("key_file", "token.key");
    if matches!(key_file, Got::Good(_)) && !has_registry {
        section.warn("key_file", "has no effect without [registry]");
    }
    let default = section.folder("key_file").join("token.key");
    section.finish();
    Token {
        settings: TokenSettings { place, jwt },
        key_file: key_file.or(default),
    }
}

/// Reads `[registry]`; `None`: there is none, or its URL is faulty. `written`: the section is there, and so must its URL be.
pub(super) fn registry(
    mut section: Section<'_>,
    written: bool,
    token: &Token,
) -> Option<RegistrySettings> {
    let password_file = section.path("password_file", "registry.secret");
    let store = read_store(&mut section, written, &password_file);
    let unknown = read_unknown(&mut section);
    let grace = section.duration("grace", GRACE).or(GRACE.default);
    let cache = section.size("cache", CACHE).or(CACHE.default);
    section.finish();
    Some(RegistrySettings {
        directory: Settings {
            store: store?,
            grace,
            cache_bytes: u64::from(cache),
        },
        unknown,
        token_key: token.key_file.clone(),
    })
}

fn read_store(
    section: &mut Section<'_>,
    written: bool,
    password_file: &Got<PathBuf>,
) -> Option<StoreSettings> {
    let folder = section.folder("url").to_owned();
    let url = section.parsed("url", "sqlite://tidegate.db", |text| store(text, &folder));
    match url {
        Got::Faulty => None,
        Got::Absent => {
            if written {
                let way_out = "write url = \"sqlite://tidegate.db\", or remove [registry] if there is to be none";
                section.fault("url", "is missing", way_out);
            }
            None
        }
        Got::Good((mut store, warning)) => {
            if let Some(warning) = warning {
                section.warn("url", &warning);
            }
            match (&mut store, password_file) {
                (
                    StoreSettings::Postgres {
                        password_file: place,
                        ..
                    },
                    Got::Good(file),
                ) => *place = Some(file.clone()),
                (StoreSettings::Sqlite { .. }, Got::Good(_)) => {
                    section.warn(
                        "password_file",
                        "has no effect on SQLite, which has no passwords",
                    );
                }
                _ => {}
            }
            Some(store)
        }
    }
}

fn read_unknown(section: &mut Section<'_>) -> Unknown {
    let known = |word: &str| UNKNOWN.iter().copied().find(|known| *known == word);
    let word = section.word("unknown", &UNKNOWN, known).or("refuse");
    let quota = section.number("register_quota", QUOTA);
    let approval = section.boolean("register_approval");
    if word == "register" {
        return Unknown::Register {
            quota: quota.or(QUOTA.default),
            approval: approval.or(false),
        };
    }
    for (key, good) in [
        ("register_quota", matches!(quota, Got::Good(_))),
        ("register_approval", matches!(approval, Got::Good(_))),
    ] {
        if good {
            section.warn(key, "has no effect without unknown = \"register\"");
        }
    }
    if word == "admit" {
        Unknown::Admit
    } else {
        Unknown::Refuse
    }
}

/// Whether each device belongs to one trust group: those the registry knows do, and no others come in. Then devices of several
/// groups cannot have one name (threats.md I3, I7).
///
/// Where devices register themselves without their owner's word, the first CA to issue a name would have it.
pub(super) fn binds_groups(settings: &RegistrySettings) -> bool {
    match settings.unknown {
        Unknown::Refuse => true,
        Unknown::Register { approval, .. } => approval,
        Unknown::Admit => false,
    }
}

/// A store, and what should be looked at; or what is wrong, and the way out.
type Store = Result<(StoreSettings, Option<String>), (String, String)>;

/// Reads `registry.url`; its paths start from `folder`. What was written is not told: it may hold a password (threats.md K2).
fn store(url: &str, folder: &Path) -> Store {
    let examples =
        "write sqlite://tidegate.db, or postgres://user@host/database?sslmode=verify-full";
    if url.contains(char::is_control) {
        return Err(("holds control characters".into(), examples.into()));
    }
    if let Some(path) = url.strip_prefix("sqlite://") {
        return sqlite(path, folder);
    }
    match url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"))
    {
        Some(rest) => postgres(rest, folder),
        None => Err(("is neither SQLite nor PostgreSQL".into(), examples.into())),
    }
}

fn sqlite(path: &str, folder: &Path) -> Store {
    if path.is_empty() || path.ends_with('/') || path == ":memory:" {
        let way_out = "write sqlite://tidegate.db; the file is made if it is not there";
        return Err(("names no file".into(), way_out.into()));
    }
    if path.contains('?') {
        let what = "holds options, and SQLite takes none here";
        return Err((what.into(), "write sqlite://tidegate.db".into()));
    }
    let path = folder.join(path);
    Ok((StoreSettings::Sqlite { path }, None))
}

/// What may stand behind the `?`, as libpq names it.
const PARAMETERS: [&str; 9] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "port",
    "user",
    "dbname",
    "application_name",
];

/// Those of them that are paths.
pub(super) const FILES: [&str; 3] = ["sslrootcert", "sslcert", "sslkey"];

const SSL_MODES: [&str; 5] = ["disable", "allow", "prefer", "require", "verify-full"];

fn postgres(rest: &str, folder: &Path) -> Store {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if user.contains(':') || query.split('&').any(|pair| pair.starts_with("password")) {
        let way_out = "write the password into a file and name it by password_file; here stands postgres://user@host/database";
        return Err(("holds a password".into(), way_out.into()));
    }
    let mut host = bare_host(host);
    let mut mode = None;
    let mut parameters = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(name) = PARAMETERS.into_iter().find(|known| *known == name) else {
            let what = format!("holds {}, which is not known here", quoted(name));
            return Err((what, format!("known here: {}", PARAMETERS.join(", "))));
        };
        match name {
            "host" => host = value,
            "sslmode" => mode = Some(ssl_mode(value)?),
            _ => {}
        }
        let value = if FILES.contains(&name) && !value.starts_with('/') {
            format!("{}/{value}", percent(folder))
        } else {
            value.to_owned()
        };
        parameters.push(format!("{name}={value}"));
    }
    let has = |name: &str| parameters.iter().any(|pair| pair.starts_with(name));
    for (there, what, example) in [
        (!user.is_empty() || has("user="), "names no user", "user@"),
        (
            !database.is_empty() || has("dbname="),
            "names no database",
            "/database",
        ),
        (!host.is_empty(), "names no host", "@host"),
    ] {
        if !there {
            let way_out = format!("write {example} into postgres://user@host/database");
            return Err((what.into(), way_out));
        }
    }
    let warning = judge_leg(host, mode)?;
    let mut url = format!("postgres://{place}");
    if !parameters.is_empty() {
        let _ = write!(url, "?{}", parameters.join("&"));
    }
    let password_file = None;
    Ok((StoreSettings::Postgres { url, password_file }, warning))
}

fn ssl_mode(word: &str) -> Result<&'static str, (String, String)> {
    if word == "verify-ca" {
        // The CAs of sslrootcert count beside the public ones.
        let what = "sslmode=verify-ca would take any public CA's certificate for any name";
        return Err((what.into(), "write verify-full".into()));
    }
    let mode = SSL_MODES.into_iter().find(|known| *known == word);
    mode.ok_or_else(|| {
        let what = format!("sslmode={} is not known here", quoted(word));
        (what, format!("write one of {}", SSL_MODES.join(" | ")))
    })
}

/// The host of `host:port`, without the brackets of IPv6.
fn bare_host(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    }
}

/// Who can read or change this leg decides which devices enter, so it is plaintext by chance nowhere but on this host.
/// Gives what should be looked at.
fn judge_leg(host: &str, mode: Option<&str>) -> Result<Option<String>, (String, String)> {
    let socket = host.starts_with('/') || host.to_ascii_lowercase().starts_with("%2f");
    let loopback = host
        .parse::<std::net::IpAddr>()
        .is_ok_and(|ip| ip.to_canonical().is_loopback());
    if socket || loopback || host == "localhost" {
        return Ok(None);
    }
    let host = quoted(host);
    match mode {
        Some("verify-full") => Ok(None),
        Some("require") => Ok(Some(format!(
            "sslmode=require takes whoever answers for {host}; sslmode=verify-full with sslrootcert makes sure who it is"
        ))),
        Some("disable") => Ok(Some(format!(
            "{host} is spoken to in plaintext; nobody else may reach this network: who changes what the registry says decides which devices enter"
        ))),
        _ => {
            let what = format!(
                "{host} is not on this host, and sslmode={} may speak plaintext to it",
                mode.unwrap_or("prefer")
            );
            let way_out = "write ?sslmode=verify-full (and &sslrootcert=ca.pem, if its CA is your own), or ?sslmode=disable if nobody else can reach that network";
            Err((what, way_out.into()))
        }
    }
}

/// A path as a URL holds it.
fn percent(path: &Path) -> String {
    let mut out = String::new();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            // Writing to a String never fails.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The words of `registry.unknown`.
const UNKNOWN: [&str; 3] = ["refuse", "admit", "register"];

/// The word of `registry.unknown`.
pub(super) fn unknown_word(unknown: Unknown) -> &'static str {
    let [refuse, admit, register] = UNKNOWN;
    match unknown {
        Unknown::Refuse => refuse,
        Unknown::Admit => admit,
        Unknown::Register { .. } => register,
    }
}

/// The words of `token.in`.
pub(super) const PLACES: [(&str, TokenPlace); 2] = [
    ("password", TokenPlace::Password),
    ("username", TokenPlace::Username),
];
