//! Orders to open connections: from a drain today, from a change of mind about a device tomorrow.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use futures_util::task::AtomicWaker;
use slab::Slab;

/// What a connection is asked to do.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub(crate) enum Order {
    /// Go on.
    GoOn = 0,
    /// End between packets, having delivered what was taken over.
    Drain = 1,
    /// End at once.
    Cut = 2,
}

/// The line to one open connection; it costs nothing until an order is given.
#[derive(Debug, Default)]
pub(crate) struct Control {
    order: AtomicU8,
    waker: AtomicWaker,
}

impl Control {
    /// The order in force; `waker` is woken when a stronger one comes.
    pub(crate) fn order(&self, waker: &Waker) -> Order {
        self.waker.register(waker);
        match self.order.load(Ordering::Acquire) {
            0 => Order::GoOn,
            1 => Order::Drain,
            _ => Order::Cut,
        }
    }

    /// Waits for the order to end at once.
    pub(crate) async fn cut(&self) {
        poll_fn(|cx| match self.order(cx.waker()) {
            Order::Cut => Poll::Ready(()),
            Order::GoOn | Order::Drain => Poll::Pending,
        })
        .await;
    }

    fn give(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.waker.wake();
    }
}

/// The open relays of one worker.
///
/// Each worker has its own, so the lock is taken by one thread but for a drain.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    open: Mutex<Slab<Arc<Control>>>,
}

/// A connection's place in the [`Roll`], until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    roll: Arc<Roll>,
    place: usize,
    /// The line to this connection.
    pub(crate) control: Arc<Control>,
}

impl Roll {
    /// Takes a seat.
    pub(crate) fn sit(self: &Arc<Self>) -> Seat {
        let control = Arc::new(Control::default());
        let place = self.lock().insert(control.clone());
        Seat {
            roll: self.clone(),
            place,
            control,
        }
    }

    /// Those seated now.
    pub(crate) fn seated(&self) -> Vec<Arc<Control>> {
        self.lock()
            .iter()
            .map(|(_, control)| control.clone())
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Slab<Arc<Control>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.roll.lock();
        open.remove(self.place);
        if open.is_empty() {
            *open = Slab::new(); // after a storm, its memory goes back
        }
    }
}

/// Gives `order` to each of `controls`.
pub(crate) fn give(controls: &[Arc<Control>], order: Order) {
    for control in controls {
        control.give(order);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weaker_order_never_takes_back_a_stronger_one() {
        let roll = Arc::new(Roll::default());
        let seat = roll.sit();
        give(&roll.seated(), Order::Cut);
        give(&roll.seated(), Order::Drain);
        assert_eq!(seat.control.order(Waker::noop()), Order::Cut);
        drop(seat);
        assert!(roll.seated().is_empty());
    }
}
