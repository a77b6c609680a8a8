//! The registry: one set of questions, and the store that answers them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::rules::device::DeviceId;
use crate::rules::record::{LastSeen, Pin, Print, Proof, Record};

use super::connections::{ANSWER, end, in_time, within};
use super::fault::Stop;
use super::postgres::{self, Postgres};
use super::sqlite::{self, Sqlite};
use super::{Changes, Fault, Filter, StoreSettings};

/// The registry, open. Its connections belong to the runtime in which they were made: every runtime opens its own.
///
/// Every question is answered, or given up with [`Fault::Away`], within a few seconds; only [`Registry::add`] takes as long as
/// there is to add. Dropping a question half-way costs a connection; a change is then made as a whole or not at all.
#[derive(Clone, Debug)]
pub struct Registry {
    store: Arc<Store>,
}

#[derive(Debug)]
enum Store {
    Sqlite(Box<Sqlite>),
    Postgres(Box<Postgres>),
}

/// Asks the question of this name, in the words of the store.
macro_rules! ask {
    ($registry:expr, $question:ident($($argument:expr),*)) => {
        match &*$registry.store {
            Store::Sqlite(store) => ask!(store, sqlite::questions::$question($($argument),*)),
            Store::Postgres(store) => ask!(store, postgres::questions::$question($($argument),*)),
        }
    };
    ($store:ident, $room:ident::questions::$question:ident($($argument:expr),*)) => {
        async {
            let mut lent = $store.reader().await?;
            let question = $room::questions::$question(lent.connection(), $($argument),*);
            let answer = in_time(question).await?;
            lent.give_back();
            Ok(answer)
        }
        .await
    };
}

/// Makes the change of this name, in one transaction and up to a time, in the words of the store.
macro_rules! change {
    ($registry:expr, $limit:expr, $change:ident($($argument:expr),*)) => {
        match &*$registry.store {
            Store::Sqlite(store) => change!(store, $limit, sqlite::questions::$change($($argument),*)),
            Store::Postgres(store) => change!(store, $limit, postgres::questions::$change($($argument),*)),
        }
    };
    ($store:ident, $limit:expr, $room:ident::questions::$change:ident($($argument:expr),*)) => {
        async {
            let mut lent = $store.writer().await?;
            let mut transaction = lent.begin($room::BEGIN).await?;
            let change = $room::questions::$change(&mut transaction, $($argument),*);
            let changed = within($limit, change).await;
            let (changed, whole) = end(transaction, changed).await;
            if whole {
                lent.give_back();
            }
            if changed.is_ok() {
                $store.note_change();
            }
            changed
        }
        .await
    };
}

/// For a change that takes as long as there is to do, and sees to its own deadlines.
const WHOLE: Duration = Duration::MAX;

impl Registry {
    /// Opens the registry; makes its tables, or brings them up to date.
    ///
    /// # Errors
    /// [`Fault::Away`], [`Fault::Unusable`].
    pub async fn open(settings: &StoreSettings) -> Result<Self, Fault> {
        let store = match settings {
            StoreSettings::Sqlite { path } => Store::Sqlite(Box::new(Sqlite::new(path)?)),
            StoreSettings::Postgres { url, password_file } => {
                Store::Postgres(Box::new(Postgres::new(url, password_file.as_deref())?))
            }
        };
        let store = Arc::new(store);
        let registry = Self { store };
        registry
            .prepare()
            .await
            .map_err(|stop| registry.fault(stop))?;
        Ok(registry)
    }

    async fn prepare(&self) -> Result<(), Stop> {
        match &*self.store {
            Store::Sqlite(store) => store.prepare().await,
            Store::Postgres(store) => store.prepare().await,
        }
    }

    /// Where the store is, for sentences: never with a password.
    pub fn whereabouts(&self) -> String {
        match &*self.store {
            Store::Sqlite(store) => store.place(),
            Store::Postgres(store) => store.place(),
        }
    }

    /// Leaves the store in good order: for those who end. What is asked afterwards is answered all the same.
    pub async fn close(&self) {
        match &*self.store {
            Store::Sqlite(store) => store.close().await,
            Store::Postgres(store) => store.close().await,
        }
    }

    fn fault(&self, stop: Stop) -> Fault {
        stop.told(&self.whereabouts())
    }

    /// The record of a device.
    ///
    /// # Errors
    /// As all questions: [`Fault::Away`], [`Fault::Unusable`].
    pub async fn find(&self, device: &DeviceId) -> Result<Option<Record>, Fault> {
        ask!(self, find(device)).map_err(|stop| self.fault(stop))
    }

    /// The record of the device that has one of these pins as a credential that needs no trust group ([`Proof::Pinned`]). When
    /// they belong to several devices: of the one with the first.
    ///
    /// # Errors
    /// As all questions: [`Fault::Away`], [`Fault::Unusable`].
    pub async fn find_pinned(&self, pins: &[Pin]) -> Result<Option<Record>, Fault> {
        ask!(self, find_pinned(pins)).map_err(|stop| self.fault(stop))
    }

