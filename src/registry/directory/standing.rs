//! How far memory may be believed: it hangs on when the changes were last read.
//!
//! | last read … ago | devices in memory | names nobody has | all others |
//! |---|---|---|---|
//! | up to 2 s | known | unknown | the store is asked |
//! | up to `grace` | known | away | away |
//! | longer | away | away | away |
//!
//! Ages are of the monotonic clock, and each worker reckons with them itself: should the thread stand still, nothing is
//! believed for longer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So old may the last reading of the changes be, for the store to count as there.
pub(super) const FRESH: Duration = Duration::from_secs(2);

/// [`Standing::read_at`] before the first reading.
const NEVER: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Standing {
    /// In milliseconds.
    grace: AtomicU64,
    began: Instant,
    /// When the last good reading of the changes began, in milliseconds from `began`.
    read_at: AtomicU64,
    away: Mutex<Away>,
}

#[derive(Debug)]
struct Away {
    why: Option<Arc<str>>,
    /// When the log was told; `None`: it has nothing to take back.
    told: Option<Instant>,
}

impl Standing {
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            grace: AtomicU64::new(millis(grace)),
            began: Instant::now(),
            read_at: AtomicU64::new(NEVER),
            away: Mutex::new(Away {
                why: Some("the registry is being opened".into()),
                told: None,
            }),
        }
    }

    /// From now on devices in memory go on for so long.
    pub(super) fn change_grace(&self, grace: Duration) {
        self.grace.store(millis(grace), Ordering::Relaxed);
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(self.grace.load(Ordering::Relaxed))
    }

    /// How long ago the last good reading of the changes began; `None`: there was none.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        match self.read_at.load(Ordering::Acquire) {
            NEVER => None,
            at => Some(now.saturating_duration_since(self.began + Duration::from_millis(at))),
        }
    }

    /// Whether a device in memory goes on.
    pub(super) fn may_go_on(&self, age: Option<Duration>) -> bool {
        age.is_some_and(|age| age <= self.grace().max(FRESH))
    }

    /// Why the store is not asked, and why names are not called unknown; `None`: it is there.
    pub(super) fn away(&self, age: Option<Duration>) -> Option<Arc<str>> {
        let told = self.lock().why.clone();
        let why = match age {
            Some(age) if age > FRESH && told.is_none() => silent(age),
            _ => told?,
        };
        Some(match age {
            Some(age) if !self.may_go_on(Some(age)) => {
                format!("{why}; registry.grace is over").into()
            }
            _ => why,
        })
    }

    /// Whether the store can be asked, as far as is known.
    pub(super) fn is_there(&self) -> bool {
        self.lock().why.is_none()
    }

    /// When the store counts as away, if no reading succeeds until then.
    pub(super) fn fresh_until(&self) -> Option<Instant> {
        match self.read_at.load(Ordering::Acquire) {
            NEVER => None,
            at => Some(self.began + Duration::from_millis(at) + FRESH),
        }
    }

    /// The changes were read, and memory has forgotten them: a reading that began at `began`.
    pub(super) fn note_read(&self, began: Instant) {
        let at = began.saturating_duration_since(self.began).as_millis();
        let at = u64::try_from(at).unwrap_or(NEVER - 1);
        self.read_at.store(at, Ordering::Release);
    }

    /// The store is there; the log is told if it was told otherwise.
    pub(super) fn back(&self) {
        let mut away = self.lock();
        away.why = None;
        let told = away.told.take();
        drop(away);
        if let Some(told) = told {
            let seconds = told.elapsed().as_secs_f64();
            tracing::info!(
                event = "registry_back",
                "the registry answers again, after {seconds:.1} s; what changed meanwhile is known"
            );
        }
    }

    /// The store is away; the log is told once, until it is back.
    pub(super) fn gone_away(&self, why: &Arc<str>) {
        let mut away = self.lock();
        away.why = Some(why.clone());
        let news = away.told.is_none();
        away.told.get_or_insert_with(Instant::now);
        drop(away);
        if news {
            tracing::warn!(
                event = "registry_away",
                "the registry is away: {why}; known devices go on from memory for {} s, all others are told to come back",
                self.grace().as_secs()
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Away> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn silent(age: Duration) -> Arc<str> {
    format!(
        "the registry has told no changes for {:.1} s",
        age.as_secs_f64()
    )
    .into()
}
