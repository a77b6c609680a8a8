//! docs/guide.md is typed in before a real Mosquitto, as `support::desk` tells; while its CA is rotated, devices come, go and stay (threats.md R1, R4).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tidegate::mqtt::Version;
use tokio::time::sleep;

use crate::docs::{GUIDE, page};
use crate::support::desk::{Block, Desk, blocks};
use crate::support::device::{Answer, Device, Link, connect};
use crate::support::until;

const FRONT: &str = "In front of a broker";
const ROTATION: &str = "Rotate CAs without an outage";

/// From the change of the configuration until what the old CA vouched for is cut, as the page says.
const TOLD: Duration = Duration::from_secs(5);

/// Whoever types in the guide sees what it tells, and no device that was visited notices that a CA is exchanged.
#[tokio::test]
async fn a_ca_is_rotated_as_the_guide_says_and_no_device_is_refused() {
    rotate(|_| {}).await;
}

/// R4: the same, with a new CA of the old one's name.
#[tokio::test]
async fn a_ca_is_rotated_as_the_guide_says_under_an_unchanged_name() {
    rotate(|block| block.body = block.body.replace("Fleet CA 2027", "Fleet CA 2026")).await;
}

/// What the guide marks as typed stands in the two sections that are typed in here.
#[test]
fn nothing_else_in_the_guide_is_marked_as_typed() {
    let text = page(GUIDE);
    let typed = |text: &str| blocks(text).iter().filter(|one| one.is_typed()).count();
    let here = [FRONT, ROTATION].map(|heading| typed(section(&text, heading)));
    assert!(here.iter().all(|blocks| *blocks > 5), "{here:?}");
    assert_eq!(here.iter().sum::<usize>(), typed(&text));
}

/// From each alert the guide leads to its runbook.
#[test]
fn every_alert_is_in_the_guide() {
    let (guide, rules) = (page(GUIDE), page("deploy/prometheus/rules.yml"));
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let runbook = |alert: &str| format!("(monitoring.md#{})", alert.to_lowercase());
    let (linked, missing): (Vec<_>, Vec<_>) = alerts.partition(|one| guide.contains(&runbook(one)));
    assert!(missing.is_empty() && linked.len() > 10, "{missing:?}");
}

async fn rotate(change: fn(&mut Block<'_>)) {
    let text = page(GUIDE);
    let mut desk = Desk::new();
    let front = blocks(section(&text, FRONT));
    let mut front = front.iter().peekable();
    while front.peek().is_some() {
        desk.types_in(&mut front).await;
    }
    let mut rotation = blocks(section(&text, ROTATION));
    rotation.iter_mut().for_each(change);

    let (comes, stays) = (Field::new(&desk, "meter-7"), Field::new(&desk, "meter-8"));
    let stop = AtomicBool::new(false);
    let typed = async {
        type_in(&mut desk, &rotation, &comes).await;
        stop.store(true, Relaxed);
    };
    tokio::join!(typed, comes.comes_and_goes(&stop), stays.stays(&stop));

    for device in [comes, stays] {
        let shown = device.shown.borrow();
        eprintln!("{} came so often: {:?}", device.name, shown.values());
        assert_eq!(shown.len(), 2, "with the old certificate, and the new one");
    }
    let told = desk.printed("gate");
    let refused = told.iter().filter(|line| line.contains(" refused "));
    let visited: Vec<_> = refused.filter(|line| !line.contains("meter-9")).collect();
    assert!(visited.is_empty(), "{visited:#?}");
}

/// Types the rotation in, while `device` comes and goes.
async fn type_in(desk: &mut Desk, blocks: &[Block<'_>], device: &Field) {
    let mut blocks = blocks.iter().peekable();
    let mut changed = Instant::now();
    while let Some(block) = blocks.peek() {
        if block.body.contains("mv tidegate.new.toml") {
            changed = Instant::now();
        }
        let tells_the_end = block.body.contains("trust_ended");
        desk.types_in(&mut blocks).await;
        if tells_the_end {
            let took = changed.elapsed();
            eprintln!("cut and refused after {} ms", took.as_millis());
            assert!(took < TOLD, "{took:?}");
        }
        let visits = device.visits();
        until("it to come at this step, too", async || {
            (device.visits() >= visits + 2).then_some(())
        })
        .await;
    }
}

/// A section of the page, without its heading.
fn section<'t>(page: &'t str, heading: &str) -> &'t str {
    let (_, rest) = page
        .split_once(&format!("\n## {heading}\n"))
        .expect("it is there");
    rest.split("\n## ").next().expect("at least nothing")
}

/// A device far away: what it holds is in a folder, and may change at any time.
struct Field {
    folder: PathBuf,
    name: &'static str,
    gate: SocketAddr,
    /// How often it was admitted, by the certificate that it showed.
    shown: RefCell<BTreeMap<Vec<u8>, usize>>,
}

impl Field {
    fn new(desk: &Desk, name: &'static str) -> Self {
        Self {
            folder: desk.file("field"),
            name,
            gate: desk.address("8883"),
            shown: RefCell::default(),
        }
    }

    fn visits(&self) -> usize {
        self.shown.borrow().values().sum()
    }

    /// What it shows and trusts; `None` while somebody exchanges it.
    fn holds(&self) -> Option<(Vec<u8>, ClientConfig)> {
        let file = |what: &str| fs::read(self.folder.join(what)).ok();
        let certificate = file(&format!("{}.pem", self.name))?;
        let key = file(&format!("{}.key", self.name))?;
        let mut roots = RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(&file("ca.pem")?) {
            roots.add(ca.ok()?).ok()?;
        }
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
        let key = PrivateKeyDer::from_pem_slice(&key).ok()?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.ok()?, key);
        Some((certificate, config.ok()?))
    }

    /// Comes in, with what it holds now.
    async fn comes(&self) -> Link {
        let (certificate, config) = until("a pair that fits", async || self.holds()).await;
        let device = Device {
            gate: self.gate,
            server_name: "localhost".try_into().expect("a name"),
            config: Some(config),
            from: None,
        };
        let (answer, link) = device.asks(&connect("anybody", Version::V5)).await;
        assert_eq!(answer, Answer::Admitted, "{}", self.name);
        *self.shown.borrow_mut().entry(certificate).or_default() += 1;
        link.expect("admitted")
    }

    /// It comes, says DISCONNECT, and comes again.
    async fn comes_and_goes(&self, stop: &AtomicBool) {
        while !stop.load(Relaxed) {
            let mut link = self.comes().await;
            link.say(&[0xe0, 0]).await.expect("it is taken");
            assert_eq!(link.packet().await, None, "the broker closes");
        }
    }

    /// It stays, and pings, and comes anew only when it was given another certificate.
    async fn stays(&self, stop: &AtomicBool) {
        let certificate = || self.holds().map(|(certificate, _)| certificate);
        while !stop.load(Relaxed) {
            let before = certificate();
            let mut link = self.comes().await;
            while !stop.load(Relaxed) && certificate().is_none_or(|now| Some(now) == before) {
                link.say(&[0xc0, 0]).await.expect("it stays");
                assert_eq!(link.packet().await, Some(vec![0xd0, 0]), "a PINGRESP");
                sleep(Duration::from_millis(20)).await;
            }
            link.say(&[0xe0, 0]).await.expect("it is taken");
        }
    }
}
