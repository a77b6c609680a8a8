//! The devices that are remembered, and for a few seconds the names that nobody has.
//!
//! Only the thread writes, but for a reload that makes it smaller; workers read. Names that nobody has are kept apart, so that a storm of them pushes no device
//! out (threats.md V6).

use std::hash::Hash;
use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use crate::rules::device::DeviceId;
use crate::rules::record::{Credential, Pin, Proof, Record};

use super::{Whom, has_pin, pins_of};

/// So many names, or pairs of pins, that nobody has are remembered at most.
const MOST_UNKNOWN: usize = 4096;

/// So many certificates are remembered whose key alone is pinned, at most.
const MOST_BY_KEY: usize = 16_384;

/// Of so many devices it is remembered when they were asked for, at most.
const MOST_ASKED: usize = 4096;

/// How long it is remembered that nobody has a name, if nothing tells otherwise before.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// So much is forgotten in one go when memory is to be smaller, in bytes: a few thousand devices.
const STEP: u64 = 4 << 20;

/// What a device takes, about, in bytes: for the tables to begin with.
const EXPECTED: u64 = 512;

#[derive(Debug)]
pub(super) struct Memory {
    known: Cache<DeviceId, Known, Bytes>,
    /// Whose a pin is. Says little by itself: the record has to agree.
    pins: Cache<Pin, DeviceId, Bytes>,
    /// Whose a certificate is by its key, since nobody has the certificate itself.
    by_key: Cache<Pin, ByKey>,
    unknown: Cache<Whom, Unknown>,
    /// When the question began that gave what is remembered of a device, for those that were asked for last. Beside the records:
    /// most came in a page, and a hundred thousand fit into their room by a hair.
    asked: Cache<DeviceId, Instant>,
    /// Counts how often everything was forgotten: what was remembered in an era before is not believed. Cheaper than to
    /// empty a large table while workers wait for it.
    era: AtomicU64,
    /// The same for pins that nobody has: any change may give one to a device.
    pin_era: AtomicU64,
}

#[derive(Clone, Debug)]
struct Known {
    record: Arc<Record>,
    era: u64,
}

#[derive(Clone, Debug)]
struct ByKey {
    device: DeviceId,
    era: u64,
}

#[derive(Clone, Copy, Debug)]
struct Unknown {
    until: Instant,
    era: u64,
}

impl Memory {
    /// One that takes no more than `bytes` for known devices; a quarter of it for their pins.
    pub(super) fn new(bytes: u64) -> Self {
        let expected = usize::try_from(bytes / EXPECTED).unwrap_or(usize::MAX);
        let for_pins = bytes / 4;
        Self {
            known: Cache::with_weighter(expected, bytes - for_pins, Bytes),
            pins: Cache::with_weighter(expected, for_pins, Bytes),
            by_key: Cache::new(MOST_BY_KEY),
            unknown: Cache::new(MOST_UNKNOWN),
            asked: Cache::new(MOST_ASKED),
            era: AtomicU64::new(0),
            pin_era: AtomicU64::new(0),
        }
    }

    /// Takes no more than `bytes` from now on.
    pub(super) fn resize(&self, bytes: u64) {
        let for_pins = bytes / 4;
        resize(&self.known, bytes - for_pins);
        resize(&self.pins, for_pins);
    }

    /// The record, if it is remembered.
    pub(super) fn known(&self, whom: &Whom) -> Option<Arc<Record>> {
        match whom {
            Whom::Device(device) => self.by_name(device),
            Whom::Pinned([certificate, key]) => {
                let of = |pin: &Pin, device: &DeviceId| {
                    let record = self.by_name(device)?;
                    has_pin(&record, pin).then_some(record)
                };
                let by_certificate = self.pins.get(certificate);
                let by_certificate = by_certificate.and_then(|device| of(certificate, &device));
                by_certificate.or_else(|| {
                    // That nobody has the certificate is the store's to say, as long as nothing has changed since.
                    let told = self.by_key.get(certificate)?;
                    (told.era == self.era_of(whom)).then(|| of(key, &told.device))?
                })
            }
        }
    }

