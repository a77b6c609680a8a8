//! One worker: a thread, a runtime, its sockets, the connections that came to them; and how they drain.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::rules::reason::Cause;

use super::Gate;
use super::control::{Order, Roll, give};
use super::devices;
use super::door::Door;
use super::listener::{Listener, accept};

/// Ends of connections are at least so far apart in a drain, while the window allows: a few devices need not wait for
/// the whole window to make no storm.
const APART: Duration = Duration::from_millis(20);

/// How long a drain waits for devices that are between accept and verdict.
const STILL_ASKING: Duration = Duration::from_secs(1);

/// How long connections have for their last packets after the last of them was told to end.
const LAST_PACKETS: Duration = Duration::from_secs(5);

/// Between a fault of ours in what a worker lives by, and its next beginning.
const AGAIN: Duration = Duration::from_millis(100);

/// How often a worker looks whose time is over; nobody's, nearly always, and then it looks at one number.
const EXPIRY: Duration = Duration::from_millis(250);

/// Starts a worker on a thread of its own; it ends after a drain.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub(crate) fn spawn(
    number: usize,
    sockets: Vec<(TcpListener, Arc<Listener>)>,
    gate: Arc<Gate>,
    roll: Arc<Roll>,
    cut: watch::Receiver<bool>,
    alive: watch::Receiver<()>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            runtime.block_on(work(sockets, gate, roll, cut));
            runtime.shutdown_background();
            drop(alive);
        })
}

async fn work(
    sockets: Vec<(TcpListener, Arc<Listener>)>,
    gate: Arc<Gate>,
    roll: Arc<Roll>,
    mut cut: watch::Receiver<bool>,
) {
    let mut draining = gate.draining.subscribe();
    let door = Arc::new(Door::new(gate.handshakes.clone(), gate.patience.clone()));
    let mut accepting = JoinSet::new();
    for (socket, listener) in sockets {
        let socket = match tokio::net::TcpListener::from_std(socket) {
            Ok(socket) => Arc::new(socket),
            Err(fault) => {
                tracing::error!(event = "accept_failed", listener = %listener.name, "cannot wait for connections: {fault}");
                continue;
            }
        };
        let (gate, roll, door, draining) =
            (gate.clone(), roll.clone(), door.clone(), draining.clone());
        accepting.spawn(tended(move || {
            accept(
                socket.clone(),
                listener.clone(),
                gate.clone(),
                roll.clone(),
                door.clone(),
                draining.clone(),
            )
        }));
    }
    let opening = tokio::spawn(tended({
        let gate = gate.clone();
        move || {
            let (door, gate) = (door.clone(), gate.clone());
            async move { door.open(|| gate.glance().fleet.brokers.has_room()).await }
        }
    }));
    let expiring = tokio::spawn(tended({
        let roll = roll.clone();
        move || expire(roll.clone())
    }));
    // Only a drain ends a worker: should accepting fail, its open connections go on.
    let _ = draining.wait_for(|draining| *draining).await;
    while accepting.join_next().await.is_some() {}
    let drained = tokio::select! {
        drained = drain(&gate, &roll) => drained,
        _ = cut.wait_for(|cut| *cut) => false,
    };
    if !drained {
        cut_off(&gate, &roll).await;
    }
    expiring.abort();
    opening.abort();
}

/// Does what a worker lives by, and begins it anew should it panic: a fault of ours ends no more than it must (threats.md V9).
/// That it did is in the log by the panic itself.
async fn tended<F>(begin: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    while tokio::spawn(begin()).await.is_err_and(|end| end.is_panic()) {
        sleep(AGAIN).await; // one that panics at once must not spin
    }
}

/// Ends connections when what their devices showed has reached its end (threats.md T5).
async fn expire(roll: Arc<Roll>) {
    let mut ticks = interval(EXPIRY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let expired = roll.expire(std::time::Instant::now());
        if !expired.is_empty() {
            devices::end(expired, Cause::Expired);
        }
    }
}

/// Ends the open connections spread over the window. Gives whether all ended in time.
async fn drain(gate: &Gate, roll: &Arc<Roll>) -> bool {
    let began = Instant::now();
    let window = gate.glance().limits.drain_timeout;
    // Connections that are not admitted yet are refused when they ask; they are bounded by their own deadlines.
    let mut open = roll.linked();
    fastrand::shuffle(&mut open);
    let count = u32::try_from(open.len()).unwrap_or(u32::MAX).max(1);
    let spread = window.mul_f64(0.8).min(APART * count);
    for (nth, control) in open.iter().enumerate() {
        sleep_until(began + spread * u32::try_from(nth).unwrap_or(u32::MAX) / count).await;
        control.give(Order::Drain);
    }
    drop(open);
    let last = (began + window).max(Instant::now() + Duration::from_millis(100));
    let last = last.min(Instant::now() + LAST_PACKETS.max(window / 5));
    tokio::time::timeout_at(last, async {
        // Whoever is not admitted by now is told to come back when it asks, or says nothing at all.
        let asked = Instant::now() + STILL_ASKING;
        while !(all_gone(gate) || roll.linked().is_empty() && Instant::now() > asked) {
            // Those admitted while the drain began.
            give(&roll.linked(), Order::Drain);
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .is_ok()
}

/// Ends what is left at once.
async fn cut_off(gate: &Gate, roll: &Arc<Roll>) {
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

fn all_gone(gate: &Gate) -> bool {
    gate.places.open() == 0
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// threats.md V9: a worker outlives a fault in its accepting, its door, its clock.
    #[tokio::test(start_paused = true)]
    async fn what_a_worker_lives_by_begins_anew_after_a_fault() {
        let begun = Arc::new(AtomicUsize::new(0));
        let count = begun.clone();
        tended(move || {
            let count = count.clone();
            async move {
                assert!(count.fetch_add(1, Ordering::Relaxed) >= 3, "a fault");
            }
        })
        .await;
        assert_eq!(begun.load(Ordering::Relaxed), 4);
    }
}
