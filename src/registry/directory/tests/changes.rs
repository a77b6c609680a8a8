//! What changed is forgotten, then told; and an answer that a change overtook is not given.

use std::time::Duration;

use tokio::time::timeout;

use super::super::fake::{Fake, pinned, record};
use super::{EVERY, Short, by_pin, device, let_it_work, named, pin, with_open};
use crate::registry::Change;

#[tokio::test(start_paused = true)]
async fn a_change_is_told_and_what_was_before_is_forgotten() {
    let fake = Fake::with([record("a", 1), record("b", 1)]);
    with_open(&fake, async |directory| {
        assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
        assert_eq!(directory.finds(&named("b")).await, Short::Version(1));

        fake.put(record("a", 2));
        assert_eq!(
            directory.next_changes().await,
            [Change::Device(device("a"))]
        );
        assert_eq!(directory.finds(&named("a")).await, Short::Version(2));

        fake.remove(&device("a"));
        assert_eq!(
            directory.next_changes().await,
            [Change::Device(device("a"))]
        );
        assert_eq!(directory.finds(&named("a")).await, Short::Nobody);

        let asked = fake.asked();
        assert_eq!(directory.finds(&named("b")).await, Short::Version(1));
        assert_eq!(fake.asked(), asked, "another device is not touched");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_device_that_was_unknown_is_known_once_it_is_added() {
    let fake = Fake::default();
    with_open(&fake, async |directory| {
        assert_eq!(directory.finds(&named("a")).await, Short::Nobody);
        assert_eq!(directory.finds(&by_pin(1)).await, Short::Nobody);
        fake.put(pinned("a", 1, pin(1)));
        directory.next_changes().await;
        assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
        assert_eq!(directory.finds(&by_pin(1)).await, Short::Version(1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pin_that_moved_to_another_device_is_found_there() {
    let fake = Fake::with([pinned("a", 1, pin(1)), record("b", 2)]);
    with_open(&fake, async |directory| {
        assert_eq!(directory.finds(&by_pin(1)).await, Short::Version(1));
        fake.put(record("a", 3));
        fake.put(pinned("b", 4, pin(1)));
        directory.next_changes().await;
        assert_eq!(directory.finds(&named("a")).await, Short::Version(3));
        assert_eq!(directory.finds(&by_pin(1)).await, Short::Version(4));
        fake.put(record("b", 5));
        directory.next_changes().await;
        assert_eq!(directory.finds(&named("b")).await, Short::Version(5));
        assert_eq!(directory.finds(&by_pin(1)).await, Short::Nobody);
    })
    .await;
}

/// threats.md R1: the answer was made before the change, and arrives after it was told.
#[tokio::test(start_paused = true)]
async fn an_answer_that_a_change_overtook_is_asked_for_again() {
    let before = [
        record("changed", 1),
        pinned("pinned", 1, pin(1)),
        pinned("moved", 1, pin(3)),
    ];
    let fake = Fake::with(before);
    with_open(&fake, async |directory| {
        for (whom, change, after) in [
            (named("changed"), record("changed", 2), Short::Version(2)),
            (by_pin(1), pinned("pinned", 2, pin(1)), Short::Version(2)),
            (named("new"), record("new", 2), Short::Version(2)),
            (
                by_pin(2),
                pinned("new-pinned", 2, pin(2)),
                Short::Version(2),
            ),
            (by_pin(3), record("moved", 2), Short::Nobody),
        ] {
            fake.script().held = true;
            let name = change.device.clone();
            let first = directory.finds(&whom);
            let rest = async {
                let_it_work().await; // the store has made its answer
                fake.put(change);
                let told = directory.next_changes().await;
                assert_eq!(told, [Change::Device(name)]);
                fake.script().held = false;
                let asked = fake.asked();
                let late = directory.finds(&whom);
                let release = async {
                    let_it_work().await;
                    fake.release(1);
                };
                let (late, ()) = tokio::join!(late, release);
                assert_eq!(fake.asked(), asked + 1, "asked again, once for both");
                late
            };
            let (first, late) = tokio::join!(first, rest);
            assert_eq!(late, after, "{whom:?}: it began after the change was told");
            assert_eq!(first, after, "{whom:?}");
            assert_eq!(directory.finds(&whom).await, after, "{whom:?}: remembered");
        }
    })
    .await;
}

/// A change of somebody else costs a device nothing.
#[tokio::test(start_paused = true)]
async fn an_answer_is_not_asked_for_again_when_another_device_changed() {
    let fake = Fake::with([record("a", 1), pinned("b", 1, pin(1))]);
    with_open(&fake, async |directory| {
        fake.script().held = true;
        let (a, b) = (named("a"), by_pin(1));
        let asking = async { tokio::join!(directory.finds(&a), directory.finds(&b)) };
        let change = async {
            let_it_work().await;
            fake.put(record("c", 1));
            directory.next_changes().await;
            fake.release(2);
        };
        let (found, ()) = tokio::join!(asking, change);
        assert_eq!(found, (Short::Version(1), Short::Version(1)));
        assert_eq!(fake.asked(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn changes_too_old_to_be_told_are_everything() {
    let fake = Fake::with([pinned("a", 1, pin(1)), record("b", 1)]);
    with_open(&fake, async |directory| {
        for whom in [
            named("a"),
            by_pin(1),
            named("b"),
            named("nobody"),
            by_pin(9),
        ] {
            directory.finds(&whom).await;
        }
        fake.put(record("a", 2)); // without the pin
        fake.put(record("nobody", 2));
        fake.put(pinned("c", 2, pin(9)));
        fake.script().pruned = 3;
        assert_eq!(directory.next_changes().await, [Change::Everything]);
        for (whom, version) in [
            (named("a"), 2),
            (named("b"), 1),
            (named("nobody"), 2),
            (by_pin(9), 2),
        ] {
            assert_eq!(directory.finds(&whom).await, Short::Version(version));
        }
        assert_eq!(directory.finds(&by_pin(1)).await, Short::Nobody);
    })
    .await;
}

/// A backup was put back, or the URL leads to another registry now.
#[tokio::test(start_paused = true)]
async fn a_registry_that_went_back_is_everything() {
    let fake = Fake::with([record("a", 1)]);
    with_open(&fake, async |directory| {
        fake.put(record("a", 2));
        directory.next_changes().await;
        assert_eq!(directory.finds(&named("a")).await, Short::Version(2));
        fake.script().records.insert(device("a"), record("a", 1));
        fake.restore();
        assert_eq!(directory.next_changes().await, [Change::Everything]);
        assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
    })
    .await;
}

/// A store that tells is read at once, one that does not within the time of a reading; and a burst is read together.
#[tokio::test(start_paused = true)]
async fn changes_are_read_when_told_and_never_too_often() {
    let fake = Fake::default();
    with_open(&fake, async |directory| {
        fake.put(record("a", 1));
        let soon = EVERY + Duration::from_millis(1);
        assert!(timeout(soon, directory.next_changes()).await.is_ok());

        fake.script().tells = true;
        super::sleep(Duration::from_millis(100)).await;
        fake.put(record("b", 1));
        let at_once = Duration::from_millis(10);
        assert!(timeout(at_once, directory.next_changes()).await.is_ok());

        let before = fake.readings();
        for n in 0..1000 {
            fake.put(record(n, 1));
            let_it_work().await;
        }
        let readings = fake.readings() - before;
        assert!((15..=25).contains(&readings), "{readings} in a second");
    })
    .await;
}

/// Changes that nobody has fetched yet are not lost by a reader that gave up.
#[tokio::test(start_paused = true)]
async fn a_reader_that_was_dropped_loses_no_change() {
    let fake = Fake::default();
    with_open(&fake, async |directory| {
        for _ in 0..3 {
            assert!(timeout(EVERY, directory.next_changes()).await.is_err());
        }
        fake.put(record("a", 1));
        super::sleep(EVERY * 2).await;
        fake.put(record("b", 1));
        super::sleep(EVERY * 2).await;
        assert_eq!(directory.next_changes().await.len(), 2);
    })
    .await;
}
