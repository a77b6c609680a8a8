//! Which questions are under way, who waits for each, and whether a change came in meanwhile.
//!
//! The race that must be lost by nobody: a question goes to the store, the device is changed, the change comes in and
//! memory forgets the device, and only then the answer arrives, with what was before. It must neither be remembered nor
//! be given to anybody. So each question keeps the changes that came in while it was under way, and an answer that one of
//! them could have made wrong is asked for again. All of it happens on one thread, with no await between the look and
//! the deed, so a note is enough: no generations, no locks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::registry::Change;
use crate::rules::device::DeviceId;
use crate::rules::record::Record;

use super::lanes::Lanes;
use super::thread::Request;
use super::{Answered, Found, Lane, Shared, Whom};

/// So many may wait for one answer; a storm of one name keeps no more.
const MOST_WAITING: usize = 1024;

/// So many devices are kept for a question under way; more changes could have made any answer wrong.
const MOST_KEPT: usize = 64;

pub(super) struct Desk<'a> {
    shared: &'a Shared,
    /// Of each lane its own: nobody waits for a question that was asked, or is waited for, by those who have less to say.
    flights: Lanes<HashMap<Whom, Flight>>,
    next_number: u64,
    /// What changed since the page under way was asked for; `None`: there is none.
    page: Option<Changed>,
}

/// A question to the store, to be asked until its deadline.
#[derive(Clone, Debug)]
pub(super) struct Question {
    lane: Lane,
    pub(super) whom: Whom,
    pub(super) deadline: Instant,
    number: u64,
}

/// One question under way.
#[derive(Debug)]
struct Flight {
    number: u64,
    /// When it was asked, the last time.
    asked: Instant,
    waiting: Vec<Waiting>,
    changed: Changed,
}

/// Who waits for an answer.
#[derive(Debug)]
struct Waiting {
    /// And for how long.
    deadline: Instant,
    reply: oneshot::Sender<Answered>,
}

/// What changed since the question was asked.
#[derive(Debug)]
enum Changed {
    Devices(HashSet<DeviceId>),
    Everything,
}

/// What became of a page of devices.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Taken {
    /// It is remembered, as far as nothing changed.
    All,
    /// Too much changed meanwhile: it is to be asked for again.
    Nothing,
    /// There is no room for more.
    Full,
}

impl<'a> Desk<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            flights: Lanes::default(),
            next_number: 0,
            page: None,
        }
    }

    /// Takes a look-up in; gives the question to ask for it, if it cannot be answered now and nobody asks it yet.
    pub(super) fn take(&mut self, request: Request) -> Option<Question> {
        let Request {
            lane,
            whom,
            since,
            deadline,
            reply,
        } = request;
        // It may have waited in the queue for a while.
        let now = Instant::now();
        if reply.is_closed() || deadline <= now {
            return None;
        }
        if let Some(found) = self.found_meanwhile(&whom, since, now) {
            tell(reply, found, now);
            return None;
        }
        if let Some(flight) = self.flights.of_mut(lane).get_mut(&whom) {
            flight.join(Waiting { deadline, reply });
            return None;
        }
        let question = Question {
            lane,
            whom,
            deadline,
            number: self.next_number,
        };
        self.next_number += 1;
        let flight = Flight {
            number: question.number,
            asked: now,
            waiting: vec![Waiting { deadline, reply }],
            changed: Changed::nothing(),
        };
        let flights = self.flights.of_mut(lane);
        flights.insert(question.whom.clone(), flight);
        Some(question)
    }

    fn found_meanwhile(&self, whom: &Whom, since: Option<Instant>, now: Instant) -> Option<Found> {
        let Shared {
            memory, standing, ..
        } = self.shared;
        if let Some(why) = standing.away(standing.age(now)) {
            return Some(Found::Away(why));
        }
        if let Some(since) = since {
            let known = memory.known(whom)?;
            let asked = memory.asked(&known.device)?;
            return (asked >= since).then_some(Found::Known(known));
        }
        let known = memory.known(whom).map(Found::Known);
        known.or_else(|| memory.is_unknown(whom, now).then_some(Found::Unknown))
    }

    /// Takes the store's answer in, or why there is none: remembers it and tells all who wait. Gives the question to ask again, if the
    /// answer may be of the time before a change, or if its time was over and somebody joined it so late that there is time left.
    pub(super) fn settle(
        &mut self,
        question: Question,
        outcome: Result<Option<Record>, Arc<str>>,
    ) -> Option<Question> {
        let whom = &question.whom;
        let flights = self.flights.of_mut(question.lane);
        let flight = flights.get_mut(whom)?;
        if flight.number != question.number {
            return None; // given up, and asked anew by somebody else
        }
        let outcome = outcome.and_then(|found| match found {
            Some(record) if !whom.is(&record) => Err("the registry gave another device".into()),
            found => Ok(found),
        });
        let now = Instant::now();
        if let Ok(found) = &outcome
            && flight.changed.could_touch(found.as_ref())
        {
            flight.changed = Changed::nothing();
            flight.asked = now;
            return Some(question);
        }
        if let Err(why) = &outcome
            && question.deadline <= now
            && let Some(deadline) = flight.end_for(why, now)
        {
            return Some(Question {
                deadline,
                ..question
            });
        }
        let flight = flights.remove(whom)?;
        let found = self.remember(question.whom, outcome, flight.asked);
        for waiting in flight.waiting {
            tell(waiting.reply, found.clone(), flight.asked);
        }
        None
    }

    /// A page of devices is about to be asked for, one at a time. If no answer comes, the next takes its place.
    pub(super) fn begin_page(&mut self) {
        self.page = Some(Changed::nothing());
    }

    /// Takes a page in: remembers whom memory does not know, but for those that changed since it was asked for.
    pub(super) fn take_page(&mut self, page: Vec<Record>) -> Taken {
        let changed = match self.page.take() {
            Some(Changed::Devices(changed)) => changed,
            Some(Changed::Everything) | None => return Taken::Nothing,
        };
        for record in page {
            if changed.contains(&record.device) {
                continue;
            }
            if !self.shared.memory.remember_if_room(&lean(record)) {
                return Taken::Full;
            }
        }
        Taken::All
    }

    fn remember(
        &self,
        whom: Whom,
        outcome: Result<Option<Record>, Arc<str>>,
        asked: Instant,
    ) -> Found {
        let memory = &self.shared.memory;
        match outcome {
            Ok(Some(record)) => {
                let record = lean(record);
                memory.remember(&record, asked);
                memory.remember_pinned(&whom, &record);
                Found::Known(record)
            }
            Ok(None) => {
                // Asked anew: it was removed, and the change has not been read yet.
                if let Whom::Device(device) = &whom
                    && memory.known(&whom).is_some()
                {
                    memory.forget(device);
                }
                memory.remember_unknown(whom, Instant::now());
                Found::Unknown
            }
            Err(why) => Found::Away(why),
        }
    }

    /// Forgets what these changes make wrong, in memory and in answers under way.
    pub(super) fn forget(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Device(device) => self.shared.memory.forget(device),
                Change::Everything => self.shared.memory.forget_all(),
            }
            for (whom, flight) in self.flights.all_mut().into_iter().flatten() {
                flight.note(whom, change);
            }
            if let Some(changed) = &mut self.page {
                changed.note(change);
            }
        }
    }

    /// Tells all who wait that the store is away. Answers that still come are not listened to.
    pub(super) fn give_up(&mut self, why: &Arc<str>) {
        let flights = self.flights.all_mut().into_iter();
        for (_, flight) in flights.flat_map(HashMap::drain) {
            for waiting in flight.waiting {
                tell(waiting.reply, Found::Away(why.clone()), flight.asked);
            }
        }
    }
}

