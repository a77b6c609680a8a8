//! Reads what changed in the registry, and so knows whether it is there.

use std::cell::RefCell;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::registry::{Change, Changes, Fault};

use super::answers::why;
use super::desk::Desk;
use super::standing::FRESH;
use super::store::Store;
use super::{Shared, no_answer};

/// One reading is given up after this, and begun anew. Longer than the store may be silent before it counts as away: one
/// that is slow still tells its changes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Readings begin at least so far apart. What changes in between is read together, and a look-up has time to be
/// answered between two of them.
const APART: Duration = Duration::from_millis(50);

/// The longest pause between tries while the store is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The first is a slip; the next in a row means that the store is away.
const SLIPS: u32 = 1;

pub(super) struct Feed<'a, 'd, S> {
    pub(super) store: &'a S,
    pub(super) shared: &'a Shared,
    pub(super) desk: &'a RefCell<Desk<'d>>,
    /// Told when it is time to read.
    pub(super) due: &'a Notify,
    /// How often it is read without being told.
    pub(super) every: Duration,
}

impl<S: Store> Feed<'_, '_, S> {
    /// Reads the changes for as long as it is polled.
    pub(super) async fn follow(&self) {
        let mut place = None;
        let mut failures = 0;
        loop {
            let began = Instant::now();
            match self.read(place, began).await {
                Ok(changes) => {
                    failures = 0;
                    place = Some(self.take_in(changes, place, began));
                }
                Err(why) => {
                    failures += 1;
                    if failures > SLIPS || !self.is_fresh() {
                        self.gone_away(&why);
                    }
                }
            }
            if failures > 0 {
                // Not sooner because somebody asks: whoever has just come back is not to be overrun.
                sleep(pause(failures)).await;
            } else {
                let next = self.every.saturating_sub(began.elapsed());
                let _ = timeout(next, self.due.notified()).await;
                sleep_until(began + APART).await;
            }
        }
    }

    /// One reading. When it takes too long, the store counts as away while it goes on.
    async fn read(&self, place: Option<i64>, began: Instant) -> Result<Changes, Arc<str>> {
        let mut reading = pin!(timeout(PATIENCE, read_from(self.store, place)));
        let late = self.shared.standing.fresh_until();
        let read = match timeout_at(late.unwrap_or(began + FRESH), reading.as_mut()).await {
            Ok(read) => read,
            Err(_) => {
                self.gone_away(&no_answer().into());
                reading.await
            }
        };
        match read {
            Ok(Ok(changes)) => Ok(changes),
            Ok(Err(fault)) => Err(why(fault).into()),
            Err(_) => Err(no_answer().into()),
        }
    }

    /// Forgets, then believes, then tells: in this order. Gives the new place.
    fn take_in(&self, read: Changes, from: Option<i64>, began: Instant) -> i64 {
        let Changes { mut changes, place } = read;
        if from.is_some_and(|from| place < from) {
            // Another registry than before, or an older state of it.
            changes = vec![Change::Everything];
        }
        self.desk.borrow_mut().forget(&changes);
        self.shared.standing.note_read(began);
        if self.is_fresh() {
            self.shared.standing.back();
        } else {
            let took = began.elapsed().as_secs_f64();
            self.gone_away(&format!("the registry answers only after {took:.1} s").into());
        }
        self.shared.news.tell(&changes);
        if self.is_fresh() {
            self.shared.news.tell_kept();
        }
        place
    }

    fn gone_away(&self, why: &Arc<str>) {
        self.shared.standing.gone_away(why);
        self.desk.borrow_mut().give_up(why);
    }

    fn is_fresh(&self) -> bool {
        let until = self.shared.standing.fresh_until();
        until.is_some_and(|until| Instant::now() < until)
    }
}

/// Hears from the store that something changed, for as long as it is polled. Missing it costs no more than the time to the
/// next reading.
pub(super) async fn listen<S: Store>(store: &S, due: &Notify) {
    loop {
        match store.changed().await {
            Ok(()) => {
                due.notify_one();
                sleep(APART).await;
            }
            Err(_) => sleep(LONGEST_PAUSE).await,
        }
    }
}

/// Before the first reading there is nothing in memory that could be wrong: it begins where the store is now.
async fn read_from<S: Store>(store: &S, place: Option<i64>) -> Result<Changes, Fault> {
    match place {
        Some(place) => store.changes(place).await,
        None => Ok(Changes {
            changes: Vec::new(),
            place: store.place().await?,
        }),
    }
}

/// The pause after so many failures in a row: from 50 ms, twice as long each time, up to 2 s, less up to a half by
/// chance, so that many gates do not come together.
pub(super) fn pause(failures: u32) -> Duration {
    let doubled = APART * 2_u32.saturating_pow(failures.saturating_sub(1).min(10));
    doubled
        .min(LONGEST_PAUSE)
        .mul_f64(1.0 - fastrand::f64() / 2.0)
}
