//! How the open connections of one worker come to their end: spread over the window, and evenly over all workers together.
//!
//! Each worker cuts the same span into as many parts as it has connections, and ends one in each part, at a random moment of
//! it. So all workers together end as many a second as are open for each second of the span, from its first to its last; and
//! replicas that drain together do not fall into step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::Gate;
use super::control::{Control, Order, Roll, give};

/// Ends of connections are so far apart, all workers together, while the window allows: a few devices need not wait for the
/// whole window to make no storm.
const APART: Duration = Duration::from_millis(20);

/// The part of the window over which ends are spread. The rest is for their last packets.
const SPREAD: f64 = 0.8;

/// How often it is looked who has come in meanwhile: at every open connection, so not for each that ends.
const GLANCE: Duration = Duration::from_millis(100);

/// How long a drain waits for devices that are still between accept and verdict when nobody is let in any more.
const STILL_ASKING: Duration = Duration::from_secs(1);

/// How long connections have for their last packets after the last of them was told to end.
const LAST_PACKETS: Duration = Duration::from_secs(5);

/// Ends the open connections of `roll` spread over the window. Gives whether all ended in time.
///
/// Who was accepted before the drain is still let in, for as long as a handshake may take and four fifths of the window; it has
/// its turn in what is left of the span. Whoever asks later is told to come back.
pub(crate) async fn drain(gate: &Gate, roll: &Arc<Roll>) -> bool {
    let began = Instant::now();
    let limits = gate.glance().limits.clone();
    let window = limits.drain_timeout;
    let most = window.mul_f64(SPREAD);
    let open = roll.newly_linked();
    let all = gate.devices.rolls().iter().map(|roll| roll.count_linked());
    let span = span(all.sum(), most);
    let mut turns = Turns::new(open, began, span);
    let patience = began + span.max(most.min(limits.handshake_timeout));
    let mut look = began + GLANCE;
    loop {
        let now = Instant::now();
        if now >= look || turns.is_empty() {
            turns.add(roll.newly_linked(), now);
            look = now + GLANCE;
        }
        give(&turns.due(now), Order::Drain);
        if turns.is_empty() && (now >= patience || !gate.awaits_anybody()) {
            break;
        }
        let next = turns.next().unwrap_or(patience);
        sleep_until(next.min(look)).await;
    }
    gate.shut();
    tracing::debug!(
        event = "draining",
        "whoever asks from now on is told to come back"
    );
    let last = (began + window).max(Instant::now() + Duration::from_millis(100));
    let last = last.min(Instant::now() + LAST_PACKETS.max(window / 5));
    let gone = timeout_at(last, async {
        // Whoever is not admitted by now is told to come back when it asks, or says nothing at all.
        let asked = Instant::now() + STILL_ASKING;
        while !(gate.is_empty() || roll.linked().is_empty() && Instant::now() > asked) {
            // Those that a broker was taking just then.
            give(&roll.linked(), Order::Drain);
            sleep(Duration::from_millis(20)).await;
        }
    });
    gone.await.is_ok()
}

/// Ends what is left at once.
pub(crate) async fn cut_off(gate: &Gate, roll: &Arc<Roll>) {
    give(&roll.linked(), Order::Cut);
    let gone = timeout(Duration::from_secs(1), async {
        while !roll.linked().is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    });
    if gone.await.is_err() {
        gate.note_loss();
    }
}

/// Over how long a gate with `open` connections spreads their ends: no longer than `most`.
fn span(open: usize, most: Duration) -> Duration {
    let open = u32::try_from(open).unwrap_or(u32::MAX);
    APART.saturating_mul(open).min(most)
}

/// Who is told to end, and when.
struct Turns {
    /// By moment, and by number, as two may have one moment.
    turns: BTreeMap<(Instant, u64), Arc<Control>>,
    end: Instant,
}

impl Turns {
    /// One turn in each of as many parts of `span` as are `open`, at a random moment of it, in random order.
    fn new(mut open: Vec<Arc<Control>>, began: Instant, span: Duration) -> Self {
        fastrand::shuffle(&mut open);
        let count = u32::try_from(open.len()).unwrap_or(u32::MAX).max(1);
        let part = span.as_secs_f64() / f64::from(count);
        let moment = |nth: u32| {
            let at = (f64::from(nth) + fastrand::f64()) * part;
            began + Duration::from_secs_f64(at)
        };
        let turn =
            |(nth, control): (u32, Arc<Control>)| ((moment(nth), control.sitter.number), control);
        Self {
            turns: (0..count).zip(open).map(turn).collect(),
            end: began + span,
        }
    }

