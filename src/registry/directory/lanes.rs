//! One thing for each [`Lane`].

use tokio::sync::mpsc;

use super::{Lane, QUEUE};

#[derive(Debug, Default)]
pub(super) struct Lanes<T> {
    pub(super) ours: T,
    pub(super) vouched: T,
    pub(super) strangers: T,
}

impl<T> Lanes<T> {
    pub(super) fn of(&self, lane: Lane) -> &T {
        match lane {
            Lane::Ours => &self.ours,
            Lane::Vouched => &self.vouched,
            Lane::Stranger => &self.strangers,
        }
    }

    pub(super) fn of_mut(&mut self, lane: Lane) -> &mut T {
        match lane {
            Lane::Ours => &mut self.ours,
            Lane::Vouched => &mut self.vouched,
            Lane::Stranger => &mut self.strangers,
        }
    }

    pub(super) fn all_mut(&mut self) -> [&mut T; 3] {
        [&mut self.ours, &mut self.vouched, &mut self.strangers]
    }
}

impl<T> Lanes<mpsc::Sender<T>> {
    /// A queue for each.
    pub(super) fn channels() -> (Self, Lanes<mpsc::Receiver<T>>) {
        let (ours, our_end) = mpsc::channel(QUEUE);
        let (vouched, vouched_end) = mpsc::channel(QUEUE);
        let (strangers, strangers_end) = mpsc::channel(QUEUE);
        let senders = Self {
            ours,
            vouched,
            strangers,
        };
        let receivers = Lanes {
            ours: our_end,
            vouched: vouched_end,
            strangers: strangers_end,
        };
        (senders, receivers)
    }
}
