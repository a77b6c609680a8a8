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
use super::handshake::patience;
use super::listener::{Listener, accept};

/// Ends of connections are at least so far apart in a drain, while the window allows: a few devices need not wait for
/// the whole window to make no storm.
const APART: Duration = Duration::from_millis(20);

/// How long a drain waits for devices that are between accept and verdict.
const STILL_ASKING: Duration = Duration::from_secs(1);

/// How long connections have for their last packets after the last of them was told to end.
const LAST_PACKETS: Duration = Duration::from_secs(5);

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
    let patience = patience(gate.limits.handshake_timeout);
    let door = Arc::new(Door::new(gate.handshakes.clone(), patience));
    let mut accepting = JoinSet::new();
    for (socket, listener) in sockets {
        accepting.spawn(accept(
            socket,
            listener,
            gate.clone(),
            roll.clone(),
            door.clone(),
            draining.clone(),
        ));
    }
    let opening = tokio::spawn({
        let gate = gate.clone();
        async move { door.open(|| gate.brokers.has_room()).await }
    });
    let expiring = tokio::spawn(expire(roll.clone()));
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
    let window = gate.limits.drain_timeout;
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
    gate.connections.available_permits() == gate.limits.connections as usize
}
