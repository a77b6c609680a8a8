//! `[broker.tls]`

use rustls_pki_types::ServerName;

use super::fault::quoted;
use super::listener::file;
use super::reader::{Got, Section};
use super::secret::warn_of_readers;
use crate::broker::address::Address;
use crate::tls::client::{Identity, Settings};

/// `[broker.tls]` as far as it could be read.
pub(super) struct Tls {
    /// `None`, if no address is `mqtts://`, or something in it is wrong.
    pub(super) settings: Option<Settings>,
    /// Whether a client certificate is written, well or not.
    pub(super) has_certificate: bool,
}

/// Reads `[broker.tls]` below `broker`; `addresses` with their keys.
pub(super) fn read(broker: &mut Section<'_>, addresses: &[(String, Address)]) -> Tls {
    let mut section = broker.section("tls");
    let mut hosts = addresses
        .iter()
        .filter_map(|(key, address)| Some((key, address.tls_host()?)))
        .peekable();
    let needed = hosts.peek().is_some();
    let ca = file(
        &mut section,
        "ca",
        "broker-ca.pem",
        needed.then_some(", the CA of the broker's certificate, or use --broker-ca"),
    );
    let certificate = section.path("certificate", "gate.pem");
    let key = section.path("key", "gate.key");
    let server_name = section.parsed("server_name", "broker.internal", server_name);
    let has_certificate = section.wrote("certificate") || section.wrote("key");
    let identity = identity(&section, certificate, key);
    if let Some(identity) = &identity {
        warn_of_readers(&section, "key", &identity.key);
    }
    if matches!(server_name, Got::Absent) {
        for (key, host) in hosts {
            if ServerName::try_from(host).is_err() {
                let what = format!("no certificate can be for {}", quoted(host));
                let way_out = "write the name that the broker's is for as broker.tls.server_name";
                broker.fault(key, what, way_out);
            }
        }
    }
    if !needed && !addresses.is_empty() && !section.is_empty() {
        let sentence = "has no effect: no address in broker.addresses is mqtts://";
        broker.warn("tls", sentence);
    }
    section.finish();
    let settings = ca.filter(|_| needed).map(|ca| Settings {
        ca,
        identity,
        server_name: server_name.good(),
    });
    Tls {
        settings,
        has_certificate,
    }
}

/// A certificate and its key, which are there together or not at all.
fn identity(
    section: &Section<'_>,
    certificate: Got<std::path::PathBuf>,
    key: Got<std::path::PathBuf>,
) -> Option<Identity> {
    match (certificate, key) {
        (Got::Good(certificate), Got::Good(key)) => return Some(Identity { certificate, key }),
        (Got::Good(_) | Got::Faulty, Got::Absent) => section.fault(
            "key",
            "is missing beside the certificate",
            "write key = \"gate.key\", or use --broker-key",
        ),
        (Got::Absent, Got::Good(_) | Got::Faulty) => section.fault(
            "certificate",
            "is missing beside the key",
            "write certificate = \"gate.pem\", or use --broker-certificate",
        ),
        (Got::Absent, Got::Absent) | (Got::Faulty, _) | (_, Got::Faulty) => {}
    }
    None
}

fn server_name(text: &str) -> Result<ServerName<'static>, (String, String)> {
    ServerName::try_from(text.to_owned()).map_err(|_| {
        (
            format!("{} is no name of a server", quoted(text)),
            "write a host name such as broker.internal, or an IP address".into(),
        )
    })
}