    /// Remembers whom the store gave for these pins: by the key, if that is what the device has.
    pub(super) fn remember_pinned(&self, whom: &Whom, record: &Record) {
        if let Whom::Pinned([certificate, _]) = whom
            && !has_pin(record, certificate)
        {
            let by_key = ByKey {
                device: record.device.clone(),
                era: self.era_of(whom),
            };
            self.by_key.insert(*certificate, by_key);
        }
    }

    fn by_name(&self, device: &DeviceId) -> Option<Arc<Record>> {
        let known = self.known.get(device)?;
        (known.era == self.era()).then_some(known.record)
    }

    /// When the store was asked for this device the last time; `None`: it was not, or long ago. That what is remembered of it is
    /// not older is sure only for the thread that writes.
    pub(super) fn asked(&self, device: &DeviceId) -> Option<Instant> {
        self.asked.get(device)
    }

    /// Whether it is remembered that there is no such device.
    pub(super) fn is_unknown(&self, whom: &Whom, now: Instant) -> bool {
        let is_good = |unknown: Unknown| unknown.until > now && unknown.era == self.era_of(whom);
        self.unknown.get(whom).is_some_and(is_good)
    }

    /// Remembers a device as the store gave it, which was asked at `asked`.
    pub(super) fn remember(&self, record: &Arc<Record>, asked: Instant) {
        self.put(record);
        self.asked.insert(record.device.clone(), asked);
    }

    fn put(&self, record: &Arc<Record>) {
        let device = &record.device;
        self.unknown.remove(&Whom::Device(device.clone()));
        for pin in pins_of(record) {
            self.pins.insert(*pin, device.clone());
        }
        let known = Known {
            record: record.clone(),
            era: self.era(),
        };
        self.known.insert(device.clone(), known);
    }

    /// Remembers a device unless it is remembered already, without pushing another out. `false`: there is no room.
    pub(super) fn remember_if_room(&self, record: &Arc<Record>) -> bool {
        let is_known = self
            .known
            .peek(&record.device)
            .map(|known| known.era == self.era());
        match is_known {
            Some(true) => true,
            None if !(has_room(&self.known) && has_room(&self.pins)) => false,
            Some(false) | None => {
                self.put(record);
                self.asked.remove(&record.device); // that was another record
                true
            }
        }
    }

    /// Remembers for a while that the store knows of no such device.
    pub(super) fn remember_unknown(&self, whom: Whom, now: Instant) {
        let unknown = Unknown {
            until: now + UNKNOWN_FOR,
            era: self.era_of(&whom),
        };
        self.unknown.insert(whom, unknown);
    }

    /// Forgets all that a change of this device could make wrong.
    pub(super) fn forget(&self, device: &DeviceId) {
        if let Some((_, known)) = self.known.remove(device) {
            for pin in pins_of(&known.record) {
                self.pins.remove_if(pin, |whose| whose == device);
            }
        }
        self.unknown.remove(&Whom::Device(device.clone()));
        self.pin_era.fetch_add(1, Ordering::AcqRel);
    }

    /// Forgets everything.
    pub(super) fn forget_all(&self) {
        self.era.fetch_add(1, Ordering::AcqRel);
        self.pin_era.fetch_add(1, Ordering::AcqRel);
    }

    /// How often everything was forgotten.
    pub(super) fn era(&self) -> u64 {
        self.era.load(Ordering::Acquire)
    }

    /// How many records are held.
    pub(super) fn count(&self) -> u64 {
        self.known.len() as u64
    }

    /// What is held for known devices, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.known.weight() + self.pins.weight()
    }

    fn era_of(&self, whom: &Whom) -> u64 {
        let era = match whom {
            Whom::Device(_) => &self.era,
            Whom::Pinned(_) => &self.pin_era,
        };
        era.load(Ordering::Acquire)
    }
}

/// In steps: each part is locked while it forgets, and workers would wait for a million records.
fn resize<K: Eq + Hash, V: Clone>(table: &Cache<K, V, Bytes>, bytes: u64)
where
    Bytes: Weighter<K, V>,
{
    let mut held = table.weight();
    while held > bytes + STEP {
        held -= STEP;
        table.set_capacity(held);
    }
    table.set_capacity(bytes);
}