    /// The record of the device that has `print` in a credential that is no token; or else of the one that was last seen with a
    /// certificate of this fingerprint. Looks through all devices: for whoever asks once.
    ///
    /// # Errors
    /// As all questions: [`Fault::Away`], [`Fault::Unusable`].
    pub async fn find_by_print(&self, print: &Print) -> Result<Option<Record>, Fault> {
        ask!(self, find_by_print(print)).map_err(|stop| self.fault(stop))
    }

    /// When the device was last admitted.
    ///
    /// # Errors
    /// As all questions: [`Fault::Away`], [`Fault::Unusable`].
    pub async fn last_seen(&self, device: &DeviceId) -> Result<Option<LastSeen>, Fault> {
        ask!(self, last_seen(device)).map_err(|stop| self.fault(stop))
    }

    /// Adds devices, all or none; `progress` is called with the number done so far.
    ///
    /// # Errors
    /// [`Fault::DeviceExists`], [`Fault::PinExists`], [`Fault::Refused`] for a record that no store could keep; then nothing is
    /// added.
    pub async fn add(
        &self,
        records: &[Record],
        progress: &mut (dyn FnMut(usize) + Send),
    ) -> Result<(), Fault> {
        well_formed(records)?;
        let added = change!(self, WHOLE, add(records, progress));
        self.unless_taken(added, records, true).await
    }

    /// Adds a device that registers itself, if its group has fewer than `quota` such devices.
    ///
    /// # Errors
    /// [`Fault::QuotaFull`], [`Fault::DeviceExists`], and as [`Registry::add`].
    pub async fn register(&self, record: &Record, quota: u32) -> Result<(), Fault> {
        let records = std::slice::from_ref(record);
        well_formed(records)?;
        let registered = change!(self, ANSWER, register(record, quota));
        self.unless_taken(registered, records, true).await
    }

    /// Changes one device in one transaction: `change` gets its record and may refuse with a sentence. Sets `changed` to
    /// `now`; its name and when it was created stay. Gives the record as it is afterwards.
    ///
    /// # Errors
    /// [`Fault::NoDevice`], [`Fault::Refused`], [`Fault::PinExists`].
    pub async fn change(
        &self,
        device: &DeviceId,
        now: i64,
        change: &mut (dyn FnMut(&mut Record) -> Result<(), String> + Send),
    ) -> Result<Record, Fault> {
        let mut asked = None;
        let mut remembering = |record: &mut Record| {
            change(record)?;
            asked = Some(record.clone());
            Ok(())
        };
        let changed = change!(self, ANSWER, change(device, now, &mut remembering));
        let records = asked.as_slice();
        self.unless_taken(changed, records, false).await
    }

    /// Removes a device with all its credentials.
    ///
    /// # Errors
    /// [`Fault::NoDevice`].
    pub async fn remove(&self, device: &DeviceId) -> Result<(), Fault> {
        change!(self, ANSWER, remove(device)).map_err(|stop| self.fault(stop))
    }

    /// Up to `most` devices behind `after`, in the order of their ids (byte by byte), with when they were last seen.
    ///
    /// # Errors
    /// As all questions: [`Fault::Away`], [`Fault::Unusable`].
    pub async fn list(
        &self,
        filter: &Filter,
        after: Option<&DeviceId>,
        most: u32,
    ) -> Result<Vec<(Record, Option<LastSeen>)>, Fault> {
        if filter.fits_none() {
            return Ok(Vec::new());
        }
        ask!(self, list(filter, after, most)).map_err(|stop| self.fault(stop))
    }

    /// How many devices there are.
    ///
    /// # Errors
    /// As all questions: [`Fault::Away`], [`Fault::Unusable`].
    pub async fn count(&self, filter: &Filter) -> Result<u64, Fault> {
        if filter.fits_none() {
            return Ok(0);
        }
        ask!(self, count(filter)).map_err(|stop| self.fault(stop))
    }

    /// Whether `group` has room for one more device that registers itself, with this quota.
    ///
    /// # Errors
    /// [`Fault::QuotaFull`], if it has not; and as all questions: [`Fault::Away`], [`Fault::Unusable`].
    pub async fn has_room(&self, group: &str, quota: u32) -> Result<(), Fault> {
        let registered = ask!(self, registered_in(group)).map_err(|stop| self.fault(stop))?;
        if registered < i64::from(quota) {
            return Ok(());
        }
        let group = group.to_owned();
        Err(Fault::QuotaFull { group, quota })
    }

    /// The place of the last change: where a reader begins.
    ///
    /// # Errors
    /// As all questions: [`Fault::Away`], [`Fault::Unusable`].
    pub async fn place(&self) -> Result<i64, Fault> {
        ask!(self, place()).map_err(|stop| self.fault(stop))
    }

