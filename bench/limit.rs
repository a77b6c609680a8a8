//! The limit: what the server's half of a TLS handshake costs when rustls does it in memory, without a socket.
//!
//! ```text
//! cargo run --release --features bench-tools --bin handshake-limit
//! cargo run --release --features bench-tools --bin handshake-limit -- --handshakes 5000 --rounds 5 --json
//! ```
//!
//! Both halves run on one thread, in lockstep, some handshakes at once as a server has them; only the server's steps are
//! timed, by the CPU time of the thread. A step takes the bytes that came and makes the bytes that go, from the making of
//! the connection to its drop. ECDSA P-256, X25519 (TLS 1.2: P-256), AES-128-GCM, the
//! verifier of rustls. A proxy that costs this much, and what its
//! sockets cost, has nothing left to save but in rustls.

#![allow(
    clippy::cast_precision_loss,
    reason = "nanoseconds of one run are far below 2^52"
)]

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use clap::Parser;
use rustix::time::{ClockId, clock_gettime};
use rustls::client::Resumption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, DigitallySignedStruct, DistinguishedName,
    HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig, ServerConnection, SideData,
    SignatureScheme, SupportedProtocolVersion,
};
use tidegate::pki::Authority;

/// How many handshakes go in lockstep, as many as the load of bench/compare has at once.
const AT_ONCE: usize = 16;

/// How many devices there are.
const DEVICES: usize = 64;

/// CPU time of the server's half of a TLS handshake, in memory
#[derive(Parser)]
#[command(name = "handshake-limit")]
struct Plan {
    /// Handshakes of one measurement
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    handshakes: u32,
    /// Measurements; the median is told
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The only case, as mtls13; repeatable; left out: all
    #[arg(long = "case", value_name = "CASE", value_parser = CASES.map(|case| case.name))]
    cases: Vec<String>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// What is measured.
struct Case {
    name: &'static str,
    tls: &'static SupportedProtocolVersion,
    certificate: Certificate,
    resumed: bool,
}

/// What the device shows, and how often its chain is verified.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Certificate {
    None,
    EachTime,
    Once,
}

const CASES: [Case; 7] = [
    case("mtls13", &rustls::version::TLS13, Certificate::EachTime),
    case("mtls13_known", &rustls::version::TLS13, Certificate::Once),
    case("mtls12", &rustls::version::TLS12, Certificate::EachTime),
    case("mtls12_known", &rustls::version::TLS12, Certificate::Once),
    case("server_tls13", &rustls::version::TLS13, Certificate::None),
    case(
        "mtls13_resumed",
        &rustls::version::TLS13,
        Certificate::EachTime,
    )
    .resumed(),
    case(
        "mtls12_resumed",
        &rustls::version::TLS12,
        Certificate::EachTime,
    )
    .resumed(),
];

const fn case(
    name: &'static str,
    tls: &'static SupportedProtocolVersion,
    certificate: Certificate,
) -> Case {
    Case {
        name,
        tls,
        certificate,
        resumed: false,
    }
}

impl Case {
    const fn resumed(mut self) -> Self {
        self.resumed = true;
        self
    }
}

fn main() {
    let plan = Plan::parse();
    let authority = Authority::new("Bench CA").expect("a CA");
    let is_asked =
        |case: &Case| plan.cases.is_empty() || plan.cases.iter().any(|one| one == case.name);
    let asked = CASES.iter().filter(|case| is_asked(case));
    let rigs: Vec<_> = asked
        .map(|case| (case.name, Rig::new(case, &authority)))
        .collect();
    for (_, rig) in &rigs {
        rig.warm_up();
    }
    let mut found = vec![Vec::new(); rigs.len()];
    for _ in 0..plan.rounds {
        for ((_, rig), found) in rigs.iter().zip(&mut found) {
            found.push(rig.micros(plan.handshakes as usize));
        }
    }
    let names = rigs.iter().map(|(name, _)| *name);
    tell(
        &plan,
        names.zip(found.iter_mut().map(|values| median(values))),
    );
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn tell(plan: &Plan, medians: impl Iterator<Item = (&'static str, f64)>) {
    if plan.json {
        let all: serde_json::Map<_, _> =
            medians.map(|(name, us)| (name.into(), us.into())).collect();
        let told = serde_json::json!({
            "handshakes": plan.handshakes, "rounds": plan.rounds, "cpu_us": all,
        });
        println!("{told}");
        return;
    }
    for (name, micros) in medians {
        println!("{name:<16} {micros:7.1} µs");
    }
}

/// One case, ready to go.
struct Rig {
    server: Arc<ServerConfig>,
    devices: Vec<Arc<ClientConfig>>,
    resumed: bool,
}

impl Rig {
    fn new(case: &Case, authority: &Authority) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate().clone()).expect("a CA");
        let roots = Arc::new(roots);
        Self {
            server: Arc::new(server(case, authority, &roots)),
            devices: (0..DEVICES)
                .map(|number| Arc::new(device(case, authority, &roots, number)))
                .collect(),
            resumed: case.resumed,
        }
    }

    /// Every device once: it has a ticket then, and the memory of the verifier knows it.
    fn warm_up(&self) {
        for batch in self.devices.chunks(AT_ONCE) {
            self.lockstep(batch);
        }
    }

    /// CPU time of the server's half of one handshake, in microseconds; the mean of at least `handshakes`.
    fn micros(&self, handshakes: usize) -> f64 {
        let (mut spent, mut done) = (0, 0);
        for batch in self.devices.chunks(AT_ONCE).cycle() {
            if done >= handshakes {
                break;
            }
            let (nanos, resumed) = self.lockstep(batch);
            let expected = if self.resumed { batch.len() } else { 0 };
            assert_eq!(resumed, expected, "resumed, of {}", batch.len());
            spent += nanos;
            done += batch.len();
        }
        spent as f64 / done as f64 / 1000.0
    }

    /// One handshake of each device of `batch`, step by step: the server's nanoseconds, and how many were resumed.
    fn lockstep(&self, batch: &[Arc<ClientConfig>]) -> (u64, usize) {
        let name = ServerName::try_from("localhost").expect("a name");
        let device = |config: &Arc<_>| ClientConnection::new(Arc::clone(config), name.clone());
        let mut devices: Vec<_> = batch
            .iter()
            .map(|config| device(config).expect("a device"))
            .collect();
        let begun = thread_ns();
        let mut servers: Vec<_> = batch
            .iter()
            .map(|_| ServerConnection::new(self.server.clone()).expect("a server"))
            .collect();
        let mut spent = thread_ns() - begun;

        let mut wires = vec![Vec::new(); batch.len()];
        loop {
            for (device, wire) in devices.iter_mut().zip(&mut wires) {
                step(device, wire);
            }
            if wires.iter().all(Vec::is_empty) {
                break;
            }
            let begun = thread_ns();
            for (server, wire) in servers.iter_mut().zip(&mut wires) {
                step(server, wire);
            }
            spent += thread_ns() - begun;
        }
        assert!(devices.iter().all(|device| !device.is_handshaking()));
        assert!(servers.iter().all(|server| !server.is_handshaking()));
        let resumed = servers
            .iter()
            .filter(|server| server.handshake_kind() == Some(HandshakeKind::Resumed))
            .count();
        let begun = thread_ns();
        drop(servers);
        (spent + (thread_ns() - begun), resumed)
    }
}

