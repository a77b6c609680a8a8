//! What brokers are judged by, and what the gate shows them: `[broker.tls]`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore, version};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::der::{self, Front};
use super::files;
use super::flight;
use super::handshake::Greeting;
use super::server::{SettingFault, Shown};
use super::stream::{Lost, TlsStream};
use super::suites;
use super::trust::{MONTH, date};

/// How many TLS sessions are kept for each broker, to be resumed; rustls keeps eight of one name.
///
/// A session of TLS 1.3 is resumed once, and every connection brings new ones, so that few do.
const SESSIONS: usize = 8;

/// `[broker.tls]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The CAs that a broker's certificate has to be of.
    pub ca: PathBuf,
    /// What the gate shows to a broker that asks; `None`: nothing.
    pub identity: Option<Identity>,
    /// The name that the certificate has to be for; `None`: the host of the broker's address.
    pub server_name: Option<ServerName<'static>>,
}

/// The gate's own certificate for brokers.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Chain, leaf first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `[broker.tls]` with its files read.
#[derive(Clone, Debug)]
pub struct ClientTls {
    config: ClientConfig,
    server_name: Option<ServerName<'static>>,
    shown: Option<Arc<Shown>>,
    cas: Vec<Ca>,
}

/// What is to be told of a CA.
#[derive(Clone, Debug)]
struct Ca {
    subject: String,
    /// In seconds since 1970.
    not_after: i64,
    /// It was issued by a CA, and is none.
    is_leaf: bool,
}

/// How one broker is spoken to in TLS.
#[derive(Clone, Debug)]
pub struct Towards {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl ClientTls {
    /// Reads the CAs, the certificate and the key.
    ///
    /// # Errors
    /// Every fault of its settings.
    pub fn load(settings: &Settings) -> Result<Self, Vec<SettingFault>> {
        let mut provider = aws_lc_rs::default_provider();
        suites::cheapest_first(&mut provider);
        let provider = Arc::new(provider);
        let mut faults = Vec::new();
        let roots = roots(&settings.ca, &mut faults);
        let shown = settings
            .identity
            .as_ref()
            .map(|Identity { certificate, key }| {
                Shown::load("", certificate, key, &provider, &mut faults).map(Arc::new)
            });
        let (Some((roots, cas)), true) = (roots, faults.is_empty()) else {
            return Err(faults);
        };
        let shown = shown.flatten();
        Ok(Self {
            config: config(provider, roots, shown.as_deref()),
            server_name: settings.server_name.clone(),
            shown,
            cas,
        })
    }

    /// How the broker at `host` is spoken to: a name or an IP address, an IPv6 one without its brackets. Each broker has sessions
    /// of its own: another would only look at them in vain. `None`: a certificate cannot be for `host`, and
    /// `broker.tls.server_name` names no other.
    pub fn towards(&self, host: &str) -> Option<Towards> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host).ok()?.to_owned(),
        };
        let mut config = self.config.clone();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Some(Towards {
            config: Arc::new(config),
            name,
        })
    }

    /// When each certificate ends of the chain that brokers are shown, in seconds since 1970; empty: they are shown none.
    pub fn shown_ends(&self) -> Vec<i64> {
        let chain = self.shown.iter().flat_map(|shown| &shown.certified.cert);
        let chain: Vec<_> = chain.cloned().collect();
        let ends = flight::ends(&chain).into_iter();
        ends.map(|(_, not_after)| not_after).collect()
    }

    /// When each CA ends that brokers are judged by, likewise.
    pub fn ca_ends(&self) -> Vec<i64> {
        self.cas.iter().map(|ca| ca.not_after).collect()
    }

    /// What an operator should look after, `now` in seconds since 1970.
    pub fn warnings(&self, now: i64) -> Vec<String> {
        let mut warnings = Vec::new();
        for ca in &self.cas {
            let Ca {
                subject, not_after, ..
            } = ca;
            if ca.is_leaf {
                warnings.push(format!(
                    "ca: {subject:?} is no CA, but was issued by one: brokers are judged by the CA that issued their certificates; name that"
                ));
            }
            let ends = date(*not_after);
            if *not_after < now {
                warnings.push(format!("ca: {subject:?} ended on {ends}; replace it"));
            } else if *not_after < now + MONTH {
                warnings.push(format!("ca: {subject:?} ends on {ends}; have it renewed"));
            }
        }
        if let Some(shown) = &self.shown {
            warnings.extend(shown.time_warnings(now, "brokers refuse it"));
            if !is_for_clients(shown) {
                warnings.push(shown.warning(
                    "is not for clients (extended key usage): brokers that ask for it refuse it; have it issued with clientAuth",
                ));
            }
        }
        warnings
    }
}

