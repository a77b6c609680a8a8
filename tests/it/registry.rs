//! The registry keeps each promise on both stores alike: an SQLite file, and a real PostgreSQL.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};
use tempfile::TempDir;
use tidegate::registry::look::{Look, look};
use tidegate::registry::token_key::token_key;
use tidegate::registry::{Change, Fault, Filter, Registry, StoreSettings};
use tidegate::rules::device::{Alphabet, DeviceId, Mode};
use tidegate::rules::identity::Field;
use tidegate::rules::record::{LastSeen, Pin, Proof, Record, Valid};

use crate::support::postgres::Cluster;
use crate::support::soon;

/// A store with nothing in it.
pub(crate) struct Store<'a> {
    pub(crate) settings: StoreSettings,
    cluster: Option<(&'a Cluster, String)>,
    _folder: Option<TempDir>,
}

impl<'a> Store<'a> {
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("registry.db");
        Self {
            settings: StoreSettings::Sqlite { path },
            cluster: None,
            _folder: Some(folder),
        }
    }

    pub(crate) async fn postgres(cluster: &'a Cluster, name: &str) -> Self {
        Self {
            settings: cluster.database(name).await,
            cluster: Some((cluster, name.to_owned())),
            _folder: None,
        }
    }

    pub(crate) async fn open(&self) -> Registry {
        Registry::open(&self.settings).await.expect("it opens")
    }

    /// Does something to the store, behind the registry's back.
    async fn execute(&self, sql: &str) {
        match (&self.cluster, &self.settings) {
            (Some((cluster, name)), _) => cluster.execute(name, sql).await,
            (None, StoreSettings::Sqlite { path }) => {
                let path = format!("sqlite://{}?mode=rwc", path.display());
                let mut file = SqliteConnection::connect(&path).await.expect("a file");
                let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut file);
                done.await.expect("done");
                file.close().await.expect("closed");
            }
            (None, StoreSettings::Postgres { .. }) => unreachable!("it has a cluster"),
        }
    }
}

/// Each promise is one test on SQLite. On PostgreSQL all are one test, each with a database of its own: a cluster for each would
/// take longer than all the promises.
macro_rules! promises {
    ($($promise:ident)*) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::Store::sqlite()).await;
            })*
        }

        #[tokio::test]
        async fn postgres_keeps_every_promise() {
            let cluster = Cluster::start().await;
            $(
                println!("{}", stringify!($promise));
                $promise(Store::postgres(&cluster, stringify!($promise)).await).await;
            )*
        }
    };
}

promises! {
    a_record_comes_back_as_it_was
    ids_compare_byte_by_byte
    a_list_is_filtered_and_comes_in_pages
    an_id_is_taken_once
    what_is_pinned_names_one_device
    an_owner_changes_a_device_as_a_whole
    owners_do_not_undo_each_other
    what_no_store_can_keep_is_refused
    every_change_is_told_in_its_order
    those_who_are_far_behind_are_told_so
    a_group_registers_up_to_its_quota
    when_a_device_was_seen_is_kept_apart
    a_registry_has_one_token_key
    many_open_a_new_registry_at_once
    a_newer_schema_is_left_alone
    tables_of_somebody_else_are_left_alone
    a_row_that_is_not_ours_is_told
}

pub(crate) fn id(name: &str) -> DeviceId {
    name.parse().expect("a good name")
}

/// A device without credentials.
pub(crate) fn bare(name: &str) -> Record {
    Record::new(id(name), 100)
}

pub(crate) fn pinned(name: &str, pin: Pin) -> Record {
    let mut record = bare(name);
    record.add_credential(Proof::Pinned(pin), Valid::since(100));
    record
}

pub(crate) async fn add(registry: &Registry, records: &[Record]) -> Result<(), Fault> {
    registry.add(records, &mut |_| ()).await
}

async fn names(registry: &Registry, filter: &Filter) -> Vec<String> {
    let listed = registry.list(filter, None, 1_000).await.expect("listed");
    let names: Vec<_> = listed
        .iter()
        .map(|(record, _)| record.device.to_string())
        .collect();
    let count = registry.count(filter).await.expect("counted");
    assert_eq!(count, names.len() as u64, "{filter:?}");
    names
}

fn seen(at: i64) -> LastSeen {
    LastSeen {
        at,
        address: "[2001:db8::1]:49152".into(),
        mode: Mode::MutualTls,
        certificate: Some([9; 32]),
    }
}

