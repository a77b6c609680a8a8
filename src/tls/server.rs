//! What a listener shows to devices: its certificates, TLS versions, ALPN and record size.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::compress::CompressionCache;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{InconsistentKeys, ServerConfig, SignatureScheme, version};
use rustls_pki_types::DnsName;
use webpki::EndEntityCert;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::agreed;
use super::der::{self, Front};
use super::files;
use super::handshake::KeepTraffic;
use super::hello;
use super::suites;
use super::tickets::{self, Scope, Tickets};
use super::trust::{MONTH, date};
use super::verify::DeviceVerifier;
use super::witness::{self, Presented};
use crate::rules::secret::Secret;

/// `[listener.tls]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The certificate for devices whose SNI names no other.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The oldest TLS version taken.
    pub min_version: MinVersion,
    /// The largest TLS record sent, in bytes of plaintext (`max_record`); `None`: TLS's own 16 KiB.
    pub max_record: Option<usize>,
    /// ALPN protocols by preference; empty: none is ever answered.
    pub alpn: Vec<String>,
    /// `[[listener.tls.also]]`
    pub also: Vec<Also>,
    /// Whether sessions are resumed.
    pub resumption: Resumption,
}

/// `[[listener.tls.also]]`: a further certificate.
#[derive(Clone, Debug)]
pub struct Also {
    /// The server names (SNI) it is for, `*.` for one label; empty: the DNS names in the certificate.
    pub names: Vec<String>,
    /// Chain, leaf first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `listener.tls.resumption`
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Resumption {
    /// Every handshake is a full one, and no ticket is given.
    #[default]
    Off,
    /// By tickets.
    Tickets {
        /// The secret that their keys follow from, at least 32 bytes in any encoding; `None`: one of this start's own, which no
        /// other gate has.
        secret_file: Option<PathBuf>,
    },
}

/// The oldest TLS version that a listener takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

/// The rustls configurations of one listener.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// For devices whose ALPN offer holds one of ours, or who offer none.
    pub with_alpn: Arc<ServerConfig>,
    /// For devices whose ALPN offer holds none of ours: rustls would refuse them (RFC 7301 §3.2), we serve them.
    pub without_alpn: Arc<ServerConfig>,
    /// The two for devices whose own order of cipher suites counts ([`suites`]).
    own_order: [Arc<ServerConfig>; 2],
    shown: Arc<Certificates>,
    verifier: Option<Arc<DeviceVerifier>>,
    /// `None`: there are none.
    tickets: Option<Arc<Tickets>>,
}

/// Something in `[listener.tls]`, or `[broker.tls]`, that cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{key}: {sentence}")]
pub struct SettingFault {
    /// The key below the section, such as `certificate` or `also[0].key`.
    pub key: String,
    /// What is wrong, where, and the way out.
    pub sentence: String,
}

impl ServerTls {
    /// Reads the certificates and keys of the listener of this name. Without a verifier no certificate is asked for.
    ///
    /// # Errors
    /// Every fault of its settings.
    pub fn load(
        listener: &str,
        settings: &Settings,
        verifier: Option<Arc<DeviceVerifier>>,
    ) -> Result<Self, Vec<SettingFault>> {
        Self::load_by(Arc::new(DefaultTimeProvider), listener, settings, verifier)
    }