impl Flight {
    fn join(&mut self, waiting: Waiting) {
        if self.waiting.len() >= MOST_WAITING {
            self.waiting.retain(|other| !other.reply.is_closed());
        }
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push(waiting);
        } else {
            let why = format!("{MOST_WAITING} look-ups of one device wait for the registry");
            tell(waiting.reply, Found::Away(why.into()), self.asked);
        }
    }

    /// Tells those whose time is over `why` there is no answer. Gives until when the others wait, if there are any; to them it is as if
    /// the question began now.
    fn end_for(&mut self, why: &Arc<str>, now: Instant) -> Option<Instant> {
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let (left, over): (Vec<_>, _) =
            waiting.partition(|one| one.deadline > now && !one.reply.is_closed());
        for one in over {
            tell(one.reply, Found::Away(why.clone()), self.asked);
        }
        self.waiting = left;
        let until = self.waiting.iter().map(|one| one.deadline).max()?;
        self.changed = Changed::nothing();
        self.asked = now;
        Some(until)
    }

    fn note(&mut self, whom: &Whom, change: &Change) {
        let is_another = |device| matches!(whom, Whom::Device(wanted) if wanted != device);
        match change {
            Change::Device(device) if is_another(device) => {}
            change => self.changed.note(change),
        }
    }
}

impl Changed {
    fn nothing() -> Self {
        Self::Devices(HashSet::new())
    }

    fn note(&mut self, change: &Change) {
        match (&mut *self, change) {
            (Self::Devices(devices), Change::Device(device)) if devices.len() < MOST_KEPT => {
                devices.insert(device.clone());
            }
            _ => *self = Self::Everything,
        }
    }

    /// Whether the answer may be of the time before one of these. That nobody has a pin may be wrong after any change.
    fn could_touch(&self, found: Option<&Record>) -> bool {
        match (self, found) {
            (Self::Everything, _) => true,
            (Self::Devices(devices), Some(record)) => devices.contains(&record.device),
            (Self::Devices(devices), None) => !devices.is_empty(),
        }
    }
}

/// As memory keeps it: without what is for people only, which may be most of it.
fn lean(mut record: Record) -> Arc<Record> {
    record.description = String::new();
    record.labels = BTreeMap::new();
    record.credentials.shrink_to_fit(); // a Vec begins with room for four
    Arc::new(record)
}

/// Whoever asked may be gone.
fn tell(reply: oneshot::Sender<Answered>, found: Found, asked: Instant) {
    let _ = reply.send(Answered { found, asked });
}