/// Everything that a record can hold, at its edges.
fn full() -> Record {
    let wide = Alphabet::with_extra(":@\"'\\%").expect("harmless");
    let device = wide.device("urn:a@b\"'\\%").expect("within");
    let mut record = Record::new(device, i64::MIN);
    record.description = "Zähler \"7\" \\ 🌊\n".into();
    record.labels = BTreeMap::from([
        ("".into(), "".into()),
        ("a\"b'c\\d.e$[0]".into(), "\u{1}🌊".into()),
        ("site".into(), "x".repeat(256)),
    ]);
    record.enabled = false;
    record.min_mode = Mode::Plain;
    record.connections = Some(u32::MAX);
    record.registered_by = Some("fleet".into());
    record.changed = i64::MAX;
    let ends = Valid {
        from: -1,
        until: Some(i64::MAX),
    };
    let vouched = |field, pin| Proof::Vouched {
        group: "vendor".into(),
        field,
        pin,
    };
    for (field, byte) in Field::ALL.into_iter().zip(0..) {
        record.add_credential(vouched(field, None), Valid::since(0));
        record.add_credential(vouched(field, Some(Pin::Key([byte; 32]))), ends);
    }
    record.add_credential(Proof::Pinned(Pin::Certificate([0xff; 32])), ends);
    record.add_credential(Proof::Pinned(Pin::Key([0xff; 32])), ends);
    record.add_credential(Proof::Token([0; 32]), Valid::since(5));
    record
}

async fn a_record_comes_back_as_it_was(store: Store<'_>) {
    let registry = store.open().await;
    let mut records = vec![full()];
    records.extend(Mode::ALL.map(|mode| Record {
        min_mode: mode,
        connections: (mode == Mode::ServerTls).then_some(0),
        ..bare(mode.word())
    }));
    let mut done = Vec::new();

    let mut progress = |number| done.push(number);
    let added = registry.add(&records, &mut progress).await;
    added.expect("added");

    assert_eq!(done, [records.len()]);
    for registry in [registry, store.open().await] {
        for record in &records {
            let found = registry.find(&record.device).await.expect("an answer");
            assert_eq!(found.as_ref(), Some(record));
            let seen = registry.last_seen(&record.device).await.expect("an answer");
            assert_eq!(seen, None);
        }
        assert_eq!(registry.find(&id("nobody")).await.expect("an answer"), None);
        let mut listed = registry
            .list(&Filter::default(), None, 10)
            .await
            .expect("listed");
        listed.sort_by_key(|(record, _)| record.min_mode != Mode::Plain || record.enabled);
        assert_eq!(listed[0], (full(), None));
    }
}

/// threats.md I5. The cluster's own order would have `A` behind `a`, and `-` count for nothing.
async fn ids_compare_byte_by_byte(store: Store<'_>) {
    let registry = store.open().await;
    let mut ids = [
        "a", "A", "b", "B", "ab", "a-b", "a.b", "a_b", "Z", "z", "meter-10", "meter-9", "METER-9",
        "0", "_", "-",
    ];
    add(&registry, &ids.map(bare))
        .await
        .expect("all are different");

    ids.sort_unstable();
    assert_eq!(names(&registry, &Filter::default()).await, ids);
    for name in ids {
        let found = registry
            .find(&id(name))
            .await
            .expect("an answer")
            .expect("it is there");
        assert_eq!(found.device.as_str(), name);
    }
    assert_eq!(
        registry.find(&id("Meter-9")).await.expect("an answer"),
        None
    );
    assert_eq!(registry.find(&id("Ab")).await.expect("an answer"), None);

    let mut paged = Vec::new();
    let mut after = None;
    loop {
        let page = registry
            .list(&Filter::default(), after.as_ref(), 3)
            .await
            .expect("listed");
        paged.extend(page.iter().map(|(record, _)| record.device.to_string()));
        after = page.last().map(|(record, _)| record.device.clone());
        if page.len() < 3 {
            break;
        }
    }
    assert_eq!(paged, ids);

    for (prefix, expected) in [
        ("", &ids[..]),
        ("meter-", &["meter-10", "meter-9"]),
        ("a", &["a", "a-b", "a.b", "a_b", "ab"]),
        ("a_", &["a_b"]),
        ("a%", &[]),
        ("z", &["z"]),
        ("ä", &[]),
        ("a\0", &[]),
    ] {
        let filter = Filter {
            prefix: Some(prefix.into()),
            ..Filter::default()
        };
        assert_eq!(names(&registry, &filter).await, expected, "{prefix:?}");
    }
}