/// Takes what the wire holds, and puts onto it what there is to say.
fn step<S: SideData>(half: &mut ConnectionCommon<S>, wire: &mut Vec<u8>) {
    let mut came = wire.as_slice();
    while !came.is_empty() {
        half.read_tls(&mut came).expect("bytes in memory");
        half.process_new_packets().expect("a good handshake");
    }
    wire.clear();
    while half.wants_write() {
        half.write_tls(wire).expect("a vector takes all");
    }
}

/// CPU time of this thread, in nanoseconds.
fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).expect("it only grows")
}

/// The provider of tidegate and of the minimal proxy.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn server(case: &Case, authority: &Authority, roots: &Arc<RootCertStore>) -> ServerConfig {
    let issued = authority.server(&["localhost"]).expect("issued");
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[case.tls])
        .expect("versions");
    let builder = if case.certificate == Certificate::None {
        builder.with_no_client_auth()
    } else {
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .expect("a verifier");
        builder.with_client_cert_verifier(match case.certificate {
            Certificate::Once => Arc::new(Remembering::new(verifier)),
            _ => verifier,
        })
    };
    let mut config = builder
        .with_single_cert(issued.chain(), issued.key())
        .expect("a certificate and its key");
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if case.resumed {
        config.ticketer = aws_lc_rs::Ticketer::new().expect("randomness");
    } else {
        config.send_tls13_tickets = 0;
    }
    config
}

fn device(
    case: &Case,
    authority: &Authority,
    roots: &Arc<RootCertStore>,
    number: usize,
) -> ClientConfig {
    let group = match case.tls.version {
        ProtocolVersion::TLSv1_2 => aws_lc_rs::kx_group::SECP256R1, // as bench/compare, which says why
        _ => aws_lc_rs::kx_group::X25519,
    };
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![group];
    // One cipher, as the load of bench/compare offers one.
    let is_aes_128 =
        |name: Option<&'static str>| name.is_some_and(|name| name.contains("AES_128_GCM"));
    provider
        .cipher_suites
        .retain(|suite| is_aes_128(suite.suite().as_str()));
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[case.tls])
        .expect("versions")
        .with_root_certificates(roots.clone());
    let mut config = if case.certificate == Certificate::None {
        builder.with_no_client_auth()
    } else {
        let id = format!("device-{number}").parse().expect("a device id");
        let issued = authority.device(&id).expect("issued");
        builder
            .with_client_auth_cert(issued.chain(), issued.key())
            .expect("a key that fits")
    };
    if !case.resumed {
        config.resumption = Resumption::disabled();
    }
    config
}

/// A verifier that looks at the chain of a certificate once, and answers from memory after that.
///
/// A limit, no pattern to follow: it forgets nothing, and asks neither for validity nor for revocation again.
#[derive(Debug)]
struct Remembering {
    inner: Arc<dyn ClientCertVerifier>,
    known: RwLock<HashSet<Vec<u8>>>,
}

impl Remembering {
    fn new(inner: Arc<dyn ClientCertVerifier>) -> Self {
        Self {
            inner,
            known: RwLock::default(),
        }
    }
}

impl ClientCertVerifier for Remembering {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if known.contains(leaf.as_ref()) {
            return Ok(ClientCertVerified::assertion());
        }
        drop(known);
        let verified = self.inner.verify_client_cert(leaf, intermediates, now)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(leaf.to_vec());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
