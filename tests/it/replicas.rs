//! Two gates, one PostgreSQL: what is decided counts at both; and what becomes of devices while it is away
//! (threats.md R1, V4, V6).

use std::time::Instant;

use tidegate::mqtt::Version;
use tidegate::registry::Registry;
use tidegate::rules::record::Record;
use tokio::io::AsyncReadExt as _;

use crate::support::device::{Answer, Link, connect};
use crate::support::estate::{MIXED, admitted, id, now, record};
use crate::support::gate::{Gate, Plan, tidegate};
use crate::support::postgres::Cluster;
use crate::support::{soon, until};

/// Gates before one registry. Each has a CA of its own, called by the same name.
struct Replicas {
    cluster: Cluster,
    registry: Registry,
    gates: [Gate; 2],
}

impl Replicas {
    async fn start(more: &str) -> Self {
        let cluster = Cluster::start().await;
        let store = cluster.database("devices").await;
        let registry = Registry::open(&store).await.expect("the registry");
        let gate = async || {
            let url = cluster.url("devices");
            let mut gate = Gate::plan(Plan {
                listeners: Some(MIXED.into()),
                more: format!("[registry]\nurl = \"{url}\"\n{more}\n"),
                ..Plan::default()
            })
            .await;
            gate.take_broker().welcome_all();
            gate
        };
        let gates = [gate().await, gate().await];
        Self {
            cluster,
            registry,
            gates,
        }
    }

    async fn add(&self, names: &[&str]) {
        let records: Vec<Record> = names.iter().map(|name| record(name, None)).collect();
        let added = self.registry.add(&records, &mut |_| ()).await;
        added.expect("added");
    }

    /// A link of `name` at each gate.
    async fn linked(&self, name: &str) -> [Link; 2] {
        let link =
            async |gate: &Gate| admitted(&gate.device(name), &connect(name, Version::V5)).await;
        [link(&self.gates[0]).await, link(&self.gates[1]).await]
    }

    /// What a new connection of `name` is told at the first gate.
    async fn asks(&self, name: &str) -> Answer {
        self.gates[0]
            .device(name)
            .connects_as(name, Version::V5)
            .await
    }

    /// The gates know whether the registry answers.
    async fn all_see(&self, up: bool) {
        for gate in &self.gates {
            let wanted = if up { 1.0 } else { 0.0 };
            gate.metric_becomes("tidegate_registry_up", &[], wanted)
                .await;
        }
    }
}

/// What both links are told at their end, and how long after `began`.
async fn both_end(links: &mut [Link; 2], code: u8, began: Instant) {
    for (number, link) in links.iter_mut().enumerate() {
        let mut said = std::mem::take(&mut link.stream.buffer);
        let read = link.stream.stream.read_to_end(&mut said);
        soon("the gate to close", read)
            .await
            .expect("a clean close");
        assert!(
            said.starts_with(&[0xe0]) && said.contains(&code),
            "{said:02x?}"
        );
        eprintln!("gate {number}: {} ms", began.elapsed().as_millis());
        assert!(began.elapsed().as_secs() < 10);
    }
}

/// threats.md R1: disabled by the command, a device is cut at both gates, told by the store, and by the poll where nothing tells.
#[tokio::test]
async fn a_device_that_is_disabled_is_cut_at_every_gate() {
    let replicas = Replicas::start("").await;
    replicas.add(&["meter-7", "meter-8", "bystander"]).await;
    let mut bystanders = replicas.linked("bystander").await;
    let mut links = replicas.linked("meter-7").await;
    let config = replicas.gates[0].file("tidegate.toml");
    let config = config.to_str().expect("text");
    let words = ["device", "disable", "meter-7", "--config", config];
    let (code, _, err) = tidegate(&words, replicas.gates[0].folder.path());
    let began = Instant::now();
    assert_eq!((code, err.as_str()), (0, ""));
    both_end(&mut links, 0x98, began).await;

    // Nobody listens any more, so that only the poll can tell.
    let mut links = replicas.linked("meter-8").await;
    replicas
        .cluster
        .execute(
            "devices",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND pid <> pg_backend_pid()",
        )
        .await;
    let mut disable = |record: &mut Record| {
        record.enabled = false;
        Ok(())
    };
    let device = id("meter-8");
    let changed = replicas.registry.change(&device, now(), &mut disable);
    changed.await.expect("changed");
    both_end(&mut links, 0x98, Instant::now()).await;
    for link in &mut bystanders {
        link.say(&[0xc0, 0]).await.expect("still there");
    }
}