async fn a_list_is_filtered_and_comes_in_pages(store: Store<'_>) {
    let registry = store.open().await;
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut odd = bare("odd");
    odd.labels = BTreeMap::from([label("a\"b'c\\d.e$[0]", "it's"), label("site", "Berlin")]);
    let mut off = pinned("off", Pin::Key([1; 32]));
    off.labels = BTreeMap::from([label("site", "berlin"), label("void", "")]);
    off.enabled = false;
    let mut vouched = bare("vouched");
    vouched.min_mode = Mode::Plain;
    for _ in 0..2 {
        let proof = Proof::Vouched {
            group: "fleet".into(),
            field: Field::SubjectCn,
            pin: None,
        };
        vouched.add_credential(proof, Valid::since(0));
    }
    add(&registry, &[odd, off, vouched]).await.expect("added");

    let labelled = |labels: &[(&str, &str)]| Filter {
        labels: labels
            .iter()
            .map(|(name, value)| label(name, value))
            .collect(),
        ..Filter::default()
    };
    let found: [(Filter, &[&str]); 14] = [
        (labelled(&[("site", "berlin")]), &["off"]),
        (labelled(&[("site", "")]), &["odd", "off"]),
        (labelled(&[("site", ""), ("void", "")]), &["off"]),
        (labelled(&[("site", "Berlin"), ("void", "")]), &[]),
        (labelled(&[("a\"b'c\\d.e$[0]", "it's")]), &["odd"]),
        (labelled(&[("a", "")]), &[]),
        (labelled(&[("site\0", "")]), &[]),
        (
            Filter {
                enabled: Some(false),
                ..Filter::default()
            },
            &["off"],
        ),
        (
            Filter {
                enabled: Some(true),
                ..Filter::default()
            },
            &["odd", "vouched"],
        ),
        (
            Filter {
                min_mode: Some(Mode::Plain),
                ..Filter::default()
            },
            &["vouched"],
        ),
        (
            Filter {
                trust: Some("fleet".into()),
                ..Filter::default()
            },
            &["vouched"],
        ),
        (
            Filter {
                trust: Some("FLEET".into()),
                ..Filter::default()
            },
            &[],
        ),
        (
            Filter {
                prefix: Some("o".into()),
                enabled: Some(true),
                ..labelled(&[("site", "")])
            },
            &["odd"],
        ),
        (Filter::default(), &["odd", "off", "vouched"]),
    ];
    for (filter, expected) in found {
        assert_eq!(names(&registry, &filter).await, expected, "{filter:?}");
    }
    let none = registry
        .list(&Filter::default(), None, 0)
        .await
        .expect("listed");
    assert_eq!(none, []);
}

async fn an_id_is_taken_once(store: Store<'_>) {
    let registry = store.open().await;
    add(&registry, &[bare("meter-7")]).await.expect("added");
    let mut many: Vec<_> = (0..1_200)
        .map(|number| bare(&format!("m{number}")))
        .collect();
    many.push(bare("meter-7"));

    for records in [
        &many[..],
        &[bare("new"), bare("meter-7")],
        &[bare("twice"), bare("twice")],
    ] {
        let fault = add(&registry, records).await.expect_err("it is taken");
        let taken = records.last().expect("one").device.clone();
        assert!(
            matches!(&fault, Fault::DeviceExists(device) if *device == taken),
            "{fault}"
        );
        assert_eq!(
            names(&registry, &Filter::default()).await,
            ["meter-7"],
            "all or none"
        );
    }
    let fault = registry
        .register(&bare("meter-7"), 10)
        .await
        .expect_err("it is taken");
    assert!(matches!(fault, Fault::DeviceExists(_)), "{fault}");
    add(&registry, &[]).await.expect("nothing is added");
}

