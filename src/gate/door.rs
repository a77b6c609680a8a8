//! Who computes next, when more devices call than the core can serve.
//!
//! A full handshake costs the core hundreds of microseconds in two pieces: our signature, and later the look at the
//! device's. In a storm, who begins them all ends none in time. So each piece is asked for at the door of the worker, and
//! let in a few at a time, between two looks at the sockets (a *round*):
//!
//! - Relays, and all that is no signature, wait for one round at most: open connections keep their latency.
//! - What was begun is ended first. Who resumes a TLS session comes before who does not, since it costs a fraction; but not
//!   always, or those who resume could keep everybody else out.
//! - Of those who have not begun, the newest comes first as soon as devices give up waiting: the oldest is the next to do so. Now and
//!   then it is the oldest nevertheless, so that whoever comes and leaves on purpose does not starve who waits. Who has gone is let
//!   go without a signature, and who has waited too long for it to end well is sent away (threats.md V1).
//! - Nobody begins whom no broker has a place for: one that came back is given devices as fast as it answers them (V5).
//! - While many wait, the listener lets in one for each that begins, and the oldest who wait make room for them. The others stay with
//!   the kernel, which keeps few then. What it cannot keep it drops, and TCP calls again after a second: that costs nothing, and to turn
//!   them away would. So who is let in has called just now.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::HandshakeKind;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::tls::handshake::Pace;

/// How many pieces are computed in one round. More let open connections wait longer: these, a millisecond or two. With fewer
/// the rounds themselves cost: with two, 7 % more CPU time for each handshake; with eight, nothing measurable.
const PIECES: u8 = 8;

/// So many wait to begin at a worker at most: the oldest makes room. It bounds memory, some 10 KiB each.
const WAITING: usize = 1024;

/// Once so many wait and devices give up, few are let in: a burst that all of them outwait is no storm.
const CROWDED: usize = 320;

/// Until fewer than so many wait.
const THINNED: usize = 16;

/// And once more when so many wait, for as long as devices go on to give up: who is let in beyond that waits for nothing mostly.
const CROWDED_AGAIN: usize = 64;

/// While nobody has given up waiting for so long, the first who came is the first to begin, and all are served. Otherwise the newest is.
const LONG: Duration = Duration::from_secs(2);

/// So few are let in for each that begins: whoever is let in for nothing costs much of a handshake, too.
const FOR_EACH: u8 = 1;

/// So many times as many at once.
const AT_ONCE: u8 = PIECES;

/// While devices give up waiting, of so many beginnings one is of who waits longest.
const OLDEST: u8 = 16;

/// Of so many beginnings one is of a device that does not resume, if any waits. Not many: a ticket may be shown by whoever has
/// seen it, and the handshake may become a full one.
const SHARE: u8 = 4;

/// How soon it is looked again whether a broker has a place.
const A_MOMENT: Duration = Duration::from_millis(2);

/// A turn to handshake, from its beginning to its end: a place among `limits.handshakes`.
pub(crate) type Turn = OwnedSemaphorePermit;

/// How dear a handshake is going to be, as far as the ClientHello tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Caller {
    /// It shows a ticket of ours.
    Returning,
    /// It needs a full handshake.
    New,
}

/// The door of one worker.
#[derive(Debug)]
pub(crate) struct Door {
    turns: Arc<Semaphore>,
    patience: Arc<Patience>,
    queues: Mutex<Queues>,
    /// Somebody came, or a piece was taken.
    came: Notify,
    /// Perhaps one more may be accepted.
    room: Notify,
}

/// How long one may wait to begin, at every door.
#[derive(Debug)]
pub(crate) struct Patience(AtomicU64);

impl Patience {
    pub(crate) fn new(patience: Duration) -> Self {
        let new = Self(AtomicU64::new(0));
        new.change(patience);
        new
    }

    /// From now on it is this.
    pub(crate) fn change(&self, patience: Duration) {
        let nanos = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX); // 584 years
        self.0.store(nanos, Relaxed);
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Relaxed))
    }
}

#[derive(Debug, Default)]
struct Queues {
    /// Pieces left in this round.
    pieces: u8,
    /// What was begun, oldest first.
    begun: BTreeMap<u64, oneshot::Sender<()>>,
    returning: Line,
    new: Line,
    /// Beginnings of who resumes, since one who does not.
    in_a_row: u8,
    /// Beginnings of the newest, since one of the oldest.
    newest: u8,
    /// When somebody last left the line without a turn.
    gave_up: Option<Instant>,
    /// Few are let in.
    crowded: bool,
    /// It was crowded, and devices have not ceased to give up since.
    stormy: bool,
    /// So many may be accepted although it is crowded.
    may_come: u8,
    next: u64,
}

/// Those who wait to begin, by the order in which they came.
type Line = BTreeMap<u64, Waiting>;

#[derive(Debug)]
struct Waiting {
    since: Instant,
    turn: oneshot::Sender<Turn>,
}

/// How many wait to begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Crowd {
    /// Few, or nobody.
    Thin,
    /// Few, amid a storm.
    Thinned,
    /// So many that few are let in.
    Thick,
}

