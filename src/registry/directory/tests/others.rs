//! Registering, and noting when devices were seen.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::super::fake::{Fake, Trouble, record};
use super::super::{REGISTERING, SEEN};
use super::{Short, device, named, short, until, with_open};
use crate::registry::Fault;
use crate::rules::device::Mode;
use crate::rules::record::LastSeen;

#[tokio::test(start_paused = true)]
async fn a_device_that_registers_is_known_at_once() {
    let fake = Fake::default();
    with_open(&fake, async |directory| {
        assert_eq!(directory.finds(&named("a")).await, Short::Nobody);
        let found = directory.register(record("a", 1), 10).await.expect("room");
        assert_eq!(short(&found), Short::Version(1));
        assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
    })
    .await;
}

/// Another gate registered it a moment before, and its owner changed it: that is what counts.
#[tokio::test(start_paused = true)]
async fn a_device_that_is_registered_already_is_looked_up() {
    let fake = Fake::with([record("a", 7)]);
    with_open(&fake, async |directory| {
        let all = (0..20).map(|_| directory.register(record("a", 1), 10));
        for found in join_all(all).await {
            assert_eq!(short(&found.expect("it is there")), Short::Version(7));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_full_group_takes_nobody() {
    let fake = Fake::with([record("a", 1)]);
    with_open(&fake, async |directory| {
        let full = directory.register(record("b", 1), 1).await;
        assert!(matches!(full, Err(Fault::QuotaFull { .. })), "{full:?}");
        assert_eq!(directory.finds(&named("b")).await, Short::Nobody);
    })
    .await;
}

/// A fleet beyond its quota costs the store one try each ten seconds, not one for each device.
#[tokio::test(start_paused = true)]
async fn that_a_group_is_full_is_remembered_for_ten_seconds() {
    let fake = Fake::with([record("a", 1)]);
    let of_fleet = |name: u32| {
        let mut record = record(name, 1);
        record.registered_by = Some("fleet".to_owned());
        record
    };
    with_open(&fake, async |directory| {
        let is_full = async |name, quota| {
            let outcome = directory.register(of_fleet(name), quota).await;
            matches!(outcome, Err(Fault::QuotaFull { .. }))
        };
        for n in 0..100 {
            assert!(is_full(n, 1).await);
        }
        assert_eq!(fake.registrations(), 1);
        assert!(!is_full(200, 2).await, "another quota");
        fake.remove(&device(200));
        fake.remove(&device("a"));
        sleep(Duration::from_secs(9)).await;
        assert!(is_full(300, 1).await);
        sleep(Duration::from_secs(2)).await;
        assert!(!is_full(300, 1).await, "there is room");
        assert_eq!(fake.registrations(), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_registers_at_once_waits_in_a_bounded_line() {
    let fake = Fake::default();
    fake.script().away = Some(Trouble::Slow(Duration::from_millis(20)));
    with_open(&fake, async |directory| {
        let began = Instant::now();
        let all = (0..REGISTERING + 50).map(|n| directory.register(record(n, 1), u32::MAX));
        let all = join_all(all).await;
        let told_off = all.iter().filter(|one| one.is_err()).count();
        assert_eq!(told_off, 50);
        // Four at once, 20 ms each.
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(20) * 64, "{took:?}");
    })
    .await;
}

fn seen(at: i64) -> LastSeen {
    LastSeen {
        at,
        address: "192.0.2.7:49152".to_owned(),
        mode: Mode::MutualTls,
        certificate: None,
    }
}

#[tokio::test(start_paused = true)]
async fn when_devices_were_seen_is_written_together_the_latest_of_each() {
    let fake = Fake::default();
    with_open(&fake, async |directory| {
        for at in 1..=100 {
            directory.note_seen(&device("a"), seen(at));
            directory.note_seen(&device(at), seen(at));
        }
        assert!(fake.script().seen.is_empty());
        sleep(Duration::from_secs(6)).await;
        let script = fake.script();
        assert_eq!((script.writes, script.seen.len()), (1, 101));
        let a = script.seen.iter().find(|(one, _)| *one == device("a"));
        assert_eq!(a.expect("written").1.at, 100);
        assert_eq!(directory.counts().seen_lost, 0);
    })
    .await;
}

/// threats.md V4: what cannot be written is lost and counted, and nobody waits.
#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_lost_and_counted() {
    let fake = Fake::default();
    with_open(&fake, async |directory| {
        for n in 0..SEEN + 10 {
            directory.note_seen(&device(n), seen(0));
        }
        assert_eq!(directory.counts().seen_lost, 10);

        // Away: gathered for as long as there is room.
        fake.script().away = Some(Trouble::Silent);
        until(|| directory.is_away().is_some()).await;
        for round in 0..12 {
            for n in 0..SEEN {
                directory.note_seen(&device(format!("{round}-{n}")), seen(0));
            }
            sleep(Duration::from_millis(250)).await;
        }
        let lost = directory.counts().seen_lost;
        assert_eq!(
            lost,
            10 + (13 - 9) * SEEN as u64,
            "8 in the batch, 1 in the queue"
        );
        fake.script().away = None;
        until(|| directory.is_away().is_none()).await;
        sleep(Duration::from_secs(11)).await;
        assert_eq!(fake.script().seen.len(), 9 * SEEN);
        assert_eq!(directory.counts().seen_lost, lost);
    })
    .await;
}