    /// The same with a clock of its own for the tickets.
    pub(super) fn load_by(
        clock: Arc<dyn TimeProvider>,
        listener: &str,
        settings: &Settings,
        verifier: Option<Arc<DeviceVerifier>>,
    ) -> Result<Self, Vec<SettingFault>> {
        let mut provider = aws_lc_rs::default_provider();
        suites::cheapest_first(&mut provider);
        agreed::tell_keys(&mut provider); // rustls is let go after the handshake: see `records`
        let provider = Arc::new(provider);
        let mut faults = Vec::new();
        let max_record = check_max_record(settings.max_record, &mut faults);
        check_alpn(&settings.alpn, &mut faults);
        let shown = Arc::new(Certificates::load(settings, &provider, &mut faults));
        let secret = ticket_secret(&settings.resumption, &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        let versions: &[_] = match settings.min_version {
            MinVersion::Tls12 => &[&version::TLS13, &version::TLS12],
            MinVersion::Tls13 => &[&version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| {
                vec![SettingFault {
                    key: "min_version".into(),
                    sentence: format!("{error}; choose another"),
                }]
            })?;
        let builder = match verifier.clone() {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut plain =
            builder.with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        // What a device did not ask for costs small TLS stacks memory, and some choke on it (threats.md T5, T6).
        plain.session_storage = Arc::new(NoServerSessionStorage {});
        plain.send_tls13_tickets = 0;
        plain.max_tls13_tickets = 0;
        plain.max_early_data_size = 0;
        plain.cert_compressors = Vec::new();
        plain.cert_decompressors = Vec::new();
        plain.cert_compression_cache = Arc::new(CompressionCache::Disabled);
        plain.max_fragment_size = max_record;
        plain.ignore_client_order = true;
        plain.key_log = Arc::new(KeepTraffic);
        let mut tickets = None;
        if let Some(secret) = secret {
            let scope = scope(listener, settings, verifier.as_deref());
            // One for the four: they differ in nothing that a listener demands.
            let sealed = Arc::new(Tickets::new(&secret, scope, clock));
            plain.ticketer = sealed.clone();
            tickets = Some(sealed);
            plain.send_tls13_tickets = 1;
            plain.max_tls13_tickets = 1; // a device that asks for none gets none (RFC 9149)
        }
        let mut with_alpn = plain.clone();
        with_alpn.alpn_protocols = settings
            .alpn
            .iter()
            .map(|name| name.clone().into())
            .collect();
        let own_order = |config: &ServerConfig| {
            let mut config = config.clone();
            config.ignore_client_order = false;
            Arc::new(config)
        };
        Ok(Self {
            own_order: [own_order(&with_alpn), own_order(&plain)],
            with_alpn: Arc::new(with_alpn),
            without_alpn: Arc::new(plain),
            shown,
            verifier,
            tickets,
        })
    }

    /// Whether the device shows a ticket that can be opened: it will most likely resume its TLS session. A guess, and a cheap
    /// one: nothing may hang on it but who comes first.
    pub fn would_resume(&self, hello: &[u8]) -> bool {
        let tickets = self.tickets.as_ref();
        tickets
            .is_some_and(|tickets| hello::ticket(hello).is_some_and(|shown| tickets.opens(shown)))
    }

    /// Who judges devices' certificates; `None`: none is asked for.
    pub fn verifier(&self) -> Option<&Arc<DeviceVerifier>> {
        self.verifier.as_ref()
    }

    /// Whether the ALPN protocols that a device offers matter to [`ServerTls::config_for`].
    pub fn has_alpn(&self) -> bool {
        !self.with_alpn.alpn_protocols.is_empty()
    }

    /// The configuration for a device that offers these ALPN protocols; `None`: it offers none, or we have none.
    /// `own_order`: its own order of cipher suites counts.
    pub fn config_for<'a>(
        &self,
        offered: Option<impl Iterator<Item = &'a [u8]>>,
        own_order: bool,
    ) -> &Arc<ServerConfig> {
        let ours = &self.with_alpn.alpn_protocols;
        let shared = offered.map(|mut names| names.any(|name| ours.iter().any(|our| our == name)));
        match (shared, own_order) {
            (Some(false), false) => &self.without_alpn,
            (Some(false), true) => &self.own_order[1],
            (_, false) => &self.with_alpn,
            (_, true) => &self.own_order[0],
        }
    }

    /// Each certificate's name and when it ends, in seconds since 1970.
    pub fn certificates(&self) -> Vec<(String, i64)> {
        let all = self.shown.all.iter();
        all.map(|one| (one.name.clone(), one.not_after)).collect()
    }

    /// Of each certificate that can be asked for by a server name, one that leads to it.
    pub(super) fn one_name_each(&self) -> Vec<String> {
        let leads_to = |place, index: &HashMap<String, Vec<usize>>| {
            let mut names = index.iter().filter(|(_, places)| places.contains(&place));
            names.next().map(|(name, _)| name.clone())
        };
        let Certificates {
            all,
            exact,
            wildcard,
        } = &*self.shown;
        let name = |place| {
            let below = || leads_to(place, wildcard).map(|parent| format!("x.{parent}"));
            leads_to(place, exact).or_else(below)
        };
        (0..all.len()).filter_map(name).collect()
    }

    /// What an operator should look after, `now` in seconds since 1970.
    pub fn warnings(&self, now: i64) -> Vec<String> {
        let all = self.shown.all.iter();
        all.flat_map(|one| one.warnings(now)).collect()
    }
}

/// The secret of the tickets, if there are to be any.
fn ticket_secret(
    resumption: &Resumption,
    faults: &mut Vec<SettingFault>,
) -> Option<Secret<Vec<u8>>> {
    match resumption {
        Resumption::Off => None,
        Resumption::Tickets { secret_file: None } => Some(tickets::secret_of_this_start()),
        Resumption::Tickets {
            secret_file: Some(path),
        } => match files::secret(path, tickets::LEAST_SECRET) {
            Ok(secret) => Some(secret),
            Err(file) => {
                faults.push(SettingFault {
                    key: "ticket_secret_file".into(),
                    sentence: file.to_string(),
                });
                None
            }
        },
    }
}

/// What the listener demands.
fn scope(listener: &str, settings: &Settings, verifier: Option<&DeviceVerifier>) -> Scope {
    let mut scope = Scope::new(listener);
    scope.add(match settings.min_version {
        MinVersion::Tls12 => "1.2",
        MinVersion::Tls13 => "1.3",
    });
    match verifier {
        Some(verifier) => verifier.tell_demands(&mut scope),
        None => scope.add("no certificate"),
    }
    scope
}

/// rustls counts the five bytes of the record's header in; `max_record` does not.
fn check_max_record(max_record: Option<usize>, faults: &mut Vec<SettingFault>) -> Option<usize> {
    const HEADER: usize = 5;
    const LEAST: usize = 64;
    const MOST: usize = 16 * 1024; // RFC 8446 §5.1
    let length = max_record?;
    if !(LEAST..=MOST).contains(&length) {
        faults.push(SettingFault {
            key: "max_record".into(),
            sentence: format!(
                "{length} bytes is outside {LEAST} to {MOST}; leave it out to get {MOST}"
            ),
        });
    }
    Some(length + HEADER)
}

/// A protocol name has 1 to 255 bytes (RFC 7301 §3.1).
fn check_alpn(names: &[String], faults: &mut Vec<SettingFault>) {
    for name in names.iter().filter(|name| !(1..=255).contains(&name.len())) {
        faults.push(SettingFault {
            key: "alpn".into(),
            sentence: format!(
                "{name:?} is no protocol name: those have 1 to 255 bytes; correct it"
            ),
        });
    }
}

/// The certificates that a listener shows, and how it chooses among them.
#[derive(Debug)]
struct Certificates {
    /// In the order of the configuration, the main one first.
    all: Vec<Shown>,
    /// Server name in lower case → places in `all`, in order.
    exact: HashMap<String, Vec<usize>>,
    /// What follows `*.`, in lower case → places in `all`, in order.
    wildcard: HashMap<String, Vec<usize>>,
}

/// One certificate with its key.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) certified: Arc<CertifiedKey>,
    /// Its key in the configuration.
    key: String,
    /// For the metric: the first DNS name, else the subject.
    name: String,
    names: Vec<String>,
    not_before: i64,
    not_after: i64,
    is_ordered: bool,
    presented: Presented,
}

impl Certificates {
    fn load(
        settings: &Settings,
        provider: &CryptoProvider,
        faults: &mut Vec<SettingFault>,
    ) -> Self {
        let mut shown = Self {
            all: Vec::new(),
            exact: HashMap::new(),
            wildcard: HashMap::new(),
        };
        let main = Shown::load("", &settings.certificate, &settings.key, provider, faults);
        if let Some(main) = main {
            let names = main.names.clone();
            shown.add(main, &names, &mut Vec::new()); // names that no device can ask for do no harm here
        }
        for (at, also) in settings.also.iter().enumerate() {
            let prefix = format!("also[{at}].");
            let one = Shown::load(&prefix, &also.certificate, &also.key, provider, faults);
            let Some(one) = one else { continue };
            let names = if also.names.is_empty() {
                one.names.clone()
            } else {
                also.names.clone()
            };
            if names.is_empty() {
                faults.push(SettingFault {
                    key: format!("{prefix}names"),
                    sentence: format!(
                        "{} holds no DNS names, so no device would ever be shown it; give the names it is for",
                        also.certificate.display()
                    ),
                });
            }
            shown.add(one, &names, faults);
        }
        shown
    }

