//! The devices we know: a handful of questions, two stores behind them.
//!
//! [`Registry`] asks the store itself: for commands, the admin API and tests. [`directory::Directory`] is what the path asks:
//! from memory where it can, bounded in time and number, and told of every change.

use std::path::PathBuf;
use std::time::Duration;

use crate::rules::device::{DeviceId, Mode};
use crate::rules::record::{LastSeen, Pin, Record};

pub mod directory;

/// `[registry]` as the gate obeys it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which store.
    pub store: StoreSettings,
    /// How long known devices go on from memory while the store is away. Default 1 h.
    pub grace: Duration,
    /// The memory that known devices may take, in bytes. Default 64 MiB.
    pub cache_bytes: u64,
}

/// `registry.url`, read.
#[derive(Clone, Debug)]
pub enum StoreSettings {
    /// `sqlite://PATH`; the file is made if it is not there.
    Sqlite {
        /// The database file.
        path: PathBuf,
    },
    /// `postgres://…`, as libpq reads it (`sslmode`, `sslrootcert` …). The password may stand in `password_file`.
    Postgres {
        /// The URL, without a password.
        url: String,
        /// A file with the password; `None`: as the server lets us in.
        password_file: Option<PathBuf>,
    },
}

/// The registry, open.
#[derive(Clone, Debug)]
pub struct Registry {}

/// Why a question was not answered, or a change not made; a sentence with the way out.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The store cannot be reached, is locked, full, or does not answer in time: later may go well.
    #[error("the registry is away: {0}")]
    Away(String),
    /// The store answers, but its tables are not ours, or of a newer version.
    #[error("{0}")]
    Unusable(String),
    /// The device is there already.
    #[error("{0} is registered already; see `tidegate device show {0}`, or choose another id")]
    DeviceExists(DeviceId),
    /// The pin belongs to a device already.
    #[error("this {what} is pinned for {device} already; remove it there first, or use another", what = pin_word(.pin))]
    PinExists {
        /// The pin.
        pin: Pin,
        /// Whose it is.
        device: DeviceId,
    },
    /// There is no such device.
    #[error(
        "{0} is not registered; `tidegate device list` shows who is, `tidegate device add {0}` registers it"
    )]
    NoDevice(DeviceId),
    /// What the caller of [`Registry::change`] said.
    #[error("{0}")]
    Refused(String),
    /// No more devices may register themselves in this trust group.
    #[error(
        "trust[{group}] has {quota} devices that registered themselves, and no more are taken; raise registry.register_quota, or remove some"
    )]
    QuotaFull {
        /// The trust group.
        group: String,
        /// `registry.register_quota`
        quota: u32,
    },
}

fn pin_word(pin: &Pin) -> &'static str {
    match pin {
        Pin::Certificate(_) => "certificate",
        Pin::Key(_) => "key",
    }
}

/// Which devices are wanted; all conditions together. `Default`: every device.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Filter {
    /// The id begins with this.
    pub prefix: Option<String>,
    /// It has these labels; an empty value: whatever the label says.
    pub labels: Vec<(String, String)>,
    /// Only those enabled, or only those not.
    pub enabled: Option<bool>,
    /// Only those with exactly this `min_mode`.
    pub min_mode: Option<Mode>,
    /// Only those with a credential of this trust group.
    pub trust: Option<String>,
}

/// What changed in the registry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// This device.
    Device(DeviceId),
    /// More than can be told one by one: everything that is remembered may be wrong.
    Everything,
}

/// Changes up to a place in their order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Changes {
    /// What changed; each device once.
    pub changes: Vec<Change>,
    /// The place of the last one: what to ask from the next time.
    pub place: i64,
}

impl Registry {
    /// Opens the registry; makes its tables, or brings them up to date.
    ///
    /// # Errors
    /// [`Fault::Away`], [`Fault::Unusable`].
    pub async fn open(_settings: &StoreSettings) -> Result<Self, Fault> {
        todo!()
    }

    /// The record of a device.
    pub async fn find(&self, _device: &DeviceId) -> Result<Option<Record>, Fault> {
        todo!()
    }

    /// The record of the device that has one of these pins as a credential that needs no trust group ([`Proof::Pinned`](crate::rules::record::Proof::Pinned)).
    pub async fn find_pinned(&self, _pins: &[Pin]) -> Result<Option<Record>, Fault> {
        todo!()
    }

    /// When the device was last admitted.
    pub async fn last_seen(&self, _device: &DeviceId) -> Result<Option<LastSeen>, Fault> {
        todo!()
    }

    /// Adds devices, all or none; `progress` is called with the number done so far.
    ///
    /// # Errors
    /// [`Fault::DeviceExists`], [`Fault::PinExists`]; then nothing is added.
    pub async fn add(
        &self,
        _records: &[Record],
        _progress: &mut (dyn FnMut(usize) + Send),
    ) -> Result<(), Fault> {
        todo!()
    }

    /// Adds a device that registers itself, if its group has fewer than `quota` such devices.
    ///
    /// # Errors
    /// [`Fault::QuotaFull`], [`Fault::DeviceExists`].
    pub async fn register(&self, _record: &Record, _quota: u32) -> Result<(), Fault> {
        todo!()
    }

    /// Changes one device in one transaction: `change` gets its record and may refuse with a sentence. Sets `changed` to
    /// `now`. Gives the record as it is afterwards.
    pub async fn change(
        &self,
        _device: &DeviceId,
        _now: i64,
        _change: &mut (dyn FnMut(&mut Record) -> Result<(), String> + Send),
    ) -> Result<Record, Fault> {
        todo!()
    }

    /// Removes a device with all its credentials.
    pub async fn remove(&self, _device: &DeviceId) -> Result<(), Fault> {
        todo!()
    }

    /// Up to `most` devices behind `after`, in the order of their ids (byte by byte), with when they were last seen.
    pub async fn list(
        &self,
        _filter: &Filter,
        _after: Option<&DeviceId>,
        _most: u32,
    ) -> Result<Vec<(Record, Option<LastSeen>)>, Fault> {
        todo!()
    }

    /// How many devices there are.
    pub async fn count(&self, _filter: &Filter) -> Result<u64, Fault> {
        todo!()
    }

    /// The place of the last change: where a reader begins.
    pub async fn place(&self) -> Result<i64, Fault> {
        todo!()
    }

    /// What changed behind `place`. [`Change::Everything`] when that is too long ago to be known.
    pub async fn changes(&self, _place: i64) -> Result<Changes, Fault> {
        todo!()
    }

    /// Notes when devices were seen; those not registered are passed over.
    pub async fn note_seen(&self, _seen: &[(DeviceId, LastSeen)]) -> Result<(), Fault> {
        todo!()
    }

    /// The check value of the token key that this registry's tokens are hashed with; sets it to `own` if there is none yet.
    pub async fn token_key_check(&self, _own: &[u8; 16]) -> Result<[u8; 16], Fault> {
        todo!()
    }

    /// Whether a token key was ever used with it.
    pub async fn has_token_key(&self) -> Result<bool, Fault> {
        todo!()
    }

    /// Waits until the store tells of a change (PostgreSQL: LISTEN), or for ever (SQLite). Being told too often, or a lost
    /// notification, is made good by the poll.
    pub async fn changed(&self) -> Result<(), Fault> {
        todo!()
    }
}
