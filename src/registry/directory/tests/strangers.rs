//! Look-ups that anybody can cause hold up nobody else (threats.md R1, V6, T2).

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::super::fake::{Fake, Trouble, record};
use super::super::{DEADLINE, Directory, Lane, QUEUE};
use super::{Short, device, let_it_work, named, short, with_open};
use crate::registry::Change;

/// How long the store takes for anything.
const SLOW: Duration = Duration::from_millis(300);

/// More strangers than their lane holds, at every moment, each with a new name each time.
async fn storm(directory: &Directory) {
    let strangers = (0..QUEUE + 100).map(async |n| {
        sleep(Duration::from_millis(n as u64 % 2000)).await;
        for round in 0.. {
            let whom = named(format!("stranger-{round}-{n}"));
            directory.look_up_for(Lane::Stranger, &whom).await;
            sleep(Duration::from_millis(10)).await;
        }
    });
    join_all(strangers).await;
}

/// What `test` does while the storm goes on, which has filled its lane.
async fn in_a_storm(fake: &Fake, test: impl AsyncFnOnce(&Directory)) {
    with_open(fake, async |directory| {
        fake.script().away = Some(Trouble::Slow(SLOW));
        let calm = async {
            sleep(2 * DEADLINE).await;
            let whom = named("one-more");
            let found = directory.look_up_for(Lane::Stranger, &whom).await;
            assert_eq!(short(&found), Short::NotNow, "the lane is full");
            test(directory).await;
        };
        tokio::select! {
            () = storm(directory) => panic!("it goes on"),
            () = calm => {}
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn strangers_hold_up_nobody_who_is_vouched_for() {
    let fake = Fake::with([record("a", 1), record("b", 1)]);
    in_a_storm(&fake, async |directory| {
        let began = Instant::now();
        assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
        let found = directory.look_up_first(&named("b")).await;
        assert_eq!(short(&found), Short::Version(1));
        assert!(began.elapsed() < 3 * SLOW, "{:?}", began.elapsed());
        assert_eq!(fake.most_at_once(), 2 + 1, "two of strangers");
    })
    .await;
}

/// Each look-up for a change is answered at the first try, however long the storm goes on.
#[tokio::test(start_paused = true)]
async fn a_change_is_followed_in_a_storm() {
    let fake = Fake::with([record("a", 1)]);
    in_a_storm(&fake, async |directory| {
        for version in 2..20 {
            fake.put(record("a", version));
            let told = directory.next_changes().await;
            assert_eq!(told, [Change::Device(device("a"))]);
            let found = directory.look_up_first(&named("a")).await;
            assert_eq!(short(&found), Short::Version(version));
        }
    })
    .await;
}

/// As many as may wait for one name wait for it in vain.
#[tokio::test(start_paused = true)]
async fn nobody_else_waits_for_what_strangers_wait_for() {
    for caller in [Lane::Ours, Lane::Vouched] {
        let fake = Fake::with([record("a", 1)]);
        fake.script().held = true;
        with_open(&fake, async |directory| {
            let whom = named("a");
            let ask = |caller| directory.look_up_for(caller, &whom);
            let strangers = join_all((0..1500).map(|_| ask(Lane::Stranger)));
            let other = async {
                let_it_work().await;
                fake.script().held = false;
                let found = ask(caller).await;
                assert_eq!(short(&found), Short::Version(1), "{caller:?}");
                fake.release(1);
            };
            let (found, ()) = tokio::join!(strangers, other);
            let known = found.iter().filter(|one| short(one) == Short::Version(1));
            assert_eq!(known.count(), 1024);
        })
        .await;
    }
}
