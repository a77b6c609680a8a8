//! A store that answers from a script: held back, silent, away, pruned.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::sleep;

use crate::registry::{Change, Changes, Fault};
use crate::rules::device::DeviceId;
use crate::rules::record::{LastSeen, Pin, Proof, Record, Valid};

use super::has_pin;
use super::store::Store;

#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Parts>);

#[derive(Default)]
struct Parts {
    inner: Mutex<Inner>,
    /// Told at each change, when `tells`.
    changed: Notify,
    /// One permit lets one held answer go.
    release: Closed,
    /// Questions for a device so far, and at once.
    asked: AtomicUsize,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    readings: AtomicUsize,
    registrations: AtomicUsize,
}

struct Closed(Semaphore);

impl Default for Closed {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) records: BTreeMap<DeviceId, Record>,
    log: Vec<DeviceId>,
    /// Places before this are not known any more.
    pub(super) pruned: usize,
    /// Every question fails with this.
    pub(super) away: Option<Trouble>,
    /// Answers for a device are made at once and given when released.
    pub(super) held: bool,
    /// It tells all its devices when asked for pages; else none, so that tests see each question.
    pub(super) pages: bool,
    /// It notifies of changes, as PostgreSQL does.
    pub(super) tells: bool,
    pub(super) seen: Vec<(DeviceId, LastSeen)>,
    pub(super) writes: usize,
}

impl Inner {
    fn place(&self) -> i64 {
        i64::try_from(self.log.len()).expect("a short log")
    }
}

#[derive(Clone, Copy)]
pub(super) enum Trouble {
    /// Fails at once.
    Refuses,
    /// Never answers.
    Silent,
    /// Answers after this.
    Slow(Duration),
}

pub(super) fn device(name: impl Display) -> DeviceId {
    name.to_string().parse().expect("a name")
}

/// A record that tells its version by when it was created.
pub(super) fn record(name: impl Display, version: u64) -> Record {
    Record::new(device(name), i64::try_from(version).expect("few versions"))
}

pub(super) fn pinned(name: impl Display, version: u64, pin: Pin) -> Record {
    let mut record = record(name, version);
    record.add_credential(Proof::Pinned(pin), Valid::since(0));
    record
}

impl Fake {
    /// A store with these devices, and no change that anybody could be told of.
    pub(super) fn with(records: impl IntoIterator<Item = Record>) -> Self {
        let fake = Self::default();
        let named = records.into_iter().map(|one| (one.device.clone(), one));
        fake.script().records.extend(named);
        fake
    }

    pub(super) fn script(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().expect("no test panics in it")
    }

    /// Adds or changes a device.
    pub(super) fn put(&self, record: Record) {
        let device = record.device.clone();
        self.script().records.insert(device.clone(), record);
        self.note(device);
    }

    pub(super) fn remove(&self, device: &DeviceId) {
        self.script().records.remove(device);
        self.note(device.clone());
    }

    fn note(&self, device: DeviceId) {
        let mut script = self.script();
        script.log.push(device);
        if script.tells {
            self.0.changed.notify_one();
        }
    }

    /// Forgets all changes, and begins to count anew: a backup was put back.
    pub(super) fn restore(&self) {
        self.script().log.clear();
    }

    /// Lets so many held answers go.
    pub(super) fn release(&self, count: usize) {
        self.0.release.0.add_permits(count);
    }

    /// Questions for a device so far.
    pub(super) fn asked(&self) -> usize {
        self.0.asked.load(SeqCst)
    }

    pub(super) fn most_at_once(&self) -> usize {
        self.0.most_under_way.load(SeqCst)
    }

    pub(super) fn readings(&self) -> usize {
        self.0.readings.load(SeqCst)
    }

    /// Devices that asked to be registered so far.
    pub(super) fn registrations(&self) -> usize {
        self.0.registrations.load(SeqCst)
    }

