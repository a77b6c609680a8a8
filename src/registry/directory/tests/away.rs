//! The store is away, and comes back.

use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, advance, sleep};
use tracing_subscriber::fmt::MakeWriter;

use super::super::fake::{Fake, Trouble, record};
use super::super::standing::{FRESH, Standing};
use super::super::{Directory, Found, thread};
use super::{EVERY, GRACE, MEMORY, Short, device, let_it_work, named, until, with, with_open};
use crate::registry::{Change, Fault};

/// What was logged, as text.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no writer panics").write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Page {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Page {
    /// Everything that this thread logs until the guard is dropped.
    fn open() -> (Self, tracing::subscriber::DefaultGuard) {
        let page = Self::default();
        let lines = tracing_subscriber::fmt().with_writer(page.clone());
        let guard = tracing::subscriber::set_default(lines.finish());
        (page, guard)
    }

    fn count(&self, word: &str) -> usize {
        let text = self.0.lock().expect("no writer panics");
        String::from_utf8_lossy(&text).matches(word).count()
    }
}

/// threats.md V6. Both ways to be away: at once, and silent.
#[tokio::test(start_paused = true)]
async fn known_devices_go_on_for_a_while_and_all_others_come_back() {
    for trouble in [Trouble::Refuses, Trouble::Silent] {
        let (page, _guard) = Page::open();
        let fake = Fake::with([record("a", 1), record("b", 1)]);
        with_open(&fake, async |directory| {
            assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
            assert_eq!(directory.finds(&named("nobody")).await, Short::Nobody);
            let began = Instant::now();
            fake.script().away = Some(trouble);
            until(|| directory.is_away().is_some()).await;
            let took = began.elapsed();
            assert!(took <= FRESH + Duration::from_millis(10), "{took:?}");

            let asked = fake.asked();
            let now = Instant::now();
            assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
            // Never seen, or remembered as nobody's: neither is called unknown now.
            assert_eq!(directory.finds(&named("b")).await, Short::NotNow);
            assert_eq!(directory.finds(&named("nobody")).await, Short::NotNow);
            assert_eq!(now.elapsed(), Duration::ZERO, "told at once");
            assert_eq!(fake.asked(), asked);

            tokio::time::sleep_until(began + GRACE.mul_f64(0.99)).await;
            assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
            tokio::time::sleep_until(began + GRACE.mul_f64(1.01)).await;
            let Found::Away(why) = directory.look_up(&named("a")).await else {
                panic!("grace is over")
            };
            assert!(why.contains("grace is over"), "{why}");

            // What changed meanwhile is told, and nothing older is believed.
            fake.put(record("a", 2));
            fake.script().away = None;
            assert_eq!(
                directory.next_changes().await,
                [Change::Device(device("a"))]
            );
            assert_eq!(directory.is_away(), None);
            assert_eq!(directory.finds(&named("a")).await, Short::Version(2));
            assert_eq!(directory.finds(&named("b")).await, Short::Version(1));
            assert_eq!(directory.finds(&named("nobody")).await, Short::Nobody);
        })
        .await;
        assert_eq!(
            (page.count("registry_away"), page.count("registry_back")),
            (1, 1)
        );
    }
}

/// threats.md R1: the owner disables a device, the gate hears of it, and the registry goes away before it can look.
#[tokio::test(start_paused = true)]
async fn a_change_that_could_not_be_followed_is_told_again() {
    let fake = Fake::with([record("a", 1)]);
    with_open(&fake, async |directory| {
        fake.put(record("a", 2));
        let told = directory.next_changes().await;
        assert_eq!(told, [Change::Device(device("a"))]);
        fake.script().away = Some(Trouble::Refuses);
        assert_eq!(directory.finds(&named("a")).await, Short::NotNow);
        directory.tell_again(&told[0]);
        let again = async { directory.next_changes().await };
        assert!(
            tokio::time::timeout(GRACE, again).await.is_err(),
            "not while it is away"
        );

        fake.script().away = None;
        assert_eq!(directory.next_changes().await, told);
        assert_eq!(directory.finds(&named("a")).await, Short::Version(2));
        let more = tokio::time::timeout(GRACE, directory.next_changes());
        assert!(more.await.is_err(), "once");
    })
    .await;
}

