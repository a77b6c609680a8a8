//! Look-ups and registrations, a bounded number at once.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, mpsc};
use tokio::time::{timeout, timeout_at};

use crate::registry::{Change, Fault};
use crate::rules::record::Record;

use super::desk::{Desk, Question};
use super::store::Store;
use super::thread::{Registering, Request};
use super::{DEADLINE, Shared, Whom, no_answer};

/// So many look-ups are with the store at once, for the gate itself and for those who are vouched for.
pub(super) const LOOK_UPS: usize = 16;

/// And so many for strangers: they leave to all others at least half of the few connections to a store over the network.
pub(super) const OF_STRANGERS: usize = 2;

/// So many registrations are with the store at once: a fleet that comes for the first time leaves it to others, too.
const REGISTRATIONS: usize = 4;

/// What the store said to a question, or why it said nothing.
type Answer = (Question, Result<Option<Record>, Arc<str>>);

/// Answers the look-ups of one lane, so many at once, until no more can come. `doubt` is told when the store failed: it is time to see whether it is there.
pub(super) async fn look_ups<S: Store>(
    store: &S,
    shared: &Shared,
    desk: &RefCell<Desk<'_>>,
    doubt: &Notify,
    (requests, at_once): (&mut mpsc::Receiver<Request>, usize),
) {
    let ask = |question| {
        shared.tally.queries.fetch_add(1, Relaxed);
        ask(store, question)
    };
    let mut asking = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(answer) = asking.next() => {
                let again = settle(desk, doubt, answer);
                asking.extend(again.map(ask));
            }
            request = requests.recv(), if asking.len() < at_once => {
                let Some(request) = request else { return };
                let question = desk.borrow_mut().take(request);
                asking.extend(question.map(ask));
            }
        }
    }
}

/// Gives the question that is to be asked again, if it is.
fn settle(
    desk: &RefCell<Desk<'_>>,
    doubt: &Notify,
    (question, outcome): Answer,
) -> Option<Question> {
    if outcome.is_err() {
        doubt.notify_one();
    }
    desk.borrow_mut().settle(question, outcome)
}

async fn ask<S: Store>(store: &S, question: Question) -> Answer {
    let answer = async {
        match &question.whom {
            Whom::Device(device) => store.find(device).await,
            Whom::Pinned(pins) => store.find_pinned(pins).await,
        }
    };
    let outcome = match timeout_at(question.deadline, answer).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(fault)) => Err(why(fault).into()),
        Err(_) => Err(no_answer().into()),
    };
    (question, outcome)
}

/// Registers devices until no more can come.
pub(super) async fn registrations<S: Store>(
    store: &S,
    desk: &RefCell<Desk<'_>>,
    doubt: &Notify,
    registering: &mut mpsc::Receiver<Registering>,
) {
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(()) = under_way.next() => {}
            next = registering.recv(), if under_way.len() < REGISTRATIONS => {
                let Some(next) = next else { return };
                if !next.reply.is_closed() {
                    under_way.push(register(store, desk, doubt, next));
                }
            }
        }
    }
}

async fn register<S: Store>(
    store: &S,
    desk: &RefCell<Desk<'_>>,
    doubt: &Notify,
    registering: Registering,
) {
    let Registering {
        record,
        quota,
        reply,
    } = registering;
    let outcome = match timeout(DEADLINE, store.register(&record, quota)).await {
        // Another gate was quicker: what it made of the device counts.
        Ok(Ok(()) | Err(Fault::DeviceExists(_))) => Ok(()),
        Ok(Err(fault)) => Err(fault),
        Err(_) => Err(Fault::Away(no_answer())),
    };
    if let Err(Fault::Away(_)) = outcome {
        doubt.notify_one();
    }
    // Ours before the feed tells of it: the device is looked up next, and may be remembered as unknown. Also after a
    // failure, which need not mean that nothing was done.
    desk.borrow_mut().forget(&[Change::Device(record.device)]);
    let _ = reply.send(outcome); // whoever asked may be gone
}

/// The sentence without the part that others put before it.
pub(super) fn why(fault: Fault) -> String {
    match fault {
        Fault::Away(why) => why,
        other => other.to_string(),
    }
}
