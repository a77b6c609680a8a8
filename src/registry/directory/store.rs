//! The few questions that the thread asks the store.

use crate::registry::{Changes, Fault, Filter, Registry};
use crate::rules::device::DeviceId;
use crate::rules::record::{LastSeen, Pin, Record};

/// What is asked of [`Registry`], under the same names but for [`Registry::list`]; tests answer from a script.
///
/// Each question may be dropped half-way.
pub(super) trait Store {
    async fn find(&self, device: &DeviceId) -> Result<Option<Record>, Fault>;
    async fn find_pinned(&self, pins: &[Pin]) -> Result<Option<Record>, Fault>;
    /// Up to `most` devices behind `after`, in the order of their ids.
    async fn page(&self, after: Option<&DeviceId>, most: u32) -> Result<Vec<Record>, Fault>;
    async fn register(&self, record: &Record, quota: u32) -> Result<(), Fault>;
    async fn place(&self) -> Result<i64, Fault>;
    async fn changes(&self, place: i64) -> Result<Changes, Fault>;
    async fn changed(&self) -> Result<(), Fault>;
    async fn note_seen(&self, seen: &[(DeviceId, LastSeen)]) -> Result<(), Fault>;
}

impl Store for Registry {
    async fn find(&self, device: &DeviceId) -> Result<Option<Record>, Fault> {
        self.find(device).await
    }

    async fn find_pinned(&self, pins: &[Pin]) -> Result<Option<Record>, Fault> {
        self.find_pinned(pins).await
    }

    async fn page(&self, after: Option<&DeviceId>, most: u32) -> Result<Vec<Record>, Fault> {
        let page = self.list(&Filter::default(), after, most).await?;
        Ok(page.into_iter().map(|(record, _)| record).collect())
    }

    async fn register(&self, record: &Record, quota: u32) -> Result<(), Fault> {
        self.register(record, quota).await
    }

    async fn place(&self) -> Result<i64, Fault> {
        self.place().await
    }

    async fn changes(&self, place: i64) -> Result<Changes, Fault> {
        self.changes(place).await
    }

    async fn changed(&self) -> Result<(), Fault> {
        self.changed().await
    }

    async fn note_seen(&self, seen: &[(DeviceId, LastSeen)]) -> Result<(), Fault> {
        self.note_seen(seen).await
    }
}
