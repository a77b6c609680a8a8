//! The devices we know: a handful of questions, two stores behind them.
//!
//! [`Registry`] asks the store itself: for commands, the admin API and tests. [`directory::Directory`] is what the path asks:
//! from memory where it can, bounded in time and number, and told of every change.

use std::path::PathBuf;
use std::time::Duration;

use crate::rules::device::{DeviceId, Mode};
use crate::rules::record::Pin;

mod connections;
pub mod directory;
mod fault;
pub mod form;
pub mod look;
mod postgres;
mod schema;
mod sqlite;
mod store;
pub mod token_key;

pub use store::Registry;

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

impl Filter {
    /// Whether it asks for a text that no record can hold. PostgreSQL does not even read one.
    fn fits_none(&self) -> bool {
        let labels = self.labels.iter().flat_map(|(name, value)| [name, value]);
        let mut texts = labels.chain(&self.prefix).chain(&self.trust);
        texts.any(|text| text.contains('\0'))
    }
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