/// More was missed than the store can tell.
#[tokio::test(start_paused = true)]
async fn what_was_missed_beyond_telling_is_everything() {
    let fake = Fake::with([record("a", 1)]);
    with_open(&fake, async |directory| {
        directory.finds(&named("a")).await;
        fake.script().away = Some(Trouble::Refuses);
        sleep(Duration::from_secs(30)).await;
        fake.put(record("a", 2));
        fake.script().pruned = 1;
        assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
        fake.script().away = None;
        assert_eq!(directory.next_changes().await, [Change::Everything]);
        assert_eq!(directory.finds(&named("a")).await, Short::Version(2));
    })
    .await;
}

/// A slip is no news: the next reading tells.
#[tokio::test(start_paused = true)]
async fn one_failure_alone_is_not_away() {
    let (page, _guard) = Page::open();
    let fake = Fake::with([record("a", 1)]);
    with_open(&fake, async |directory| {
        for _ in 0..20 {
            let readings = fake.readings();
            fake.script().away = Some(Trouble::Refuses);
            until(|| fake.readings() > readings).await;
            fake.script().away = None;
            sleep(Duration::from_secs(1)).await;
            assert_eq!(directory.is_away(), None);
        }
    })
    .await;
    assert_eq!(page.count("registry_"), 0);
}

/// A storm of devices neither makes the gate knock at a store that is away, nor fills the log.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_tried_at_a_steady_pace() {
    let (page, _guard) = Page::open();
    let fake = Fake::default();
    with_open(&fake, async |directory| {
        fake.script().away = Some(Trouble::Refuses);
        until(|| directory.is_away().is_some()).await;
        sleep(Duration::from_secs(10)).await;
        let (asked, readings) = (fake.asked(), fake.readings());
        for n in 0..10_000 {
            assert_eq!(directory.finds(&named(n)).await, Short::NotNow);
            if n % 100 == 0 {
                sleep(Duration::from_millis(100)).await;
            }
        }
        assert_eq!(fake.asked(), asked);
        let tries = fake.readings() - readings;
        assert!((5..=11).contains(&tries), "{tries} in ten seconds");
        assert_eq!(directory.counts().away, 10_000);
    })
    .await;
    assert_eq!(page.count("registry_"), 1);
}

/// Slow for the changes: not there for unknown devices, but what it tells counts, and known ones go on for ever.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_slow_is_away_but_its_changes_count() {
    let fake = Fake::with([record("a", 1)]);
    with_open(&fake, async |directory| {
        directory.finds(&named("a")).await;
        fake.script().away = Some(Trouble::Slow(Duration::from_secs(4)));
        sleep(GRACE * 3).await;
        assert!(directory.is_away().is_some());
        assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
        assert_eq!(directory.finds(&named("b")).await, Short::NotNow);
        fake.put(record("a", 2));
        assert_eq!(
            directory.next_changes().await,
            [Change::Device(device("a"))]
        );
        assert_eq!(directory.finds(&named("a")).await, Short::NotNow);
        fake.script().away = None;
        until(|| directory.is_away().is_none()).await;
        assert_eq!(directory.finds(&named("a")).await, Short::Version(2));
    })
    .await;
}

