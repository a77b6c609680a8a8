//! Orders to open connections: from a drain, from a change of mind about a device, from the end of what it showed.
//!
//! A connection takes its [`Seat`] as soon as it is known whose it claims to be, before anybody looks the device up. So a
//! change that is told after the look-up finds the seat, and one that was told before is in what the look-up gives: there is no
//! gap between the two (threats.md R1).

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use slab::Slab;

use crate::rules::device::DeviceId;
use crate::rules::policy::Evidence;
use crate::rules::reason::Cause;

/// What a connection is asked to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Order {
    /// Go on.
    GoOn,
    /// End between packets, having delivered what was taken over.
    Drain,
    /// End between packets: what let it in counts no longer.
    End(Cause),
    /// End at once.
    Cut,
}

/// [`Order`] as one number: a greater one replaces a smaller one.
const GO_ON: u8 = 0;
const DRAIN: u8 = 1;
const END: u8 = 2;
const CUT: u8 = 3;

/// Who sits in a seat.
#[derive(Debug)]
pub(crate) struct Sitter {
    /// Unlike any other's while the gate runs.
    pub(crate) number: u64,
    pub(crate) device: DeviceId,
    /// What it showed.
    pub(crate) evidence: Evidence,
    pub(crate) address: SocketAddr,
    /// The listener's place.
    pub(crate) listener: usize,
    /// When it sat down.
    pub(crate) since: Instant,
    /// The same by the wall clock, in seconds since 1970.
    pub(crate) sat_at: i64,
}

/// The line to one connection; it costs nothing until an order is given.
#[derive(Debug)]
pub(crate) struct Control {
    order: AtomicU8,
    /// The first [`Cause`] that was given; 0: none.
    cause: AtomicU8,
    waker: AtomicWaker,
    /// The trust groups have changed: it is to look at its chain again.
    review: AtomicBool,
    /// No trust group vouches any more for the certificate that it showed.
    unvouched: AtomicBool,
    /// A broker took it.
    linked: AtomicBool,
    /// It has its turn in a drain.
    has_turn: AtomicBool,
    pub(crate) sitter: Sitter,
}

impl Control {
    fn new(sitter: Sitter) -> Self {
        Self {
            order: AtomicU8::new(GO_ON),
            cause: AtomicU8::new(0),
            waker: AtomicWaker::new(),
            review: AtomicBool::new(false),
            unvouched: AtomicBool::new(false),
            linked: AtomicBool::new(false),
            has_turn: AtomicBool::new(false),
            sitter,
        }
    }

    /// Seconds since 1970 as this connection sees them: what the wall clock said when it sat down, and what has gone by since. A clock
    /// that is set anew ends no connection (threats.md V8).
    pub(crate) fn now(&self) -> i64 {
        let gone_by = i64::try_from(self.sitter.since.elapsed().as_secs()).unwrap_or(i64::MAX);
        self.sitter.sat_at.saturating_add(gone_by)
    }

    /// The order in force; `waker` is woken when a stronger one comes.
    pub(crate) fn order(&self, waker: &Waker) -> Order {
        self.waker.register(waker);
        match self.order.load(Ordering::Acquire) {
            GO_ON => Order::GoOn,
            DRAIN => Order::Drain,
            END => self.cause().map_or(Order::Cut, Order::End),
            _ => Order::Cut,
        }
    }

    /// Why it is to end, if it is for a cause.
    pub(crate) fn cause(&self) -> Option<Cause> {
        let number = self.cause.load(Ordering::Acquire);
        Cause::ALL.into_iter().find(|cause| *cause as u8 == number)
    }

