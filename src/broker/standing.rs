//! What is thought of an endpoint: by its probes, and by what devices found there.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::pace::Pace;

/// So many dials in a row that failed, or CONNECTs in a row without an answer, and the endpoint is taken to be down; so many devices
/// in a row that left, and it is asked.
const TOO_MANY: u32 = 3;

/// A device that leaves without its CONNACK says something about the endpoint if it had waited so long: many times what a broker
/// takes, and less than devices wait.
const IN_VAIN: Duration = Duration::from_millis(500);

/// So long after it last turned a device away, one that turned away too many in a row is tried after others. Then a device finds out.
const SICK: u64 = 5_000;

/// How long one that was down takes less than its share.
const WARMS: Duration = Duration::from_secs(10);

/// Where there was no local port, none is looked for again for so many ms.
const NO_PORT: u64 = 50;

/// Nobody has asked yet: as good as up.
const UNKNOWN: u8 = 0;
const UP: u8 = 1;
/// It appeared while others were at work: tried after them until a probe finds it up, as one that comes back.
const NEW: u8 = 2;
/// It takes no connection.
const DOWN: u8 = 3;
/// It takes connections, and answers no CONNECT.
const SILENT: u8 = 4;

/// What is thought of one endpoint.
#[derive(Debug)]
pub(super) struct Standing {
    state: AtomicU8,
    /// Held for the few instructions in which the state changes, and the pace with it.
    changes: Mutex<()>,
    /// Dials in a row that failed.
    failed: AtomicU32,
    /// CONNECTs in a row that had no answer in time.
    unanswered: AtomicU32,
    /// Devices in a row that waited for their CONNACK in vain and left.
    left: AtomicU32,
    /// Devices in a row that it did not serve: it closed, talked nonsense, or said that it cannot now.
    spurned: AtomicU32,
    /// When it last did, in ms since `born`.
    spurned_at: AtomicU64,
    /// When it last answered a CONNECT, in ms since `born`.
    heard: AtomicU64,
    /// When there was no local port for it, in ms since `born`; 0: never.
    no_port: AtomicU64,
    /// When it came up after having been down, in ms since `born`; 0: never.
    back: AtomicU64,
    born: Instant,
    /// Devices say that it is down, or may be: the next probe need not wait.
    doubt: Notify,
    pub(super) pace: Pace,
}

impl Standing {
    /// `late`: others were known before it.
    pub(super) fn new(late: bool) -> Self {
        Self {
            state: AtomicU8::new(if late { NEW } else { UNKNOWN }),
            changes: Mutex::new(()),
            failed: AtomicU32::new(0),
            unanswered: AtomicU32::new(0),
            left: AtomicU32::new(0),
            spurned: AtomicU32::new(0),
            spurned_at: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            no_port: AtomicU64::new(0),
            back: AtomicU64::new(0),
            born: Instant::now(),
            doubt: Notify::new(),
            pace: Pace::new(late),
        }
    }

    /// Known to answer.
    pub(super) fn is_up(&self) -> bool {
        self.state.load(Relaxed) == UP
    }

    /// Known to be away, by a probe or by what devices found.
    pub(super) fn is_down(&self) -> bool {
        self.state.load(Relaxed) >= DOWN
    }

    /// To be tried after those that answer.
    pub(super) fn is_doubtful(&self) -> bool {
        self.state.load(Relaxed) >= NEW
    }

    /// Takes connections, and answers no CONNECT: not to be tried, since a CONNECT that was sent is never sent again.
    pub(super) fn is_silent(&self) -> bool {
        self.state.load(Relaxed) == SILENT
    }

    /// There was no local port for it: to look for one costs the kernel much, so that is not done all the time.
    pub(super) fn note_no_port(&self) {
        self.no_port.store(self.now(), Relaxed);
    }

    /// A moment ago there was no local port for it.
    pub(super) fn lacks_ports(&self) -> bool {
        let at = self.no_port.load(Relaxed);
        at != 0 && self.now().saturating_sub(at) < NO_PORT
    }

    /// How much of its share it takes: 256 is all of it.
    pub(super) fn share(&self) -> u16 {
        let back = self.back.load(Relaxed);
        if back == 0 {
            return 256;
        }
        let since = self.now().saturating_sub(back);
        let whole = u64::try_from(WARMS.as_millis()).unwrap_or(u64::MAX);
        if since >= whole {
            self.back.store(0, Relaxed);
            return 256;
        }
        u16::try_from(26 + 230 * since / whole).unwrap_or(256)
    }