/// Whether a little more fits in. It is divided into parts, which do not fill alike: somewhat before the whole is full, one is.
fn has_room<K: Eq + Hash, V: Clone>(table: &Cache<K, V, Bytes>) -> bool
where
    Bytes: Weighter<K, V>,
{
    let bound = table.capacity();
    table.weight() < bound - bound / 32
}

/// Weighs in bytes: the entry in the table, and what it points to.
#[derive(Clone, Debug)]
struct Bytes;

/// Of a table for each entry, beside key and value: its links, its slot in the index, room to grow; and half an entry that stands
/// for one that was pushed out.
const ENTRY: usize = 96;

/// Of the allocator for each piece.
const PIECE: usize = 16;

/// Of a `BTreeMap<String, String>` for each leaf: it has room for eleven pairs, and at least five or all there are.
const LEAF: usize = 560;

impl Weighter<DeviceId, Known> for Bytes {
    fn weight(&self, device: &DeviceId, known: &Known) -> u64 {
        let entry = size_of::<DeviceId>() + size_of::<Known>() + ENTRY;
        (entry + name(device) + record(&known.record)) as u64
    }
}

impl Weighter<Pin, DeviceId> for Bytes {
    fn weight(&self, _: &Pin, device: &DeviceId) -> u64 {
        // The name is the record's, as long as that is held.
        let entry = size_of::<Pin>() + size_of::<DeviceId>() + ENTRY;
        (entry + name(device)) as u64
    }
}

fn name(device: &DeviceId) -> usize {
    2 * size_of::<usize>() + device.as_str().len() + PIECE
}

fn record(record: &Record) -> usize {
    let leaves = record.labels.len().div_ceil(6);
    let labels = record.labels.iter();
    let labels = labels.map(|(name, value)| text(name) + text(value));
    let proofs = record.credentials.iter().map(|one| proof(&one.proof));
    2 * size_of::<usize>()
        + size_of::<Record>()
        + 2 * PIECE
        + text(&record.description)
        + record.registered_by.as_ref().map_or(0, text)
        + leaves * LEAF
        + labels.sum::<usize>()
        + record.credentials.capacity() * size_of::<Credential>()
        + proofs.sum::<usize>()
}

fn proof(proof: &Proof) -> usize {
    match proof {
        Proof::Vouched { group, .. } => text(group),
        Proof::Pinned(_) | Proof::Token(_) => 0,
    }
}

fn text(text: &String) -> usize {
    match text.capacity() {
        0 => 0,
        bytes => bytes + PIECE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::record::Valid;

    /// Smaller, it forgets what has no room any more; larger, it takes in more than before.
    #[test]
    fn another_size_counts_at_once() {
        let memory = Memory::new(16 << 20);
        let fill = || {
            let record = |n| Arc::new(Record::new(format!("m-{n:06}").parse().expect("a name"), 0));
            let fits = |n: &u32| memory.remember_if_room(&record(*n));
            (0..100_000).take_while(fits).count()
        };
        let first = fill();
        memory.resize(1 << 20);
        assert!(memory.bytes() <= 1 << 20, "{} bytes", memory.bytes());
        assert!(memory.count() > 0 && memory.count() < first as u64 / 8);
        memory.resize(32 << 20);
        assert!(fill() > first, "{first} before");
    }

    /// What a fleet of 100,000 takes, whose devices have a certificate each and nothing else.
    #[test]
    fn a_hundred_thousand_devices_fit_into_the_default() {
        let memory = Memory::new(64 << 20);
        for n in 0..100_000 {
            let mut record = Record::new(format!("meter-{n:06}").parse().expect("a name"), 0);
            let (group, field) = ("fleet".to_owned(), crate::rules::identity::Field::SubjectCn);
            let proof = Proof::Vouched {
                group,
                field,
                pin: None,
            };
            record.add_credential(proof, Valid::since(0));
            record.credentials.shrink_to_fit();
            assert!(memory.remember_if_room(&Arc::new(record)), "{n}");
        }
        assert_eq!(memory.count(), 100_000, "{} bytes", memory.bytes());
    }
}
