//! With a thread of its own, and workers that ask from theirs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use super::super::fake::{Fake, Trouble, device, record};
use super::super::{Directory, Found, thread};
use super::{EVERY, GRACE, MEMORY, Short, named, until};
use crate::registry::Fault;
use crate::rules::device::Mode;
use crate::rules::record::LastSeen;

fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

/// As [`Directory::start`] does, with a store of ours.
fn started(
    open: impl AsyncFn() -> Result<Fake, Fault> + Send + 'static,
) -> Result<Arc<Directory>, String> {
    let (ended, alive) = watch::channel(());
    let (directory, mailbox) = Directory::new(MEMORY, GRACE, alive);
    thread::spawn(open, EVERY, directory.shared.clone(), mailbox, ended)?;
    Ok(Arc::new(directory))
}

fn started_with(fake: &Fake) -> Arc<Directory> {
    let fake = fake.clone();
    let open = async move || fake.reach().await.map(|()| fake.clone());
    started(open).expect("it starts")
}

#[test]
fn a_registry_that_cannot_be_used_is_told_at_the_start() {
    let open = async || {
        Err(Fault::Unusable(
            "its tables are of a newer version".to_owned(),
        ))
    };
    let why = started(open).map(|_| ()).expect_err("it cannot be used");
    assert_eq!(why, "its tables are of a newer version");
}

#[test]
fn a_registry_that_is_away_at_the_start_is_no_error() {
    let fake = Fake::with([record("a", 1)]);
    fake.script().away = Some(Trouble::Refuses);
    let directory = started_with(&fake);
    runtime().block_on(async {
        assert_eq!(directory.finds(&named("a")).await, Short::NotNow);
        fake.script().away = None;
        until(|| directory.is_away().is_none()).await;
        assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
    });
}

#[test]
fn a_stop_writes_who_was_seen_and_ends_the_thread() {
    let fake = Fake::with([record("a", 1)]);
    let directory = started_with(&fake);
    runtime().block_on(async {
        until(|| directory.is_away().is_none()).await;
        assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
        let seen = LastSeen {
            at: 1,
            address: "192.0.2.7:49152".to_owned(),
            mode: Mode::MutualTls,
            certificate: None,
        };
        for n in 0..1200 {
            directory.note_seen(&device(n), seen.clone());
        }
        directory.stop().await;
        assert_eq!(fake.script().seen.len(), 1200);
        assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
        let Found::Away(why) = directory.look_up(&named("b")).await else {
            panic!("the thread has ended")
        };
        assert!(why.contains("has ended"), "{why}");
    });
}

/// Dropping it ends the thread, also while the store is silent.
#[test]
fn a_dropped_directory_leaves_no_thread() {
    for trouble in [None, Some(Trouble::Silent)] {
        let fake = Fake::default();
        let directory = started_with(&fake);
        let mut alive = directory.alive.clone();
        fake.script().away = trouble;
        drop(directory);
        let ended = async { tokio::time::timeout(Duration::from_secs(5), alive.changed()).await };
        let ended = runtime().block_on(ended);
        assert!(matches!(ended, Ok(Err(_))), "it has ended: {ended:?}");
    }
}

/// Four workers look devices up while their owner changes them: no worker sees a version older than what was told.
#[test]
fn no_worker_sees_what_was_before_a_change_that_was_told() {
    const DEVICES: usize = 8;
    let fake = Fake::with((0..DEVICES).map(|n| record(n, 1)));
    fake.script().tells = true;
    let directory = started_with(&fake);
    let told: Arc<[AtomicU64]> = (0..DEVICES).map(|_| AtomicU64::new(1)).collect();
    let over = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (directory, told, over) = (directory.clone(), told.clone(), over.clone());
            std::thread::spawn(move || {
                let look = async {
                    let mut looks = 0_u64;
                    while !over.load(SeqCst) {
                        for n in 0..DEVICES {
                            let least = told[n].load(SeqCst);
                            match directory.finds(&named(n)).await {
                                Short::Version(version) => assert!(version >= least),
                                other => panic!("{other:?}"),
                            }
                            looks += 1;
                        }
                        tokio::task::yield_now().await;
                    }
                    looks
                };
                runtime().block_on(async {
                    until(|| directory.is_away().is_none()).await;
                    look.await
                })
            })
        })
        .collect();
    runtime().block_on(async {
        until(|| directory.is_away().is_none()).await;
        for version in 2..12 {
            for n in 0..DEVICES {
                fake.put(record(n, version));
            }
            let mut missing = DEVICES;
            while missing > 0 {
                missing -= directory.next_changes().await.len();
            }
            for one in told.iter() {
                one.store(version, SeqCst);
            }
        }
    });
    over.store(true, SeqCst);
    for worker in workers {
        assert!(worker.join().expect("no worker saw an old version") > 100);
    }
    let counts = directory.counts();
    assert!(counts.hits > counts.misses, "{counts:?}");
}
