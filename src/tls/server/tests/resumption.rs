//! Sessions that are resumed by tickets: by whom, how long, and what becomes of the certificate (threats.md T5).

use std::sync::Arc;

use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::{ClientConfig, NamedGroup, SupportedProtocolVersion};
use rustls_pki_types::ServerName;

use super::*;
use crate::tls::tickets::{EPOCH, LONGEST};
use crate::tls::trust::Groups;
use crate::tls::verify::Shown;

const EACH: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
const NAME: &str = "gate.example.net";
const DAY: i64 = 24 * 3600;

/// A gate's files, of which listeners are made.
struct Files {
    folder: Folder,
    settings: Settings,
    clock: Arc<Clock>,
}

impl Files {
    fn new() -> Self {
        let (folder, settings) = listener(&ecdsa(&[NAME]), &[]);
        let secret = folder.file("ticket.secret", "0123456789abcdef0123456789abcdef");
        let resumption = Resumption::Tickets {
            secret_file: Some(secret),
        };
        Self {
            folder,
            settings: Settings {
                resumption,
                ..settings
            },
            clock: Clock::new(),
        }
    }

    fn listener(&self, name: &str, trust: Option<Groups>, mandatory: bool) -> ServerTls {
        let verifier = trust.map(|groups| DeviceVerifier::new(Arc::new(groups), mandatory, false));
        ServerTls::load_by(self.clock.clone(), name, &self.settings, verifier).unwrap()
    }

    fn devices(&self, trust: Groups) -> ServerTls {
        self.listener("devices", Some(trust), true)
    }

    fn call(&self, to: &ServerTls, device: &ClientConfig) -> Outcome {
        handshake_at(&self.clock, &to.with_alpn, device.clone(), NAME)
    }

    /// Whether the device resumes; and that the chain it showed once is judged anew then.
    fn resumes(&self, to: &ServerTls, device: &ClientConfig) -> bool {
        let outcome = self.call(to, device);
        let resumed = outcome.is_resumed();
        assert_eq!(
            outcome.seen.shown.is_some(),
            !resumed,
            "nothing is shown then"
        );
        assert_eq!(outcome.chain.len(), 1, "of the ticket, too");
        resumed
    }
}

fn device_of(ca: &Made, version: &'static SupportedProtocolVersion) -> ClientConfig {
    let made = ca.device("meter-7");
    device_config(Some((vec![made.der.clone()], &made.key)), version, None)
}

/// T5: every replica with the secret resumes, in its epoch and the next; another secret does not.
#[test]
fn a_session_is_resumed_by_every_replica_with_the_secret() {
    let (files, ca) = (Files::new(), root("Factory CA"));
    let (one, other) = (
        files.devices(group(&[&ca], &[], &[])),
        files.devices(group(&[&ca], &[], &[])),
    );
    files
        .folder
        .file("ticket.secret", "fedcba9876543210fedcba9876543210");
    let stranger = files.devices(group(&[&ca], &[], &[]));
    for version in EACH {
        files.clock.set(NOW);
        let device = device_of(&ca, version);
        assert!(!files.resumes(&one, &device), "{version:?}");
        assert!(files.resumes(&other, &device), "{version:?}");
        assert!(files.resumes(&one, &device), "{version:?}");
        assert!(!files.resumes(&stranger, &device), "{version:?}");

        assert!(
            !files.resumes(&one, &device),
            "its ticket was the stranger's"
        );
        files.clock.set(NOW + EPOCH);
        assert!(files.resumes(&one, &device), "{version:?}");
        files.clock.set(NOW + 3 * EPOCH);
        assert!(!files.resumes(&one, &device), "{version:?}");
    }
}

/// T5: a ticket is nothing to another listener, nor to the same one after its policy has changed.
#[test]
fn a_session_of_another_listener_or_policy_is_not_resumed() {
    let (files, ca) = (Files::new(), root("Factory CA"));
    let trust = || group(&[&ca], &[], &[]);
    let two = || {
        let folder = Folder::new();
        let next = root("Next CA");
        let mut settings = folder.group("fleet", &[&ca, &next], &[], &[]);
        let more = Groups::load(&[&settings]).unwrap();
        settings.ca.pop();
        settings.naming.field = crate::rules::identity::Field::SubjectOu;
        settings.ca = vec![folder.file("ca.pem", &ca.pem)];
        (more, Groups::load(&[&settings]).unwrap())
    };
    let (more_trust, other_field) = two();
    let newer = Files {
        settings: Settings {
            min_version: MinVersion::Tls13,
            ..files.settings.clone()
        },
        folder: Folder::new(),
        clock: files.clock.clone(),
    };
    let own = files.devices(trust());
    let others = [
        files.listener("others", Some(trust()), true),
        files.listener("devices", Some(trust()), false),
        files.devices(more_trust),
        files.devices(other_field),
        newer.devices(trust()),
    ];
    for (n, other) in others.iter().enumerate() {
        for version in EACH {
            if n == 4 && *version == TLS12 {
                continue; // it takes TLS 1.3 only
            }
            let device = device_of(&ca, version);
            assert!(!files.resumes(&own, &device));
            assert!(!files.resumes(other, &device), "{n} {version:?}");
        }
    }
}

