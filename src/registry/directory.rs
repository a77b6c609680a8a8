//! What the path asks: devices from memory where it can, bounded in time and number, told of every change.
//!
//! The gate's workers read the memory themselves; what is not in it, they ask a thread that is the only one to talk to the
//! store and the only one to write into the memory. So the order of things is the order in which that one thread does
//! them: it takes a change in by forgetting what it makes wrong, in memory (`memory`) and in answers under way
//! (`desk`), and only then tells of it (`news`). A look-up that begins after a change was told never gives what was
//! before it.
//!
//! Whether memory may be believed hangs on one thing: how long ago the changes were read (`standing`, `feed`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::rules::device::DeviceId;
use crate::rules::record::{LastSeen, Pin, Proof, Record};

use super::{Change, Fault, Registry, Settings};
use lanes::Lanes;
use memory::Memory;
use news::News;
use standing::Standing;
use thread::{Mailbox, Registering, Request};

mod answers;
mod desk;
mod feed;
mod fill;
mod lanes;
mod memory;
mod news;
mod seen;
mod standing;
mod store;
mod thread;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

/// How long a look-up, or a registering, may take; then it is told to come back.
const DEADLINE: Duration = Duration::from_secs(2);

/// A device that shows what its record lacks is asked for no sooner after the last time, however many come in its name.
const ANEW: Duration = Duration::from_millis(300);

/// So many look-ups of each [`Lane`] may wait to be read by the thread.
const QUEUE: usize = 4096;

/// So many devices may wait to be registered.
const REGISTERING: usize = 256;

/// So many devices may wait to be noted as seen.
const SEEN: usize = 4096;

/// The devices as the path sees them. One for the whole gate; a thread of its own asks the store.
#[derive(Debug)]
pub struct Directory {
    shared: Arc<Shared>,
    requests: Lanes<mpsc::Sender<Request>>,
    registering: mpsc::Sender<Registering>,
    seen: mpsc::Sender<(DeviceId, LastSeen)>,
    /// Closed when the thread has ended.
    alive: watch::Receiver<()>,
}

/// What the workers and the thread share. Nothing in it is held for longer than a look.
#[derive(Debug)]
struct Shared {
    memory: Memory,
    standing: Standing,
    news: News,
    tally: Tally,
    stop: Notify,
}

/// Whom to look up.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Whom {
    /// A device by its name.
    Device(DeviceId),
    /// The device that has one of these as [`Proof::Pinned`]: its certificate's and its key's.
    Pinned([Pin; 2]),
}

/// For whom a device is looked up. Each has a lane of its own, with a bounded queue and a bounded number of questions to the
/// store at once, and waits for none of the others: what anybody can make up holds up neither a revocation nor a
/// device that somebody vouches for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lane {
    /// The gate itself, to judge open connections again.
    Ours,
    /// One for whom a trust group or a JWT issuer vouches.
    Vouched,
    /// Anybody: with a certificate of its own making, a name beside a token that nobody has checked yet, or a credential
    /// that the record in memory lacks.
    Stranger,
}

/// What a look-up found.
#[derive(Clone, Debug)]
pub enum Found {
    /// Its record, without description and labels.
    Known(Arc<Record>),
    /// Nobody of that name, or with that pin.
    Unknown,
    /// It cannot be known now: a sentence for the log.
    Away(Arc<str>),
}

/// What was found, and when the question that told it began.
#[derive(Debug)]
struct Answered {
    found: Found,
    asked: Instant,
}

/// What there was to do since the start, and what is remembered now.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Look-ups that found their record in memory.
    pub hits: u64,
    /// Look-ups that found in memory that there is no such device.
    pub negative_hits: u64,
    /// Look-ups that had to ask the store, one question of several or not.
    pub misses: u64,
    /// Look-ups that were told to come back.
    pub away: u64,
    /// Questions to the store for a device; those of many look-ups of one [`Lane`] count once.
    pub queries: u64,
    /// Devices noted as seen that were lost on the way to the store.
    pub seen_lost: u64,
    /// Records in memory now.
    pub entries: u64,
    /// What memory holds now, in bytes, of `Settings.cache_bytes`.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Tally {
    hits: AtomicU64,
    negative_hits: AtomicU64,
    misses: AtomicU64,
    away: AtomicU64,
    queries: AtomicU64,
    seen_lost: AtomicU64,
}

impl Directory {
    /// Opens the registry and starts the thread that asks it. Waits for up to 3 s for the registry to answer.
    ///
    /// # Errors
    /// A sentence, when the registry is there but cannot be used. One that is away is no error: unknown devices are told to come back until it answers.
    pub fn start(settings: &Settings) -> Result<Arc<Self>, String> {
        let (ended, alive) = watch::channel(());
        let (directory, mailbox) = Self::new(settings.cache_bytes, settings.grace, alive);
        let store = settings.store.clone();
        let every = thread::every(&store);
        let open = async move || Registry::open(&store).await;
        thread::spawn(open, every, directory.shared.clone(), mailbox, ended)?;
        Ok(Arc::new(directory))
    }