    fn add(&mut self, one: Shown, names: &[String], faults: &mut Vec<SettingFault>) {
        let place = self.all.len();
        for name in names {
            let lower = name.trim_end_matches('.').to_ascii_lowercase();
            let (index, name_only) = match lower.strip_prefix("*.") {
                Some(parent) => (&mut self.wildcard, parent),
                None => (&mut self.exact, lower.as_str()),
            };
            if DnsName::try_from(name_only).is_err() {
                faults.push(SettingFault {
                    key: one.key.replace("certificate", "names"),
                    sentence: format!(
                        "{name:?} is no DNS name; write it like eu.example.net or *.example.net"
                    ),
                });
                continue;
            }
            index.entry(name_only.to_owned()).or_default().push(place);
        }
        self.all.push(one);
    }

    /// The certificate for a device: by its SNI, then by what signatures it can check; else the main one, so that no
    /// device is turned away for a name (small ones often send an address, or none). Gives whether the device can check its signature, too.
    fn choose(&self, sni: Option<&str>, schemes: &[SignatureScheme]) -> Option<(&Shown, bool)> {
        let named = sni.into_iter().flat_map(|sni| {
            let parent = sni.split_once('.').map(|(_, parent)| parent);
            let exact = self.exact.get(sni);
            let wildcard = parent.and_then(|parent| self.wildcard.get(parent));
            exact.into_iter().chain(wildcard).flatten()
        });
        let suits = |one: &&Shown| one.certified.key.choose_scheme(schemes).is_some();
        let named = named.map(|place| &self.all[*place]);
        let by_order = || self.all.iter();
        let suiting = named.chain(by_order()).find(suits);
        let chosen = suiting.or(self.all.first())?;
        Some((chosen, suiting.is_some()))
    }
}

/// What others are told of a certificate that was found readable.
fn presented(der: &[u8]) -> Presented {
    use x509_parser::public_key::PublicKey;
    let Ok((_, read)) = X509Certificate::from_der(der) else {
        return Presented::default();
    };
    let signature = match read.signature_algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.10" => "rsassaPss",
        "1.2.840.113549.1.1.11" => "RSA-SHA256",
        "1.2.840.113549.1.1.12" => "RSA-SHA384",
        "1.2.840.113549.1.1.13" => "RSA-SHA512",
        "1.2.840.10045.4.3.2" => "ecdsa-with-SHA256",
        "1.2.840.10045.4.3.3" => "ecdsa-with-SHA384",
        "1.2.840.10045.4.3.4" => "ecdsa-with-SHA512",
        "1.3.101.112" => "ED25519",
        _ => "",
    };
    let key = read.public_key();
    let key = match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => match rsa.key_size() {
            2048 => "RSA2048",
            3072 => "RSA3072",
            4096 => "RSA4096",
            8192 => "RSA8192",
            _ => "",
        },
        Ok(PublicKey::EC(point)) => match point.key_size() {
            256 => "EC256",
            384 => "EC384",
            521 | 528 => "EC521",
            _ => "",
        },
        _ if key.algorithm.algorithm.to_id_string() == "1.3.101.112" => "ED25519",
        _ => "",
    };
    Presented { signature, key }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls accepts DNS names only, and gives them in lower case. A trailing dot says nothing.
        let sni = hello.server_name().map(|name| name.trim_end_matches('.'));
        witness::note(|seen| {
            seen.sni = sni.map(str::to_owned);
            seen.alpn_offered = hello.alpn().is_some();
        });
        let schemes = hello.signature_schemes();
        let (chosen, suits) = self.choose(sni, schemes)?;
        witness::note(|seen| {
            seen.no_certificate_suits = !suits;
            seen.presented = Some(chosen.presented);
        });
        Some(Arc::clone(&chosen.certified))
    }
}

