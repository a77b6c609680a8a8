//! Whether the workers live: each says so itself, from its own runtime, so one that is stuck in a task says nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The pulse of each worker.
#[derive(Clone, Debug)]
pub struct Pulses(Arc<[Pulse]>);

#[derive(Debug, Default)]
struct Pulse {
    /// It has got to its tasks since this was last taken.
    beat: AtomicBool,
    /// It has come to its end in good order, and says no more.
    over: AtomicBool,
}

impl Pulses {
    /// Of so many workers, none of which has said anything yet.
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Pulse::default()).collect())
    }

    /// That worker lives.
    pub(super) fn beat(&self, worker: usize) {
        self.0[worker].beat.store(true, Relaxed);
    }

    /// That worker has ended: a drain is over. One that panicked has not.
    pub(super) fn end(&self, worker: usize) {
        self.0[worker].over.store(true, Relaxed);
    }

    /// Which workers have said nothing since this last gave none. When it gives none, all begin anew.
    pub fn silent(&self) -> Vec<usize> {
        let each = self.0.iter().enumerate();
        let mute =
            |(_, pulse): &(usize, &Pulse)| !pulse.beat.load(Relaxed) && !pulse.over.load(Relaxed);
        let silent: Vec<_> = each.filter(mute).map(|(worker, _)| worker).collect();
        if silent.is_empty() {
            for pulse in self.0.iter() {
                pulse.beat.store(false, Relaxed);
            }
        }
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_has_to_say_so_again_and_again() {
        let pulses = Pulses::new(3);
        assert_eq!(pulses.silent(), [0, 1, 2]);
        pulses.beat(0);
        pulses.beat(2);
        assert_eq!(pulses.silent(), [1], "what two said is kept for them");
        pulses.beat(1);
        assert_eq!(pulses.silent(), [] as [usize; 0]);
        assert_eq!(pulses.silent(), [0, 1, 2], "old words do not count twice");
    }

    #[test]
    fn who_has_ended_in_good_order_need_say_nothing() {
        let pulses = Pulses::new(2);
        pulses.end(1);
        assert_eq!(pulses.silent(), [0]);
        pulses.beat(0);
        assert!(pulses.silent().is_empty());
    }
}
