//! A registry of many devices, for bench/compare: those that the load calls as, and others.
//!
//! ```text
//! cargo run --release --features bench-tools --bin fill-registry -- \
//!     --out FOLDER --devices 100000 --known known-00 --known known-01
//! ```
//!
//! Puts `registry.db`, `token.key` and `token` into the folder. Each device may come by mutual-TLS with a certificate of the trust
//! group `fleet` that names it in its common name; `bench-000001` to `bench-010000` by server-TLS, too, all with the same token: the load
//! sends one password.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use tidegate::registry::token_key::token_key;
use tidegate::registry::{Registry, StoreSettings};
use tidegate::rules::device::{DeviceId, Mode};
use tidegate::rules::identity::Field;
use tidegate::rules::record::{Print, Proof, Record, Valid};
use tidegate::rules::token::Token;

/// How many devices have the token.
const TOKENS: usize = 10_000;

/// Makes a registry of many devices, to measure with
#[derive(Debug, Parser)]
#[command(name = "fill-registry")]
struct FillRegistry {
    /// A folder that is there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many devices, those of --known included
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    devices: usize,
    /// A device that has a name of its own; repeatable
    #[arg(long, value_name = "ID")]
    known: Vec<DeviceId>,
}

fn main() {
    let asked = FillRegistry::parse();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(asked.run());
}

impl FillRegistry {
    async fn run(&self) {
        let path = self.out.join("registry.db");
        let store = StoreSettings::Sqlite { path };
        let registry = Registry::open(&store).await.expect("a registry");
        let key = token_key(&self.out.join("token.key"), &registry).await;
        let token = new_token();
        write(&self.out.join("token"), token.reveal());
        let print = key.expect("a token key").hash(&token);
        registry
            .add(&self.records(print), &mut |_| {})
            .await
            .expect("added");
    }

    fn records(&self, token: Print) -> Vec<Record> {
        let now = now();
        let known = self.known.iter().map(|id| record(id.clone(), now, None));
        let others = self.devices.saturating_sub(self.known.len());
        let others = (1..=others).map(|number| {
            // As the load names them.
            let id = format!("bench-{number:06}").parse().expect("a device id");
            record(id, now, (number <= TOKENS).then_some(token))
        });
        known.chain(others).collect()
    }
}

fn record(device: DeviceId, now: i64, token: Option<Print>) -> Record {
    let mut record = Record::new(device, now);
    let proof = Proof::Vouched {
        group: "fleet".to_owned(),
        field: Field::SubjectCn,
        pin: None,
    };
    record.add_credential(proof, Valid::since(now));
    if let Some(token) = token {
        record.min_mode = Mode::ServerTls;
        record.add_credential(Proof::Token(token), Valid::since(now));
    }
    record
}

fn new_token() -> Token {
    let mut chance = [0; 32];
    aws_lc_rs::rand::fill(&mut chance).expect("randomness");
    Token::from_chance(&chance)
}

fn write(path: &Path, text: &str) {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .expect("a new file");
    file.write_all(text.as_bytes()).expect("written");
}

#[allow(clippy::disallowed_methods, reason = "a program's own clock")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.expect("after 1970").as_secs()).expect("not for long yet")
}
