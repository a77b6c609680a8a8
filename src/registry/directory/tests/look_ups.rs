//! Memory, single flight, bounds.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, advance, sleep};

use super::super::fake::{Fake, Trouble, pinned, record};
use super::super::{DEADLINE, Found, QUEUE, Whom};
use super::{Short, by_pin, let_it_work, named, pin, with_open};

#[tokio::test(start_paused = true)]
async fn a_device_is_asked_for_once_and_then_remembered() {
    let fake = Fake::with([record("a", 1)]);
    with_open(&fake, async |directory| {
        for _ in 0..10 {
            assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
        }
        let counts = directory.counts();
        assert_eq!((counts.hits, counts.misses, counts.entries), (9, 1, 1));
        assert_eq!((fake.asked(), counts.queries), (1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_pinned_device_is_the_same_entry_whichever_way_it_is_asked_for() {
    let fake = Fake::with([pinned("a", 1, pin(1))]);
    with_open(&fake, async |directory| {
        let Found::Known(by_name) = directory.look_up(&named("a")).await else {
            panic!("it is there")
        };
        let Found::Known(by_its_pin) = directory.look_up(&by_pin(1)).await else {
            panic!("it is there")
        };
        assert!(std::sync::Arc::ptr_eq(&by_name, &by_its_pin));
        assert_eq!(fake.asked(), 1);
    })
    .await;
}

/// Look-ups that ask the same at the same time are one question.
#[tokio::test(start_paused = true)]
async fn five_hundred_that_ask_the_same_are_one_question() {
    let fake = Fake::with([record("a", 1)]);
    fake.script().held = true;
    with_open(&fake, async |directory| {
        let (known, nobody) = (named("a"), named("b"));
        let asking = (0..500).map(|n| directory.finds(if n % 2 == 0 { &known } else { &nobody }));
        let asking = join_all(asking);
        let release = async {
            let_it_work().await;
            fake.release(2);
        };
        let (found, ()) = tokio::join!(asking, release);
        assert!(found.iter().step_by(2).all(|one| *one == Short::Version(1)));
        assert!(
            found
                .iter()
                .skip(1)
                .step_by(2)
                .all(|one| *one == Short::Nobody)
        );
        assert_eq!(fake.asked(), 2);
    })
    .await;
}

/// Whoever joins a question that was asked in vain for almost all of its time has still all of its own.
#[tokio::test(start_paused = true)]
async fn who_joins_a_question_at_its_end_is_not_turned_away_with_it() {
    let fake = Fake::with([record("a", 1)]);
    fake.script().held = true;
    with_open(&fake, async |directory| {
        let device = named("a");
        let first = directory.finds(&device);
        let joins = async {
            sleep(DEADLINE * 199 / 200).await;
            let began = Instant::now();
            let found = directory.finds(&device).await;
            (found, began.elapsed())
        };
        let answers = async {
            sleep(DEADLINE + Duration::from_secs(1)).await;
            fake.release(1);
        };
        let (first, (joined, took), ()) = tokio::join!(first, joins, answers);
        assert_eq!(first, Short::NotNow);
        assert_eq!(joined, Short::Version(1));
        assert!(took < DEADLINE, "{took:?}");
        assert_eq!(fake.asked(), 2, "anew for the one who had time left");
    })
    .await;
}

/// threats.md V6: a storm of names that nobody has pushes no device out, and the same name reaches the store once.
#[tokio::test(start_paused = true)]
async fn a_storm_of_unknown_names_keeps_the_devices_in_memory() {
    let fake = Fake::with((0..1000).map(|n| record(n, 1)));
    with_open(&fake, async |directory| {
        let devices: Vec<_> = (0..1000).map(named).collect();
        for whom in &devices {
            assert_eq!(directory.finds(whom).await, Short::Version(1));
        }
        for n in 0..50_000 {
            let stranger = named(format!("stranger-{n}"));
            assert_eq!(directory.finds(&stranger).await, Short::Nobody);
            assert_eq!(directory.finds(&stranger).await, Short::Nobody);
        }
        assert_eq!(fake.asked(), 51_000);
        for whom in &devices {
            assert_eq!(directory.finds(whom).await, Short::Version(1));
        }
        assert_eq!(fake.asked(), 51_000, "every device was remembered");
        assert_eq!(directory.counts().negative_hits, 50_000);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_bounded_number_of_questions_is_with_the_store_at_once() {
    let fake = Fake::with((0..1000).map(|n| record(n, 1)));
    fake.script().away = Some(Trouble::Slow(Duration::from_millis(10)));
    with_open(&fake, async |directory| {
        let all: Vec<_> = (0..1000).map(named).collect();
        let found = join_all(all.iter().map(|whom| directory.finds(whom))).await;
        assert!(found.iter().all(|one| *one == Short::Version(1)));
        assert_eq!(fake.most_at_once(), 16);
    })
    .await;
}

/// A store that is silent holds nobody for longer than the deadline, and what does not fit into the queue not at all.
#[tokio::test(start_paused = true)]
async fn a_full_queue_and_a_silent_store_tell_to_come_back() {
    let fake = Fake::default();
    fake.script().held = true;
    with_open(&fake, async |directory| {
        let all: Vec<_> = (0..QUEUE + 200).map(named).collect();
        let began = Instant::now();
        let asking = all.iter().map(async |whom| {
            let found = directory.look_up(whom).await;
            (found, began.elapsed())
        });
        let found = join_all(asking).await;
        let mut at_once = 0;
        for (found, after) in found {
            let Found::Away(why) = found else {
                panic!("nobody answered")
            };
            assert!(after <= DEADLINE + Duration::from_millis(10), "{after:?}");
            if after.is_zero() {
                assert!(why.contains("look-ups wait"), "{why}");
                at_once += 1;
            }
        }
        // All asked before the thread could read the first.
        assert_eq!(at_once, 200);
        assert_eq!(directory.counts().away, (QUEUE + 200) as u64);
        // Nothing is left behind: once the store answers, so does the directory.
        fake.script().held = false;
        assert_eq!(directory.finds(&named("x")).await, Short::Nobody);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_one_name_keeps_a_bounded_number_waiting() {
    let fake = Fake::default();
    fake.script().held = true;
    with_open(&fake, async |directory| {
        let whom = named("a");
        let asking = join_all((0..1500).map(|_| directory.finds(&whom)));
        let release = async {
            let_it_work().await;
            fake.release(1);
        };
        let (found, ()) = tokio::join!(asking, release);
        let told_off = found.iter().filter(|one| **one == Short::NotNow).count();
        assert_eq!((fake.asked(), told_off), (1, 1500 - 1024));
    })
    .await;
}

/// A look-up that nobody waits for any more is not asked.
#[tokio::test(start_paused = true)]
async fn a_look_up_that_was_dropped_costs_no_question() {
    let fake = Fake::default();
    fake.script().held = true;
    with_open(&fake, async |directory| {
        let whoms: Vec<_> = (0..1000).map(named).collect();
        let asking = join_all(whoms.iter().map(|whom| directory.look_up(whom)));
        tokio::select! {
            _ = asking => panic!("nothing was released"),
            () = let_it_work() => {}
        }
        fake.script().held = false;
        fake.release(16);
        let_it_work().await;
        assert_eq!(fake.asked(), 16, "those under way, and no others");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn that_nobody_has_a_name_is_remembered_for_ten_seconds() {
    let fake = Fake::default();
    with_open(&fake, async |directory| {
        for whom in [named("a"), by_pin(1)] {
            assert_eq!(directory.finds(&whom).await, Short::Nobody);
            let asked = fake.asked();
            super::sleep(Duration::from_secs(9)).await;
            assert_eq!(directory.finds(&whom).await, Short::Nobody);
            assert_eq!(fake.asked(), asked);
            super::sleep(Duration::from_secs(2)).await;
            assert_eq!(directory.finds(&whom).await, Short::Nobody);
            assert_eq!(fake.asked(), asked + 1);
        }
    })
    .await;
}

/// threats.md I5: a store that compares names otherwise than we do lets nobody in.
#[tokio::test(start_paused = true)]
async fn a_record_of_another_device_is_not_believed() {
    let fake = Fake::default();
    let other = record("A", 1);
    fake.script().records.insert(super::device("a"), other);
    with_open(&fake, async |directory| {
        let Found::Away(why) = directory.look_up(&named("a")).await else {
            panic!("believed")
        };
        assert!(why.contains("another device"), "{why}");
        assert_eq!(directory.counts().entries, 0);
    })
    .await;
}

/// Time that passes between two readings alone makes nobody away.
#[tokio::test(start_paused = true)]
async fn a_memory_of_no_bytes_only_asks_more_often() {
    let fake = Fake::with([record("a", 1)]);
    let memory = super::super::Memory::new(0);
    memory.remember(&std::sync::Arc::new(record("a", 1)), Instant::now());
    assert_eq!((memory.count(), memory.bytes()), (0, 0));
    with_open(&fake, async |directory| {
        advance(Duration::from_millis(1900)).await;
        assert!(directory.is_away().is_none());
        let whom: Whom = named("a");
        assert_eq!(directory.finds(&whom).await, Short::Version(1));
    })
    .await;
}

/// Far more devices of the smallest kind than fit: memory stays within its bound, and keeps many of them.
#[tokio::test]
async fn many_devices_do_not_take_more_memory_than_they_may() {
    let bound = 4 << 20;
    let memory = super::super::Memory::new(bound);
    let mut most = 0;
    for n in 0..100_000_u32 {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        let pin = crate::rules::record::Pin::Key(bytes);
        memory.remember(&std::sync::Arc::new(pinned(n, 1, pin)), Instant::now());
        if n % 1000 == 0 {
            most = most.max(memory.bytes());
        }
    }
    assert!(most <= bound && memory.bytes() <= bound, "{most}");
    assert!(most > bound * 9 / 10, "it is used: {most}");
    assert!(memory.count() > 3_750, "{}", memory.count());
}
