//! A gate with a registry, as an owner of devices sees it.

use std::time::Instant;

use tidegate::mqtt::Version;
use tidegate::mqtt::connect::{Connect, Password};
use tidegate::pki::Authority;
use tidegate::registry::{Registry, StoreSettings};
use tidegate::rules::device::{DeviceId, Mode};
use tidegate::rules::identity::Field;
use tidegate::rules::record::{Proof, Record, Valid};
use tidegate::rules::token::{Token, TokenKey};
use tokio::io::AsyncReadExt as _;

use super::device::{Answer, Device, Link, connect};
use super::gate::{Gate, Plan};
use super::soon;

pub const KEY: [u8; 32] = [7; 32];

/// A gate with a registry in its folder, and the registry.
pub struct Estate {
    pub gate: Gate,
    pub registry: Registry,
}

/// One mixed-tls listener, so that devices come by certificate or by token.
pub const MIXED: &str = r#"
[[listener]]
name = "devices"
bind = "127.0.0.1:0"
mode = "mixed-tls"
[listener.tls]
certificate = "server.pem"
key = "server.key"

[[trust]]
name = "fleet"
ca = ["ca.pem"]
device = "subject.cn"
"#;

impl Estate {
    pub async fn with(registry_lines: &str, limits: &str) -> Self {
        let more = format!("[registry]\nurl = \"sqlite://tidegate.db\"\n{registry_lines}\n");
        let mut gate = Gate::plan(Plan {
            listeners: Some(MIXED.into()),
            more,
            limits: limits.into(),
            files: vec![("token.key".into(), hex::encode(KEY).into_bytes())],
            ..Plan::default()
        })
        .await;
        gate.take_broker().welcome_all();
        let store = StoreSettings::Sqlite {
            path: gate.file("tidegate.db"),
        };
        let registry = Registry::open(&store).await.expect("the registry");
        Self { gate, registry }
    }

    /// A gate that was planned with a registry in `tidegate.db`.
    pub async fn of(gate: Gate) -> Self {
        let store = StoreSettings::Sqlite {
            path: gate.file("tidegate.db"),
        };
        let registry = Registry::open(&store).await.expect("the registry");
        Self { gate, registry }
    }

    pub async fn new() -> Self {
        Self::with("", "").await
    }

    /// One whose trust group has a list, and which has no registry.
    pub async fn without_registry() -> Self {
        let authority = Authority::new("Test CA").expect("a CA");
        let listeners = MIXED.to_owned() + "crl = [\"devices.crl\"]\n";
        let empty = list(&authority, &[]);
        let mut gate = Gate::plan(Plan {
            authority,
            listeners: Some(listeners),
            files: vec![("devices.crl".into(), empty.into_bytes())],
            ..Plan::default()
        })
        .await;
        gate.take_broker().welcome_all();
        let store = StoreSettings::Sqlite {
            path: gate.file("unused.db"),
        };
        let registry = Registry::open(&store)
            .await
            .expect("a registry of nobody's");
        Self { gate, registry }
    }

    /// Puts a new list in the place of the old one, as an operator would; gives when.
    pub fn write_list(&self, revoked: &[&[u8]]) -> Instant {
        let draft = self.gate.file("draft.crl");
        std::fs::write(&draft, list(&self.gate.authority, revoked)).expect("written");
        std::fs::rename(draft, self.gate.file("devices.crl")).expect("renamed");
        Instant::now()
    }

    pub async fn add(&self, record: Record) {
        let added = self.registry.add(&[record], &mut |_| ()).await;
        added.expect("added");
    }

    /// Changes the record of a device; gives when that was done.
    pub async fn change(&self, name: &str, change: impl Fn(&mut Record) + Send + Sync) -> Instant {
        let mut change = |record: &mut Record| {
            change(record);
            Ok(())
        };
        let changed = self.registry.change(&id(name), now(), &mut change).await;
        changed.expect("changed");
        Instant::now()
    }

    /// A device of that name that is linked, by its certificate.
    pub async fn linked(&self, name: &str, version: Version) -> Link {
        admitted(&self.gate.device(name), &connect(name, version)).await
    }
}

/// A list of the CA's, in PEM.
pub fn list(authority: &Authority, revoked: &[&[u8]]) -> String {
    let list = authority.crl(revoked, now() - 60, now() + 86_400);
    list.expect("a list").pem().expect("PEM")
}

/// Connects; gives the link of a device that was admitted.
pub async fn admitted(device: &Device, asks: &Connect) -> Link {
    let (answer, link) = device.asks(asks).await;
    assert_eq!(answer, Answer::Admitted);
    link.expect("a link")
}

pub fn id(name: &str) -> DeviceId {
    name.parse().expect("a device id")
}

#[expect(
    clippy::disallowed_methods,
    reason = "the gate's own clock is the wall's, too"
)]
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.expect("after 1970").as_secs()).expect("not that late")
}

/// A device of the fleet, and, with a token, one that may use server-tls.
pub fn record(name: &str, token: Option<&Token>) -> Record {
    let mut record = Record::new(id(name), now());
    let proof = Proof::Vouched {
        group: "fleet".into(),
        field: Field::SubjectCn,
        pin: None,
    };
    record.add_credential(proof, Valid::since(now() - 60));
    if let Some(token) = token {
        record.min_mode = Mode::ServerTls;
        let hash = TokenKey::new(KEY).hash(token);
        record.add_credential(Proof::Token(hash), Valid::since(now() - 60));
    }
    record
}

/// What a device with a token sends.
pub fn with_token(name: &str, token: &Token, version: Version) -> Connect {
    let mut asks = connect(name, version);
    asks.username = Some(name.into());
    asks.password = Some(Password::new(token.reveal().as_bytes().to_vec()));
    asks
}

/// Everything that comes until the gate closes.
pub async fn last_words(link: &mut Link) -> Vec<u8> {
    let mut said = std::mem::take(&mut link.stream.buffer);
    let end = soon(
        "the gate to close",
        link.stream.stream.read_to_end(&mut said),
    )
    .await;
    end.expect("a clean close");
    said
}

/// The gate ends the link: how long after `began`, what a device of this version is told, what the log says.
pub async fn ends(
    estate: &Estate,
    link: &mut Link,
    version: Version,
    reason: &str,
    code: u8,
    began: Instant,
) {
    let said = last_words(link).await;
    let took = began.elapsed();
    let expected: &[u8] = match version {
        Version::V5 => &[0xe0, 2, code, 0],
        _ => &[],
    };
    // A DISCONNECT may be written without its empty properties.
    assert!(
        said == expected || said == [0xe0, 1, code],
        "{reason}: {said:02x?}"
    );
    estate
        .gate
        .line("closed", |line| line["reason"] == reason)
        .await;
    eprintln!("{reason}: {} ms", took.as_millis());
    assert!(took.as_secs() < 10, "{reason}: {took:?}");
}