    /// A directory, and what its thread is to read.
    fn new(cache_bytes: u64, grace: Duration, alive: watch::Receiver<()>) -> (Self, Mailbox) {
        let (requests, asked) = Lanes::channels();
        let (registering, to_register) = mpsc::channel(REGISTERING);
        let (seen, noted) = mpsc::channel(SEEN);
        let shared = Shared {
            memory: Memory::new(cache_bytes),
            standing: Standing::new(grace),
            news: News::default(),
            tally: Tally::default(),
            stop: Notify::new(),
        };
        let directory = Self {
            shared: Arc::new(shared),
            requests,
            registering,
            seen,
            alive,
        };
        let mailbox = Mailbox {
            requests: asked,
            registering: to_register,
            seen: noted,
        };
        (directory, mailbox)
    }

    /// Looks up a device that is vouched for: [`look_up_for`](Self::look_up_for) it.
    pub async fn look_up(&self, whom: &Whom) -> Found {
        self.look_up_for(Lane::Vouched, whom).await
    }

    /// Looks up a device that changed, or is in doubt, to judge its connections again: no caller is in its way.
    pub async fn look_up_first(&self, whom: &Whom) -> Found {
        self.look_up_for(Lane::Ours, whom).await
    }

    /// Looks a device up. From memory at once; else one question to the store for all in the caller's lane who ask the same,
    /// within 2 s. Dropping it half-way costs nothing.
    ///
    /// One that begins after a change was told by [`next_changes`](Self::next_changes) gives what is after that change.
    pub async fn look_up_for(&self, lane: Lane, whom: &Whom) -> Found {
        let found = match self.recall(whom) {
            Some(found) => found,
            None => {
                let deadline = Instant::now() + DEADLINE;
                self.ask(lane, whom, None, deadline).await.found
            }
        };
        self.tallied(found)
    }