    /// Waits for an order to end for a cause.
    pub(crate) async fn ended(&self) -> Cause {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            self.cause().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Waits for the order to end at once.
    pub(crate) async fn cut(&self) {
        poll_fn(|cx| match self.order(cx.waker()) {
            Order::Cut => Poll::Ready(()),
            _ => Poll::Pending,
        })
        .await;
    }

    /// Whether the trust groups have changed since this was last asked.
    pub(crate) fn take_review(&self) -> bool {
        self.review.load(Ordering::Relaxed) && self.review.swap(false, Ordering::AcqRel)
    }

    /// No trust group vouches any more for the certificate that it showed.
    pub(crate) fn set_unvouched(&self) {
        self.unvouched.store(true, Ordering::Release);
    }

    /// What it showed, and what of it still counts with the trust groups.
    pub(crate) fn evidence(&self) -> Evidence {
        let mut evidence = self.sitter.evidence.clone();
        if self.unvouched.load(Ordering::Acquire)
            && let Some(certificate) = &mut evidence.certificate
        {
            certificate.voucher = None;
        }
        evidence
    }

    /// A broker took the connection.
    pub(crate) fn set_linked(&self) {
        self.linked.store(true, Ordering::Release);
    }

    pub(crate) fn is_linked(&self) -> bool {
        self.linked.load(Ordering::Acquire)
    }

    /// Asks it to look at its chain again.
    pub(crate) fn review(&self) {
        self.review.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Gives an order. Of several causes the first stays: a second one would only tell another story of the same end.
    pub(crate) fn give(&self, order: Order) {
        let number = match order {
            Order::GoOn => GO_ON,
            Order::Drain => DRAIN,
            Order::End(_) => END,
            Order::Cut => CUT,
        };
        if let Order::End(cause) = order {
            let _ =
                self.cause
                    .compare_exchange(0, cause as u8, Ordering::AcqRel, Ordering::Acquire);
        }
        self.order.fetch_max(number, Ordering::AcqRel);
        self.waker.wake();
    }
}

/// The connections of one worker whose device is known.
///
/// Each worker has its own, so the lock is taken by one thread but for a drain, a change, and a device with a limit.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    seats: Slab<Place>,
    of: HashMap<DeviceId, Places>,
    /// No seat ends before.
    earliest: Option<Instant>,
}

#[derive(Debug)]
struct Place {
    control: Arc<Control>,
    /// When what it showed ends.
    until: Option<Instant>,
}

/// The places of one device; nearly always one.
#[derive(Debug)]
enum Places {
    One(usize),
    Several(Vec<usize>),
}

impl Places {
    fn add(&mut self, place: usize) {
        match self {
            Self::One(first) => *self = Self::Several(vec![*first, place]),
            Self::Several(all) => all.push(place),
        }
    }

    /// Whether any is left.
    fn remove(&mut self, place: usize) -> bool {
        match self {
            Self::One(_) => false,
            Self::Several(all) => {
                all.retain(|one| *one != place);
                !all.is_empty()
            }
        }
    }

    fn as_slice(&self) -> &[usize] {
        match self {
            Self::One(place) => std::slice::from_ref(place),
            Self::Several(all) => all,
        }
    }
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
    pub(crate) fn sit(self: &Arc<Self>, sitter: Sitter) -> Seat {
        let device = sitter.device.clone();
        let control = Arc::new(Control::new(sitter));
        let mut open = self.lock();
        let place = open.seats.insert(Place {
            control: control.clone(),
            until: None,
        });
        open.of
            .entry(device)
            .and_modify(|places| places.add(place))
            .or_insert(Places::One(place));
        Seat {
            roll: self.clone(),
            place,
            control,
        }
    }

    /// Those linked to a broker.
    pub(crate) fn linked(&self) -> Vec<Arc<Control>> {
        self.all()
            .into_iter()
            .filter(|control| control.is_linked())
            .collect()
    }

    /// How many are linked to a broker.
    pub(crate) fn count_linked(&self) -> usize {
        let open = self.lock();
        let linked = open
            .seats
            .iter()
            .filter(|(_, place)| place.control.is_linked());
        linked.count()
    }

    /// Those linked to a broker that were not given by this before.
    pub(crate) fn newly_linked(&self) -> Vec<Arc<Control>> {
        let open = self.lock();
        let is_new = |control: &&Arc<Control>| {
            control.is_linked() && !control.has_turn.swap(true, Ordering::Relaxed)
        };
        let controls = open.seats.iter().map(|(_, place)| &place.control);
        controls.filter(is_new).cloned().collect()
    }

    /// Everyone who sits, linked or on the way in.
    pub(crate) fn all(&self) -> Vec<Arc<Control>> {
        let open = self.lock();
        open.seats
            .iter()
            .map(|(_, place)| place.control.clone())
            .collect()
    }

    /// Everyone who sits for `device`.
    pub(crate) fn of(&self, device: &DeviceId) -> Vec<Arc<Control>> {
        let open = self.lock();
        let places = open.of.get(device).map_or(&[][..], Places::as_slice);
        places
            .iter()
            .map(|place| open.seats[*place].control.clone())
            .collect()
    }

    /// Gives those whose time is over by `now` the order to end, and gives when it is to be asked again at the latest.
    pub(crate) fn expire(&self, now: Instant) -> Vec<Arc<Control>> {
        let mut open = self.lock();
        if open.earliest.is_none_or(|earliest| earliest > now) {
            return Vec::new();
        }
        let mut expired = Vec::new();
        let mut earliest: Option<Instant> = None;
        for (_, place) in &mut open.seats {
            match place.until {
                Some(until) if until <= now => {
                    place.until = None;
                    expired.push(place.control.clone());
                }
                Some(until) => earliest = Some(earliest.map_or(until, |one| one.min(until))),
                None => {}
            }
        }
        open.earliest = earliest;
        expired
    }