/// Whoever waits for an answer is told when the store goes away, not when its own deadline is over.
#[tokio::test(start_paused = true)]
async fn whoever_waits_is_told_when_the_store_goes_away() {
    let fake = Fake::with([record("a", 1)]);
    with_open(&fake, async |directory| {
        fake.script().held = true;
        let whom = named("a");
        let gone = async {
            let_it_work().await;
            fake.script().away = Some(Trouble::Refuses);
        };
        let began = Instant::now();
        let (found, ()) = tokio::join!(directory.finds(&whom), gone);
        assert_eq!(found, Short::NotNow);
        assert!(began.elapsed() < Duration::from_secs(1));

        // The old answer comes late, when the store is back and another version is there.
        fake.put(record("a", 2));
        fake.script().away = None;
        directory.next_changes().await;
        fake.script().held = false;
        fake.release(1);
        let_it_work().await;
        assert_eq!(directory.finds(&whom).await, Short::Version(2));
    })
    .await;
}

/// Away at the start is no error: it is tried until it answers.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_at_the_start_is_waited_for() {
    for trouble in [Trouble::Refuses, Trouble::Silent] {
        let (page, _guard) = Page::open();
        let fake = Fake::with([record("a", 1)]);
        fake.script().away = Some(trouble);
        with(&fake, async |directory| {
            assert!(directory.is_away().is_some());
            assert_eq!(directory.finds(&named("a")).await, Short::NotNow);
            sleep(Duration::from_secs(10)).await;
            assert_eq!(directory.finds(&named("a")).await, Short::NotNow);
            let refused = directory.register(record("b", 1), 10).await;
            assert!(matches!(refused, Err(Fault::Away(_))), "{refused:?}");
            fake.script().away = None;
            until(|| directory.is_away().is_none()).await;
            assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
        })
        .await;
        assert_eq!(
            (page.count("registry_away"), page.count("registry_back")),
            (1, 1)
        );
    }
}

/// Should the thread stand still or be gone, nothing is believed for longer than grace.
#[tokio::test(start_paused = true)]
async fn a_thread_that_stands_still_is_noticed() {
    let fake = Fake::with([record("a", 1)]);
    let (_alive, alive) = watch::channel(());
    let (directory, mailbox) = Directory::new(MEMORY, GRACE, alive);
    let (first, _outcome) = sync_channel(1);
    let open = async || Ok(fake.clone());
    let worked = async {
        until(|| directory.is_away().is_none()).await;
        directory.finds(&named("a")).await
    };
    tokio::select! {
        () = thread::run(open, EVERY, &directory.shared, mailbox, &first) => panic!("ended"),
        found = worked => assert_eq!(found, Short::Version(1)),
    }
    // It is not polled any more.
    assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
    assert_eq!(directory.is_away(), None);
    advance(FRESH + Duration::from_millis(500)).await;
    assert!(directory.is_away().is_some());
    assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
    assert_eq!(directory.finds(&named("b")).await, Short::NotNow);
    advance(GRACE).await;
    assert_eq!(directory.finds(&named("a")).await, Short::NotNow);
}

/// While the store is away, another grace counts at once, longer or shorter.
#[tokio::test(start_paused = true)]
async fn another_grace_counts_at_once() {
    let fake = Fake::with([record("a", 1)]);
    with_open(&fake, async |directory| {
        assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
        fake.script().away = Some(Trouble::Refuses);
        tokio::time::sleep(GRACE * 2).await;
        assert_eq!(directory.finds(&named("a")).await, Short::NotNow);
        directory.change(GRACE * 3, MEMORY);
        assert_eq!(directory.finds(&named("a")).await, Short::Version(1));
        directory.change(GRACE, MEMORY);
        assert_eq!(directory.finds(&named("a")).await, Short::NotNow);
    })
    .await;
}

/// Without any grace, memory counts for as long as the store counts as there.
#[tokio::test(start_paused = true)]
async fn no_grace_is_two_seconds() {
    let standing = Standing::new(Duration::ZERO);
    assert!(!standing.may_go_on(standing.age(Instant::now())));
    standing.note_read(Instant::now());
    standing.back();
    advance(FRESH).await;
    assert!(standing.may_go_on(standing.age(Instant::now())));
    advance(Duration::from_millis(1)).await;
    let age = standing.age(Instant::now());
    assert!(!standing.may_go_on(age) && standing.away(age).is_some());
}
