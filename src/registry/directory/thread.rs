//! The thread that talks to the store.

use std::cell::RefCell;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::registry::{Fault, StoreSettings};
use crate::rules::device::DeviceId;
use crate::rules::record::{LastSeen, Record};

use super::answers::{LOOK_UPS, OF_STRANGERS, look_ups, registrations, why};
use super::desk::Desk;
use super::feed::{Feed, listen, pause};
use super::fill::fill;
use super::lanes::Lanes;
use super::standing::FRESH;
use super::store::Store;
use super::{Answered, Lane, Shared, Whom, no_answer, seen};

/// How long the start waits to hear whether the registry can be used.
const START: Duration = Duration::from_secs(3);

/// One try to open the registry is given up after this; it may have tables to bring up to date.
const OPENING: Duration = Duration::from_mins(1);

/// One look-up that memory could not answer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) lane: Lane,
    pub(super) whom: Whom,
    /// What the store was asked before this does not count; `None`: whatever memory holds counts.
    pub(super) since: Option<Instant>,
    /// Nobody waits for the answer after this.
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Answered>,
}

/// One device to be registered.
#[derive(Debug)]
pub(super) struct Registering {
    pub(super) record: Record,
    pub(super) quota: u32,
    pub(super) reply: oneshot::Sender<Result<(), Fault>>,
}

/// What the workers send.
pub(super) struct Mailbox {
    pub(super) requests: Lanes<mpsc::Receiver<Request>>,
    pub(super) registering: mpsc::Receiver<Registering>,
    pub(super) seen: mpsc::Receiver<(DeviceId, LastSeen)>,
}

/// Starts the thread and waits until the registry is open, or away, or 3 s have passed.
///
/// # Errors
/// When the thread cannot be made, or the registry cannot be used; the thread goes on until the directory is dropped.
pub(super) fn spawn<S: Store>(
    open: impl AsyncFn() -> Result<S, Fault> + Send + 'static,
    every: Duration,
    shared: Arc<Shared>,
    mailbox: Mailbox,
    ended: watch::Sender<()>,
) -> Result<(), String> {
    let cannot = |fault| format!("cannot start the thread that asks the registry: {fault}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(cannot)?;
    let (first, outcome) = sync_channel(1);
    let thread = std::thread::Builder::new().name("registry".to_owned());
    let work = move || {
        runtime.block_on(run(open, every, &shared, mailbox, &first));
        runtime.shutdown_background();
        drop(ended);
    };
    thread.spawn(work).map_err(cannot)?;
    outcome.recv_timeout(START).unwrap_or(Ok(()))
}

/// How often changes are read without being told: PostgreSQL tells, a file does not.
pub(super) fn every(store: &StoreSettings) -> Duration {
    match store {
        StoreSettings::Sqlite { .. } => Duration::from_millis(200),
        StoreSettings::Postgres { .. } => Duration::from_secs(1),
    }
}

/// Works until the directory is stopped. `first` is told how the first try to open the registry went.
pub(super) async fn run<S: Store>(
    open: impl AsyncFn() -> Result<S, Fault>,
    every: Duration,
    shared: &Shared,
    mut mailbox: Mailbox,
    first: &SyncSender<Result<(), String>>,
) {
    // The changes are read over connections of their own: look-ups that hang, since somebody has locked the devices say, would
    // hold all others, and the registry would seem to be away.
    let stores = async {
        let store = opened(&open, shared, first).await;
        (store, opened(&open, shared, first).await)
    };
    let (store, for_changes) = tokio::select! {
        stores = stores => stores,
        () = shared.stop.notified() => return,
    };
    let (desk, due) = (RefCell::new(Desk::new(shared)), Notify::new());
    let feed = Feed {
        store: &for_changes,
        shared,
        desk: &desk,
        due: &due,
        every,
    };
    let Lanes {
        ours,
        vouched,
        strangers,
    } = &mut mailbox.requests;
    let asking = async {
        tokio::join!(
            feed.follow(),
            listen(&store, &due),
            fill(&store, shared, &desk),
            look_ups(&store, shared, &desk, &due, (ours, LOOK_UPS)),
            look_ups(&store, shared, &desk, &due, (vouched, LOOK_UPS)),
            look_ups(&store, shared, &desk, &due, (strangers, OF_STRANGERS)),
            registrations(&store, &desk, &due, &mut mailbox.registering),
        )
    };
    tokio::select! {
        _ = asking => {}
        () = seen::keep(&store, shared, &mut mailbox.seen) => {}
    }
}

/// Tries until the registry is open.
async fn opened<S>(
    open: &impl AsyncFn() -> Result<S, Fault>,
    shared: &Shared,
    first: &SyncSender<Result<(), String>>,
) -> S {
    let mut failures = 0;
    loop {
        let fault = match timeout(OPENING, watched(open(), shared)).await {
            Ok(Ok(store)) => {
                let _ = first.try_send(Ok(())); // told already, or nobody waits any more
                return store;
            }
            Ok(Err(fault)) => fault,
            Err(_) => Fault::Away(no_answer()),
        };
        let is_unusable = matches!(fault, Fault::Unusable(_));
        let why = why(fault);
        let outcome = if is_unusable {
            Err(why.clone())
        } else {
            Ok(())
        };
        let is_heard = first.try_send(outcome).is_ok();
        if !(is_unusable && is_heard) {
            shared.standing.gone_away(&why.into());
        }
        failures += 1;
        sleep(pause(failures)).await;
    }
}

/// Opens; when that takes too long, the registry counts as away meanwhile.
async fn watched<S>(
    opening: impl Future<Output = Result<S, Fault>>,
    shared: &Shared,
) -> Result<S, Fault> {
    let mut opening = pin!(opening);
    match timeout(FRESH, opening.as_mut()).await {
        Ok(opened) => opened,
        Err(_) => {
            shared.standing.gone_away(&no_answer().into());
            opening.await
        }
    }
}