/// What is left when the queues were gone through.
enum Left {
    /// Nobody waits.
    Nobody,
    /// Some wait for the next round.
    Some,
    /// Some wait to begin, and there is no turn.
    NoTurn,
    /// Some wait to begin, and no broker has a place for them.
    NoRoom,
}

impl Queues {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn waiting(&self) -> usize {
        self.returning.len() + self.new.len()
    }

    fn is_empty(&self) -> bool {
        self.begun.is_empty() && self.waiting() == 0
    }

    fn line(&mut self, caller: Caller) -> &mut Line {
        match caller {
            Caller::Returning => &mut self.returning,
            Caller::New => &mut self.new,
        }
    }

    /// The one that begins next: the oldest, or where devices give up waiting, mostly the newest.
    fn pop(&mut self) -> Option<Waiting> {
        let newest = self.is_storm() && self.newest < OLDEST - 1;
        self.newest = if newest { self.newest + 1 } else { 0 };
        let next = if newest {
            Line::pop_last
        } else {
            Line::pop_first
        };
        let new_one_is_due = self.in_a_row >= SHARE - 1 && !self.new.is_empty();
        let returning = if new_one_is_due {
            None
        } else {
            next(&mut self.returning)
        };
        match returning {
            Some((_, waiting)) => {
                self.in_a_row = self.in_a_row.saturating_add(1);
                Some(waiting)
            }
            None => {
                self.in_a_row = 0;
                next(&mut self.new).map(|(_, waiting)| waiting)
            }
        }
    }

    /// Sends away the oldest while more than [`WAITING`] wait: it would have waited for nothing with so many before it, as whoever gives up.
    fn make_room(&mut self) {
        while self.waiting() > WAITING {
            let oldest = [&mut self.returning, &mut self.new]
                .into_iter()
                .filter_map(BTreeMap::first_entry)
                .min_by_key(|entry| *entry.key());
            oldest.expect("many wait").remove();
            self.gave_up = Some(Instant::now());
        }
    }

    /// Whether one more may be accepted: freely, for one that began, or not now.
    fn admits(&mut self) -> Option<Crowd> {
        if !self.is_crowded() {
            return Some(if self.stormy {
                Crowd::Thinned
            } else {
                Crowd::Thin
            });
        }
        self.may_come = self.may_come.checked_sub(1)?;
        Some(Crowd::Thick)
    }

    fn is_crowded(&mut self) -> bool {
        self.stormy &= self.is_storm();
        let enough = match (self.crowded, self.stormy) {
            (true, _) => THINNED,
            (false, true) => CROWDED_AGAIN,
            (false, false) => CROWDED,
        };
        self.crowded = self.waiting() >= WAITING || self.waiting() >= enough && self.is_storm();
        self.stormy |= self.crowded;
        self.crowded
    }

    /// Whether somebody gave up waiting a moment ago.
    fn is_storm(&self) -> bool {
        self.gave_up.is_some_and(|at| at.elapsed() < LONG)
    }

    /// Sends away who came before `before`.
    fn forget(&mut self, before: Instant) {
        for line in [&mut self.returning, &mut self.new] {
            while let Some(oldest) = line.first_entry()
                && oldest.get().since < before
            {
                oldest.remove(); // the dropped sender tells it
            }
        }
    }
}

