//! How many may be under way at once, dialled or waiting for their CONNACK, at a broker that is away or has come back (threats.md V5).
//!
//! A broker that starts must not have a whole fleet at its door at once. While it is away few dial it, and they are the first that it
//! finds; then each CONNACK lets one more in: twice as many with each round, as TCP begins. When it no longer binds it is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::Instant;

/// How many at first.
const FIRST: u32 = 16;

/// As many never bind.
const ALL: u32 = 4096;

/// A window that leaves room after so long does not bind.
const LASTS: Duration = Duration::from_secs(10);

/// Who may wait at one endpoint.
#[derive(Debug)]
pub(super) struct Pace(ArcSwapOption<Window>);

#[derive(Debug)]
struct Window {
    places: Arc<Semaphore>,
    size: AtomicU32,
    began: Instant,
}

/// A place among those who are under way; `None`: there are places for all.
#[derive(Debug)]
pub(super) struct Place(Option<OwnedSemaphorePermit>);

/// Why there is no place now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NoPlace {
    /// All are taken.
    Full,
    /// The endpoint went down, or has room for all: look again.
    Changed,
}

impl Pace {
    /// `few`: few may be under way at first; else all.
    pub(super) fn new(few: bool) -> Self {
        Self(ArcSwapOption::new(few.then(|| Window::with(first()))))
    }

    /// The endpoint went down: whoever waits for a place looks elsewhere, and few may dial it.
    pub(super) fn narrow(&self) {
        if let Some(before) = self.0.swap(Some(Window::with(first()))) {
            before.places.close();
        }
    }

    /// The endpoint came back: the few who dial it now are the first, and who waits for a place is next.
    pub(super) fn begin(&self) {
        let places = self.0.load().as_ref().map(|few| few.places.clone());
        let window = Window::with(places.unwrap_or_else(first));
        self.0.store(Some(window));
    }

    /// Whether nobody had to wait.
    pub(super) fn has_room(&self) -> bool {
        let window = self.0.load();
        let free = |window: &Arc<Window>| window.places.available_permits() > 0;
        window.as_ref().is_none_or(free)
    }

    /// Takes a place, if there is one.
    ///
    /// # Errors
    /// [`NoPlace`]
    pub(super) fn try_enter(&self) -> Result<Place, NoPlace> {
        let window = self.0.load();
        let Some(window) = window.as_ref() else {
            return Ok(Place(None));
        };
        match window.places.clone().try_acquire_owned() {
            Ok(permit) => Ok(Place(Some(permit))),
            Err(TryAcquireError::NoPermits) => Err(NoPlace::Full),
            Err(TryAcquireError::Closed) => Err(NoPlace::Changed),
        }
    }

    /// Waits for a place, first come, first served. Dropping it gives the turn up.
    ///
    /// # Errors
    /// [`NoPlace::Changed`]
    pub(super) async fn enter(&self) -> Result<Place, NoPlace> {
        let places = match self.0.load().as_ref() {
            None => return Ok(Place(None)),
            Some(window) => window.places.clone(),
        };
        let permit = places.acquire_owned().await;
        permit.map_or(Err(NoPlace::Changed), |permit| Ok(Place(Some(permit))))
    }

    /// A CONNACK came to whom had `place`: it is free, and there is one more.
    pub(super) fn answered(&self, place: Place) {
        let window = self.0.load();
        let (Some(permit), Some(window)) = (place.0, window.as_ref()) else {
            return;
        };
        if !Arc::ptr_eq(permit.semaphore(), &window.places) {
            return; // of an earlier return
        }
        drop(permit);
        window.places.add_permits(1);
        let size = window.size.fetch_add(1, Relaxed) + 1;
        let eases = window.began.elapsed() >= LASTS && window.places.available_permits() > 1;
        if size >= ALL || eases {
            let before = self.0.compare_and_swap(window, None);
            if before.as_ref().is_some_and(|it| Arc::ptr_eq(it, window)) {
                window.places.close();
            }
        }
    }
}

impl Window {
    fn with(places: Arc<Semaphore>) -> Arc<Self> {
        Arc::new(Self {
            places,
            size: AtomicU32::new(FIRST),
            began: Instant::now(),
        })
    }
}

fn first() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(FIRST as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter_all(pace: &Pace) -> Vec<Place> {
        std::iter::from_fn(|| pace.try_enter().ok()).collect()
    }

    fn answer(pace: &Pace, inside: impl IntoIterator<Item = Place>) {
        for place in inside {
            pace.answered(place);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_round_lets_twice_as_many_in() {
        let pace = Pace::new(false);
        assert!(pace.has_room());
        pace.begin();
        for expected in [16, 32, 64, 128] {
            let inside = enter_all(&pace);
            assert_eq!(inside.len(), expected);
            assert!(!pace.has_room());
            answer(&pace, inside);
        }
        // Nobody answered: nothing grows.
        drop(enter_all(&pace));
        let inside = enter_all(&pace);
        assert_eq!(inside.len(), 256);
        tokio::time::advance(LASTS).await;
        let mut inside = inside.into_iter();
        answer(&pace, inside.by_ref().take(2));
        assert!(pace.0.load().is_none(), "it leaves room: it is over");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_let_in_in_turn_and_hears_of_an_end() {
        let pace = Arc::new(Pace::new(false));
        pace.begin();
        let mut inside = enter_all(&pace);
        let waits = |pace: &Arc<Pace>| {
            let pace = pace.clone();
            tokio::spawn(async move { pace.enter().await })
        };
        let (first, second, third) = (waits(&pace), waits(&pace), waits(&pace));
        tokio::task::yield_now().await;
        pace.answered(inside.pop().expect("one"));
        let (first, second) = (
            first.await.expect("no panic"),
            second.await.expect("no panic"),
        );
        assert!(first.is_ok() && second.is_ok(), "one place freed, one more");
        pace.narrow();
        assert_eq!(third.await.expect("no panic").err(), Some(NoPlace::Changed));
        // Those of before take and give nothing in the next window.
        answer(&pace, inside);
        assert_eq!(enter_all(&pace).len(), 16);
    }

    /// Those who dial while it is away are the first that it finds when it is back, and not in addition to these.
    #[tokio::test(start_paused = true)]
    async fn who_dials_one_that_is_away_is_of_the_first_few_when_it_is_back() {
        let pace = Arc::new(Pace::new(false));
        pace.narrow();
        let inside = enter_all(&pace);
        assert_eq!(inside.len(), 16);
        let waits = tokio::spawn({
            let pace = pace.clone();
            async move { pace.enter().await }
        });
        tokio::time::advance(10 * LASTS).await;
        pace.begin();
        assert!(!pace.has_room());
        answer(&pace, inside);
        assert!(waits.await.expect("no panic").is_ok());
        assert_eq!(enter_all(&pace).len(), 32, "as from its return on");
    }
}