/// T5: no certificate, no verdict on it that stands: it is judged when the session is resumed, whatever the ticket says.
#[test]
fn a_resumed_session_is_judged_by_the_trust_of_today() {
    let (files, ca) = (Files::new(), root("Factory CA"));
    let made = ca.issues(device("meter-7"), |d| d.not_after = now() + days(1));
    let before = files.devices(group(&[&ca], &[], &[ca.crl_pem(&[])]));
    let after = files.devices(group(&[&ca], &[], &[ca.crl_pem(&[&made])]));
    for version in EACH {
        files.clock.set(NOW + DAY - 60);
        let device = device_config(Some((vec![made.der.clone()], &made.key)), version, None);
        assert!(!files.call(&before, &device).is_resumed());
        let reason = |to: &ServerTls| {
            let outcome = files.call(to, &device);
            assert!(outcome.is_resumed(), "{version:?}");
            assert_eq!(outcome.chain, std::slice::from_ref(&made.der));
            let verifier = to.verifier().unwrap();
            match verifier.show_again(&outcome.chain, files.clock.now()) {
                Ok(Shown::Unvouched(unvouched)) => Some(unvouched.refusal.reason),
                shown => shown.unwrap().vouched().map(|_| "good"),
            }
        };
        assert_eq!(reason(&before), Some("good"), "{version:?}");
        assert_eq!(reason(&after), Some("certificate_revoked"), "{version:?}");
        files.clock.set(NOW + DAY + 60);
        assert_eq!(reason(&before), Some("certificate_expired"), "{version:?}");
    }
}

/// T5: a device that resumes for ever does a full handshake once in a week all the same.
#[test]
fn resumption_ends_a_week_after_the_full_handshake() {
    let (files, ca) = (Files::new(), root("Factory CA"));
    let gate = files.devices(group(&[&ca], &[], &[]));
    for version in EACH {
        let device = device_of(&ca, version);
        let mut full = Vec::new();
        for hours in (0..16 * 24).step_by(10) {
            files.clock.set(NOW + hours * 3600);
            if !files.resumes(&gate, &device) {
                full.push(hours);
            }
        }
        let week = LONGEST / 3600 / 10 * 10 + 10; // the first call after it
        assert_eq!(full, [0, week, 2 * week], "{version:?}");
    }
}

/// Keeps the sessions of all servers in one place: a device that does not look at names.
#[derive(Debug)]
struct OnePlace(ClientSessionMemoryCache, ServerName<'static>);

impl ClientSessionStore for OnePlace {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(self.1.clone(), group);
    }
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&self.1)
    }
    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(self.1.clone(), value);
    }
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&self.1)
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&self.1);
    }
    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(self.1.clone(), value);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&self.1)
    }
}

/// T4: a session is resumed under the server name that it began with, and under no other (RFC 6066 §3).
#[test]
fn a_session_of_another_server_name_is_not_resumed() {
    let (files, ca) = (Files::new(), root("Factory CA"));
    let gate = files.devices(group(&[&ca], &[], &[]));
    for version in EACH {
        let mut device = device_of(&ca, version);
        let place = ServerName::try_from(NAME).unwrap();
        let store = OnePlace(ClientSessionMemoryCache::new(8), place);
        device.resumption = rustls::client::Resumption::store(Arc::new(store));
        let resumes = |name| {
            let outcome = handshake_at(&files.clock, &gate.with_alpn, device.clone(), name);
            outcome.is_resumed()
        };
        assert!(!resumes(NAME));
        assert!(resumes(NAME), "{version:?}");
        assert!(!resumes("other.example.net"), "{version:?}");
        assert!(resumes("other.example.net"), "{version:?}");
        assert!(!resumes("192.0.2.1"), "{version:?}"); // which is no server name
    }
}

/// T5: a ticket allows no early data.
#[test]
fn a_ticket_allows_no_early_data() {
    let (files, ca) = (Files::new(), root("Factory CA"));
    let gate = files.devices(group(&[&ca], &[], &[]));
    let mut device = device_of(&ca, &TLS13);
    device.enable_early_data = true;
    assert!(!files.resumes(&gate, &device));
    let name = ServerName::try_from(NAME).unwrap();
    let mut early = rustls::ClientConnection::new(Arc::new(device), name).unwrap();
    assert!(early.early_data().is_none());
}