    /// It answered a CONNECT: a device's, or the probe's. Gives whether that it is up is news.
    pub(super) fn answers(&self) -> bool {
        self.heard.store(self.now(), Relaxed);
        self.speaks();
        self.failed.store(0, Relaxed);
        !self.is_up() && self.change(|_| UP).is_some()
    }

    /// It took a connection. One that answers no CONNECT did that all the time. Gives whether that it is up is news.
    pub(super) fn takes(&self) -> bool {
        self.failed.store(0, Relaxed);
        let up = |now| if now == SILENT { SILENT } else { UP };
        !self.is_up() && self.change(up).is_some()
    }

    /// It said something, or closed: it is not silent.
    pub(super) fn speaks(&self) {
        self.unanswered.store(0, Relaxed);
        self.left.store(0, Relaxed);
    }

    /// It served a device: let it in, or judged it.
    pub(super) fn serves(&self) {
        if self.spurned.load(Relaxed) != 0 {
            self.spurned.store(0, Relaxed);
        }
    }

    /// It did not serve a device, which is perhaps the device's fault; not that of too many in a row.
    pub(super) fn spurns(&self) {
        self.spurned.fetch_add(1, Relaxed);
        self.spurned_at.store(self.now(), Relaxed);
    }

    /// It turned away too many devices in a row, the last a moment ago: to be tried after those that serve. Otherwise it would be the
    /// one with the fewest connections, and swallow the fleet.
    pub(super) fn is_sick(&self) -> bool {
        self.spurned.load(Relaxed) >= TOO_MANY
            && self.now().saturating_sub(self.spurned_at.load(Relaxed)) < SICK
    }

    /// A probe had no answer; `silent`: it took the connection, and not a word came. Gives whether that is news.
    pub(super) fn fell(&self, silent: bool) -> bool {
        let before = self.change(|_| if silent { SILENT } else { DOWN });
        before.is_some_and(|before| before < DOWN)
    }

    /// Makes of the state what `to` says, and changes the pace with it, as one step: who finds it up and who finds it down at once
    /// must not leave the one without the other. Gives the state before, if it is another now.
    fn change(&self, to: impl FnOnce(u8) -> u8) -> Option<u8> {
        let _alone = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.state.load(Relaxed);
        let after = to(before);
        if after == before {
            return None;
        }
        self.state.store(after, Relaxed);
        if after == UP && before >= NEW {
            self.back.store(self.now(), Relaxed);
            self.pace.begin();
        } else if after >= DOWN && before < DOWN {
            self.pace.narrow();
        }
        Some(before)
    }

    /// A dial that was begun then failed.
    pub(super) fn refused(&self, began: Instant) {
        if self.counts(&self.failed, began) && !self.is_down() {
            self.change(|now| now.max(DOWN)); // silent stays silent
            self.doubt.notify_one();
        }
    }

    /// A CONNECT that was begun then had no answer in time.
    pub(super) fn ignored(&self, began: Instant) {
        if self.counts(&self.unanswered, began) && !self.is_silent() {
            self.fell(true);
            self.doubt.notify_one();
        }
    }

    /// A device whose CONNECT was begun then left before the CONNACK. It may do so at will, and must not make a broker look dead: too
    /// many of those that waited are a doubt, which the next probe is to settle at once.
    pub(super) fn left(&self, began: Instant) {
        if began.elapsed() >= IN_VAIN && self.counts(&self.left, began) {
            self.doubt.notify_one();
        }
    }

    /// Only a CONNECT finds out whether it answers: that it takes connections says nothing.
    pub(super) fn wants_connect(&self) -> bool {
        self.is_silent() || self.left.load(Relaxed) >= TOO_MANY
    }

    /// Counts one more; whether they are too many. What began before it was last heard says nothing about now.
    fn counts(&self, count: &AtomicU32, began: Instant) -> bool {
        let began = began.saturating_duration_since(self.born);
        let heard = self.heard.load(Relaxed);
        u64::try_from(began.as_millis()).unwrap_or(u64::MAX) >= heard
            && count.fetch_add(1, Relaxed) + 1 >= TOO_MANY
    }