async fn what_is_pinned_names_one_device(store: Store<'_>) {
    let registry = store.open().await;
    let (certificate, key, other) = (
        Pin::Certificate([7; 32]),
        Pin::Key([7; 32]),
        Pin::Key([8; 32]),
    );
    let vouched = |name: &str| {
        let mut record = bare(name);
        let proof = Proof::Vouched {
            group: "fleet".into(),
            field: Field::SubjectCn,
            pin: Some(certificate),
        };
        record.add_credential(proof, Valid::since(0));
        record
    };
    let mut token = bare("token");
    token.add_credential(Proof::Token([7; 32]), Valid::since(0));
    add(&registry, &[vouched("v1"), vouched("v2"), token])
        .await
        .expect("they pin nothing alone");
    assert_eq!(
        registry
            .find_pinned(&[certificate, key])
            .await
            .expect("an answer"),
        None
    );
    assert_eq!(registry.find_pinned(&[]).await.expect("an answer"), None);

    // The same 32 bytes of a certificate and of a key are two pins.
    add(&registry, &[pinned("a", certificate), pinned("b", key)])
        .await
        .expect("added");
    for (pins, name) in [
        (&[certificate][..], "a"),
        (&[key], "b"),
        (&[certificate, key], "a"),
        (&[key, certificate], "b"),
        (&[other, key], "b"),
    ] {
        let found = registry.find_pinned(pins).await.expect("an answer");
        assert_eq!(found.expect("it is pinned").device, id(name), "{pins:?}");
    }

    let mut twice = pinned("twice", other);
    twice.add_credential(Proof::Pinned(other), Valid::since(0));
    let expect = |fault: Fault, expected: Pin, whose: &str| match fault {
        Fault::PinExists { pin, device } => assert_eq!((pin, device), (expected, id(whose))),
        fault => panic!("{fault}"),
    };
    let fault = add(&registry, &[pinned("x", other), pinned("y", key)])
        .await
        .expect_err("taken");
    expect(fault, key, "b");
    let fault = add(&registry, &[twice]).await.expect_err("twice");
    expect(fault, other, "twice");
    let mut pin = |record: &mut Record| {
        record.add_credential(Proof::Pinned(certificate), Valid::since(0));
        Ok(())
    };
    let fault = registry
        .change(&id("b"), 200, &mut pin)
        .await
        .expect_err("taken");
    expect(fault, certificate, "a");
    let unchanged = registry
        .find(&id("b"))
        .await
        .expect("an answer")
        .expect("there");
    assert_eq!(unchanged, pinned("b", key));

    registry.remove(&id("a")).await.expect("removed");
    assert_eq!(
        registry
            .find_pinned(&[certificate])
            .await
            .expect("an answer"),
        None
    );
    registry
        .change(&id("b"), 200, &mut pin)
        .await
        .expect("it is free now");
    let found = registry
        .find_pinned(&[certificate])
        .await
        .expect("an answer");
    assert_eq!(found.expect("it is pinned").credentials.len(), 2);
}

async fn an_owner_changes_a_device_as_a_whole(store: Store<'_>) {
    let registry = store.open().await;
    let fault = registry
        .change(&id("a"), 1, &mut |_| Ok(()))
        .await
        .expect_err("not there");
    assert!(matches!(fault, Fault::NoDevice(_)), "{fault}");
    add(&registry, &[bare("a"), bare("b")])
        .await
        .expect("added");
    let mut expected = full();
    expected.device = id("a");
    expected.created = 100;
    expected.changed = 200;

    let mut change = |record: &mut Record| {
        *record = full(); // with another name, and another time
        record.credentials.reverse();
        Ok(())
    };
    let changed = registry
        .change(&id("a"), 200, &mut change)
        .await
        .expect("changed");
    assert_eq!(changed, expected);
    let found = registry.find(&id("a")).await.expect("an answer");
    assert_eq!(found, Some(expected.clone()));

    let mut refuse = |record: &mut Record| {
        record.enabled = true;
        Err("it has to stay so".to_owned())
    };
    let fault = registry
        .change(&id("a"), 300, &mut refuse)
        .await
        .expect_err("refused");
    assert_eq!(fault.to_string(), "it has to stay so");
    let found = registry.find(&id("a")).await.expect("an answer");
    assert_eq!(found, Some(expected));
    let other = registry.find(&id("b")).await.expect("an answer");
    assert_eq!(other, Some(bare("b")));

    registry.remove(&id("a")).await.expect("removed");
    let fault = registry.remove(&id("a")).await.expect_err("it is gone");
    assert!(matches!(fault, Fault::NoDevice(_)), "{fault}");
    add(&registry, &[bare("a")])
        .await
        .expect("the name is free");
    let found = registry.find(&id("a")).await.expect("an answer");
    assert_eq!(found, Some(bare("a")), "nothing is left of the old one");
}

