//! A schedule, as each thread of a run keeps its share of it.

use std::io;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::arrivals::Schedule;
use super::stage::Seat;
use super::timer::Timer;

/// Calls `begin` for each attempt of the schedule that is this thread's, with its number, and the moment when it is due:
/// then, and whatever became of the others.
///
/// # Errors
/// When there is no descriptor left for a timer.
pub(super) async fn keep(
    seat: &Seat,
    schedule: &Schedule,
    mut begin: impl FnMut(u64, Instant),
) -> io::Result<()> {
    let mut timer = Timer::new()?;
    let mine = (seat.thread as u64..).step_by(seat.threads);
    for (n, at) in mine.map_while(|n| Some((n, schedule.at(n)?))) {
        let due = seat.begin() + at;
        timer.until(due).await?;
        begin(n, due);
        // Who is behind does not wait; what was begun must have its turn all the same.
        if Instant::now() > due + Duration::from_millis(1) {
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Does each `attempt` of the schedule that is this thread's, as a task of its own; comes back when all have ended.
pub(super) async fn attempts<F>(
    seat: &Seat,
    schedule: &Schedule,
    mut attempt: impl FnMut(u64, Instant) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    let mut tasks = JoinSet::new();
    let kept = keep(seat, schedule, |n, due| {
        tasks.spawn_local(attempt(n, due));
        while tasks.try_join_next().is_some() {}
    });
    if let Err(fault) = kept.await {
        seat.book().fail(fault.into());
    }
    while tasks.join_next().await.is_some() {}
}