    /// Sets when what `control` showed ends; `None`: never.
    pub(crate) fn set_until(&self, control: &Arc<Control>, until: Option<Instant>) {
        let mut open = self.lock();
        let places = open.of.get(&control.sitter.device).map(Places::as_slice);
        let is_it = |place: &&usize| Arc::ptr_eq(&open.seats[**place].control, control);
        if let Some(place) = places.and_then(|places| places.iter().find(is_it)).copied() {
            open.set_until(place, until);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn set_until(&mut self, place: usize, until: Option<Instant>) {
        self.seats[place].until = until;
        if let Some(until) = until {
            self.earliest = Some(self.earliest.map_or(until, |one| one.min(until)));
        }
    }
}

impl Seat {
    /// Sets when what the device showed ends; `None`: never. What a change has set meanwhile stays.
    pub(crate) fn set_until(&self, until: Option<Instant>) {
        let mut open = self.roll.lock();
        if open.seats[self.place].until.is_none() {
            open.set_until(self.place, until);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let device = &self.control.sitter.device;
        let mut open = self.roll.lock();
        open.seats.remove(self.place);
        if let Some(places) = open.of.get_mut(device)
            && !places.remove(self.place)
        {
            open.of.remove(device);
        }
        if open.seats.is_empty() {
            *open = Open::default(); // after a storm, its memory goes back
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
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rules::device::Mode;

    /// Someone who sits.
    pub(in crate::gate) fn sitter(device: &str) -> Sitter {
        Sitter {
            number: 0,
            device: device.parse().expect("a good name"),
            evidence: Evidence {
                mode: Mode::MutualTls,
                certificate: None,
                token: None,
            },
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            listener: 0,
            since: Instant::now(),
            sat_at: 0,
        }
    }

    #[test]
    fn a_weaker_order_never_takes_back_a_stronger_one() {
        let roll = Arc::new(Roll::default());
        let seat = roll.sit(sitter("a"));
        let order = || seat.control.order(Waker::noop());
        give(&roll.all(), Order::Drain);
        assert_eq!(order(), Order::Drain);
        give(&roll.all(), Order::End(Cause::DeviceDisabled));
        give(&roll.all(), Order::End(Cause::Replaced));
        give(&roll.all(), Order::Drain);
        assert_eq!(
            order(),
            Order::End(Cause::DeviceDisabled),
            "the first cause stays"
        );
        give(&roll.all(), Order::Cut);
        give(&roll.all(), Order::Drain);
        assert_eq!(order(), Order::Cut);
        assert_eq!(
            seat.control.cause(),
            Some(Cause::DeviceDisabled),
            "a cut has the same cause"
        );
        drop(seat);
        assert!(roll.all().is_empty());
    }

    #[test]
    fn a_device_is_found_by_its_name_while_it_sits() {
        let roll = Arc::new(Roll::default());
        let seats = ["a", "b", "a", "a"].map(|name| roll.sit(sitter(name)));
        let count = |name: &str| roll.of(&name.parse().expect("a good name")).len();
        assert_eq!((count("a"), count("b"), count("c")), (3, 1, 0));
        let [first, b, second, third] = seats;
        drop((first, b));
        assert_eq!((count("a"), count("b")), (2, 0));
        drop((second, third));
        assert_eq!(count("a"), 0);
    }

    #[test]
    fn who_is_on_its_way_in_is_no_open_connection_yet() {
        let roll = Arc::new(Roll::default());
        let seat = roll.sit(sitter("a"));
        assert!(roll.linked().is_empty());
        seat.control.set_linked();
        assert_eq!(roll.linked().len(), 1);
    }

    /// threats.md T5: each at its own time, also if that was set later.
    #[test]
    fn time_runs_out_for_those_whose_time_it_is() {
        let (roll, now) = (Arc::new(Roll::default()), Instant::now());
        let [a, b, c] = ["a", "b", "c"].map(|name| roll.sit(sitter(name)));
        let after = |seconds| now + Duration::from_secs(seconds);
        a.set_until(Some(after(10)));
        b.set_until(Some(after(20)));
        assert!(roll.expire(after(9)).is_empty());
        roll.set_until(&c.control, Some(after(5)));
        let names = |controls: Vec<Arc<Control>>| {
            let names = controls.iter().map(|one| one.sitter.device.to_string());
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(roll.expire(after(9))), ["c"]);
        assert!(roll.expire(after(9)).is_empty(), "told once");
        roll.set_until(&b.control, None);
        assert_eq!(names(roll.expire(after(30))), ["a"]);
    }
}