    /// Looks a device up that shows what its record in memory lacks, which its owner may have given it since: by what the store
    /// says, asked at `since` or later. So nobody is refused for a change that was made before it called.
    ///
    /// One question for all who want the same, in the lane of strangers, since anybody can make up such a credential; and for one
    /// device 300 ms after the last at the soonest, for which it waits. Within 2 s; a store that is away is not waited for.
    /// Dropping it half-way costs nothing.
    pub async fn look_up_anew(&self, device: &DeviceId, since: Instant) -> Found {
        let whom = Whom::Device(device.clone());
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(asked) = self.shared.memory.asked(device).filter(|at| *at < since) {
                sleep_until(asked + ANEW).await;
            }
            if let Some(why) = self.is_away() {
                return self.tallied(Found::Away(why));
            }
            // It may have joined a question that was under way already: of before the change, perhaps.
            let Answered { found, asked } =
                self.ask(Lane::Stranger, &whom, Some(since), deadline).await;
            if asked >= since || matches!(found, Found::Away(_)) {
                return self.tallied(found);
            }
        }
    }

    fn tallied(&self, found: Found) -> Found {
        if let Found::Away(_) = &found {
            self.shared.tally.away.fetch_add(1, Relaxed);
        }
        found
    }

    /// The answer, where no question to the store is needed, or none would help.
    fn recall(&self, whom: &Whom) -> Option<Found> {
        let Shared {
            memory,
            standing,
            tally,
            ..
        } = &*self.shared;
        let now = Instant::now();
        // Before the look into memory: a record that is forgotten after it was found must not pass for a fresh one.
        let age = standing.age(now);
        if standing.may_go_on(age)
            && let Some(record) = memory.known(whom)
        {
            tally.hits.fetch_add(1, Relaxed);
            return Some(Found::Known(record));
        }
        if let Some(why) = standing.away(age) {
            return Some(Found::Away(why));
        }
        let unknown = memory.is_unknown(whom, now);
        unknown.then(|| {
            tally.negative_hits.fetch_add(1, Relaxed);
            Found::Unknown
        })
    }

    /// Has the thread ask the store, unless memory can answer by now; what memory holds of before `since` does not count.
    async fn ask(
        &self,
        lane: Lane,
        whom: &Whom,
        since: Option<Instant>,
        deadline: Instant,
    ) -> Answered {
        self.shared.tally.misses.fetch_add(1, Relaxed);
        let away = |why: Arc<str>| Answered {
            found: Found::Away(why),
            asked: Instant::now(),
        };
        let (reply, answer) = oneshot::channel();
        let request = Request {
            lane,
            whom: whom.clone(),
            since,
            deadline,
            reply,
        };
        match self.requests.of(lane).try_send(request) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return away(format!("{QUEUE} look-ups wait for the registry").into());
            }
            Err(TrySendError::Closed(_)) => return away(ENDED.into()),
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(_)) => away(ENDED.into()),
            Err(_) => away(no_answer().into()),
        }
    }

    /// Registers a device that is vouched for (`registry.unknown = "register"`), if its group has room; then looks it up.
    /// One that is registered already, by another gate at the same moment say, is looked up likewise. That a group has no
    /// room is remembered for 10 s.
    ///
    /// Dropped half-way, it may be registered or not.
    ///
    /// # Errors
    /// [`Fault::QuotaFull`]; [`Fault::Away`], also when too many register themselves at once.
    pub async fn register(&self, record: Record, quota: u32) -> Result<Found, Fault> {
        if let Some(why) = self.is_away() {
            return Err(Fault::Away(why.to_string()));
        }
        let whom = Whom::Device(record.device.clone());
        let (reply, answer) = oneshot::channel();
        let registering = Registering {
            record,
            quota,
            reply,
        };
        self.registering.try_send(registering).map_err(|refused| {
            Fault::Away(match refused {
                TrySendError::Full(_) => format!("{REGISTERING} devices wait to be registered"),
                TrySendError::Closed(_) => ENDED.to_owned(),
            })
        })?;
        match timeout(DEADLINE, answer).await {
            Ok(Ok(outcome)) => outcome?,
            Ok(Err(_)) => return Err(Fault::Away(ENDED.to_owned())),
            Err(_) => return Err(Fault::Away(no_answer())),
        }
        Ok(self.look_up(&whom).await)
    }

    /// Notes that a device was admitted. Lossy; never waits.
    pub fn note_seen(&self, device: &DeviceId, seen: LastSeen) {
        if self.seen.try_send((device.clone(), seen)).is_err() {
            self.shared.tally.seen_lost.fetch_add(1, Relaxed);
        }
    }

    /// Waits for the next changes, for as long as the gate runs; memory has forgotten them before they are told. One reader.
    /// Each device once; after [`Change::Everything`] nothing else. Dropping it half-way loses none.
    pub async fn next_changes(&self) -> Vec<Change> {
        self.shared.news.next().await
    }

    /// Has a change told again once the store is there: for one that could not be followed, because the look-up for it found the
    /// registry away. Without it, what the owner decided would be told, and nothing be done about it.
    pub fn tell_again(&self, change: &Change) {
        self.shared.news.keep(change);
    }

    /// Why the store cannot be asked now; `None`: it can.
    pub fn is_away(&self) -> Option<Arc<str>> {
        let standing = &self.shared.standing;
        standing.away(standing.age(Instant::now()))
    }

    /// For the metrics.
    pub fn counts(&self) -> Counts {
        let Shared { memory, tally, .. } = &*self.shared;
        Counts {
            hits: tally.hits.load(Relaxed),
            negative_hits: tally.negative_hits.load(Relaxed),
            misses: tally.misses.load(Relaxed),
            away: tally.away.load(Relaxed),
            queries: tally.queries.load(Relaxed),
            seen_lost: tally.seen_lost.load(Relaxed),
            entries: memory.count(),
            bytes: memory.bytes(),
        }
    }

    /// From now on memory is believed for `grace` while the store is away, and takes `cache_bytes` at most: what no longer fits is forgotten
    /// before this returns, in steps, so that no worker waits for it long.
    pub fn change(&self, grace: Duration, cache_bytes: u64) {
        self.shared.standing.change_grace(grace);
        self.shared.memory.resize(cache_bytes);
    }

    /// Ends the thread, which first writes which devices were seen; waits for that, 2 s at most. What is in memory is
    /// believed for `Settings.grace` more, and nobody else can be looked up.
    ///
    /// Dropping the directory ends the thread likewise, but does not wait.
    pub async fn stop(&self) {
        self.shared.stop.notify_one();
        let mut alive = self.alive.clone();
        // Nothing is ever sent: it closes when the thread ends.
        let _ = timeout(DEADLINE, alive.changed()).await;
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.shared.stop.notify_one();
    }
}

impl Whom {
    /// Whether this is the record that was asked for: the very name, or one of the pins, to be shown without a trust group.
    fn is(&self, record: &Record) -> bool {
        match self {
            Self::Device(device) => *device == record.device,
            Self::Pinned(pins) => pins.iter().any(|pin| has_pin(record, pin)),
        }
    }
}

fn has_pin(record: &Record, pin: &Pin) -> bool {
    pins_of(record).any(|other| other == pin)
}

/// What the record can be found by beside its name.
fn pins_of(record: &Record) -> impl Iterator<Item = &Pin> {
    record
        .credentials
        .iter()
        .filter_map(|one| match &one.proof {
            Proof::Pinned(pin) => Some(pin),
            Proof::Vouched { .. } | Proof::Token(_) => None,
        })
}

const ENDED: &str = "the thread that asks the registry has ended";

fn no_answer() -> String {
    format!("no answer within {} s", DEADLINE.as_secs())
}