async fn owners_do_not_undo_each_other(store: Store<'_>) {
    let registries = [store.open().await, store.open().await];
    add(&registries[0], &[bare("a")]).await.expect("added");

    let changes = (0..10_usize).map(|number| {
        let registry = registries[number % 2].clone();
        tokio::spawn(async move {
            let mut change = |record: &mut Record| {
                let proof = Proof::Token([u8::try_from(number).expect("small"); 32]);
                record.add_credential(proof, Valid::since(0));
                Ok(())
            };
            registry.change(&id("a"), 200, &mut change).await
        })
    });
    for change in changes.collect::<Vec<_>>() {
        change.await.expect("no panic").expect("changed");
    }
    let found = registries[0]
        .find(&id("a"))
        .await
        .expect("an answer")
        .expect("there");
    assert_eq!(found.credentials.len(), 10);
}

async fn what_no_store_can_keep_is_refused(store: Store<'_>) {
    let registry = store.open().await;
    let mut numbered = pinned("numbered", Pin::Key([1; 32]));
    numbered.credentials.push(numbered.credentials[0].clone());
    let mut nul = bare("nul");
    nul.labels.insert("a".into(), "\0".into());
    for record in [numbered, nul.clone()] {
        let fault = add(&registry, &[record]).await.expect_err("refused");
        assert!(matches!(fault, Fault::Refused(_)), "{fault}");
    }
    add(&registry, &[bare("a")]).await.expect("added");
    let mut change = |record: &mut Record| {
        record.labels = nul.labels.clone();
        Ok(())
    };
    let fault = registry
        .change(&id("a"), 200, &mut change)
        .await
        .expect_err("refused");
    assert!(matches!(fault, Fault::Refused(_)), "{fault}");
    assert_eq!(names(&registry, &Filter::default()).await, ["a"]);
}

fn devices(names: &[&str]) -> Vec<Change> {
    names.iter().map(|name| Change::Device(id(name))).collect()
}

async fn every_change_is_told_in_its_order(store: Store<'_>) {
    let (registry, reader) = (store.open().await, store.open().await);
    let mut place = reader.place().await.expect("a place");
    let mut told = async || {
        let changes = reader.changes(place).await.expect("told");
        place = changes.place;
        changes.changes
    };
    assert_eq!(told().await, []);

    add(&registry, &[bare("b"), bare("a")])
        .await
        .expect("added");
    registry.register(&bare("c"), 1).await.expect("registered");
    assert_eq!(told().await, devices(&["b", "a", "c"]));
    assert_eq!(told().await, [], "each is told once");

    for _ in 0..2 {
        registry
            .change(&id("a"), 200, &mut |_| Ok(()))
            .await
            .expect("changed");
    }
    registry.remove(&id("b")).await.expect("removed");
    assert_eq!(told().await, devices(&["a", "b"]));

    // None of these changes a device.
    let refused = registry
        .change(&id("a"), 300, &mut |_| Err("no".into()))
        .await;
    refused.expect_err("refused");
    add(&registry, &[bare("d"), bare("a")])
        .await
        .expect_err("taken");
    registry.remove(&id("b")).await.expect_err("gone");
    registry
        .note_seen(&[(id("a"), seen(1))])
        .await
        .expect("noted");
    add(&registry, &[]).await.expect("nothing");
    assert_eq!(told().await, []);

    let many: Vec<_> = (0..10_000)
        .map(|number| bare(&format!("m{number}")))
        .collect();
    add(&registry, &many).await.expect("added");
    assert_eq!(told().await.len(), 10_000);
    let more: Vec<_> = (0..10_001)
        .map(|number| bare(&format!("n{number}")))
        .collect();
    add(&registry, &more).await.expect("added");
    assert_eq!(told().await, [Change::Everything]);
    assert_eq!(told().await, []);

    // Whoever waits is told at once: of what could have been missed before, then of changes by this very registry.
    soon("the first look", registry.changed()).await.ok();
    let waiting = registry.clone();
    let waiting = tokio::spawn(async move { waiting.changed().await });
    registry.remove(&id("c")).await.expect("removed");
    soon("the change", waiting)
        .await
        .expect("no panic")
        .expect("told");
    assert_eq!(told().await, devices(&["c"]));
}

