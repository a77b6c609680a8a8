//! A device that shows what its record in memory lacks is refused for nothing that was so before it called (threats.md §5, V6).

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::super::fake::{Fake, Trouble, record};
use super::super::{ANEW, DEADLINE, Directory, Lane, QUEUE};
use super::{EVERY, Short, device, let_it_work, named, short, until, with_open};

impl Directory {
    /// As for a device that calls now.
    async fn finds_anew(&self, name: &str) -> Short {
        short(&self.look_up_anew(&device(name), Instant::now()).await)
    }
}

/// Before the change is read, and without a wait.
#[tokio::test(start_paused = true)]
async fn a_change_that_was_not_read_yet_counts_for_who_shows_it() {
    let fake = Fake::with([record("a", 1)]);
    with_open(&fake, async |directory| {
        assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
        sleep(ANEW).await;
        fake.put(record("a", 2));
        let (began, readings) = (Instant::now(), fake.readings());
        assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
        assert_eq!(directory.finds_anew("a").await, Short::Version(2));
        assert_eq!(
            (began.elapsed(), fake.readings()),
            (Duration::ZERO, readings)
        );
        assert_eq!(
            directory.finds(&named("a")).await,
            Short::Version(2),
            "for all"
        );
    })
    .await;
}

/// Its question may be on its way already, with an answer of before the change.
#[tokio::test(start_paused = true)]
async fn who_joins_a_question_from_before_the_change_is_not_told_its_answer() {
    let fake = Fake::with([record("a", 1)]);
    with_open(&fake, async |directory| {
        fake.script().held = true;
        let whom = named("a");
        let first = directory.look_up_for(Lane::Stranger, &whom);
        let rotated = async {
            let_it_work().await;
            // Nobody is told of it, as if the feed were slow.
            fake.script().records.insert(device("a"), record("a", 2));
            let joined = directory.finds_anew("a");
            let released = async {
                let_it_work().await;
                fake.script().held = false;
                fake.release(1);
            };
            tokio::join!(joined, released).0
        };
        let (first, joined) = tokio::join!(first, rotated);
        assert_eq!(
            (short(&first), joined),
            (Short::Version(1), Short::Version(2))
        );
        assert_eq!(fake.asked(), 2);
    })
    .await;
}

/// threats.md K4, T2: however many come with something made up in the name of one device, the store is asked for it three
/// times a second; and not at all for one that memory has got since.
#[tokio::test(start_paused = true)]
async fn a_storm_in_the_name_of_one_device_asks_the_store_three_times_a_second() {
    let fake = Fake::with([record("a", 1)]);
    with_open(&fake, async |directory| {
        let began = Instant::now();
        let storm = (0..200).map(async |n| {
            sleep(Duration::from_millis(n)).await;
            while began.elapsed() < Duration::from_secs(30) {
                assert_eq!(directory.finds_anew("a").await, Short::Version(1));
                sleep(Duration::from_millis(1)).await;
            }
        });
        join_all(storm).await;
        let asked = fake.asked();
        assert!((90..=102).contains(&asked), "{asked}");
        sleep(ANEW).await;
        let before = Instant::now();
        assert_eq!(directory.finds_anew("a").await, Short::Version(1));
        let asked = fake.asked();
        let found = directory.look_up_anew(&device("a"), before).await;
        assert_eq!((short(&found), fake.asked()), (Short::Version(1), asked));
    })
    .await;
}

/// threats.md V6: with the store away known devices go on; who shows what nobody remembers is told to come back, at once.
#[tokio::test(start_paused = true)]
async fn with_the_store_away_only_what_is_remembered_counts() {
    for trouble in [Trouble::Refuses, Trouble::Silent] {
        let fake = Fake::with([record("a", 1)]);
        with_open(&fake, async |directory| {
            assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
            fake.script().away = Some(trouble);
            sleep(Duration::from_secs(10)).await;
            let (began, asked) = (Instant::now(), fake.asked());
            assert_eq!(directory.finds_anew("a").await, Short::NotNow);
            assert_eq!((began.elapsed(), fake.asked()), (Duration::ZERO, asked));
            assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
        })
        .await;
    }
    // It went this moment: nobody waits for longer than for any look-up.
    let fake = Fake::with([record("a", 1)]);
    with_open(&fake, async |directory| {
        assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
        sleep(ANEW).await;
        fake.script().away = Some(Trouble::Silent);
        let began = Instant::now();
        assert_eq!(directory.finds_anew("a").await, Short::NotNow);
        assert!(began.elapsed() <= DEADLINE, "{:?}", began.elapsed());
    })
    .await;
}

/// A device that was removed is nobody from then on, also for who would have been found in memory.
#[tokio::test(start_paused = true)]
async fn who_was_removed_meanwhile_is_nobody() {
    let fake = Fake::with([record("a", 1)]);
    with_open(&fake, async |directory| {
        assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
        sleep(ANEW).await;
        fake.remove(&device("a"));
        assert_eq!(directory.finds_anew("a").await, Short::Nobody);
        assert_eq!(directory.finds(&named("a")).await, Short::Nobody);
        fake.put(record("a", 2));
        sleep(2 * EVERY).await;
        assert_eq!(directory.finds(&named("a")).await, Short::Version(2));
    })
    .await;
}

/// threats.md V6, T2: made-up credentials, more than the lane holds, in the names of all devices, hold up nobody who
/// shows a good one, and push nobody out. They themselves are told to come back: nothing old is told for new.
#[tokio::test(start_paused = true)]
async fn made_up_credentials_of_all_devices_hold_up_nobody_else() {
    const SLOW: Duration = Duration::from_millis(300);
    const DEVICES: usize = 1000;
    let fake = Fake::with((0..DEVICES).map(|n| record(n, 1)));
    fake.script().pages = true;
    with_open(&fake, async |directory| {
        until(|| directory.counts().entries == DEVICES as u64).await;
        fake.script().records.insert(device("b"), record("b", 1));
        fake.script().away = Some(Trouble::Slow(SLOW));
        let storm = join_all((0..QUEUE + 100).map(async |n| {
            let name = (n % DEVICES).to_string();
            loop {
                let _ = directory.finds_anew(&name).await;
                sleep(Duration::from_millis(10)).await;
            }
        }));
        let calm = async {
            sleep(2 * DEADLINE).await;
            let began = Instant::now();
            assert_eq!(directory.finds(&named("b")).await, Short::Version(1));
            assert!(began.elapsed() < 2 * SLOW, "{:?}", began.elapsed());
            assert_eq!(
                directory.finds_anew("7").await,
                Short::NotNow,
                "the lane is full"
            );
            let asked = fake.asked();
            for n in 0..DEVICES {
                assert_eq!(directory.finds(&named(n)).await, Short::Version(1));
            }
            assert_eq!(fake.asked(), asked, "all are in memory");
            assert!(fake.most_at_once() <= 2 + 1, "{}", fake.most_at_once());
        };
        tokio::select! {
            _ = storm => panic!("it goes on"),
            () = calm => {}
        }
    })
    .await;
}
