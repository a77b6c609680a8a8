//! Certificates are shown at three gates: one that has trust groups alone, and two whose registries have them pinned.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use rustls::pki_types::CertificateDer;
use tidegate::mqtt::Version;
use tidegate::rules::identity::Certificate;
use tidegate::rules::record::{Pin, Proof, Record, Valid};

use super::{EACH, Row, Versions, now};
use crate::support::device::{Answer, Device, connect};
use crate::support::estate::{Estate, id};
use crate::support::gate::{Gate, MUTUAL, Plan, group};
use crate::support::openssl::s_client;
use crate::support::shown::Shown;

/// A certificate that is tried.
pub(super) struct Case {
    what: String,
    shown: Shown,
    /// OpenSSL is the device: it has keys that rustls has none of.
    by_openssl: bool,
    /// The one that is registered, if not the one that is shown.
    pinned: Option<CertificateDer<'static>>,
    /// What else its owner decided.
    decided: fn(&mut Record),
}

impl Case {
    pub(super) fn new(what: impl Into<String>, shown: impl Into<Shown>) -> Self {
        Self {
            what: what.into(),
            shown: shown.into(),
            by_openssl: false,
            pinned: None,
            decided: |_| (),
        }
    }

    pub(super) fn by_openssl(mut self) -> Self {
        self.by_openssl = true;
        self
    }

    /// Registered is `other`.
    pub(super) fn registered_as(mut self, other: &CertificateDer<'static>) -> Self {
        self.pinned = Some(other.clone());
        self
    }

    pub(super) fn decided(mut self, decided: fn(&mut Record)) -> Self {
        self.decided = decided;
        self
    }

    /// Its pin; `None`: it cannot be read, so nobody can pin it.
    fn pin(&self, by: By) -> Option<Pin> {
        let pinned = self.pinned.as_ref().unwrap_or(&self.shown.chain[0]);
        let certificate = Certificate::read(pinned).ok()?;
        match by {
            By::Chain => None,
            By::Certificate => Some(Pin::Certificate(certificate.print)),
            By::Key => Some(Pin::Key(certificate.key)),
        }
    }
}

/// What a gate knows certificates by.
#[derive(Clone, Copy)]
enum By {
    Chain,
    Certificate,
    Key,
}

/// The three gates.
pub(super) struct Doors {
    pub(super) chain: Door,
    certificate: Door,
    key: Door,
}

impl Doors {
    /// All that trust `cas` (PEM); the certificates of `cases` are pinned at two of them.
    pub(super) async fn open(cas: &str, cases: &[&[Case]]) -> Self {
        let cases = || cases.iter().copied().flatten();
        Self {
            chain: Door::open(By::Chain, cas, cases()).await,
            certificate: Door::open(By::Certificate, cas, cases()).await,
            key: Door::open(By::Key, cas, cases()).await,
        }
    }

    /// By chain, certificate pinned, key pinned.
    pub(super) async fn rows(&self, cases: &[Case]) -> Vec<Row> {
        let (chain, rest) = tokio::join!(self.chain.all(cases), self.pinned(cases));
        let cells = chain.into_iter().zip(rest);
        cells
            .map(|(chain, (what, pinned))| (what, [vec![chain], pinned].concat()))
            .collect()
    }

    /// By certificate pinned, key pinned.
    pub(super) async fn pinned(&self, cases: &[Case]) -> Vec<Row> {
        let (certificate, key) = tokio::join!(self.certificate.all(cases), self.key.all(cases));
        let cells = cases.iter().zip(certificate.into_iter().zip(key));
        cells
            .map(|(case, (certificate, key))| (case.what.clone(), vec![certificate, key]))
            .collect()
    }
}

/// A gate, and the devices that it knows by a pin.
pub(super) struct Door {
    pub(super) gate: Gate,
    by: By,
    devices: HashMap<Pin, String>,
}