async fn those_who_are_far_behind_are_told_so(store: Store<'_>) {
    let registry = store.open().await;
    add(&registry, &[bare("a"), bare("b")])
        .await
        .expect("added");
    let begin = registry.place().await.expect("a place");
    for _ in 0..3 {
        registry
            .change(&id("a"), 200, &mut |_| Ok(()))
            .await
            .expect("changed");
    }
    let end = registry.place().await.expect("a place");
    let told = async |place| registry.changes(place).await.expect("told");
    assert_eq!(told(begin).await.changes, devices(&["a"]));

    store
        .execute(&format!("DELETE FROM change WHERE seq <= {}", begin + 1))
        .await;
    for place in [begin, begin - 1, end + 5] {
        let changes = told(place).await;
        assert_eq!(changes.changes, [Change::Everything], "{place}");
        assert_eq!(changes.place, end);
    }
    assert_eq!(told(begin + 1).await.changes, devices(&["a"]));
    assert_eq!(told(end).await.changes, []);

    // 100 000 are kept.
    let many = "INSERT INTO change (device) SELECT 'a' FROM (WITH RECURSIVE n (i) AS \
                (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100100) SELECT i FROM n) numbers";
    store.execute(many).await;
    registry
        .change(&id("b"), 200, &mut |_| Ok(()))
        .await
        .expect("changed");
    let last = registry.place().await.expect("a place");
    assert_eq!(told(end + 1).await.changes, [Change::Everything]);
    assert_eq!(
        told(last - 99_999).await.changes,
        [Change::Everything],
        "more than is told one by one"
    );
    assert_eq!(told(last - 9_999).await.changes, devices(&["a", "b"]));
    assert_eq!(told(last - 1).await.changes, devices(&["b"]));
}

async fn a_group_registers_up_to_its_quota(store: Store<'_>) {
    let registries = [store.open().await, store.open().await];
    let registering = |name: String, group: &str| Record {
        registered_by: Some(group.into()),
        ..bare(&name)
    };
    let many = (0..12_usize).map(|number| {
        let registry = registries[number % 2].clone();
        let record = registering(format!("m{number}"), "fleet");
        tokio::spawn(async move { registry.register(&record, 5).await })
    });
    let (mut taken, mut full) = (0, 0);
    for one in many.collect::<Vec<_>>() {
        match one.await.expect("no panic") {
            Ok(()) => taken += 1,
            Err(Fault::QuotaFull { group, quota: 5 }) if group == "fleet" => full += 1,
            Err(fault) => panic!("{fault}"),
        }
    }
    assert_eq!((taken, full), (5, 7));
    let [registry, _] = &registries;
    registry
        .register(&registering("v".into(), "vendor"), 1)
        .await
        .expect("another group");
    let first = names(registry, &Filter::default()).await.remove(0);
    registry.remove(&id(&first)).await.expect("removed");
    registry
        .register(&registering("late".into(), "fleet"), 5)
        .await
        .expect("there is room again");
    let fault = registry
        .register(&registering("later".into(), "fleet"), 5)
        .await;
    assert!(matches!(fault, Err(Fault::QuotaFull { .. })), "{fault:?}");
}

async fn when_a_device_was_seen_is_kept_apart(store: Store<'_>) {
    let registry = store.open().await;
    let names: Vec<String> = (0..1_100).map(|number| format!("m{number}")).collect();
    let records: Vec<_> = names.iter().map(|name| bare(name)).collect();
    add(&registry, &records).await.expect("added");
    let at = async |name: &str| {
        let seen = registry.last_seen(&id(name)).await.expect("an answer");
        seen.map(|seen| seen.at)
    };

    let mut batch: Vec<_> = names.iter().rev().map(|name| (id(name), seen(5))).collect();
    batch.extend([
        (id("nobody"), seen(9)),
        (id("m0"), seen(7)),
        (id("m0"), seen(6)),
    ]);
    registry.note_seen(&batch).await.expect("noted");
    registry.note_seen(&[]).await.expect("nothing to note");
    assert_eq!(
        registry.last_seen(&id("m1")).await.expect("an answer"),
        Some(seen(5))
    );
    assert_eq!((at("m0").await, at("nobody").await), (Some(7), None));

    let plain = LastSeen {
        mode: Mode::Plain,
        certificate: None,
        ..seen(8)
    };
    registry
        .note_seen(&[(id("m0"), plain.clone()), (id("m1"), seen(4))])
        .await
        .expect("noted");
    assert_eq!(at("m1").await, Some(5), "the later one stays");
    let listed = registry
        .list(&Filter::default(), None, 1)
        .await
        .expect("listed");
    assert_eq!(listed, [(bare("m0"), Some(plain))]);

    registry.remove(&id("m1")).await.expect("removed");
    add(&registry, &[bare("m1")]).await.expect("added");
    assert_eq!(
        at("m1").await,
        None,
        "another device of the same name was never seen"
    );
}

