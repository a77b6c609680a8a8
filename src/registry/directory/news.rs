//! Changes on their way to the gate: each device once, bounded, none lost.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::registry::Change;
use crate::rules::device::DeviceId;

/// So many devices are told one by one; more at once are everything.
const MOST: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct News {
    pending: Mutex<Pending>,
    /// Told before, but nothing could be done about it then.
    kept: Mutex<Pending>,
    there: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    devices: HashSet<DeviceId>,
    everything: bool,
}

impl News {
    /// Tells of changes that memory has forgotten already.
    pub(super) fn tell(&self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        let mut pending = lock(&self.pending);
        for change in changes {
            pending.add(change);
        }
        drop(pending);
        self.there.notify_one();
    }

    /// Keeps a change for [`News::tell_kept`].
    pub(super) fn keep(&self, change: &Change) {
        lock(&self.kept).add(change);
    }

    /// Tells what was kept.
    pub(super) fn tell_kept(&self) {
        let kept = lock(&self.kept).take();
        self.tell(&kept);
    }

    /// Waits for the next. For one reader; dropping it half-way loses none.
    pub(super) async fn next(&self) -> Vec<Change> {
        loop {
            let told = self.there.notified();
            let changes = lock(&self.pending).take();
            if !changes.is_empty() {
                return changes;
            }
            told.await;
        }
    }
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pending {
    fn add(&mut self, change: &Change) {
        match change {
            Change::Device(device) if !self.everything => {
                self.devices.insert(device.clone());
                self.everything = self.devices.len() > MOST;
            }
            Change::Device(_) => {}
            Change::Everything => self.everything = true,
        }
        if self.everything {
            self.devices = HashSet::new();
        }
    }

    fn take(&mut self) -> Vec<Change> {
        let Self {
            devices,
            everything,
        } = std::mem::take(self);
        if everything {
            return vec![Change::Everything];
        }
        devices.into_iter().map(Change::Device).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: usize) -> Change {
        Change::Device(format!("d{number}").parse().expect("a name"))
    }

    #[tokio::test]
    async fn each_device_is_told_once_and_a_flood_is_everything() {
        let news = News::default();
        news.tell(&[device(1), device(2)]);
        news.tell(&[device(1)]);
        assert_eq!(news.next().await.len(), 2);

        for number in 0..=MOST {
            news.tell(&[device(number)]);
        }
        news.tell(&[device(1)]);
        assert_eq!(news.next().await, [Change::Everything]);

        news.tell(&[device(7)]);
        assert_eq!(news.next().await, [device(7)]);
    }
}
