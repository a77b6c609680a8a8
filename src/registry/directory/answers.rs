//! Look-ups and registrations, a bounded number at once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

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

/// So long it is remembered that a group has no room: a fleet beyond its quota, which comes again and again, is not to cost
/// a change of the store each time.
const FULL: Duration = Duration::from_secs(10);

/// The groups that have no room, with their quota, until when. As many as there are trust groups, at most.
type Full = RefCell<HashMap<String, (u32, Instant)>>;

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
    let full = Full::default();
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(()) = under_way.next() => {}
            next = registering.recv(), if under_way.len() < REGISTRATIONS => {
                let Some(next) = next else { return };
                if !next.reply.is_closed() {
                    under_way.push(register(store, desk, doubt, &full, next));
                }
            }
        }
    }
}

async fn register<S: Store>(
    store: &S,
    desk: &RefCell<Desk<'_>>,
    doubt: &Notify,
    full: &Full,
    registering: Registering,
) {
    let Registering {
        record,
        quota,
        reply,
    } = registering;
    if let Some(fault) = no_room(full, &record, quota) {
        let _ = reply.send(Err(fault)); // whoever asked may be gone
        return;
    }
    let outcome = match timeout(DEADLINE, store.register(&record, quota)).await {
        // Another gate was quicker: what it made of the device counts.
        Ok(Ok(()) | Err(Fault::DeviceExists(_))) => Ok(()),
        Ok(Err(fault)) => Err(fault),
        Err(_) => Err(Fault::Away(no_answer())),
    };
    match &outcome {
        Err(Fault::Away(_)) => doubt.notify_one(),
        Err(Fault::QuotaFull { group, quota }) => {
            let until = Instant::now() + FULL;
            full.borrow_mut().insert(group.clone(), (*quota, until));
        }
        _ => {}
    }
    // Ours before the feed tells of it: the device is looked up next, and may be remembered as unknown. Also after a
    // failure, which need not mean that nothing was done.
    desk.borrow_mut().forget(&[Change::Device(record.device)]);
    let _ = reply.send(outcome); // whoever asked may be gone
}

/// What the store said of the group a while ago, if it would say so again. Another quota is another question.
fn no_room(full: &Full, record: &Record, quota: u32) -> Option<Fault> {
    let group = record.registered_by.as_ref()?;
    let (of, until) = *full.borrow().get(group)?;
    let is_full = of == quota && Instant::now() < until;
    is_full.then(|| Fault::QuotaFull {
        group: group.clone(),
        quota,
    })
}

/// The sentence without the part that others put before it.
pub(super) fn why(fault: Fault) -> String {
    match fault {
        Fault::Away(why) => why,
        other => other.to_string(),
    }
}