    /// Waits until devices say that it is down, or may be.
    pub(super) async fn doubted(&self) {
        self.doubt.notified().await;
    }

    /// In ms since `born`, never 0.
    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// threats.md V5: one device does not make a broker look sick; three in a row do, until it serves one, or for a while.
    #[tokio::test(start_paused = true)]
    async fn a_broker_that_serves_nobody_is_sick_for_a_while() {
        let standing = Standing::new(false);
        for _ in 0..10 {
            standing.spurns();
            standing.spurns();
            standing.serves();
        }
        assert!(!standing.is_sick());
        for _ in 0..TOO_MANY {
            assert!(!standing.is_sick());
            standing.spurns();
        }
        assert!(standing.is_sick() && !standing.is_doubtful());
        tokio::time::advance(Duration::from_millis(SICK + 1)).await;
        assert!(!standing.is_sick(), "somebody is to find out");
        standing.spurns();
        assert!(standing.is_sick());
        standing.serves();
        assert!(!standing.is_sick());
    }

    /// threats.md V5: found by deadlines, before the next probe.
    #[tokio::test(start_paused = true)]
    async fn what_devices_find_counts_before_the_next_probe() {
        let standing = Standing::new(false);
        assert!(
            !standing.is_down() && !standing.is_doubtful(),
            "not known is not down"
        );
        for nth in 1..=TOO_MANY {
            assert!(!standing.is_down(), "{nth}");
            standing.refused(Instant::now());
        }
        assert!(standing.is_down() && !standing.is_silent());
        standing.doubted().await; // the next probe need not wait
        assert!(standing.answers(), "news");
        assert!(!standing.answers(), "none");
        for _ in 1..TOO_MANY {
            standing.refused(Instant::now());
        }
        assert!(!standing.takes());
        standing.refused(Instant::now());
        assert!(!standing.is_down(), "not in a row");
    }

    /// threats.md V5: devices less patient than the gate find a frozen broker, too; but none can make one look dead by leaving.
    #[tokio::test(start_paused = true)]
    async fn devices_that_waited_and_left_are_a_doubt_and_no_mark() {
        let standing = Standing::new(false);
        standing.answers();
        for _ in 0..9 {
            standing.left(Instant::now());
        }
        assert!(!standing.wants_connect(), "none of them waited");
        tokio::time::advance(IN_VAIN).await;
        let began = Instant::now();
        tokio::time::advance(IN_VAIN).await;
        for _ in 1..TOO_MANY {
            standing.left(began);
        }
        standing.speaks();
        for _ in 1..TOO_MANY {
            standing.left(began);
        }
        assert!(!standing.wants_connect(), "not in a row");
        standing.left(began);
        standing.doubted().await;
        assert!(standing.wants_connect() && standing.is_up());
        standing.takes();
        assert!(standing.wants_connect(), "that was never in doubt");
        standing.answers();
        for _ in 0..9 {
            standing.left(began);
        }
        assert!(!standing.wants_connect(), "it answered since");
    }

    /// Whoever finds it down and whoever finds it up at the same time: once it was down, its return is paced.
    #[test]
    fn its_state_and_its_pace_change_as_one() {
        for _ in 0..2000 {
            let standing = Standing::new(false);
            std::thread::scope(|threads| {
                threads.spawn(|| standing.fell(false) && standing.takes());
                threads.spawn(|| {
                    standing.fell(true);
                    standing.answers()
                });
            });
            let inside: Vec<_> = std::iter::from_fn(|| standing.pace.try_enter().ok())
                .take(99)
                .collect();
            assert_eq!(inside.len(), 16);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_that_began_before_an_answer_says_nothing() {
        let standing = Standing::new(false);
        let began = Instant::now();
        tokio::time::advance(Duration::from_secs(5)).await;
        standing.answers();
        tokio::time::advance(Duration::from_secs(5)).await;
        for _ in 0..9 {
            standing.ignored(began);
        }
        assert!(!standing.is_down());
        for _ in 0..TOO_MANY {
            standing.ignored(Instant::now());
        }
        assert!(standing.is_silent());
        assert!(
            !standing.takes() && standing.is_silent(),
            "that was never in doubt"
        );
        assert!(!standing.fell(false), "known already");
        assert!(standing.is_down() && !standing.is_silent());
    }
}
