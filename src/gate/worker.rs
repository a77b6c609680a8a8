//! One worker: a thread, a runtime, its sockets, the connections that came to them.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::rules::reason::Cause;

use super::Gate;
use super::control::Roll;
use super::devices;
use super::door::Door;
use super::drain::{cut_off, drain};
use super::listener::{Listening, accept};
use super::pulse::Pulses;

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
    sockets: Vec<Listening>,
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
            let pulses = gate.pulses.clone();
            runtime.block_on(work(number, sockets, gate, roll, cut));
            pulses.end(number);
            runtime.shutdown_background();
            drop(alive);
        })
}

async fn work(
    number: usize,
    sockets: Vec<Listening>,
    gate: Arc<Gate>,
    roll: Arc<Roll>,
    mut cut: watch::Receiver<bool>,
) {
    let mut draining = gate.draining.subscribe();
    let door = Arc::new(Door::new(gate.handshakes.clone(), gate.patience.clone()));
    let mut accepting = JoinSet::new();
    let expiring = tokio::spawn(tended({
        let (roll, pulses) = (roll.clone(), gate.pulses.clone());
        move || expire(number, roll.clone(), pulses.clone())
    }));
    // A gate that is to take over looks at no socket before: what waits there is the other's until then.
    tokio::select! {
        () = gate.opened() => {}
        _ = draining.wait_for(|draining| *draining) => {}
    }
    for Listening {
        socket,
        listener,
        is_lent,
    } in sockets
    {
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
                is_lent,
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

/// Ends connections when what their devices showed has reached its end (threats.md T5); and says, each time, that this worker lives.
async fn expire(number: usize, roll: Arc<Roll>, pulses: Pulses) {
    let mut ticks = interval(EXPIRY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        pulses.beat(number);
        let expired = roll.expire(std::time::Instant::now());
        if !expired.is_empty() {
            devices::end(expired, Cause::Expired);
        }
    }
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