    /// Gives those who came late a turn in what is left; at once, when nothing is.
    fn add(&mut self, late: Vec<Arc<Control>>, now: Instant) {
        let left = self.end.saturating_duration_since(now);
        for control in late {
            let at = now + left.mul_f64(fastrand::f64());
            self.turns.insert((at, control.sitter.number), control);
        }
    }

    /// Those whose turn it is by `now`; they have none any more.
    fn due(&mut self, now: Instant) -> Vec<Arc<Control>> {
        let later = self.turns.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut self.turns, later);
        due.into_values().collect()
    }

    fn next(&self) -> Option<Instant> {
        self.turns.keys().next().map(|(at, _)| *at)
    }

    fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::control::Seat;
    use crate::gate::control::tests::sitter;

    const MOST: Duration = Duration::from_secs(24);

    /// `count` connections of one worker, numbered from `first`.
    fn seats(first: u64, count: u64) -> (Arc<Roll>, Vec<Seat>) {
        let roll = Arc::new(Roll::default());
        let sit = |number| {
            let mut sitter = sitter("a");
            sitter.number = number;
            let seat = roll.sit(sitter);
            seat.control.set_linked();
            seat
        };
        let seats = (first..first + count).map(sit).collect();
        (roll, seats)
    }

    /// How many ends fall into each of `parts` of the span, of workers with so many connections.
    fn ends(workers: &[u64], parts: u32) -> Vec<usize> {
        let began = Instant::now();
        let all: u64 = workers.iter().sum();
        let span = span(usize::try_from(all).expect("few"), MOST);
        let mut counted = vec![0; parts as usize];
        for (nth, count) in (0..).zip(workers) {
            let (roll, _seats) = seats(1_000_000 * nth, *count);
            let mut turns = Turns::new(roll.newly_linked(), began, span);
            for part in 0..parts {
                let due = turns.due(began + span * (part + 1) / parts);
                counted[part as usize] += due.len();
            }
            assert!(turns.is_empty(), "all have ended by the end of the span");
        }
        counted
    }

    /// threats.md V10: whoever takes them over meets as many in the first second as in the last, however they sit.
    #[tokio::test]
    async fn ends_are_even_over_all_workers_together() {
        for workers in [&[2000, 2000][..], &[3990, 10], &[4000, 0], &[100, 3900]] {
            let ends = ends(workers, 10);
            // Each worker's are even to one connection.
            let even = |count: &usize| (400 - workers.len()..=400 + workers.len()).contains(count);
            assert!(ends.iter().all(even), "{workers:?}: {ends:?}");
        }
        assert_eq!(ends(&[1, 1], 1), [2]);
    }

    #[test]
    fn few_end_soon_and_many_over_four_fifths_of_the_window() {
        for (open, seconds) in [
            (0, 0.0),
            (1, 0.02),
            (100, 2.0),
            (1200, 24.0),
            (100_000, 24.0),
        ] {
            let span = span(open, MOST).as_secs_f64();
            assert!((span - seconds).abs() < 1e-9, "{open}: {span} s");
        }
        assert_eq!(span(100_000, Duration::ZERO), Duration::ZERO);
    }

    /// Replicas that drain together must not end theirs at the same moments.
    #[tokio::test]
    async fn two_drains_do_not_beat() {
        let (roll, _seats) = seats(0, 1000);
        let (began, open) = (Instant::now(), roll.newly_linked());
        let [first, second] = [(); 2].map(|()| {
            let turns = Turns::new(open.clone(), began, MOST).turns;
            turns.into_keys().collect::<Vec<_>>()
        });
        let same = first.iter().zip(&second);
        let moments = same.clone().filter(|(a, b)| a.0 == b.0).count();
        let order = same.filter(|(a, b)| a.1 == b.1).count();
        assert!(
            moments < 10 && order < 20,
            "{moments} moments, {order} places"
        );
    }

    #[tokio::test]
    async fn who_comes_late_has_a_turn_in_what_is_left() {
        let (roll, _seats) = seats(0, 300);
        let began = Instant::now();
        let mut turns = Turns::new(Vec::new(), began, MOST);
        turns.add(roll.newly_linked(), began + MOST / 2);
        assert!(turns.due(began + MOST / 2).len() <= 1);
        let (soon, late) = (turns.due(began + MOST * 3 / 4), turns.due(began + MOST));
        assert!(soon.len() > 50 && late.len() > 50 && turns.is_empty());
        assert!(roll.newly_linked().is_empty(), "each has one turn");
        turns.add(soon, began + MOST * 2);
        assert!(!turns.due(began + MOST * 2).is_empty(), "at once");
    }
}