impl Door {
    /// A door to `turns`, at which nobody waits longer than `patience` to begin.
    pub(crate) fn new(turns: Arc<Semaphore>, patience: Arc<Patience>) -> Self {
        let queues = Queues {
            pieces: PIECES,
            ..Queues::default()
        };
        Self {
            turns,
            patience,
            queues: Mutex::new(queues),
            came: Notify::new(),
            room: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets in who waits, round by round, for as long as it is polled; `may_begin`: there will be a place at a broker.
    pub(crate) async fn open(&self, may_begin: impl Fn() -> bool) {
        let mut spare = None;
        loop {
            // Behind all that is ready now, and behind a look at the sockets.
            yield_now().await;
            match self.round(&mut spare, &may_begin) {
                Left::Some => {}
                Left::Nobody => {
                    spare = None;
                    self.came.notified().await;
                }
                Left::NoTurn => spare = self.wait_for_turn(&may_begin).await,
                Left::NoRoom => {
                    spare = None;
                    tokio::select! {
                        () = sleep(A_MOMENT) => {}
                        () = self.came.notified() => {}
                    }
                }
            }
        }
    }

    /// Waits for a turn, in the line of all workers; what was begun goes on meanwhile.
    async fn wait_for_turn(&self, may_begin: &impl Fn() -> bool) -> Option<Turn> {
        let mut turn = pin!(self.turns.clone().acquire_owned());
        loop {
            tokio::select! {
                turn = &mut turn => return turn.ok(),
                () = self.came.notified() => {}
                () = sleep(self.patience.now() / 8) => {} // somebody's patience may be over
            }
            yield_now().await;
            if !matches!(self.round(&mut None, may_begin), Left::NoTurn) {
                return None;
            }
        }
    }

    /// One round; `spare`: a turn that was waited for.
    fn round(&self, spare: &mut Option<Turn>, may_begin: impl Fn() -> bool) -> Left {
        let mut queues = self.lock();
        if queues.is_empty() {
            queues.pieces = PIECES;
            self.room.notify_waiters();
            return Left::Nobody;
        }
        if let Some(before) = Instant::now().checked_sub(self.patience.now()) {
            queues.forget(before);
        }
        let mut pieces = PIECES;
        let mut left = Left::Some;
        while pieces > 0 {
            if let Some((_, piece)) = queues.begun.pop_first() {
                pieces -= u8::from(piece.send(()).is_ok());
                continue;
            }
            if queues.waiting() == 0 {
                break;
            }
            if !may_begin() {
                left = Left::NoRoom;
                break;
            }
            let turn = spare.take().or_else(|| self.turn());
            let Some(turn) = turn else {
                left = Left::NoTurn;
                break;
            };
            let next = queues.pop().expect("somebody waits");
            match next.turn.send(turn) {
                Ok(()) => {
                    pieces -= 1;
                    queues.may_come = (queues.may_come + FOR_EACH).min(FOR_EACH * AT_ONCE);
                }
                Err(turn) => *spare = Some(turn), // it has just gone
            }
        }
        queues.pieces = 0;
        // Whoever waits for room looks for itself.
        self.room.notify_waiters();
        left
    }

    fn turn(&self) -> Option<Turn> {
        self.turns.clone().try_acquire_owned().ok()
    }

    /// A turn for a handshake that may begin at once, since nobody waits.
    pub(crate) fn try_begin(&self, may_begin: bool) -> Option<Turn> {
        let mut queues = self.lock();
        if !may_begin || queues.pieces == 0 || !queues.is_empty() {
            return None;
        }
        let turn = self.turn()?;
        self.take(&mut queues);
        Some(turn)
    }

    /// Waits until a handshake may begin. `None`: its patience is over. Dropping it leaves the queue.
    pub(crate) async fn begin(&self, caller: Caller) -> Option<Turn> {
        let (mut waits, answer) = {
            let (turn, answer) = oneshot::channel();
            let mut queues = self.lock();
            let number = queues.number();
            let since = Instant::now();
            queues.line(caller).insert(number, Waiting { since, turn });
            queues.make_room();
            (self.place(number, Place::Line(caller)), answer)
        };
        self.came.notify_one();
        let turn = answer.await.ok();
        waits.over = true;
        turn
    }

    /// Waits until the next piece of a handshake that has begun may be computed. Dropping it leaves the queue.
    async fn go_on(&self) {
        let (mut waits, answer) = {
            let mut queues = self.lock();
            if queues.pieces > 0 && queues.is_empty() {
                self.take(&mut queues);
                return;
            }
            let (piece, answer) = oneshot::channel();
            let number = queues.number();
            queues.begun.insert(number, piece);
            (self.place(number, Place::Begun), answer)
        };
        self.came.notify_one();
        let _ = answer.await;
        waits.over = true;
    }

    /// Takes a piece of this round; the next round must come.
    fn take(&self, queues: &mut Queues) {
        queues.pieces -= 1;
        if queues.pieces + 1 == PIECES {
            self.came.notify_one();
        }
    }

    fn place(&self, number: u64, place: Place) -> Waits<'_> {
        Waits {
            door: self,
            number,
            place,
            over: false,
        }
    }

    /// Whether somebody waits.
    pub(crate) fn is_busy(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Whether one more may be accepted now.
    pub(crate) fn try_admit(&self) -> Option<Crowd> {
        self.lock().admits()
    }

    /// Waits until one more may be accepted.
    pub(crate) async fn admit(&self) -> Crowd {
        loop {
            let room = self.room.notified();
            if let Some(crowd) = self.try_admit() {
                return crowd;
            }
            room.await;
        }
    }
}

/// The pieces of a handshake that has begun.
pub(crate) struct Pieces<'a> {
    pub(crate) door: &'a Door,
    /// The device is asked for a certificate: what it sends next holds signatures, unless it resumes.
    pub(crate) asks: bool,
}

impl Pace for Pieces<'_> {
    async fn next(&self, so_far: Option<HandshakeKind>) {
        let dear = match so_far {
            Some(HandshakeKind::Resumed) => false,
            Some(HandshakeKind::Full) => self.asks,
            // Our own signature is still to come.
            Some(HandshakeKind::FullWithHelloRetryRequest) | None => true,
        };
        if dear {
            self.door.go_on().await;
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Begun,
    Line(Caller),
}

/// Somebody in a queue; gone from it when dropped.
struct Waits<'a> {
    door: &'a Door,
    number: u64,
    place: Place,
    over: bool,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut queues = self.door.lock();
        match self.place {
            Place::Begun => drop(queues.begun.remove(&self.number)),
            Place::Line(caller) => {
                drop(queues.line(caller).remove(&self.number));
                queues.gave_up = Some(Instant::now());
            }
        }
        if !queues.is_crowded() {
            self.door.room.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests;