/// Devices that choose their suite, or speak of unknown protocols, are served by configurations of their own, which are of one
/// listener all the same.
#[test]
fn a_session_is_resumed_by_each_configuration_of_its_listener() {
    let (mut files, ca) = (Files::new(), root("Factory CA"));
    files.settings.alpn = vec!["mqtt".into()];
    let gate = files.devices(group(&[&ca], &[], &[]));
    let unknown = || Some([&b"h2"[..]].into_iter());
    for version in EACH {
        let device = device_of(&ca, version);
        assert!(!files.resumes(&gate, &device));
        for config in [
            gate.config_for(unknown(), false),
            gate.config_for(unknown(), true),
            gate.config_for(None::<std::iter::Empty<_>>, true),
        ] {
            let call = |config| handshake_at(&files.clock, config, device.clone(), NAME);
            let outcome = call(config);
            // Another order of suites is another suite, perhaps, and that a full handshake.
            let suite = outcome.device.negotiated_cipher_suite().unwrap().suite();
            let aes_128 = format!("{suite:?}").contains("AES_128");
            assert!(outcome.is_resumed() || !aes_128, "{version:?}");
            assert!(call(config).is_resumed(), "{version:?}");
        }
    }
}

/// T6: without `resumption` no ticket is given and none is taken, whoever made it.
#[test]
fn off_is_off() {
    let (files, ca) = (Files::new(), root("Factory CA"));
    let on = files.devices(group(&[&ca], &[], &[]));
    let off = Files {
        settings: Settings {
            resumption: Resumption::Off,
            ..files.settings.clone()
        },
        folder: Folder::new(),
        clock: files.clock.clone(),
    };
    let off = off.devices(group(&[&ca], &[], &[]));
    for version in EACH {
        let device = device_of(&ca, version);
        assert!(!files.resumes(&on, &device));
        assert!(!files.resumes(&off, &device), "{version:?}");
        let fresh = device_of(&ca, version);
        assert!(!files.resumes(&off, &fresh));
        assert!(!files.resumes(&on, &fresh), "{version:?}");
    }
}

/// Where certificates may be left out, a session without one is resumed as one without.
#[test]
fn a_session_without_a_certificate_is_resumed_without() {
    let (files, ca) = (Files::new(), root("Factory CA"));
    for gate in [
        files.listener("devices", None, false),
        files.listener("devices", Some(group(&[&ca], &[], &[])), false),
    ] {
        for version in EACH {
            let device = device_config(None, version, None);
            for resumed in [false, true, true] {
                let outcome = files.call(&gate, &device);
                assert_eq!(outcome.is_resumed(), resumed, "{version:?}");
                assert!(outcome.chain.is_empty() && outcome.seen.shown.is_none());
            }
        }
    }
}

/// T8: a secret that is none is a fault at load.
#[test]
fn a_secret_that_can_be_guessed_is_a_fault() {
    let files = Files::new();
    for (secret, told) in [
        (
            "0123456789abcdef0123456789abcde",
            "it has 31 bytes, and 32 are needed",
        ),
        (&"ab".repeat(32), "repeats a few bytes"),
        ("", "it is empty"),
    ] {
        files.folder.file("ticket.secret", secret);
        let faults = ServerTls::load("devices", &files.settings, None).unwrap_err();
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].key, "ticket_secret_file");
        assert!(faults[0].sentence.contains(told), "{}", faults[0].sentence);
        assert!(secret.is_empty() || !faults[0].sentence.contains(secret));
    }
}

/// threats.md V1: who is going to resume is known by its ClientHello, for who comes first in a storm; others are not taken for it.
#[test]
fn a_device_that_will_resume_is_known_by_its_hello() {
    let (files, ca) = (Files::new(), root("Factory CA"));
    let trust = || group(&[&ca], &[], &[]);
    let own = files.devices(trust());
    let other = files.listener("others", Some(trust()), true);
    for version in EACH {
        files.clock.set(NOW);
        let device = device_of(&ca, version);
        let hello = || {
            let name = ServerName::try_from(NAME).unwrap();
            let mut call = rustls::ClientConnection::new(Arc::new(device.clone()), name).unwrap();
            let mut hello = Vec::new();
            call.write_tls(&mut hello).unwrap();
            hello
        };
        assert!(!own.would_resume(&hello()), "{version:?}");
        assert!(!files.resumes(&own, &device), "{version:?}");
        assert!(own.would_resume(&hello()), "{version:?}");
        files.call(&own, &device); // in TLS 1.3 it shows each ticket once
        assert!(!other.would_resume(&hello()), "{version:?}");
        files.call(&own, &device);
        files.clock.set(NOW + 3 * EPOCH);
        assert!(!own.would_resume(&hello()), "{version:?}");
    }
}
