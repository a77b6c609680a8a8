//! What the path asks: devices from memory where it can, bounded in time and number, told of every change.

use std::sync::Arc;

use crate::rules::device::DeviceId;
use crate::rules::record::{LastSeen, Pin, Record};

use super::{Change, Settings};

/// The devices as the path sees them. One for the whole gate; a thread of its own asks the store.
#[derive(Debug)]
pub struct Directory {}

/// Whom to look up.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Whom {
    /// A device by its name.
    Device(DeviceId),
    /// The device that has one of these as [`Proof::Pinned`](crate::rules::record::Proof::Pinned): its certificate's and its key's.
    Pinned([Pin; 2]),
}

/// What a look-up found.
#[derive(Clone, Debug)]
pub enum Found {
    /// Its record.
    Known(Arc<Record>),
    /// Nobody of that name, or with that pin.
    Unknown,
    /// It cannot be known now: a sentence for the log.
    Away(Arc<str>),
}

impl Directory {
    /// Opens the registry and starts the thread that asks it.
    ///
    /// # Errors
    /// A sentence, when the registry is there but cannot be used. One that is away is no error: unknown devices are told to come back until it answers.
    pub fn start(_settings: &Settings) -> Result<Arc<Self>, String> {
        todo!()
    }

    /// Looks a device up. From memory at once; else one question to the store for all who ask the same, within a deadline.
    /// Dropping it half-way costs nothing.
    pub async fn look_up(&self, _whom: &Whom) -> Found {
        todo!()
    }

    /// Registers a device that is vouched for (`registry.unknown = "register"`), if its group has room; then looks it up.
    pub async fn register(&self, _record: Record, _quota: u32) -> Result<Found, super::Fault> {
        todo!()
    }

    /// Notes that a device was admitted. Lossy; never waits.
    pub fn note_seen(&self, _device: &DeviceId, _seen: LastSeen) {
        todo!()
    }

    /// Waits for the next changes, for as long as the gate runs; memory has forgotten them before they are told. One reader.
    pub async fn next_changes(&self) -> Vec<Change> {
        todo!()
    }
}
