//! Memory is filled with the registry's devices, and holds none of them as it was before a change.

use std::time::Duration;

use tokio::time::sleep;

use super::super::fake::{Fake, Trouble, device, pinned, record};
use super::super::{Directory, Found};
use super::{Short, by_pin, let_it_work, named, pin, until, with, with_open};
use crate::registry::Change;

const MANY: u64 = 1000;

fn fleet(devices: u64) -> Fake {
    let fake = Fake::with((0..devices).map(|n| record(n, 1)));
    fake.script().pages = true;
    fake
}

async fn filled(directory: &Directory, count: u64) {
    until(|| directory.counts().entries == count).await;
}

/// Also those that nobody has asked for yet, and by their pins.
#[tokio::test(start_paused = true)]
async fn every_device_is_known_before_it_calls() {
    let fake = fleet(MANY);
    let other = pinned("pinned", 1, pin(1));
    fake.script().records.insert(device("pinned"), other);
    with_open(&fake, async |directory| {
        filled(directory, MANY + 1).await;
        for n in 0..MANY {
            assert_eq!(directory.finds(&named(n)).await, Short::Version(1));
        }
        assert_eq!(directory.finds(&by_pin(1)).await, Short::Version(1));
        assert_eq!(fake.asked(), 0);
        assert_eq!(directory.finds(&named("nobody")).await, Short::Nobody);
    })
    .await;
}

/// The page is read, the device is changed, the change is told, and only then the page comes.
#[tokio::test(start_paused = true)]
async fn what_changed_while_a_page_was_under_way_is_not_taken_from_it() {
    let fake = fleet(2);
    fake.script().held = true;
    with_open(&fake, async |directory| {
        sleep(Duration::from_millis(60)).await; // the page is under way
        fake.put(record(1, 2));
        assert_eq!(
            directory.next_changes().await,
            [Change::Device(device("1"))]
        );
        fake.script().held = false;
        fake.release(1);
        filled(directory, 1).await;
        assert_eq!(directory.finds(&named(0)).await, Short::Version(1));
        assert_eq!(fake.asked(), 0);
        assert_eq!(directory.finds(&named(1)).await, Short::Version(2));
        assert_eq!(fake.asked(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_page_that_too_much_changed_in_is_asked_for_again() {
    let fake = fleet(200);
    fake.script().held = true;
    with_open(&fake, async |directory| {
        sleep(Duration::from_millis(60)).await;
        for n in 0..200 {
            fake.put(record(n, 2));
        }
        directory.next_changes().await;
        fake.script().held = false;
        fake.release(1);
        filled(directory, 200).await;
        for n in 0..200 {
            assert_eq!(directory.finds(&named(n)).await, Short::Version(2));
        }
        assert_eq!(fake.asked(), 0);
    })
    .await;
}

/// After an import, say: memory is of no use any more, and is filled anew.
#[tokio::test(start_paused = true)]
async fn memory_is_filled_again_when_everything_was_forgotten() {
    let fake = fleet(MANY);
    with_open(&fake, async |directory| {
        filled(directory, MANY).await;
        for n in 0..MANY {
            fake.put(record(n, 2));
        }
        fake.script().pruned = 1;
        assert_eq!(directory.next_changes().await, [Change::Everything]);
        sleep(Duration::from_secs(11)).await;
        for n in 0..MANY {
            assert_eq!(directory.finds(&named(n)).await, Short::Version(2));
        }
        assert_eq!(fake.asked(), 0);
    })
    .await;
}

/// A fleet larger than memory: it is filled and no more, and who was in it already stays.
#[tokio::test(start_paused = true)]
async fn nobody_is_pushed_out_for_devices_that_may_never_call() {
    let fake = fleet(0);
    let last = record("z", 1);
    fake.script().records.insert(device("z"), last);
    with_open(&fake, async |directory| {
        filled(directory, 1).await;
        let many = (0..20_000).map(|n| (device(n), record(n, 1)));
        fake.script().records.extend(many);
        fake.script().pruned = 1;
        fake.put(record("z", 2));
        directory.next_changes().await;
        assert_eq!(directory.finds(&named("z")).await, Short::Version(2));
        sleep(Duration::from_secs(11)).await;
        let counts = directory.counts();
        assert!(
            counts.entries > 1000 && counts.entries < 20_000,
            "{counts:?}"
        );
        assert!(counts.bytes <= super::MEMORY, "{counts:?}");
        assert_eq!(directory.finds(&named("z")).await, Short::Version(2));
        assert_eq!(fake.asked(), 1);
        sleep(Duration::from_mins(1)).await;
        assert_eq!(directory.counts().entries, counts.entries);
    })
    .await;
}

/// It waits for the store, and goes on where it was.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_not_pressed() {
    let fake = fleet(MANY);
    fake.script().away = Some(Trouble::Silent);
    with(&fake, async |directory| {
        let_it_work().await;
        let found = directory.look_up(&named(1)).await;
        assert!(matches!(found, Found::Away(_)));
        fake.script().away = None;
        filled(directory, MANY).await;
    })
    .await;
}

/// A device that calls meanwhile waits for its own answer, not for the fleet.
#[tokio::test(start_paused = true)]
async fn look_ups_do_not_wait_for_it() {
    let fake = fleet(MANY);
    fake.script().held = true;
    with_open(&fake, async |directory| {
        sleep(Duration::from_millis(60)).await;
        let whom = named(MANY - 1);
        let asking = directory.finds(&whom);
        let release = async {
            let_it_work().await;
            assert_eq!(fake.asked(), 1);
            fake.script().held = false;
            fake.release(2);
        };
        let (found, ()) = tokio::join!(asking, release);
        assert_eq!(found, Short::Version(1));
        filled(directory, MANY).await;
    })
    .await;
}