    /// What changed behind `place`. [`Change::Everything`](super::Change::Everything) when that is too long ago to be known, or too much to be told one by
    /// one. Cheap when nothing changed.
    ///
    /// # Errors
    /// As all questions: [`Fault::Away`], [`Fault::Unusable`].
    pub async fn changes(&self, place: i64) -> Result<Changes, Fault> {
        ask!(self, changes(place)).map_err(|stop| self.fault(stop))
    }

    /// Notes when devices were seen; those not registered are passed over, and what was noted of a later time stays.
    ///
    /// # Errors
    /// As all questions: [`Fault::Away`], [`Fault::Unusable`].
    pub async fn note_seen(&self, seen: &[(DeviceId, LastSeen)]) -> Result<(), Fault> {
        let mut latest = BTreeMap::new();
        for (device, seen) in seen {
            let kept = latest.entry(device).or_insert(seen);
            if kept.at <= seen.at {
                *kept = seen;
            }
        }
        let latest: Vec<(&DeviceId, &LastSeen)> = latest.into_iter().collect();
        change!(self, ANSWER, note_seen(&latest)).map_err(|stop| self.fault(stop))
    }

    /// The check value of the token key that this registry's tokens are hashed with; sets it to `own` if there is none yet.
    ///
    /// # Errors
    /// As all questions: [`Fault::Away`], [`Fault::Unusable`].
    pub async fn token_key_check(&self, own: &[u8; 16]) -> Result<[u8; 16], Fault> {
        let kept = ask!(self, token_key()).map_err(|stop| self.fault(stop))?;
        if let Some(kept) = kept {
            return Ok(kept);
        }
        change!(self, ANSWER, token_key_check(own)).map_err(|stop| self.fault(stop))
    }

    /// Whether a token key was ever used with it.
    ///
    /// # Errors
    /// As all questions: [`Fault::Away`], [`Fault::Unusable`].
    pub async fn has_token_key(&self) -> Result<bool, Fault> {
        let kept = ask!(self, token_key()).map_err(|stop| self.fault(stop))?;
        Ok(kept.is_some())
    }

    /// Waits until the store tells of a change: PostgreSQL by LISTEN; SQLite only of what this very `Registry` changed. Returns
    /// at once when it just began to listen, since something may have been missed before. A lost notification, or one too
    /// many, is made good by asking [`Registry::changes`]. One caller at a time is told.
    ///
    /// Dropping it half-way costs nothing.
    ///
    /// # Errors
    /// [`Fault::Away`], [`Fault::Unusable`], when nobody can be listened to: wait a little before the next call.
    pub async fn changed(&self) -> Result<(), Fault> {
        let changed = match &*self.store {
            Store::Sqlite(store) => store.changed().await,
            Store::Postgres(store) => store.changed().await,
        };
        changed.map_err(|stop| self.fault(stop))
    }

    /// Finds out whose id or pin was in the way.
    async fn unless_taken<T>(
        &self,
        done: Result<T, Stop>,
        records: &[Record],
        new: bool,
    ) -> Result<T, Fault> {
        match done {
            Ok(value) => Ok(value),
            Err(stop) if stop.is_taken() => {
                let found = ask!(self, who_has(records, new)).map_err(|stop| self.fault(stop))?;
                let gone = || {
                    Fault::Away("somebody else made a change at the same time; try again".into())
                };
                Err(found.unwrap_or_else(gone))
            }
            Err(stop) => Err(self.fault(stop)),
        }
    }
}

/// Whether a store can keep these records together: no NUL in a text, no number, id or pin twice.
pub(super) fn well_formed(records: &[Record]) -> Result<(), Fault> {
    let (mut devices, mut pins) = (HashSet::new(), HashMap::new());
    for record in records {
        let device = &record.device;
        if !devices.insert(device) {
            return Err(Fault::DeviceExists(device.clone()));
        }
        if texts(record).any(|text| text.contains('\0')) {
            let sentence = format!(
                "a text of {device} holds a NUL character, which cannot be kept; leave it out"
            );
            return Err(Fault::Refused(sentence));
        }
        let mut numbers = HashSet::new();
        for credential in &record.credentials {
            if !numbers.insert(credential.number) {
                let number = credential.number;
                return Err(Fault::Refused(format!(
                    "{device} has two credentials with the number {number}"
                )));
            }
            if let Proof::Pinned(pin) = credential.proof
                && let Some(device) = pins.insert(pin, device)
            {
                let device = device.clone();
                return Err(Fault::PinExists { pin, device });
            }
        }
    }
    Ok(())
}

fn texts(record: &Record) -> impl Iterator<Item = &String> {
    let groups = record
        .credentials
        .iter()
        .filter_map(|one| match &one.proof {
            Proof::Vouched { group, .. } => Some(group),
            _ => None,
        });
    let labels = record.labels.iter().flat_map(|(name, value)| [name, value]);
    labels
        .chain([&record.description])
        .chain(&record.registered_by)
        .chain(groups)
}