impl Door {
    async fn open<'a>(by: By, cas: &str, cases: impl Iterator<Item = &'a Case>) -> Self {
        let more = match by {
            By::Chain => "",
            By::Certificate | By::Key => "[registry]\nurl = \"sqlite://tidegate.db\"\n",
        };
        let gate = Gate::plan(Plan {
            listeners: Some(format!("{MUTUAL}{}", group("fleet", "devices-ca.pem", ""))),
            files: vec![("devices-ca.pem".into(), cas.as_bytes().to_vec())],
            more: more.into(),
            ..Plan::default()
        })
        .await;
        let mut devices = HashMap::new();
        if more.is_empty() {
            return Self { gate, by, devices };
        }
        let mut records = Vec::new();
        for (number, case) in cases.enumerate() {
            let Some(pin) = case.pin(by) else { continue };
            // Certificates of one key have one pin.
            if let Entry::Vacant(vacant) = devices.entry(pin) {
                let mut record = Record::new(id(&format!("row-{number}")), now());
                record.add_credential(Proof::Pinned(pin), Valid::since(now() - 60));
                (case.decided)(&mut record);
                vacant.insert(record.device.to_string());
                records.push(record);
            }
        }
        let estate = Estate::of(gate).await;
        let added = estate.registry.add(&records, &mut |_| ()).await;
        added.expect("added");
        let gate = estate.gate;
        Self { gate, by, devices }
    }

    /// A cell for each case: what comes of it over TLS 1.2 and 1.3.
    async fn all(&self, cases: &[Case]) -> Vec<String> {
        let mut cells = Vec::new();
        for case in cases {
            let [old, new] = self.both(case).await;
            cells.push(if old == new {
                new
            } else {
                format!("1.2: {old}; 1.3: {new}")
            });
        }
        cells
    }

    async fn both(&self, case: &Case) -> [String; 2] {
        let ca = self.gate.authority.certificate();
        let mut cells = Vec::new();
        for (versions, option) in EACH {
            let came = match case.by_openssl {
                true => by_openssl(&self.gate, &case.shown, option).await,
                false => by_rustls(&self.gate, ca, &case.shown, versions).await,
            };
            if let (Some(told), Some(pin)) = (&came.told, case.pin(self.by)) {
                assert_eq!(Some(told), self.devices.get(&pin), "{}", case.what);
            }
            cells.push(came.cell);
        }
        cells.try_into().expect("two")
    }
}

/// What comes of a certificate in both TLS versions, a cell for each.
pub(super) async fn both(gate: &Gate, ca: &CertificateDer<'static>, shown: &Shown) -> Vec<String> {
    let mut cells = Vec::new();
    for (versions, _) in EACH {
        cells.push(by_rustls(gate, ca, shown, versions).await.cell);
    }
    cells
}

/// What came of a call.
struct Came {
    /// `admitted`, or the reason.
    cell: String,
    /// The client id that the broker was told, if it was told anything.
    told: Option<String>,
}

async fn by_rustls(
    gate: &Gate,
    ca: &CertificateDer<'static>,
    shown: &Shown,
    versions: Versions,
) -> Came {
    let (device, _) = Device::showing(gate.address(), ca, Some(shown), versions);
    let asks = connect("meter-7", Version::V311);
    came(gate, async {
        device.asks(&asks).await.0 == Answer::Admitted
    })
    .await
}

async fn by_openssl(gate: &Gate, shown: &Shown, version: &str) -> Came {
    let folder = gate.folder.path();
    let put =
        |name: &str, der: &[u8]| std::fs::write(folder.join(name), der).expect("a file of its own");
    put("device.der", &shown.chain[0]);
    put("device.key", shown.key.secret_der());
    let arguments = "-quiet -cipher DEFAULT@SECLEVEL=0 -certform DER -cert device.der -keyform DER -key device.key";
    let arguments: Vec<&str> = [version].into_iter().chain(arguments.split(' ')).collect();
    let asks = connect("meter-7", Version::V311).encode().expect("fits");
    came(gate, async {
        let met = s_client(folder, gate.address(), &arguments, &asks).await;
        met.answer == [0x20, 2, 0, 0]
    })
    .await
}

/// What comes of a call that tells whether it was admitted; meanwhile the broker welcomes whoever comes.
async fn came(gate: &Gate, call: impl Future<Output = bool>) -> Came {
    let before = gate.count("refused");
    let mut told = None;
    let broker = async {
        loop {
            told = Some(gate.broker().welcome().await.connect.client_id);
        }
    };
    let is_admitted = tokio::select! {
        biased;
        is_admitted = call => is_admitted,
        () = broker => unreachable!("it goes on for ever"),
    };
    let cell = match is_admitted {
        true => "admitted".into(),
        false => {
            let line = gate.next_line("refused", before).await;
            format!("`{}`", line["reason"].as_str().expect("a reason"))
        }
    };
    Came { cell, told }
}