async fn a_registry_has_one_token_key(store: Store<'_>) {
    let registry = store.open().await;
    assert!(!registry.has_token_key().await.expect("an answer"));
    let asked = (1..5_u8).map(|byte| {
        let registry = registry.clone();
        tokio::spawn(async move { registry.token_key_check(&[byte; 16]).await })
    });
    let mut kept = Vec::new();
    for one in asked.collect::<Vec<_>>() {
        kept.push(one.await.expect("no panic").expect("an answer"));
    }
    kept.dedup();
    assert_eq!(kept.len(), 1, "the first one counts: {kept:?}");
    assert!(store.open().await.has_token_key().await.expect("an answer"));
}

async fn many_open_a_new_registry_at_once(store: Store<'_>) {
    let opening = (0..12).map(|_| {
        let settings = store.settings.clone();
        tokio::spawn(async move { Registry::open(&settings).await })
    });
    for opened in opening.collect::<Vec<_>>() {
        let registry = opened.await.expect("no panic").expect("it opens");
        assert_eq!(registry.place().await.expect("an answer"), 0);
    }
}

async fn a_newer_schema_is_left_alone(store: Store<'_>) {
    drop(store.open().await);
    let newer = "INSERT INTO tidegate_schema (version, description, success, checksum, execution_time) \
                 SELECT 1000, 'more', success, checksum, 0 FROM tidegate_schema";
    store.execute(newer).await;

    let fault = Registry::open(&store.settings)
        .await
        .expect_err("it is too new");
    let sentence = fault.to_string();
    assert!(matches!(fault, Fault::Unusable(_)), "{sentence}");
    assert!(
        sentence.contains("newer tidegate") && sentence.contains("1000"),
        "{sentence}"
    );
}

async fn tables_of_somebody_else_are_left_alone(store: Store<'_>) {
    store.execute("CREATE TABLE device (name TEXT)").await;

    let fault = Registry::open(&store.settings)
        .await
        .expect_err("they are not ours");
    let sentence = fault.to_string();
    assert!(matches!(fault, Fault::Unusable(_)), "{sentence}");
    assert!(sentence.contains("of its own"), "{sentence}");
}

async fn a_row_that_is_not_ours_is_told(store: Store<'_>) {
    let registry = store.open().await;
    add(&registry, &[bare("a"), pinned("b", Pin::Key([1; 32]))])
        .await
        .expect("added");
    store
        .execute("UPDATE device SET min_mode = 'tls' WHERE id = 'a'")
        .await;
    store
        .execute("UPDATE credential SET pin = NULL WHERE device = 'b'")
        .await;
    for name in ["a", "b"] {
        let fault = registry
            .find(&id(name))
            .await
            .expect_err("it is not understood");
        assert!(matches!(fault, Fault::Unusable(_)), "{fault}");
        assert!(fault.to_string().contains("not understood"), "{fault}");
    }
}

/// The file holds tokens' hashes: it is for its owner alone.
#[tokio::test]
async fn an_sqlite_file_is_made_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let store = Store::sqlite();
    let registry = store.open().await;
    add(&registry, &[bare("a")]).await.expect("added");
    let StoreSettings::Sqlite { path } = &store.settings else {
        unreachable!("it is a file");
    };
    for end in ["", "-wal", "-shm"] {
        let file = PathBuf::from(format!("{}{end}", path.display()));
        let mode = file.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
}

/// `cargo nextest run --run-ignored only --no-capture how_fast`
#[tokio::test]
#[ignore = "a measurement"]
async fn how_fast_are_a_hundred_thousand_devices() {
    let cluster = Cluster::start().await;
    for store in [Store::sqlite(), Store::postgres(&cluster, "fast").await] {
        println!("{:?}", store.settings);
        measure(store).await;
    }
}