impl Towards {
    /// Does the handshake over a fresh socket. Dropping it half-way drops the connection.
    ///
    /// # Errors
    /// [`Lost`]; also when the server speaks before it was asked anything.
    pub async fn secure(&self, socket: TcpStream) -> Result<TlsStream, Lost> {
        let greeting = Greeting::towards(socket, self.config.clone(), self.name.clone())?;
        let mut stream = Box::pin(greeting.run()).await?;
        let mut early = Vec::new();
        stream.open_held(&mut early)?;
        if early.is_empty() {
            Ok(stream)
        } else {
            Err(Lost::Tls(rustls::Error::General(
                "it speaks before it was asked anything".into(),
            )))
        }
    }
}

/// TLS 1.2 and 1.3, without early data: a CONNECT that is sent twice is two.
fn config(
    provider: Arc<CryptoProvider>,
    roots: RootCertStore,
    shown: Option<&Shown>,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .expect("the provider has suites for TLS 1.2 and 1.3")
        .with_root_certificates(roots);
    let mut config = match shown {
        Some(shown) => builder
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown.certified.clone()))),
        None => builder.with_no_client_auth(),
    };
    config.enable_secret_extraction = true; // rustls gives up the records after the handshake
    config
}

/// Whether its certificate says that it is for clients, or says nothing of that (RFC 5280 §4.2.1.12).
fn is_for_clients(shown: &Shown) -> bool {
    let Some(Ok((_, read))) = shown
        .certified
        .cert
        .first()
        .map(|leaf| X509Certificate::from_der(leaf))
    else {
        return true;
    };
    match read.extended_key_usage() {
        Ok(Some(usage)) => usage.value.client_auth || usage.value.any,
        Ok(None) | Err(_) => true,
    }
}

/// Whether a CA issued it, and it is none (RFC 5280 §4.2.1.9). One that issued itself can stand for itself.
fn is_leaf(certificate: &[u8]) -> bool {
    let Ok((_, read)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let is_ca = match read.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.ca,
        Ok(None) => read.version() != X509Version::V3, // before, there was no way to say so
        Err(_) => true,
    };
    !is_ca && read.issuer() != read.subject()
}

/// The CAs of a file.
fn roots(path: &Path, faults: &mut Vec<SettingFault>) -> Option<(RootCertStore, Vec<Ca>)> {
    let mut fault = |sentence: String| {
        faults.push(SettingFault {
            key: "ca".into(),
            sentence,
        });
    };
    let certificates = files::certificates(path)
        .map_err(|file| fault(file.to_string()))
        .ok()?;
    let mut roots = RootCertStore::empty();
    let mut cas = Vec::new();
    for (nth, certificate) in (1..).zip(certificates) {
        let front = Front::read(&certificate).map(|front| Ca {
            subject: der::name_text(front.subject),
            not_after: front.not_after,
            is_leaf: is_leaf(&certificate),
        });
        let added = roots.add(certificate.clone());
        match (front, added) {
            (Ok(front), Ok(())) => cas.push(front),
            _ => fault(format!(
                "{}: certificate {nth} of the file cannot be read as a CA; have it issued anew, or take it out",
                path.display()
            )),
        }
    }
    Some((roots, cas))
}