    /// Answers, fails or is silent as the script says.
    pub(super) async fn reach(&self) -> Result<(), Fault> {
        let trouble = self.script().away;
        match trouble {
            None => Ok(()),
            Some(Trouble::Refuses) => Err(Fault::Away("connection refused".to_owned())),
            Some(Trouble::Silent) => std::future::pending().await,
            Some(Trouble::Slow(delay)) => {
                sleep(delay).await;
                Ok(())
            }
        }
    }

    async fn answer(
        &self,
        find: impl Fn(&Inner) -> Option<Record>,
    ) -> Result<Option<Record>, Fault> {
        self.0.asked.fetch_add(1, SeqCst);
        let _under_way = UnderWay::begin(self.0.clone());
        self.reach().await?;
        let (found, held) = {
            let script = self.script();
            (find(&script), script.held)
        };
        self.hold(held).await;
        Ok(found)
    }

    async fn hold(&self, held: bool) {
        if held {
            let permit = self.0.release.0.acquire().await;
            permit.expect("never closed").forget();
        }
    }
}

struct UnderWay(Arc<Parts>);

impl UnderWay {
    fn begin(parts: Arc<Parts>) -> Self {
        let count = parts.under_way.fetch_add(1, SeqCst) + 1;
        parts.most_under_way.fetch_max(count, SeqCst);
        Self(parts)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, SeqCst);
    }
}

impl Store for Fake {
    async fn find(&self, device: &DeviceId) -> Result<Option<Record>, Fault> {
        let find = |script: &Inner| script.records.get(device).cloned();
        self.answer(find).await
    }

    async fn find_pinned(&self, pins: &[Pin]) -> Result<Option<Record>, Fault> {
        let has_one = |one: &&Record| pins.iter().any(|pin| has_pin(one, pin));
        let find = |script: &Inner| script.records.values().find(has_one).cloned();
        self.answer(find).await
    }

    async fn page(&self, after: Option<&DeviceId>, most: u32) -> Result<Vec<Record>, Fault> {
        self.reach().await?;
        let (page, held) = {
            let script = self.script();
            let behind = |one: &&Record| after.is_none_or(|after| one.device > *after);
            let all = script.records.values().filter(|_| script.pages);
            let page = all.filter(behind).take(most as usize).cloned();
            (page.collect(), script.held && script.pages)
        };
        self.hold(held).await;
        Ok(page)
    }

    async fn register(&self, record: &Record, quota: u32) -> Result<(), Fault> {
        self.0.registrations.fetch_add(1, SeqCst);
        self.reach().await?;
        let device = record.device.clone();
        let count = self.script().records.len();
        if self.script().records.contains_key(&device) {
            return Err(Fault::DeviceExists(device));
        }
        if count >= quota as usize {
            let group = "fleet".to_owned();
            return Err(Fault::QuotaFull { group, quota });
        }
        self.put(record.clone());
        Ok(())
    }

    async fn place(&self) -> Result<i64, Fault> {
        self.reach().await?;
        Ok(self.script().place())
    }

    async fn changes(&self, place: i64) -> Result<Changes, Fault> {
        self.0.readings.fetch_add(1, SeqCst);
        self.reach().await?;
        let script = self.script();
        let from = usize::try_from(place).expect("not negative");
        let changes = if from < script.pruned {
            vec![Change::Everything]
        } else {
            let behind = script.log.iter().skip(from);
            behind.cloned().map(Change::Device).collect()
        };
        let place = script.place();
        Ok(Changes { changes, place })
    }

    async fn changed(&self) -> Result<(), Fault> {
        self.0.changed.notified().await;
        Ok(())
    }

    async fn note_seen(&self, seen: &[(DeviceId, LastSeen)]) -> Result<(), Fault> {
        self.reach().await?;
        let mut script = self.script();
        script.seen.extend_from_slice(seen);
        script.writes += 1;
        Ok(())
    }
}
