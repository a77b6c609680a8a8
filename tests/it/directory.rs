//! What the path asks, over both stores as they are: an SQLite file, and a real PostgreSQL (threats.md R1, V4, V6).

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::Connection as _;
use tidegate::registry::directory::{Directory, Found, Whom};
use tidegate::registry::{Change, Registry, Settings, StoreSettings};
use tidegate::rules::device::{DeviceId, Mode};
use tidegate::rules::record::{LastSeen, Pin, Record};

use crate::registry::{Store, add, bare, id, pinned};
use crate::support::postgres::Cluster;
use crate::support::{soon, until};

/// A directory on this store.
fn start(store: &StoreSettings) -> Arc<Directory> {
    let settings = Settings {
        store: store.clone(),
        grace: Duration::from_secs(3600),
        cache_bytes: 16 << 20,
    };
    Directory::start(&settings).expect("it starts")
}

async fn is_there(directory: &Directory) {
    until("the registry to be there", async || {
        directory.is_away().is_none().then_some(())
    })
    .await;
}

async fn is_away(directory: &Directory) -> String {
    let why = until("the registry to be away", async || directory.is_away()).await;
    why.to_string()
}

async fn find(directory: &Directory, name: &str) -> Found {
    directory.look_up(&Whom::Device(id(name))).await
}

fn known(found: Found) -> Arc<Record> {
    match found {
        Found::Known(record) => record,
        other => panic!("{other:?}"),
    }
}

async fn disable(registry: &Registry, device: &DeviceId) {
    let mut change = |record: &mut Record| {
        record.enabled = false;
        Ok(())
    };
    let changed = registry.change(device, 200, &mut change).await;
    changed.expect("changed");
}

#[tokio::test]
async fn a_file_is_followed() {
    let store = Store::sqlite();
    follows(&store, Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_postgres_is_followed() {
    let cluster = Cluster::start().await;
    let store = Store::postgres(&cluster, "tidegate").await;
    follows(&store, Duration::from_secs(2)).await;
}

/// Another process adds, changes and removes; all is told in time, and what is found is what is there.
async fn follows(store: &Store<'_>, in_time: Duration) {
    let registry = store.open().await;
    let directory = start(&store.settings);
    is_there(&directory).await;
    let told = async |device: &DeviceId| {
        let began = Instant::now();
        let changes = soon("a change", directory.next_changes()).await;
        let took = began.elapsed();
        println!("told after {took:.1?}");
        assert_eq!(changes, [Change::Device(device.clone())]);
        assert!(took < in_time, "{took:?}");
    };
    let (meter, pins) = (
        id("meter-7"),
        [Pin::Certificate([1; 32]), Pin::Key([2; 32])],
    );
    let by_pin = Whom::Pinned(pins);
    assert!(matches!(find(&directory, "meter-7").await, Found::Unknown));
    assert!(matches!(directory.look_up(&by_pin).await, Found::Unknown));

    add(&registry, &[pinned("meter-7", pins[1])])
        .await
        .expect("added");
    told(&meter).await;
    assert!(known(find(&directory, "meter-7").await).enabled);
    assert!(known(directory.look_up(&by_pin).await).enabled);

    disable(&registry, &meter).await;
    told(&meter).await;
    assert!(!known(directory.look_up(&by_pin).await).enabled);
    assert!(!known(find(&directory, "meter-7").await).enabled);

    registry.remove(&meter).await.expect("removed");
    told(&meter).await;
    assert!(matches!(find(&directory, "meter-7").await, Found::Unknown));
    assert!(matches!(directory.look_up(&by_pin).await, Found::Unknown));

    // It registers itself; when it was seen is written at the end.
    let mut record = bare("meter-7");
    record.registered_by = Some("fleet".into());
    let registered = directory.register(record, 10).await.expect("room");
    assert_eq!(known(registered).registered_by.as_deref(), Some("fleet"));
    told(&meter).await;
    let seen = LastSeen {
        at: 300,
        address: "192.0.2.7:49152".into(),
        mode: Mode::MutualTls,
        certificate: None,
    };
    directory.note_seen(&meter, seen.clone());
    directory.stop().await;
    assert_eq!(
        registry.last_seen(&meter).await.expect("an answer"),
        Some(seen)
    );
    assert_eq!(directory.counts().seen_lost, 0);
}

/// Killed, frozen and locked: known devices go on, others come back, and what was missed is told.
#[tokio::test]
async fn a_postgres_that_fails_holds_nobody_and_loses_no_change() {
    let mut cluster = Cluster::start().await;
    let store = Store::postgres(&cluster, "tidegate").await;
    let settings = store.settings.clone();
    let registry = store.open().await;
    drop(store);
    // Memory fills by itself, in the order of names, from what is there: once it has passed the last one, whoever comes later is asked for.
    add(&registry, &[bare("z")]).await.expect("added");
    let directory = start(&settings);
    until("memory to be filled", async || {
        (directory.counts().entries == 1).then_some(())
    })
    .await;
    let names: Vec<_> = (0..100).map(|n| format!("meter-{n}")).collect();
    let records: Vec<_> = names.iter().map(|name| bare(name)).collect();
    add(&registry, &records).await.expect("added");
    let mut told = 0;
    while told < names.len() {
        told += soon("the new ones", directory.next_changes()).await.len();
    }
    known(find(&directory, "meter-0").await);

    let others_come_back = async || {
        let began = Instant::now();
        let looks = names[1..].iter().map(|name| find(&directory, name));
        for found in futures_util::future::join_all(looks).await {
            assert!(matches!(found, Found::Away(_)), "{found:?}");
        }
        let took = began.elapsed();
        println!("99 devices told after {took:.1?}");
        assert!(took < Duration::from_secs(3), "{took:?}");
        known(find(&directory, "meter-0").await);
    };

    for trouble in ["killed", "frozen"] {
        let began = Instant::now();
        match trouble {
            "killed" => cluster.stop(),
            _ => cluster.freeze(),
        }
        others_come_back().await;
        let why = is_away(&directory).await;
        println!("{trouble}: away after {:.1?}: {why}", began.elapsed());
        others_come_back().await;
        match trouble {
            "killed" => cluster.come_back().await,
            _ => cluster.thaw(),
        }
        let began = Instant::now();
        let device = id("meter-0");
        disable(&registry, &device).await;
        let told = soon("the change", directory.next_changes()).await;
        println!("{trouble}: told {:.1?} after it came back", began.elapsed());
        assert_eq!(told, [Change::Device(device.clone())]);
        is_there(&directory).await;
        assert!(!known(find(&directory, "meter-0").await).enabled);
    }

    // The devices are locked, the changes are not: it does not seem to be away, and what is known goes on.
    let mut other = cluster.connect("tidegate").await.expect("it answers");
    let mut lock = other.begin().await.expect("a transaction");
    let held = sqlx::query("LOCK TABLE device IN ACCESS EXCLUSIVE MODE");
    held.execute(&mut *lock).await.expect("locked");
    for _ in 0..3 {
        let began = Instant::now();
        let others = others_come_back();
        let is_there = async {
            while began.elapsed() < Duration::from_millis(1900) {
                assert_eq!(directory.is_away(), None);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::join!(others, is_there);
        println!("locked: {:.1?}", began.elapsed());
    }
    lock.rollback().await.expect("let go");
    is_there(&directory).await;
    known(find(&directory, "meter-1").await);
}
