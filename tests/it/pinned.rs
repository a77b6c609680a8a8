//! Certificates that no trust group vouches for, in the handshake of a gate that has a registry (threats.md T1).
//!
//! The handshake itself, over real sockets: whether a pin is found is for the verdict after CONNECT.

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use tempfile::TempDir;
use tidegate::pki::{Authority, KeyKind, Order};
use tidegate::rules::device::Alphabet;
use tidegate::rules::identity::{Certificate, Field, Naming};
use tidegate::tls::handshake::{AtOnce, Handshake};
use tidegate::tls::server::{MinVersion, Resumption, ServerTls, Settings};
use tidegate::tls::stream::Lost;
use tidegate::tls::trust::{self, CrlStale, Groups};
use tidegate::tls::verify::{DeviceVerifier, Shown as Judged};
use tidegate::tls::witness::Seen;
use tokio::net::TcpListener;

use crate::support::device::Device;
use crate::support::odd::odd;
use crate::support::openssl::{openssl, s_client};
use crate::support::shown::Shown;
use crate::support::soon;

const EACH: [&[&SupportedProtocolVersion]; 2] = [&[&TLS12], &[&TLS13]];

/// One end of a handshake: a listener that trusts `authority`.
struct Door {
    authority: Authority,
    tls: ServerTls,
    folder: TempDir,
}

impl Door {
    fn new(pins: bool) -> Self {
        let authority = Authority::new("Test CA").expect("a CA");
        let folder = tempfile::tempdir().expect("a folder");
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let server = authority.server(&["localhost"]).expect("issued");
        let group = trust::Settings {
            name: "fleet".into(),
            ca: vec![put("ca.pem", authority.certificate_pem())],
            intermediates: vec![],
            crl: vec![],
            crl_stale: CrlStale::Refuse,
            naming: Naming {
                field: Field::SubjectCn,
                pattern: None,
                alphabet: Alphabet::default(),
            },
        };
        let settings = Settings {
            certificate: put("server.pem", &server.chain_pem()),
            key: put("server.key", &server.key_pem()),
            min_version: MinVersion::Tls12,
            max_record: None,
            alpn: vec![],
            also: vec![],
            resumption: Resumption::Off,
        };
        let groups = Arc::new(Groups::load(&[&group]).expect("a group"));
        let verifier = DeviceVerifier::new(groups, true, pins);
        let tls = ServerTls::load("devices", &settings, Some(verifier)).expect("its files");
        Self {
            authority,
            tls,
            folder,
        }
    }

    async fn open(&self) -> (TcpListener, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    /// Takes one device in: what came of its handshake, and what was seen.
    async fn meets(&self, listener: TcpListener) -> (Result<(), Lost>, Seen) {
        let (socket, _) = listener.accept().await.expect("a device");
        let mut handshake = Handshake::new(socket, self.tls.with_alpn.clone()).expect("a config");
        let mut seen = Seen::default();
        let outcome = handshake.run(Vec::new(), &mut seen, &AtOnce).await;
        (outcome, seen)
    }

    async fn shown(
        &self,
        shown: &Shown,
        versions: &[&'static SupportedProtocolVersion],
    ) -> (Result<(), Lost>, Seen) {
        let (listener, address) = self.open().await;
        let ca = self.authority.certificate();
        let device = Device::showing(address, ca, Some(shown), versions).0;
        let met = async { tokio::join!(self.meets(listener), device.dial()).0 };
        soon("a handshake", met).await
    }
}

/// T1: each of them proves its key over TLS 1.2 and 1.3, and is told by what pins know it by.
#[tokio::test]
async fn odd_certificates_come_through_where_they_may_be_pinned() {
    let (pinned, chained) = (Door::new(true), Door::new(false));
    for odd in odd(&pinned.authority) {
        let facts = Certificate::read(&odd.shown.chain[0]).expect("a certificate");
        for versions in EACH {
            let (outcome, seen) = pinned.shown(&odd.shown, versions).await;
            let what = format!("{}, {versions:?}", odd.what);
            assert!(outcome.is_ok(), "{what}: {outcome:?}");
            let shown = seen.shown.expect("a certificate");
            let certificate = shown.certificate();
            assert_eq!(
                (certificate.print, certificate.key),
                (facts.print, facts.key)
            );
            let told = match &shown {
                Judged::Vouched(_) => None,
                Judged::Unvouched(unvouched) => Some(unvouched.refusal.reason),
            };
            assert_eq!(told, odd.chained, "{what}");
        }
    }
    // Where there are no pins, all is over in the handshake.
    for odd in odd(&chained.authority) {
        for versions in EACH {
            let (outcome, seen) = chained.shown(&odd.shown, versions).await;
            let told = seen.refused.map(|refused| refused.reason);
            assert_eq!(told, odd.chained, "{}, {versions:?}", odd.what);
            assert_eq!(outcome.is_ok(), odd.chained.is_none(), "{}", odd.what);
        }
    }
}

/// T1: somebody's certificate with another key is worth nothing, pinned or not, in either version.
#[tokio::test]
async fn a_pinned_certificate_is_worth_nothing_without_its_key() {
    let door = Door::new(true);
    let thief = |order: Order| Shown::from(&door.authority.issue(order).expect("issued")).key;
    let same_kind = thief(Order::device_named("thief"));
    let other_kind = thief(Order::device_named("thief").key(KeyKind::Ed25519));
    for odd in odd(&door.authority) {
        for key in [&same_kind, &other_kind] {
            let stolen = Shown {
                chain: odd.shown.chain.clone(),
                key: key.clone(),
            };
            for versions in EACH {
                let (outcome, seen) = door.shown(&stolen, versions).await;
                assert!(outcome.is_err(), "{}, {versions:?}", odd.what);
                assert!(seen.shown.is_none(), "{}, {versions:?}", odd.what);
                let refused = seen.refused.expect("a reason");
                assert_eq!(refused.reason, "certificate_bad_signature", "{}", odd.what);
            }
        }
    }
}

/// A key that is too short to prove anything is told as that, by OpenSSL, which has such keys.
#[tokio::test]
async fn a_short_key_proves_nothing_where_it_may_be_pinned_either() {
    let door = Door::new(true);
    let folder = door.folder.path();
    let make = "req -x509 -newkey rsa:1024 -nodes -keyout short.key -out short.pem -subj /CN=meter-7 -days 30";
    openssl(folder, &make.split(' ').collect::<Vec<_>>());
    for version in ["-tls1_2", "-tls1_3"] {
        let (listener, address) = door.open().await;
        let arguments = [
            version,
            "-cipher",
            "DEFAULT@SECLEVEL=0",
            "-cert",
            "short.pem",
            "-key",
            "short.key",
        ];
        let call = s_client(folder, address, &arguments, b"");
        let met = async { tokio::join!(door.meets(listener), call).0 };
        let (outcome, seen) = soon("a handshake", met).await;
        assert!(outcome.is_err() && seen.shown.is_none(), "{version}");
        let refused = seen.refused.expect("a reason");
        assert_eq!(refused.reason, "certificate_unsupported", "{version}");
        assert!(refused.why.contains("1024 bits"), "{}", refused.why);
    }
}