async fn measure(store: Store<'_>) {
    const NUMBER: u32 = 100_000;
    let registry = store.open().await;
    let pin = |number: u32| {
        let mut print = [0; 32];
        print[..4].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
        Pin::Certificate(print)
    };
    let name = |number: u32| format!("meter-{number:06}");
    let record = |number| {
        let mut record = pinned(&name(number), pin(number));
        let site = format!("s{}", number % 1_000);
        record.labels.insert("site".into(), site);
        record.add_credential(Proof::Token([1; 32]), Valid::since(0));
        record
    };
    let records: Vec<_> = (0..NUMBER).map(record).collect();
    let began = Instant::now();
    add(&registry, &records).await.expect("added");
    println!("  {:26} {:>10.3?}", "add 100 000", began.elapsed());

    let label = Filter {
        labels: vec![("site".into(), "s7".into())],
        ..Filter::default()
    };
    let fleet = Filter {
        trust: Some("fleet".into()),
        ..Filter::default()
    };
    let all = Filter::default();
    let somewhere = |number: u32| id(&name(number * 7_919 % NUMBER));
    time("find", 1_000, async |n| {
        let found = registry.find(&somewhere(n)).await.expect("an answer");
        assert_eq!(found.expect("there").credentials.len(), 2);
    })
    .await;
    time("find, not there", 1_000, async |n| {
        let found = registry
            .find(&id(&format!("x{n}")))
            .await
            .expect("an answer");
        assert_eq!(found, None);
    })
    .await;
    time("find by a pin", 1_000, async |n| {
        let pins = [Pin::Key([0; 32]), pin(n * 7_919 % NUMBER)];
        let found = registry.find_pinned(&pins).await.expect("an answer");
        assert_eq!(found.expect("there").device, somewhere(n));
    })
    .await;
    time("list 100 somewhere", 100, async |n| {
        let page = registry
            .list(&all, Some(&somewhere(n)), 100)
            .await
            .expect("a page");
        assert!(!page.is_empty());
    })
    .await;
    time("list 1 000 somewhere", 20, async |n| {
        let page = registry
            .list(&all, Some(&somewhere(n)), 1_000)
            .await
            .expect("a page");
        assert!(!page.is_empty());
    })
    .await;
    time("list 100 by a label", 10, async |_| {
        let page = registry.list(&label, None, 100).await.expect("a page");
        assert_eq!(page.len(), 100);
    })
    .await;
    time("list by a group of none", 10, async |_| {
        let page = registry.list(&fleet, None, 100).await.expect("a page");
        assert!(page.is_empty());
    })
    .await;
    time("count", 10, async |_| {
        assert_eq!(
            registry.count(&all).await.expect("counted"),
            u64::from(NUMBER)
        );
    })
    .await;
    let place = registry.place().await.expect("a place");
    time("changes, none", 1_000, async |_| {
        assert_eq!(registry.changes(place).await.expect("told").changes, []);
    })
    .await;
    time("change", 200, async |n| {
        let changed = registry.change(&somewhere(n), 200, &mut |_| Ok(())).await;
        changed.expect("changed");
    })
    .await;
    time("note 1 000 seen", 10, async |n| {
        let batch: Vec<_> = (n..n + 1_000).map(|n| (somewhere(n), seen(5))).collect();
        registry.note_seen(&batch).await.expect("noted");
    })
    .await;
}

async fn time(what: &str, times: u32, mut work: impl AsyncFnMut(u32)) {
    let (mut longest, began) = (Duration::ZERO, Instant::now());
    for number in 0..times {
        let one = Instant::now();
        work(number).await;
        longest = longest.max(one.elapsed());
    }
    let mean = began.elapsed() / times;
    println!("  {what:26} {mean:>10.3?} each, {longest:.3?} at most");
}

/// `tidegate check` looks at PostgreSQL as at a file: it makes nothing, and tells another version and another key.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_postgres_makes_nothing() {
    let cluster = Cluster::start().await;
    let store = Store::postgres(&cluster, "looked_at").await;
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("token.key");
    assert_eq!(look(&store.settings, &key), Look::default());
    let mut connection = cluster.connect("looked_at").await.expect("it answers");
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    let tables: i64 = sqlx::query_scalar(tables)
        .fetch_one(&mut connection)
        .await
        .expect("a count");
    assert_eq!(tables, 0);

    let registry = store.open().await;
    token_key(&key, &registry).await.expect("made");
    assert_eq!(look(&store.settings, &key), Look::default());
    std::fs::write(&key, "7".repeat(64)).expect("written");
    let told = look(&store.settings, &key);
    let (at, why) = &told.faults[0];
    assert!(
        *at == "token.key_file" && why.contains("is not the key"),
        "{told:?}"
    );

    store
        .execute("UPDATE tidegate_schema SET version = 99")
        .await;
    let told = look(&store.settings, &key);
    let (at, why) = &told.faults[0];
    assert!(
        *at == "registry.url" && why.contains("of a newer tidegate"),
        "{told:?}"
    );
    let nobodys = StoreSettings::Postgres {
        url: cluster.url("nobodys"),
        password_file: None,
    };
    let told = look(&nobodys, &key);
    assert!(told.faults[0].1.contains("createdb"), "{told:?}");
}
