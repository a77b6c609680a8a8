//! When devices were last seen: gathered, and written now and then. Some may be lost; the path never waits for it (threats.md V4).

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use crate::rules::device::DeviceId;
use crate::rules::record::LastSeen;

use super::Shared;
use super::store::Store;

/// How often they are fetched. Not one by one as they come: that would wake this thread for every connection.
const FETCHED: Duration = Duration::from_millis(200);

/// How often they are written.
const EVERY: Duration = Duration::from_secs(5);

/// So many devices are gathered at most: a few MB.
const MOST: usize = 32_768;

/// So many are written in one transaction, so that others can write in between.
const AT_ONCE: usize = 500;

/// How long one transaction may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the last writing may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Gathers and writes until the directory is stopped, and then what is left.
pub(super) async fn keep<S: Store>(
    store: &S,
    shared: &Shared,
    noted: &mut mpsc::Receiver<(DeviceId, LastSeen)>,
) {
    let mut batch = HashMap::new();
    let (mut fetches, mut writes) = (every(FETCHED), every(EVERY));
    let gather = async {
        loop {
            tokio::select! {
                _ = fetches.tick() => fetch(noted, &mut batch),
                _ = writes.tick() => {
                    // While the store is away, the batch waits; when it is full, the queue, and then they are lost.
                    if shared.standing.is_there() {
                        write(store, shared, &mut batch).await;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = gather => {}
        () = shared.stop.notified() => {}
    }
    while let Ok((device, seen)) = noted.try_recv() {
        batch.insert(device, seen);
    }
    let _ = timeout(LAST_WORDS, write(store, shared, &mut batch)).await;
    count_lost(shared, batch.len());
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Takes what was noted into the batch, as far as there is room.
fn fetch(
    noted: &mut mpsc::Receiver<(DeviceId, LastSeen)>,
    batch: &mut HashMap<DeviceId, LastSeen>,
) {
    while batch.len() < MOST
        && let Ok((device, seen)) = noted.try_recv()
    {
        batch.insert(device, seen);
    }
}

/// Writes the batch in parts; a part that fails is lost. Dropped half-way, the part under way stays in the batch.
async fn write<S: Store>(store: &S, shared: &Shared, batch: &mut HashMap<DeviceId, LastSeen>) {
    while !batch.is_empty() {
        let part = batch.iter().take(AT_ONCE);
        let part: Vec<_> = part
            .map(|(device, seen)| (device.clone(), seen.clone()))
            .collect();
        let written = timeout(PATIENCE, store.note_seen(&part)).await;
        if !matches!(written, Ok(Ok(()))) {
            count_lost(shared, part.len());
        }
        for (device, _) in &part {
            batch.remove(device);
        }
    }
}

fn count_lost(shared: &Shared, count: usize) {
    shared.tally.seen_lost.fetch_add(count as u64, Relaxed);
}