/// threats.md V6, V4: with the store gone, or standing still, those who are known go on and all others come back; what was
/// decided meanwhile counts once it is back.
#[tokio::test]
async fn a_store_that_is_away_hurts_no_known_device() {
    let mut replicas = Replicas::start("").await;
    replicas.add(&["known", "new", "doomed"]).await;
    let mut links = replicas.linked("known").await;
    let mut doomed = replicas.linked("doomed").await;

    for frozen in [false, true] {
        if frozen {
            replicas.cluster.freeze();
        } else {
            replicas.cluster.stop();
        }
        replicas.all_see(false).await;
        assert_eq!(
            replicas.asks("known").await,
            Answer::Admitted,
            "from memory"
        );
        // Who is registered may be in memory already; of who is not, only the store can tell.
        assert_eq!(
            replicas.asks("nobody").await,
            Answer::Refused(0x88),
            "come back"
        );
        for link in &mut links {
            link.say(&[0xc0, 0]).await.expect("the open ones stay");
        }
        if frozen {
            replicas.cluster.thaw();
        } else {
            replicas.cluster.come_back().await;
        }
        replicas.all_see(true).await;
        assert_eq!(replicas.asks("nobody").await, Answer::Refused(0x87));
    }
    assert_eq!(replicas.asks("new").await, Answer::Admitted);
    let mut disable = |record: &mut Record| {
        record.enabled = false;
        Ok(())
    };
    until("the store to take a change", async || {
        let device = id("doomed");
        let changed = replicas.registry.change(&device, now(), &mut disable);
        changed.await.ok()
    })
    .await;
    both_end(&mut doomed, 0x98, Instant::now()).await;
}

/// threats.md V6: memory is believed for `registry.grace`, and not longer.
#[tokio::test]
async fn memory_is_believed_for_a_while_only() {
    let mut replicas = Replicas::start("grace = \"3s\"").await;
    replicas.add(&["known"]).await;
    let mut links = replicas.linked("known").await;
    replicas.cluster.stop();
    replicas.all_see(false).await;
    until("the grace to be over", async || {
        (replicas.asks("known").await == Answer::Refused(0x88)).then_some(())
    })
    .await;
    for link in &mut links {
        link.say(&[0xc0, 0]).await.expect("the open ones stay");
    }
}

/// A table that somebody has locked is a store that is away, for those it has to be asked for.
#[tokio::test]
async fn a_locked_store_stalls_nobody_who_is_known() {
    let replicas = Replicas::start("").await;
    replicas.add(&["known"]).await;
    let _links = replicas.linked("known").await;
    let mut lock = replicas
        .cluster
        .connect("devices")
        .await
        .expect("a connection");
    let begin = "BEGIN; LOCK TABLE device IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(begin)
        .execute(&mut lock)
        .await
        .expect("locked");
    assert_eq!(replicas.asks("known").await, Answer::Admitted);
    // Who is registered may be in memory already; of who is not, only the store can tell.
    assert_eq!(replicas.asks("nobody").await, Answer::Refused(0x88));
    sqlx::raw_sql("ROLLBACK")
        .execute(&mut lock)
        .await
        .expect("free");
    until("the store to tell who is nobody", async || {
        (replicas.asks("nobody").await == Answer::Refused(0x87)).then_some(())
    })
    .await;
}