impl Shown {
    /// Reads the two files; their keys in the configuration begin with `prefix`.
    pub(super) fn load(
        prefix: &str,
        certificate: &Path,
        key: &Path,
        provider: &CryptoProvider,
        faults: &mut Vec<SettingFault>,
    ) -> Option<Self> {
        let mut fault = |key: &str, sentence: String| {
            faults.push(SettingFault {
                key: format!("{prefix}{key}"),
                sentence,
            });
        };
        let chain = files::certificates(certificate)
            .map_err(|file| fault("certificate", file.to_string()))
            .ok();
        let secret = files::key(key)
            .map_err(|file| fault("key", file.to_string()))
            .ok();
        let (chain, secret) = (chain?, secret?);
        let Ok(signing) = provider.key_provider.load_private_key(secret) else {
            let way_out = "it holds no key that can be used; give an ECDSA (P-256, P-384, P-521), Ed25519 or RSA \
                     (2048 to 8192 bits) key";
            fault("key", format!("{}: {way_out}", key.display()));
            return None;
        };
        let leaf = &chain[0];
        let parsed = EndEntityCert::try_from(leaf);
        let (Ok(parsed), Ok(front)) = (parsed, Front::read(leaf)) else {
            let way_out =
                "its first certificate is malformed or not of version 3; have it issued anew";
            fault(
                "certificate",
                format!("{}: {way_out}", certificate.display()),
            );
            return None;
        };
        let names: Vec<String> = parsed.valid_dns_names().map(str::to_owned).collect();
        let subject = der::name_text(front.subject);
        let linked = |pair: &[rustls_pki_types::CertificateDer<'_>]| match (
            Front::read(&pair[0]),
            Front::read(&pair[1]),
        ) {
            (Ok(below), Ok(above)) => below.issuer == above.subject,
            _ => false,
        };
        let one = Self {
            key: format!("{prefix}certificate"),
            name: names.first().cloned().unwrap_or(subject),
            not_before: front.not_before,
            not_after: front.not_after,
            is_ordered: chain.windows(2).all(linked),
            names,
            presented: presented(&chain[0]),
            certified: Arc::new(CertifiedKey::new(chain.clone(), signing)),
        };
        match one.certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Some(one),
            Err(_) => {
                let (key, certificate) = (key.display(), certificate.display());
                let sentence = format!(
                    "{key} is not the key of the first certificate in {certificate}; give the two that belong together, \
                     the own certificate first"
                );
                fault("key", sentence);
                None
            }
        }
    }

    /// What is to be said of its time; `past`: what comes of it when it is over.
    pub(super) fn time_warnings(&self, now: i64, past: &str) -> Vec<String> {
        let mut warnings = Vec::new();
        let (begins, ends) = (date(self.not_before), date(self.not_after));
        if self.not_after < now {
            warnings.push(self.warning(&format!("ended on {ends}: {past}; replace it")));
        } else if self.not_after < now + MONTH {
            warnings.push(self.warning(&format!("ends on {ends}; have it renewed")));
        }
        if self.not_before > now {
            warnings.push(self.warning(&format!(
                "begins on {begins} only; see to this host's clock"
            )));
        }
        warnings
    }

    pub(super) fn warning(&self, what: &str) -> String {
        format!("{}: {:?} {what}", self.key, self.name)
    }

    fn warnings(&self, now: i64) -> Vec<String> {
        let mut warnings = self.time_warnings(now, "devices refuse it");
        let mut warn = |what: &str| warnings.push(self.warning(what));
        if self.names.is_empty() {
            warn(
                "holds no DNS name (subjectAltName): devices that check names refuse it, unless they call an address that it holds",
            );
        }
        if !self.is_ordered {
            warn(
                "is followed by certificates that do not each issue the one before: small devices give up on such a chain; put it in order",
            );
        }
        warnings
    }
}

#[cfg(test)]
mod tests;
